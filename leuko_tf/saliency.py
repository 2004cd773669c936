"""Where the network looks: `python -m leuko_tf.saliency --model M --out DIR IMAGE...`.

With --score in place of images it puts that into numbers, over a data set: `leuko_tf.focus.score`.

Three methods of tf-keras-vis, each for the class that the network answers:

- gradient: the plain gradient of the class's logit (Simonyan et al. 2013, arXiv 1312.6034), the
  likeliest variant of the paper's maps;
- SmoothGrad: its mean over noisy copies of the image (Smilkov et al. 2017, arXiv 1706.03825);
- Grad-CAM++: the last feature map, weighted by its gradients (Chattopadhyay et al. 2018,
  arXiv 1710.11063).

Each image gives one figure with image, map and overlay for each method.
"""

import argparse
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from leuko_tf.asked_cells import add_cells_arguments, asked_cells
from leuko_tf.classes import BY_CODE, CODES, INDEX
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, written_aside

if TYPE_CHECKING:
    import keras
    import numpy as np

T = TypeVar("T")

GRADIENT, SMOOTHGRAD, GRAD_CAM = "gradient", "SmoothGrad", "Grad-CAM++"
METHODS = (GRADIENT, SMOOTHGRAD, GRAD_CAM)
SMOOTH_SAMPLES = 20
SMOOTH_NOISE = 0.15  # standard deviation, as a share of the image's range; the paper's 10 to 20 %
SCORED_IMAGES = 150  # by --score; see `leuko_tf.focus.score`
BATCH = 4  # images explained at once; bounds the memory (5 GB at 400 px), not the result


@dataclass(frozen=True)
class Explanation:
    """What the network answers about one image, and where it looks.

    Attributes:
      image: uint8 array [height, width, 3].
      code: str. The class that is explained: that with the highest probability, if none was asked
        for.
      probability: float. Of that class.
      maps: dict of method to float32 array [height, width], 0 to 1.
    """

    image: "np.ndarray"
    code: str
    probability: float
    maps: "dict[str, np.ndarray]"


class Explainer:
    """Computes saliency maps of images, each for the class that the model answers.

    It works on a copy of the model, which is made once: for many images keep the explainer.

    Args:
      model: a model of this project, float32 (a `best.keras`).
    """

    def __init__(self, model: "keras.Model"):
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.saliency import Saliency
        from tf_keras_vis.utils.model_modifiers import ReplaceToLinear

        from leuko_tf.resnext import SCALING

        self._model = model
        self._scaling = model.get_layer(SCALING)
        self._saliency = Saliency(model, model_modifier=ReplaceToLinear(), clone=True)
        # Maps are of what the network sees, which the copy is given.
        self._saliency.model.get_layer(SCALING).field = self._scaling.size
        self._cam = GradcamPlusPlus(self._saliency.model, clone=False)

    def __call__(
        self,
        images: "np.ndarray",
        methods: tuple[str, ...] = METHODS,
        codes: Sequence[str] | None = None,
    ) -> list[Explanation]:
        """Explains images.

        Args:
          images: uint8 array [n, height, width, 3].
          methods: of `METHODS`. At 400 px SmoothGrad takes twenty times as long as the gradient.
          codes: the classes to explain, one an image; None for those that the model answers.

        Returns:
          An explanation an image; maps have the image's size and are scaled to 0 to 1 each. Where
          the network does not look, they are 0.
        """
        import numpy as np

        from leuko_tf.layers import seen

        # At the network's own scale: SmoothGrad's noise, added to larger images, would be averaged
        # away before the network sees it. At 400 px this changes nothing.
        batch = np.asarray(seen(images, self._scaling.field, self._scaling.size))
        probabilities = self._model.predict_on_batch(images)
        answers = probabilities.argmax(axis=1)
        if codes is not None:
            answers = np.array([INDEX[code] for code in codes])
        shape = images.shape[1:3]
        maps = {name: self._placed(self._map(name, batch, answers), shape) for name in methods}
        return [
            Explanation(
                image=image,
                code=CODES[answer],
                probability=float(probabilities[i, answer]),
                maps={name: maps[name][i] for name in methods},
            )
            for i, (image, answer) in enumerate(zip(images, answers, strict=True))
        ]

    def _placed(self, maps: "np.ndarray", shape: tuple[int, int]) -> "np.ndarray":
        """Maps [n, k, k] of the network's input, brought to where it lies in images of a shape."""
        import numpy as np
        import tensorflow as tf

        side = self._scaling.field
        if side != maps.shape[1]:
            maps = tf.image.resize(maps[..., None], (side, side)).numpy()[..., 0]
        for axis, length in enumerate(shape, 1):  # the reverse of `leuko_tf.layers.centred`
            first = (length - side) // 2
            if first < 0:
                maps = maps.take(range(-first, length - first), axis)
            else:
                around = [(0, 0)] * 3
                around[axis] = (first, length - side - first)
                maps = np.pad(maps, around)
        return maps

    def _map(self, method: str, batch: "np.ndarray", answers: "np.ndarray") -> "np.ndarray":
        """Float array [n, size, size]; of Grad-CAM++ as small as the last feature map."""
        import numpy as np
        import tensorflow as tf

        from leuko_tf.resnext import LAST_FEATURE_MAP

        def logits(outputs):
            return tf.gather(outputs, answers, batch_dims=1)

        def log_probabilities(outputs):
            # Grad-CAM++ takes the exponential of the score: of a large logit that is infinite, of
            # a log-probability it is the probability.
            return tf.gather(tf.nn.log_softmax(outputs), answers, batch_dims=1)

        with warnings.catch_warnings():
            # tf-keras-vis hands the one input over in a list.
            warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match")
            if method == GRADIENT:
                found = self._saliency(logits, batch)
            elif method == SMOOTHGRAD:
                noise = {"smooth_samples": SMOOTH_SAMPLES, "smooth_noise": SMOOTH_NOISE}
                found = self._saliency(logits, batch, **noise)
            else:
                # By itself tf-keras-vis takes the convolution before the named layer; and expanding
                # the map, it draws the outermost cells' centres out to the image's edges, half a
                # cell away from what they see.
                found = self._cam(
                    log_probabilities,
                    batch,
                    penultimate_layer=LAST_FEATURE_MAP,
                    seek_penultimate_conv_layer=False,
                    expand_cam=False,
                )
        return np.asarray(found)


def explain(
    model: "keras.Model", images: "np.ndarray", methods: tuple[str, ...] = METHODS
) -> list[Explanation]:
    """Explains a few images; see `Explainer`."""
    return Explainer(model)(images, methods)


def draw(explanation: Explanation, title: str, path: Path) -> None:
    """Writes the figure: a row a method, columns image, map and overlay.

    Args:
      explanation: what to show.
      title: first line of the heading.
      path: PNG file to write.
    """
    from matplotlib.figure import Figure

    rows = len(explanation.maps)
    figure = Figure(figsize=(7.2, 2.4 * rows + 0.8), layout="constrained")
    name = BY_CODE[explanation.code].name
    figure.suptitle(
        f"{title}\nnetwork: {explanation.code}, {name}, {explanation.probability:.3f} "
        "(research use only)",
        fontsize=11,
    )
    for axes, (method, saliency) in zip(
        figure.subplots(rows, 3, squeeze=False), explanation.maps.items(), strict=True
    ):
        axes[0].imshow(explanation.image)
        axes[1].imshow(saliency, cmap="magma", vmin=0, vmax=1)
        axes[2].imshow(explanation.image)
        axes[2].imshow(saliency, cmap="magma", vmin=0, vmax=1, alpha=0.55)
        for panel, heading in zip(axes, ("image", method, "overlay"), strict=True):
            panel.set_title(heading, fontsize=10)
            panel.set_axis_off()
    with written_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110, metadata={"Title": title})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.saliency",
        description="Draw where the network looks: gradient, SmoothGrad and Grad-CAM++; or, with "
        "--score, put it into numbers.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="TIFF, PNG or JPEG")
    scoring = parser.add_argument_group("numbers instead of pictures")
    scoring.add_argument(
        "--score",
        action="store_true",
        help="shares of saliency in nucleus, cytoplasm and background; insertion and deletion; "
        "comparison with fresh weights: over cells of a data set",
    )
    add_cells_arguments(scoring)
    scoring.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="exact masks, such as a synthetic smear's folder `masks`; else cells are segmented",
    )
    scoring.add_argument(
        "--images",
        type=int,
        dest="number",
        metavar="N",
        help=f"how many, evenly by class (default {SCORED_IMAGES})",
    )
    arguments = parser.parse_args()
    if arguments.score:
        _score(arguments)
    else:
        _draw(arguments)


def _score(arguments: argparse.Namespace) -> None:
    if arguments.images:
        raise UserError("--score takes its images from a data set, and no IMAGE: see --dataset")
    number = SCORED_IMAGES if arguments.number is None else arguments.number
    if number < 2:
        raise UserError(f"--images takes 2 or more. Received: {number}")
    if arguments.masks and not arguments.masks.is_dir():
        raise UserError(f"--masks {arguments.masks} is no folder")
    dataset, data_dir, folds = asked_cells(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work
    import_tensorflow_quietly()
    from leuko_tf.focus.page import PAGE
    from leuko_tf.focus.score import score, summary

    result = score(
        arguments.model,
        dataset,
        data_dir,
        folds,
        arguments.out,
        masks=arguments.masks,
        number=number,
    )
    print(summary(result))
    print(f"page: {arguments.out / PAGE}")


def _draw(arguments: argparse.Namespace) -> None:
    of_score = ("dataset", "data_dir", "split", "masks", "number")
    if any(getattr(arguments, name) is not None for name in of_score):
        raise UserError("--dataset, --data-dir, --split, --masks and --images belong to --score")
    if not arguments.images:
        raise UserError("Name images to draw, or --score to score a data set's cells")
    from leuko_tf.images import read_image

    stems = [image.stem for image in arguments.images]
    doubled = {s for s in stems if stems.count(s) > 1}
    if doubled:
        raise UserError(f"Figures are named after their images; several are {doubled.pop()}")
    pictures = [read_image(path) for path in arguments.images]
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work

    import_tensorflow_quietly()
    import numpy as np
    from tqdm import tqdm

    from leuko_tf.models import describe_model, load_model

    explain_batch = Explainer(load_model(arguments.model))
    drawn = ", network trained on SYNTHETIC cells" * bool(
        describe_model(arguments.model)["synthetic"]
    )
    with tqdm(total=len(pictures), desc="saliency", unit=" images") as progress:
        for _, group in groupby(
            zip(arguments.images, pictures, strict=True), key=lambda pair: pair[1].shape
        ):
            for batch in batched(group, BATCH):
                explanations = explain_batch(np.stack([picture for _, picture in batch]))
                for (path, _), explanation in zip(batch, explanations, strict=True):
                    draw(explanation, path.name + drawn, arguments.out / f"{path.stem}.png")
                progress.update(len(batch))
    print(f"figures: {arguments.out}")


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of up to `size` items (as `itertools.batched` of Python 3.12)."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


if __name__ == "__main__":
    run(main)
