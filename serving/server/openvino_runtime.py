"""Signatures of an export whose network OpenVINO computes, for `--runtime openvino`.

Decoding, resizing and the naming of outputs stay TensorFlow's, by the pieces that the export holds
beside its signatures; see `leuko_tf.savedmodel.signatures`.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from leuko_tf.network.runtimes import make_openvino_network


class OpenVINOSignatures:
    """`serving_default` and `encoded` of one version.

    Args:
      folder: Path. The version's folder.

    Raises:
      UserError: OpenVINO is not installed, or its probabilities are not TensorFlow's to 1e-4.
      ValueError: the folder is no export of this project that has the pieces.
    """

    def __init__(self, folder: Path):
        self._loaded = tf.saved_model.load(str(folder))
        try:
            (network,) = self._loaded.network.concrete_functions
        except AttributeError:
            raise ValueError(
                f"{folder} is not an export that --runtime openvino can take: export the model"
                " again with this version of leuko_tf."
            ) from None
        self._network = make_openvino_network(network)
        self._signatures = {"serving_default": self._images, "encoded": self._files}

    def __contains__(self, key: str) -> bool:
        return key in self._signatures

    def run(self, key: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
          key: str. Its name.
          inputs: dict of str to numpy.ndarray. `images`, as the signature takes them.

        Returns:
          dict of str to numpy.ndarray. What the export's own signature returns.
        """
        return self._signatures[key](tf.constant(inputs["images"]))

    def _images(self, images: tf.Tensor) -> dict[str, np.ndarray]:
        return self._answered(self._network(self._loaded.resized(images).numpy()))

    def _files(self, files: tf.Tensor) -> dict[str, np.ndarray]:
        images, valid, problem = (piece.numpy() for piece in self._loaded.decoded(files))
        found = self._network(images[valid])
        probabilities = np.zeros((len(valid), *found.shape[1:]), np.float32)
        probabilities[valid] = found
        return {**self._answered(probabilities), "valid": valid, "problem": problem}

    def _answered(self, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        answers = self._loaded.answered(tf.constant(probabilities))
        return {name: answer.numpy() for name, answer in answers.items()}
