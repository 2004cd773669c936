"""Image files of single cells: found, read, and brought to another scale."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from leuko_tf.cli import UserError
from leuko_tf.data.finding import walk_images
from tfds_aml.images import read_tiff

T = TypeVar("T")

# More pixels are a slide and no cell; as the exported graph's limit.
MAX_PIXELS = 2048 * 2048
MAX_FACTOR = 8  # between pixels of two magnifications; more is a slip, and would fill the memory


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Finds the images that files and folders stand for.

    Args:
      paths: files, and folders, which are searched with their folders; what is hidden is not.

    Returns:
      Dict of id to file, in the order given, folders in alphabetical order. The id of a folder's
      image is its path below the folder (`BAS/BAS_0021.tiff`), that of a file its path as given.

    Raises:
      UserError: if there is no such file or folder, a folder holds no TIFF, PNG or JPEG file, or
        two images have one id.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            files = {
                _make_id(f.relative_to(path)): f
                for f in sorted(walk_images(path, follow_links=True))
            }
            if not files:
                raise UserError(f"{path} is a folder without TIFF, PNG or JPEG files")
        elif path.is_file():
            files = {_make_id(path): path}
        else:
            raise UserError(f"No file or folder {path}")
        doubled = found.keys() & files.keys()
        if doubled:
            raise UserError(
                f"Two images would be called {min(doubled)} in the table: name each once, and "
                "folders that hold equal names one at a time"
            )
        found |= files
    return found


def _make_id(path: Path) -> str:
    """The path as text; letters of other encodings than UTF-8 become question marks."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def read_image(path: Path) -> np.ndarray:
    """Reads TIFF (8-bit RGB or RGBA), PNG or JPEG as uint8 [height, width, 3], alpha dropped.

    Raises:
      UserError: if there is no such file, it is no such image, or larger than `MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=["TIFF", "PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it holds {frames} images")
            if image.mode[0] in "IF":  # which Pillow would clip at 255
                raise ValueError(f"channels have more than 8 bits ({image.mode})")
            if image.format != "TIFF":
                return np.asarray(image.convert("RGB"))
        return read_tiff(path)
    except Exception as error:  # Pillow raises a dozen types on damaged files: all mean this
        raise UserError(f"{path} is not an image that can be read: {error}") from error


def compute_scale_factor(images_um: float, wanted_um: float) -> float:
    """The factor of `resampled` for pixels of another side.

    Args:
      images_um: side of the images' pixels in micrometres, on the slide.
      wanted_um: side that they should have.

    Raises:
      UserError: if one is more than `MAX_FACTOR` times the other.
    """
    factor = images_um / wanted_um
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        raise UserError(
            f"Pixels of {images_um:g} um cannot be brought to {wanted_um:g} um, a factor of "
            f"{factor:.3g}. The side is that of a pixel on the slide, not on the camera's chip."
        )
    return factor


def resample_image(image: np.ndarray, factor: float) -> np.ndarray:
    """An image with larger or smaller pixels, as if taken at another magnification.

    Args:
      image: uint8 array [height, width, 3].
      factor: old side of a pixel by the new one; above 1 gives more pixels.

    Returns:
      uint8 array, its sides `factor` times as long, rounded, at least 1; bilinear with
      antialiasing.
    """
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive lists of up to `size` items (as `itertools.batched` of Python 3.12)."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
