"""A small SavedModel that keeps the contract of the project's exports, for tests of serving."""

import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX

NEWEST = 12
# Classes by mean colour: fixed numbers that tell colours apart.
WEIGHTS = (4 * np.sin(np.arange(3 * len(CODES)))).reshape(3, len(CODES)).astype(np.float32)


class ContractModel(tf.Module):
    """The export's signatures around softmax(mean colour x WEIGHTS)."""

    def _outputs(self, mean_colour):
        probabilities = tf.nn.softmax(mean_colour / 255.0 @ WEIGHTS)
        order = tf.argsort(probabilities, direction="DESCENDING", stable=True)

        def score(codes):
            return tf.reduce_sum(tf.gather(probabilities, [INDEX[c] for c in codes], axis=1), 1)

        return {
            "probabilities": probabilities,
            "classes": tf.gather(tf.constant(CODES), order),
            "blast_score": score(BLAST),
            "atypical_score": score(ATYPICAL),
        }

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_arrays(self, images):
        return self._outputs(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def from_files(self, images):
        def mean_colour(encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            return tf.reduce_mean(tf.cast(image, tf.float32), [0, 1])

        spec = tf.TensorSpec([3], tf.float32)
        return self._outputs(tf.map_fn(mean_colour, images, fn_output_signature=spec))


def write_contract_export(base: Path) -> None:
    """Writes versions 3 and 12 of a model that keeps the export's contract, and two decoys."""
    model = ContractModel()
    signatures = {"serving_default": model.from_arrays, "encoded": model.from_files}
    tf.saved_model.save(model, str(base / "3"), signatures=signatures)
    shutil.copytree(base / "3", base / str(NEWEST))
    shutil.copytree(base / "3", base / "99-draft")
    (base / "100").mkdir()  # a copy that has just begun
