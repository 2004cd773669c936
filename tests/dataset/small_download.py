"""Writes a small folder that looks like the download, from lines of annotations.dat."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from leuko_tf.classes import CODES

# Two re-annotations, as in annotations.dat: none, agreeing, uncertain, a class on either side.
REANNOTATIONS = ("nan nan", "{code} {code}", "UNC {code}", "{code} UNC", "MYO MYB", "UNC UNC")


def rows(images: int, codes: Iterable[str] = CODES) -> list[str]:
    """Lines of annotations.dat for that many images, sorted, the classes taken in turn."""
    codes = list(codes)
    lines = []
    for i in range(images):
        code = codes[i % len(codes)]
        reannotations = REANNOTATIONS[i % len(REANNOTATIONS)].format(code=code)
        lines.append(f"{code}/{code}_{i // len(codes) + 1:04d}.tiff {code} {reannotations}")
    return sorted(lines)


def write_download(
    folder: Path, lines: Iterable[str], *, images_in: str = ".", empty_images: bool = False
) -> Path:
    """Writes annotations.dat of these lines and an image for each.

    Args:
      folder: where annotations.dat goes; made if it is not there.
      lines: lines of annotations.dat, each of which begins with an image's path.
      images_in: folder of the class folders, relative to `folder`.
      empty_images: whether to leave the files empty, where nobody will open them.

    Returns:
      `folder`.
    """
    lines = list(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.dat").write_text("".join(f"{line}\n" for line in lines))
    for line in lines:
        file = folder / images_in / line.split(" ")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        if empty_images:
            file.touch()
        else:
            pixels(file.name).save(file)
    return folder


def pixels(name: str) -> Image.Image:
    """400x400 RGBA pixels that differ from name to name: noise, the hardest case for a codec."""
    noise = np.random.default_rng(zlib.crc32(name.encode()))
    values = noise.integers(0, 256, (400, 400, 4), np.uint8)
    values[..., 3] = 255
    return Image.fromarray(values)


def write_fold_lists(folder: Path, names_by_fold: dict[int, list[str]]) -> None:
    """Writes fold1.txt ... into the folder, one name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for fold, names in names_by_fold.items():
        (folder / f"fold{fold}.txt").write_text("".join(f"{name}\n" for name in names))
