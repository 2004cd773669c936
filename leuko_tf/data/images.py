"""Finds and reads image files of single cells, and resamples them."""

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

# An image with more pixels is a slide, not a cell. The exported graph has the same limit.
MAX_PIXELS = 2048 * 2048
MAX_FACTOR = 8  # between two pixel sizes; more is a typing error, and could fill the memory


def find_images(paths: Sequence[Path]) -> dict[str, Path]:
    """Finds image files in folders.

    Args:
      paths: Files, and folders to search with their subfolders. Hidden ones are skipped.

    Returns:
      Dict of id to file, in the order given, and alphabetical within a folder. The id of an image
      in a folder is its path below the folder (`BAS/BAS_0021.tiff`), that of a file its path.

    Raises:
      UserError: if a path does not exist, a folder holds no TIFF, PNG or JPEG file, or two images
        have the same id.
    """
    found: dict[str, Path] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(walk_images(path, follow_links=True))
            files = {_make_id(file.relative_to(path)): file for file in inside}
            if not files:
                raise UserError(f"{path} is a folder without TIFF, PNG or JPEG files")
        elif path.is_file():
            files = {_make_id(path): path}
        else:
            raise UserError(f"No file or folder {path}")
        doubled = found.keys() & files.keys()
        if doubled:
            raise UserError(
                f"Two images have the id {min(doubled)}. Give each image once, and folders with "
                "equal file names in separate calls"
            )
        found |= files
    return found


def _make_id(path: Path) -> str:
    """The path as text; bytes that are not UTF-8 become question marks."""
    return os.fsencode(path.as_posix()).decode("utf-8", "replace")


def read_image(path: Path) -> np.ndarray:
    """Reads TIFF (8-bit RGB or RGBA), PNG or JPEG as uint8 [height, width, 3], without alpha.

    Raises:
      UserError: if the file is missing, is no such image, or has more than `MAX_PIXELS`.
    """
    try:
        with Image.open(path, formats=["TIFF", "PNG", "JPEG"]) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(
                    f"{image.width}x{image.height} pixels are more than the limit of {MAX_PIXELS}"
                )
            frames = getattr(image, "n_frames", 1)
            if frames > 1:
                raise ValueError(f"it holds {frames} images, not one")
            if image.mode[0] in "IF":  # Pillow would clip them at 255
                raise ValueError(f"channels have more than 8 bits ({image.mode})")
            if image.format != "TIFF":
                return np.asarray(image.convert("RGB"))
        return read_tiff(path)
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise UserError(f"{path} is not an image that can be read: {error}") from error


def compute_scale_factor(images_um: float, wanted_um: float) -> float:
    """Computes the factor of `resample_image` from two pixel sizes.

    Args:
      images_um: Side of the images' pixels in micrometres, on the slide.
      wanted_um: Side that they should have, at most `MAX_FACTOR` times more or less.
    """
    factor = images_um / wanted_um
    if not 1 / MAX_FACTOR <= factor <= MAX_FACTOR:
        raise UserError(
            f"Pixels of {images_um:g} um cannot be resampled to {wanted_um:g} um: the factor "
            f"{factor:.3g} is too far from 1. Give the side on the slide, not on the camera's chip."
        )
    return factor


def resample_image(image: np.ndarray, factor: float) -> np.ndarray:
    """Resamples an image as if it had been taken at another magnification.

    Args:
      image: uint8 array [height, width, 3].
      factor: Old side of a pixel divided by the new one; above 1 gives more pixels.

    Returns:
      uint8 array; its sides are `factor` times as long, rounded, and at least 1. Bilinear with
      antialiasing.
    """
    height, width = (max(1, round(side * factor)) for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields consecutive lists of up to `size` items, as `itertools.batched` of Python 3.12."""
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch
