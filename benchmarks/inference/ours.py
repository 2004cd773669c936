"""Ours: by the runtimes that commands offer, and the exported SavedModel."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.inference import EXPORTS, KERAS_MODEL
from benchmarks.inference.asking import Answer, asked, with_scores
from benchmarks.worker import Work
from leuko_tf.network import runtimes
from leuko_tf.network.loading import load_model


def tensorflow(work: str, batch: int, precision: str) -> Work:
    """The default runtime of the commands that take a model.

    Args:
      work: folder of the preparation.
      batch: images a step.
      precision: `float32`.
    """
    return _by(runtimes.TENSORFLOW, work, batch, precision)


def openvino(work: str, batch: int, precision: str, files: bool) -> Work:
    """`--runtime openvino`.

    Args:
      work, batch, precision: see `tensorflow`.
      files: whether a step begins with PNG files.
    """
    return _by(runtimes.OPENVINO, work, batch, precision, files)


def _by(runtime: str, work: str, batch: int, precision: str, files: bool = False) -> Work:
    answer = runtimes.make_predictor(load_model(Path(work, KERAS_MODEL)), runtime)
    return asked(work, batch, precision, lambda images: with_scores(answer(images)), files)


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
