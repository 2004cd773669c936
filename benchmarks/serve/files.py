"""The PNG files that every contender of serving asks about."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.inference import EXPECTED, IMAGES, TOLERANCE


def png_files(work: str) -> list[bytes]:
    """The cells of the preparation as PNG files."""
    files = []
    for image in np.load(Path(work, IMAGES)):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        files.append(file.getvalue())
    return files


def checked(work: str, probabilities: np.ndarray) -> float:
    """The largest difference of the cells' probabilities from the Keras model's.

    Raises:
      ValueError: if it is another network's.
    """
    error = float(np.abs(probabilities - np.load(Path(work, EXPECTED))).max())
    if not error <= TOLERANCE:
        raise ValueError(f"its probabilities differ by {error:.1e} from the Keras model's")
    return error
