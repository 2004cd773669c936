"""Computes saliency maps with tf-keras-vis."""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

from leuko_tf.classes import CODES, INDEX
from leuko_tf.explanation.methods import GRADIENT, METHODS, SMOOTHGRAD, Explanation

if TYPE_CHECKING:
    import keras
    import numpy as np


SMOOTH_SAMPLES = 20
SMOOTH_NOISE = 0.15  # standard deviation, as a share of the image's range; the paper's 10 to 20 %
BATCH = 4  # images explained at once; bounds the memory (5 GB at 400 px), not the result


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

        from leuko_tf.network.resnext import SCALING

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

        from leuko_tf.network.view import to_network_input

        # At the network's own scale: SmoothGrad's noise, added to larger images, would be averaged
        # away before the network sees it. At 400 px this changes nothing.
        batch = np.asarray(to_network_input(images, self._scaling.field, self._scaling.size))
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
        for axis, length in enumerate(
            shape, 1
        ):  # the reverse of `leuko_tf.network.view.crop_center`
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

        from leuko_tf.network.resnext import LAST_FEATURE_MAP

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
