"""Writes small folders that look like the real downloads."""

import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from leuko_tf.classes import CODES
from tfds_aml.pbc_barcelona.download import CODE_BY_TYPE

# Two re-annotations, as in annotations.dat: none, agreeing, uncertain, a class on either side.
REANNOTATIONS = ("nan nan", "{code} {code}", "UNC {code}", "{code} UNC", "MYO MYB", "UNC UNC")

FOLDER_BY_TYPE = {
    "BA": "basophil", "EO": "eosinophil", "ERB": "erythroblast", "LY": "lymphocyte",
    "MO": "monocyte", "BNE": "neutrophil", "SNE": "neutrophil", "NEUTROPHIL": "neutrophil",
    "MMY": "ig", "MY": "ig", "PMY": "ig", "IG": "ig", "PLATELET": "platelet",
}  # fmt: skip
BARCELONA_SIZES = ((360, 363), (366, 369), (360, 360))  # width, height: those of the release


def make_lines(images: int, codes: Iterable[str] = CODES) -> list[str]:
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
    """Writes annotations.dat with these lines, and an image for each; returns `folder`.

    Args:
      folder: folder of annotations.dat; made if missing.
      lines: lines of annotations.dat; each starts with an image's path.
      images_in: folder of the class folders, relative to `folder`.
      empty_images: leaves the image files empty, for tests that do not open them.
    """
    lines = list(lines)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "annotations.dat").write_text("".join(f"{line}\n" for line in lines))
    for line in lines:
        _write_image(folder / images_in / line.split(" ")[0], draw_munich, empty_images)
    return folder


def write_fold_lists(folder: Path, names_by_fold: dict[int, list[str]]) -> None:
    """Writes fold1.txt ... into the folder, one name a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for fold, names in names_by_fold.items():
        (folder / f"fold{fold}.txt").write_text("".join(f"{name}\n" for name in names))


def make_names(per_type: int, types: Iterable[str] = CODE_BY_TYPE) -> list[str]:
    """File names of the Barcelona download: that many images of each type."""
    return [f"{kind}_{number}.jpg" for kind in types for number in range(1, per_type + 1)]


def write_barcelona(
    folder: Path, names: Iterable[str], *, flat: bool = False, empty_images: bool = False
) -> Path:
    """Writes an image for each name, in class folders or, if `flat`, in one; returns `folder`."""
    for name in names:
        place = "" if flat else FOLDER_BY_TYPE[name.partition("_")[0]]
        _write_image(folder / place / name, draw_barcelona, empty_images)
    return folder


def _write_image(file: Path, draw: Callable[[str], Image.Image], empty: bool) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if empty:
        file.touch()
    else:
        draw(file.name).save(file)


def draw_munich(name: str) -> Image.Image:
    """400x400 RGBA pixels that differ from name to name: noise, the hardest case for a codec."""
    noise = np.random.default_rng(zlib.crc32(name.encode()))
    values = noise.integers(0, 256, (400, 400, 4), np.uint8)
    values[..., 3] = 255
    return Image.fromarray(values)


def draw_barcelona(name: str) -> Image.Image:
    """Coloured clouds that differ from name to name, in one of the sizes of the release."""
    seed = zlib.crc32(name.encode())
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    return Image.fromarray(coarse).resize(
        BARCELONA_SIZES[seed % len(BARCELONA_SIZES)], Image.Resampling.BICUBIC
    )
