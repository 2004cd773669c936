"""What contenders of inference and serving do around a network. Needs no TensorFlow."""

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.stages.inference import EXPECTED, IMAGES, TOLERANCE
from benchmarks.worker import Work
from leuko_tf.classes import ATYPICAL, BLAST, INDEX

Answer = dict[str, np.ndarray]

_BLAST = [INDEX[code] for code in BLAST]
_ATYPICAL = [INDEX[code] for code in ATYPICAL]


def build_asking(
    work: str,
    batch: int,
    precision: str,
    ask: Callable[[Any], Answer],
    files: bool = False,
    decode: bool = True,
) -> Work:
    """Checks a network's probabilities, then asks it batch after batch.

    Args:
      batch: Images per step; must divide their number.
      precision: Only `float32` is held to `TOLERANCE`.
      ask: Takes uint8 [batch, height, width, 3], returns NumPy arrays with `probabilities`.
      files: Whether a step begins with PNG files.
      decode: Whether Pillow decodes these files; else `ask` takes a list of them.

    Raises:
      ValueError: if the probabilities are not those of the float32 Keras model.
    """
    images = read_png_files(work) if files else np.load(Path(work, IMAGES))
    batches = [images[k : k + batch] for k in range(0, len(images), batch)]

    def answer(part: Any) -> Answer:
        if files and decode:
            part = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in part])
        return ask(part)

    found = np.concatenate([answer(part)["probabilities"] for part in batches])
    error = check_probabilities(work, found, precision)
    turns = itertools.cycle(batches)

    def step() -> int:
        answer(next(turns))
        return batch

    return Work(step, {"error": error})


def check_probabilities(work: str, found: np.ndarray, precision: str = "float32") -> float:
    """Computes the largest difference of the cells' probabilities from the Keras model's.

    Raises:
      ValueError: if the probabilities are not finite, or differ by more than `TOLERANCE` in
        float32.
    """
    error = float(np.abs(found - np.load(Path(work, EXPECTED))).max())
    if not np.isfinite(error):
        raise ValueError("its probabilities are not finite")
    if precision == "float32" and error > TOLERANCE:
        raise ValueError(f"its probabilities differ by {error:.1e} from the Keras model's")
    return error


def read_png_files(work: str) -> list[bytes]:
    """Reads the cells as contents of PNG files."""
    files = []
    for image in np.load(Path(work, IMAGES)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


def add_scores(probabilities: np.ndarray) -> Answer:
    """Makes what our signatures return from probabilities [n, 15]."""
    return {
        "probabilities": probabilities,
        "order": np.argsort(-probabilities, axis=1, kind="stable"),
        "blast_score": probabilities[:, _BLAST].sum(axis=1),
        "atypical_score": probabilities[:, _ATYPICAL].sum(axis=1),
    }
