"""Reading image files and encoding them as PNG, with all cores."""

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

T = TypeVar("T")
R = TypeVar("R")

# PNG is lossless at any level; level 1 encodes some eight times faster than the usual 6 and makes
# files about 15 % larger (220 against 190 kB a cell).
PNG_COMPRESSION = 1


class SizeError(ValueError):
    """An image is not as large as those of the data set; the message says how large it is."""


def read_tiff(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads a TIFF, alpha channel dropped.

    Args:
      path: file to read. One strip or many, RGB or RGBA.

    Returns:
      uint8 array [height, width, 3].

    Raises:
      OSError: (or another exception of Pillow's) if the file is no readable TIFF.
      ValueError: if its pixels are not RGB or RGBA of 8 bits a channel.
    """
    with Image.open(path, formats=["TIFF"]) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"pixels are {image.mode}, not RGB or RGBA")
        # Pillow calls 16-bit RGB `RGB` too, and drops the lower eight bits without a word.
        bits = set(image.getexif()[ExifTags.Base.BitsPerSample])
        if bits != {8}:
            raise ValueError(f"channels have {max(bits)} bits, not 8")
        return np.asarray(image)[..., :3]


def read_jpeg(path: str | os.PathLike[str], sides: range) -> np.ndarray:
    """Reads a JPEG in colour; its size is looked at before anything is decoded.

    Args:
      path: file to read.
      sides: heights and widths that are accepted, in pixels.

    Returns:
      uint8 array [height, width, 3].

    Raises:
      OSError: (or another exception of Pillow's) if the file is no readable JPEG.
      SizeError: if a side is none of `sides`.
      ValueError: if its pixels are not RGB.
    """
    with Image.open(path, formats=["JPEG"]) as image:
        if image.height not in sides or image.width not in sides:
            wanted = f"{sides[0]} to {sides[-1]}"
            raise SizeError(f"is {image.width}x{image.height} pixels; a side has {wanted}")
        if image.mode != "RGB":
            raise ValueError(f"pixels are {image.mode}, not RGB")
        return np.asarray(image)


def hash_pixels(pixels: np.ndarray) -> str:
    """SHA-256 of an image's shape and pixels: equal for copies of an image, however named."""
    sha = hashlib.sha256(repr(pixels.shape).encode())
    sha.update(pixels.tobytes())
    return sha.hexdigest()


def inspect_files(
    paths: Sequence[Path], inspect: Callable[[Path], T]
) -> tuple[dict[Path, T], list[tuple[Path, str]]]:
    """Looks into every file once, and lists the ones that cannot be built.

    Costs some 2 ms an image and spares the user a build that fails in its last fold.

    Args:
      paths: image files.
      inspect: decodes a file and returns what the caller wants to know of it; raises an exception
        if the file is not as it should be.

    Returns:
      What was seen of each good file; and (path, reason) of each bad one, in the order given.
    """
    reasons: dict[Path, str] = {}

    def look(path: Path) -> T | None:
        try:
            return inspect(path)
        except SizeError as error:
            reasons[path] = str(error)
        except Exception as error:  # Pillow raises a dozen types on damaged files: all mean this
            reasons[path] = f"{type(error).__name__}: {error}"
        return None

    looks = tqdm(read_ahead(look, paths), "checking images", len(paths), unit=" images")
    seen = {path: sight for path, sight in zip(paths, looks, strict=True) if sight is not None}
    return seen, [(path, reasons[path]) for path in paths if path in reasons]


def encode_as_png(path: Path) -> bytes:
    """Reads a TIFF and encodes it as PNG.

    With TensorFlow's encoder, which runs outside of Python's lock: with `read_ahead` it uses all
    cores, where `tf.data` with the same functions often kept to one.
    """
    import tensorflow as tf

    return tf.io.encode_png(read_tiff(path), compression=PNG_COMPRESSION).numpy()


def read_ahead(function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
    """Applies a function in threads, on all cores and some items ahead; results in their order."""
    cores = os.cpu_count() or 1
    ahead: deque[Future[R]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            ahead.append(pool.submit(function, item))
            if len(ahead) > 4 * cores:  # enough to keep the cores busy, little enough to hold
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
