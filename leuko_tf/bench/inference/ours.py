"""Ours: the exported SavedModel."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from leuko_tf.bench.inference import EXPORTS
from leuko_tf.bench.inference.asking import Answer, asked
from leuko_tf.bench.worker import Work


def exported(work: str, batch: int, precision: str) -> Work:
    """The signature `serving_default`.

    Args:
      work: folder of the preparation.
      batch: images a step.
      precision: which export.
    """
    loaded = tf.saved_model.load(str(Path(work, EXPORTS, precision, "1")))
    signature = loaded.signatures["serving_default"]

    def ask(images: np.ndarray) -> Answer:
        answers = signature(images=tf.constant(images))
        return {name: answer.numpy() for name, answer in answers.items()}

    return asked(work, batch, precision, ask)
