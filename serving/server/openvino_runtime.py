"""Signatures of an export whose network OpenVINO computes, for `--runtime openvino`.

TensorFlow still decodes and resizes images and names the outputs, using the functions that the
export holds besides its signatures; see `leuko_tf.savedmodel.signatures`.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from leuko_tf.network.runtimes import make_openvino_network


class OpenVINOSignatures:
    """Runs `serving_default` and `encoded` of the version in a folder.

    Raises:
      UserError: OpenVINO is not installed, or its probabilities differ from TensorFlow's by more
        than 1e-4.
      ValueError: the export lacks the functions that this needs.
    """

    def __init__(self, folder: Path):
        self._loaded = tf.saved_model.load(str(folder))
        try:
            (network,) = self._loaded.network.concrete_functions
        except AttributeError:
            raise ValueError(
                f"--runtime openvino cannot run the export in {folder}: export the model again with"
                " this version of leuko_tf."
            ) from None
        self._network = make_openvino_network(network)
        self._signatures = {"serving_default": self._run_images, "encoded": self._run_files}

    def __contains__(self, key: str) -> bool:
        return key in self._signatures

    def run(self, key: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Runs a signature on its input `images`; returns what the export's own would."""
        return self._signatures[key](tf.constant(inputs["images"]))

    def _run_images(self, images: tf.Tensor) -> dict[str, np.ndarray]:
        return self._make_outputs(self._network(self._loaded.resized(images).numpy()))

    def _run_files(self, files: tf.Tensor) -> dict[str, np.ndarray]:
        images, valid, problem = (piece.numpy() for piece in self._loaded.decoded(files))
        computed = self._network(images[valid])
        probabilities = np.zeros((len(valid), *computed.shape[1:]), np.float32)
        probabilities[valid] = computed
        return {**self._make_outputs(probabilities), "valid": valid, "problem": problem}

    def _make_outputs(self, probabilities: np.ndarray) -> dict[str, np.ndarray]:
        answers = self._loaded.answered(tf.constant(probabilities))
        return {name: answer.numpy() for name, answer in answers.items()}
