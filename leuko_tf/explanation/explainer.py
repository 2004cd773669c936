"""Computes saliency maps with tf-keras-vis."""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from leuko_tf.classes import CODES, INDEX
from leuko_tf.data.images import batched
from leuko_tf.explanation.methods import GRADIENT, METHODS, SMOOTHGRAD, Explanation

if TYPE_CHECKING:
    import keras


SMOOTH_SAMPLES = 20
SMOOTH_NOISE = 0.15  # standard deviation, as a share of the image's range; the paper's 10 to 20 %
BATCH = 4  # images explained at once; bounds the memory (5 GB at 400 px), not the result


class Explainer:
    """Computes saliency maps of images with a float32 model of this project.

    Copies the model once: keep the explainer to explain many images.
    """

    def __init__(self, model: "keras.Model"):
        from tf_keras_vis.gradcam_plus_plus import GradcamPlusPlus
        from tf_keras_vis.saliency import Saliency
        from tf_keras_vis.utils.model_modifiers import ReplaceToLinear

        from leuko_tf.network.resnext import SCALING

        self._model = model
        self._scaling = model.get_layer(SCALING)
        self._saliency = Saliency(model, model_modifier=ReplaceToLinear(), clone=True)
        # The copy is given the network's own input, which needs no cropping.
        self._saliency.model.get_layer(SCALING).field = self._scaling.size
        self._cam = GradcamPlusPlus(self._saliency.model, clone=False)

    def __call__(
        self,
        images: Iterable[np.ndarray],
        methods: tuple[str, ...] = METHODS,
        codes: Sequence[str] | None = None,
    ) -> Iterator[Explanation]:
        """Explains images in their order, consecutive ones of one size together.

        Args:
          images: uint8 arrays [height, width, 3].
          methods: Of `METHODS`. At 400 px SmoothGrad takes twenty times as long as the gradient.
          codes: The class to explain for each image; by default the model's answers.

        Yields:
          An explanation for each image. Maps have the image's size, are scaled to 0 to 1 each, and
          are 0 where the network does not look.
        """
        start = 0
        for _, same_size in groupby(images, key=np.shape):
            for batch in batched(same_size, BATCH):
                end = start + len(batch)
                yield from self._explain_batch(np.stack(batch), methods, codes and codes[start:end])
                start = end

    def _explain_batch(
        self, images: np.ndarray, methods: tuple[str, ...], codes: Sequence[str] | None
    ) -> list[Explanation]:
        from leuko_tf.network.view import to_network_input

        # At the network's own scale: noise that SmoothGrad added to larger images would average
        # out when they are resized. At 400 px this changes nothing.
        batch = np.asarray(to_network_input(images, self._scaling.field, self._scaling.size))
        probabilities = self._model.predict_on_batch(images)
        answers = probabilities.argmax(axis=1)
        if codes is not None:
            answers = np.array([INDEX[code] for code in codes])
        maps = {
            name: self._place_maps(self._compute_maps(name, batch, answers), images.shape[1:3])
            for name in methods
        }
        return [
            Explanation(
                image=image,
                code=CODES[answer],
                probability=float(probabilities[i, answer]),
                maps={name: maps[name][i] for name in methods},
            )
            for i, (image, answer) in enumerate(zip(images, answers, strict=True))
        ]

    def _place_maps(self, maps: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Maps [n, k, k] of the network's input, moved to where it lies in images of a shape."""
        import tensorflow as tf

        side = self._scaling.field
        if side != maps.shape[1]:
            maps = tf.image.resize(maps[..., None], (side, side)).numpy()[..., 0]
        # The reverse of `leuko_tf.network.view.crop_center`.
        placed = np.zeros((len(maps), *shape), maps.dtype)
        top, left = ((length - side) // 2 for length in shape)
        inner = maps[:, max(0, -top) :, max(0, -left) :]
        target = placed[:, max(0, top) :, max(0, left) :][:, :side, :side]
        target[:] = inner[:, : target.shape[1], : target.shape[2]]
        return placed

    def _compute_maps(self, method: str, batch: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Float array [n, k, k]; k is the side of the network's input or of the feature map."""
        import tensorflow as tf

        from leuko_tf.network.resnext import LAST_FEATURE_MAP

        def select_logits(outputs):
            return tf.gather(outputs, answers, batch_dims=1)

        def select_log_probabilities(outputs):
            # Grad-CAM++ takes the exponential of the score, which overflows for large logits.
            return tf.gather(tf.nn.log_softmax(outputs), answers, batch_dims=1)

        with warnings.catch_warnings():
            # tf-keras-vis passes the single input as a list.
            warnings.filterwarnings("ignore", message="The structure of `inputs` doesn't match")
            if method == GRADIENT:
                return np.asarray(self._saliency(select_logits, batch))
            if method == SMOOTHGRAD:
                noise = {"smooth_samples": SMOOTH_SAMPLES, "smooth_noise": SMOOTH_NOISE}
                return np.asarray(self._saliency(select_logits, batch, **noise))
            # Without these options tf-keras-vis uses the convolution before the named layer, and
            # stretches the map by half a feature-map cell on each side.
            maps = self._cam(
                select_log_probabilities,
                batch,
                penultimate_layer=LAST_FEATURE_MAP,
                seek_penultimate_conv_layer=False,
                expand_cam=False,
            )
            return np.asarray(maps)
