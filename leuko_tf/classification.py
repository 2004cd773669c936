"""Classifies images of single cells: files or arrays to a table of answers.

The table has a row for each image that could be read:

  id              path below the folder, or path as given; for arrays their number, from 0
  width, height   of the image, in pixels
  answer          code of the most probable class
  confidence      its probability
  blast_score     sum of the probabilities of MYO and MOB
  atypical_score  sum of the probabilities of `leuko_tf.classes.ATYPICAL`
  p_NGS ... p_KSC the 15 probabilities
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from leuko_tf.classes import ATYPICAL, BLAST, CODES
from leuko_tf.cli import UserError
from leuko_tf.data.images import batched, compute_scale_factor, read_image, resample_image
from leuko_tf.network.runtimes import TENSORFLOW

if TYPE_CHECKING:
    import keras
    import pandas as pd

CROP, RESIZE = "crop", "resize"
BATCH = 16
MAX_NAME_BYTES = 200  # of a figure's file name; file systems allow 255


@dataclass(frozen=True)
class View:
    """How images become what the network sees.

    Attributes:
      fit: `crop` takes the square in the middle (`leuko_tf.network.view`); `resize` squeezes the
        whole image into it.
      factor: resamples images before that; see `leuko_tf.data.images.resample_image`.
    """

    fit: str = CROP
    factor: float = 1.0

    def apply(self, image: np.ndarray, field: int) -> np.ndarray:
        """Turns an image, uint8 [height, width, 3], into uint8 [field, field, 3]."""
        import tensorflow as tf

        from leuko_tf.network.view import crop_center

        if self.fit == RESIZE:
            resized = tf.image.resize(image, (field, field), method="bilinear", antialias=True)
            return np.asarray(resized).round().astype(np.uint8)
        if self.factor != 1:
            image = resample_image(image, self.factor)
        return np.asarray(crop_center(image[np.newaxis], field))[0]


def compute_model_factor(model: "keras.Model", pixel_size_um: float | None) -> float:
    """Factor that brings images of a pixel size to the scale of the model's training.

    Without a pixel size it is 1.

    Raises:
      UserError: if a size is given and the model does not tell its own, or the two are too far
        apart.
    """
    from leuko_tf.network.resnext import SCALING

    if pixel_size_um is None:
        return 1.0
    model_um = model.get_layer(SCALING).pixel_size_um
    if model_um is None:
        raise UserError(
            "The model does not tell the pixel size of its training images, so a pixel size cannot "
            "be used. Resample the images yourself, and leave it out."
        )
    return compute_scale_factor(pixel_size_um, model_um)


def classify_files(
    model: "keras.Model",
    images: Mapping[str, Path],
    view: View = View(),
    runtime: str = TENSORFLOW,
    symmetries: bool = False,
) -> tuple["pd.DataFrame", list[str]]:
    """Classifies image files, with a progress bar.

    Args:
      images: id to file, as `leuko_tf.data.images.find_images` gives it.
      runtime: one of `leuko_tf.network.runtimes.RUNTIMES`.
      symmetries: averages over eight turns and reflections of each image.

    Returns:
      The table described above, in the order of the images; and a sentence for each file that
      could not be read.

    Raises:
      UserError: if no file can be read, or the runtime cannot be used.
    """
    from tqdm import tqdm

    from tfds_aml.images import read_ahead

    problems: list[str] = []

    def read(file: Path) -> np.ndarray | str:
        try:
            return read_image(file)
        except UserError as error:
            return str(error)

    def read_all() -> Iterator[tuple[str, np.ndarray]]:
        progress = tqdm(images, "classifying", unit=" images")
        for image_id, found in zip(progress, read_ahead(read, images.values()), strict=True):
            if isinstance(found, str):
                problems.append(found)
            else:
                yield image_id, found

    table = classify_arrays(model, read_all(), view, runtime, symmetries)
    if table.empty:
        raise UserError(f"None of {len(images):,} images could be read; the first: {problems[0]}")
    return table, problems


def classify_arrays(
    model: "keras.Model",
    images: Iterable[tuple[str, np.ndarray]],
    view: View = View(),
    runtime: str = TENSORFLOW,
    symmetries: bool = False,
) -> "pd.DataFrame":
    """Classifies pairs of an id and an image, uint8 [height, width, 3]; see `classify_files`."""
    import pandas as pd

    from leuko_tf.network.resnext import SCALING
    from leuko_tf.network.runtimes import make_predictor
    from leuko_tf.predictions import PROBABILITIES

    compute_probabilities = make_predictor(model, runtime, symmetries)
    field = model.get_layer(SCALING).field
    rows: list[tuple[str, int, int]] = []
    scores = [np.empty((0, len(CODES)), np.float32)]
    for batch in batched(images, BATCH):
        rows += [(image_id, image.shape[1], image.shape[0]) for image_id, image in batch]
        scores.append(compute_probabilities(np.stack([view.apply(i, field) for _, i in batch])))
    probabilities = pd.DataFrame(np.concatenate(scores), columns=PROBABILITIES)
    table = pd.DataFrame(rows, columns=["id", "width", "height"])
    table["answer"] = np.array(CODES)[probabilities.to_numpy().argmax(axis=1)]
    table["confidence"] = probabilities.max(axis=1)
    for column, codes in (("blast_score", BLAST), ("atypical_score", ATYPICAL)):
        table[column] = probabilities[[f"p_{code}" for code in codes]].sum(axis=1)
    return pd.concat([table, probabilities], axis=1)


def draw_saliency(
    model: "keras.Model",
    table: "pd.DataFrame",
    images: Mapping[str, Path],
    folder: Path,
    view: View,
    synthetic: bool,
) -> None:
    """Draws where the network looks for its answer, one figure an image, with a progress bar.

    Args:
      model, images, view: as for `classify_files`.
      table: of `classify_files`; its answers are explained.
      folder: for the figures, which are named after the images' ids, with `__` for `/`.
      synthetic: see `leuko_tf.explanation.figure.draw_figure`.
    """
    from tqdm import tqdm

    from leuko_tf.explanation.explainer import Explainer
    from leuko_tf.explanation.figure import draw_figure
    from leuko_tf.explanation.methods import GRADIENT
    from leuko_tf.network.resnext import SCALING

    field = model.get_layer(SCALING).field
    pixels = (view.apply(read_image(images[image_id]), field) for image_id in table["id"])
    explanations = Explainer(model)(pixels, (GRADIENT,), [*table["answer"]])
    taken: set[str] = set()
    for image_id, confidence, explanation in zip(
        tqdm(table["id"], "saliency", unit=" images"),
        table["confidence"],
        explanations,
        strict=True,
    ):
        name = choose_figure_name(image_id, taken)
        taken.add(name)
        answered = replace(explanation, probability=confidence)
        draw_figure(answered, image_id, synthetic, folder / name)


def choose_figure_name(image_id: str, taken: Collection[str]) -> str:
    """A file name for a figure: not hidden, not taken, not longer than file systems allow."""
    stem = image_id.replace("/", "__").lstrip("._")
    stem = stem.encode()[-MAX_NAME_BYTES:].decode(errors="ignore")
    name, copies = f"{stem}.png", 1
    while name in taken:
        copies += 1
        name = f"{stem}_{copies}.png"
    return name
