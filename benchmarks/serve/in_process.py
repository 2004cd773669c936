"""The exported signature called in one's own process."""

import itertools
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.inference import EXPORTS
from benchmarks.serve import ENCODED
from benchmarks.serve.files import checked, png_files
from benchmarks.worker import Work


def answers(work: str, batch: int) -> Work:
    """Files to NumPy arrays, batch after batch.

    Args:
      work: folder of the preparation.
      batch: images a step; divides their number.
    """
    loaded = tf.saved_model.load(str(Path(work, EXPORTS, "float32", "1")))
    files = png_files(work)
    batches = [files[k : k + batch] for k in range(0, len(files), batch)]

    def ask(images: list[bytes]) -> dict[str, np.ndarray]:
        signature = loaded.signatures[ENCODED]  # by itself it does not keep its variables alive
        return {name: a.numpy() for name, a in signature(images=tf.constant(images)).items()}

    error = checked(work, np.concatenate([ask(b)["probabilities"] for b in batches]))
    turns = itertools.cycle(batches)

    def step() -> int:
        ask(next(turns))
        return batch

    return Work(step, {"error": error})
