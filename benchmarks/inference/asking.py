"""What every contender of inference does around its network."""

import io
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inference import EXPECTED, IMAGES, TOLERANCE
from benchmarks.worker import Work
from leuko_tf.classes import ATYPICAL, BLAST, INDEX

Answer = dict[str, np.ndarray]

_BLAST = [INDEX[code] for code in BLAST]
_ATYPICAL = [INDEX[code] for code in ATYPICAL]


def asked(
    work: str,
    batch: int,
    precision: str,
    ask: Callable[[np.ndarray], Answer],
    files: bool = False,
) -> Work:
    """Checks a network's probabilities, then asks it batch after batch.

    Args:
      work: folder of the preparation.
      batch: images a step; divides their number.
      precision: `float32` is held to `TOLERANCE`.
      ask: takes uint8 [batch, height, width, 3], gives NumPy arrays, `probabilities` among them.
      files: whether a step begins with PNG files, which Pillow decodes.

    Raises:
      ValueError: if the probabilities are not those of the float32 Keras model.
    """
    images = np.load(Path(work, IMAGES))
    batches = images.reshape(-1, batch, *images.shape[1:])
    found = np.concatenate([ask(part)["probabilities"] for part in batches])
    error = float(np.abs(found - np.load(Path(work, EXPECTED))).max())
    if not np.isfinite(error):
        raise ValueError("its probabilities are no numbers")
    if precision == "float32" and error > TOLERANCE:
        raise ValueError(f"its probabilities differ by {error:.1e} from the Keras model's")
    turns: Iterator[np.ndarray]
    if files:
        encoded = itertools.cycle([[_png(image) for image in part] for part in batches])
        turns = (np.stack([np.asarray(Image.open(f)) for f in part]) for part in encoded)
    else:
        turns = itertools.cycle(batches)

    def step() -> int:
        ask(next(turns))
        return batch

    return Work(step, {"error": error})


def _png(image: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file


def with_scores(probabilities: np.ndarray) -> Answer:
    """What our signatures return, from probabilities [n, 15]."""
    return {
        "probabilities": probabilities,
        "order": np.argsort(-probabilities, axis=1, kind="stable"),
        "blast_score": probabilities[:, _BLAST].sum(axis=1),
        "atypical_score": probabilities[:, _ATYPICAL].sum(axis=1),
    }
