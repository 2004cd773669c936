"""Writes a small folder that looks like the Barcelona download."""

import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

SIZES = ((360, 363), (366, 369), (360, 360))  # width, height: those of the release

FOLDER_BY_TYPE = {
    "BA": "basophil", "EO": "eosinophil", "ERB": "erythroblast", "LY": "lymphocyte",
    "MO": "monocyte", "BNE": "neutrophil", "SNE": "neutrophil", "NEUTROPHIL": "neutrophil",
    "MMY": "ig", "MY": "ig", "PMY": "ig", "IG": "ig", "PLATELET": "platelet",
}  # fmt: skip


def names(per_type: int, types: Iterable[str]) -> list[str]:
    """File names of that many images of each type."""
    return [f"{kind}_{number}.jpg" for kind in types for number in range(1, per_type + 1)]


def write_barcelona(
    folder: Path, file_names: Iterable[str], *, flat: bool = False, empty_images: bool = False
) -> Path:
    """Writes an image for each name, in class folders or all in one.

    Args:
      folder: where they go; made if it is not there.
      file_names: such as `BA_1.jpg`.
      flat: whether there are no class folders.
      empty_images: whether to leave the files empty, where nobody will open them.

    Returns:
      `folder`.
    """
    for name in file_names:
        file = folder / ("" if flat else FOLDER_BY_TYPE[name.partition("_")[0]]) / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if empty_images:
            file.touch()
        else:
            drawn(name).save(file, quality=90)
    return folder


def drawn(name: str) -> Image.Image:
    """Coloured clouds that differ from name to name, in one of the sizes of the release."""
    seed = zlib.crc32(name.encode())
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    return Image.fromarray(coarse).resize(SIZES[seed % len(SIZES)], Image.Resampling.BICUBIC)
