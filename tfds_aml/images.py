"""Reads image files, checks them and encodes them as PNG, on all cores."""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image
from tqdm import tqdm

from tfds_aml.problems import Problems

T = TypeVar("T")
R = TypeVar("R")

# PNG is lossless at any level. Level 1 encodes about eight times faster than the default 6, and
# files are about 15 % larger (220 against 190 kB a cell).
PNG_COMPRESSION = 1


class SizeError(ValueError):
    """An image has the wrong size; the message states it."""


def read_tiff(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a TIFF, RGB or RGBA, as uint8 array [height, width, 3]; drops the alpha channel.

    Raises:
      OSError: (or another of Pillow's exceptions) if the file is not a readable TIFF.
      ValueError: if its pixels are not RGB or RGBA with 8 bits per channel.
    """
    with Image.open(path, formats=["TIFF"]) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"pixels are {image.mode}, not RGB or RGBA")
        # Pillow also reports 16-bit RGB as `RGB` and silently drops the lower eight bits.
        bits = set(image.getexif()[ExifTags.Base.BitsPerSample])
        if bits != {8}:
            raise ValueError(f"channels have {max(bits)} bits, not 8")
        return np.asarray(image)[..., :3]


def read_jpeg(path: str | os.PathLike[str], sides: range) -> np.ndarray:
    """Reads a colour JPEG as uint8 array [height, width, 3]; checks its size before decoding it.

    Args:
      sides: accepted heights and widths, in pixels.

    Raises:
      OSError: (or another of Pillow's exceptions) if the file is not a readable JPEG.
      SizeError: if height or width is not in `sides`.
      ValueError: if its pixels are not RGB.
    """
    with Image.open(path, formats=["JPEG"]) as image:
        if image.height not in sides or image.width not in sides:
            accepted = f"{sides[0]} to {sides[-1]}"
            raise SizeError(f"is {image.width}x{image.height} pixels; sides must be {accepted}")
        if image.mode != "RGB":
            raise ValueError(f"pixels are {image.mode}, not RGB")
        return np.asarray(image)


def hash_pixels(pixels: np.ndarray) -> str:
    """Returns the SHA-256 of shape and pixels, which is equal for copies under any file name."""
    sha = hashlib.sha256(repr(pixels.shape).encode())
    sha.update(pixels.tobytes())
    return sha.hexdigest()


def inspect_files(
    paths: Sequence[Path], inspect: Callable[[Path], T], kind: str, problems: Problems
) -> dict[Path, T]:
    """Inspects every image file, so that a bad one cannot stop the build in its last fold.

    Costs about 2 ms an image.

    Args:
      inspect: decodes a file and returns a fact about it; raises an exception for a bad file.
      kind: heading of the problem of a bad file.
      problems: records the bad files, in the order of `paths`.

    Returns:
      The fact about each good file.
    """
    reasons: dict[Path, str] = {}

    def try_to_inspect(path: Path) -> T | None:
        try:
            return inspect(path)
        except SizeError as error:
            reasons[path] = str(error)
        except Exception as error:  # Pillow raises a dozen types for damaged files
            reasons[path] = f"{type(error).__name__}: {error}"
        return None

    results = tqdm(read_ahead(try_to_inspect, paths), "checking images", len(paths), unit=" images")
    facts = {path: fact for path, fact in zip(paths, results, strict=True) if fact is not None}
    for path in paths:
        if path in reasons:
            problems.add(kind, f"{path}: {reasons[path]}")
    return facts


def encode_as_png(path: Path) -> bytes:
    """Reads a TIFF and encodes it as PNG.

    TensorFlow's encoder releases Python's lock, so `read_ahead` keeps all cores busy; `tf.data`
    with the same functions often used only one.
    """
    import tensorflow as tf

    return tf.io.encode_png(read_tiff(path), compression=PNG_COMPRESSION).numpy()


def read_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Maps a function over items in threads, some items ahead; yields results in order."""
    cores = os.cpu_count() or 1
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * cores:  # keeps the cores busy without using much memory
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
