"""The client's images: finds and reads files, and draws saliency maps over them."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from leuko_tf.cli import UserError, write_aside
from leuko_tf.data.finding import walk_images

# Nine of the 256 colours of Matplotlib's magma; linear interpolation stays within 10 of 255.
# Matplotlib itself would be half of what the client installs.
_MAGMA = np.frombuffer(
    bytes.fromhex("000004 1d1147 50127c 822681 b6367a e65164 fb8861 fec287 fcfdbf"), np.uint8
).reshape(-1, 3)
_OVERLAY_OPACITY = 0.55  # as in leuko_tf.explanation


class ImageError(UserError):
    """An image file that cannot be sent, or an overlay that cannot be written."""


def find_image_files(paths: Sequence[str | Path]) -> list[Path]:
    """Replaces folders by the PNG, JPEG and TIFF files below them, in alphabetical order.

    Does not follow linked subfolders, and skips hidden files. Keeps other paths, even if nothing
    is there.

    Raises:
      ImageError: a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(walk_images(path, follow_links=False))
        if not found:
            raise ImageError(f"{path} is a folder without PNG, JPEG or TIFF files.")
        files += found
    return files


def read_image(path: str | Path) -> bytes:
    """Reads an image file as PNG or JPEG bytes for the model's `encoded` signature.

    PNG and JPEG files stay unchanged. TIFF, which TensorFlow cannot decode, becomes PNG without
    loss; it must hold one 8-bit RGB or RGBA image; an alpha channel is dropped, not blended.

    Raises:
      ImageError: no such file, no permission, a folder, another format, or a damaged image.
    """
    path = Path(path)
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "TIFF")) as image:
            # Decode here, although the server decodes again: older exports refuse a whole request
            # for one damaged image.
            image.load()
            return _convert_tiff(image, path) if image.format == "TIFF" else encoded
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a PNG, JPEG or TIFF image.") from None
    except Exception as error:  # Pillow raises many kinds of exception for damaged files.
        raise ImageError(f"Cannot decode {path}: {error}.") from None


def _convert_tiff(image: Any, path: Path) -> bytes:
    bits_per_sample = 258
    eight_bit = set(image.tag_v2.get(bits_per_sample, (1,))) == {8}
    if image.n_frames != 1 or image.mode not in ("RGB", "RGBA") or not eight_bit:
        raise ImageError(f"{path} is not a TIFF of one 8-bit RGB or RGBA image.")
    png = io.BytesIO()
    # Level 1 takes a quarter of the default's time and makes the file a sixth larger.
    image.convert("RGB").save(png, "PNG", compress_level=1)
    return png.getvalue()


def draw_overlay(image: Any, saliency: np.ndarray, field: int = 0) -> Any:
    """Draws a saliency map over its image: dark where it is 0, violet to pale yellow at 255.

    Args:
      image: PIL.Image.Image of any mode and size.
      saliency: uint8 [height, width], of any size.
      field: Side in pixels of the square in the image's middle that the map is stretched over;
        around it the picture is dark. 0 stands for the whole image.

    Returns:
      PIL.Image.Image, RGB, of the image's size.
    """
    steps = np.linspace(0, 255, len(_MAGMA))
    table = np.stack([np.interp(np.arange(256), steps, channel) for channel in _MAGMA.T], axis=1)
    width, height = (field, field) if field else image.size
    stretched = Image.fromarray(saliency).resize((width, height), Image.Resampling.BILINEAR)
    placed = Image.new("L", image.size)
    # The same square as in `leuko_tf.network.view.crop_center`.
    placed.paste(stretched, ((image.width - width) // 2, (image.height - height) // 2))
    colours = Image.fromarray(table.round().astype(np.uint8)[np.asarray(placed)])
    return Image.blend(image.convert("RGB"), colours, _OVERLAY_OPACITY)


def save_overlay(
    path: Path, image_path: Path, saliency: np.ndarray, field: int, caption: str
) -> None:
    """Writes an image file with its saliency map (see `draw_overlay`) as a PNG file, atomically.

    The caption goes into the PNG file's metadata.

    Raises:
      ImageError: the image can no longer be read, or the file cannot be written.
    """
    try:
        with Image.open(image_path) as image:
            picture = draw_overlay(image, saliency, field)
        info = PngInfo()
        info.add_text("Description", caption)
        with write_aside(path) as aside:
            picture.save(aside, "PNG", pnginfo=info)
    except OSError as error:
        raise ImageError(f"Cannot write {path}: {error.strerror or error}.") from None
