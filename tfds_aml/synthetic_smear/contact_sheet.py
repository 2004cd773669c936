"""Draws a labelled contact sheet of a synthetic smear (command line)."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from leuko_tf.classes import CLASSES, SYNTHETIC_MARK, CellClass

THUMBNAIL = 112
PER_CLASS = 6
_LABEL = 168  # width of the space for code and name
_HEADER = 34
_COLUMNS = 2  # blocks side by side


def draw_contact_sheet(smear: Path) -> Image.Image:
    """Draws the first cells of every class, with code and name, marked as synthetic.

    Args:
      smear: folder that `tfds_aml.synthetic_smear` wrote.

    Returns:
      A palette image (mode "P").

    Raises:
      FileNotFoundError: if `smear` is not marked as a synthetic smear.
    """
    mark = smear / SYNTHETIC_MARK
    if not mark.is_file():
        raise FileNotFoundError(
            f"{smear} has no {mark.name}; name a folder that tfds_aml.synthetic_smear wrote"
        )
    seed = json.loads(mark.read_text())["seed"]
    rows = -(-len(CLASSES) // _COLUMNS)
    block = _LABEL + PER_CLASS * THUMBNAIL
    sheet = Image.new("RGB", (_COLUMNS * block, _HEADER + rows * THUMBNAIL), "white")
    ImageDraw.Draw(sheet).text(
        (8, 7),
        f"synthetic, drawn by leuko_tf (seed {seed}): no patient's cells",
        fill="black",
        font=ImageFont.load_default(size=17),
    )
    for i, cell_class in enumerate(CLASSES):
        _draw_class(sheet, smear, cell_class, i // rows * block, _HEADER + i % rows * THUMBNAIL)
    # A palette keeps the file well below 900 kB. Median cut would lose rare colours, such as an
    # eosinophil's orange, to the background; maximum coverage keeps them. Choosing the colours at a
    # third of the size is enough, and nine times faster.
    palette = sheet.reduce(3).quantize(256, method=Image.Quantize.MAXCOVERAGE, kmeans=3)
    return sheet.quantize(palette=palette, dither=Image.Dither.NONE)


def _draw_class(sheet: Image.Image, smear: Path, cell_class: CellClass, x: int, y: int) -> None:
    """Pastes a row of thumbnails at (x, y), with code and name on its left."""
    draw = ImageDraw.Draw(sheet)
    draw.text((x + 8, y + 30), cell_class.code, fill="black", font=ImageFont.load_default(size=24))
    draw.text((x + 8, y + 62), cell_class.name, fill="black", font=ImageFont.load_default(size=13))
    draw.text((x + 8, y + 82), "synthetic", fill="black", font=ImageFont.load_default(size=11))
    for i, path in enumerate(sorted((smear / cell_class.code).glob("*.tiff"))[:PER_CLASS]):
        with Image.open(path) as image:
            cell = image.convert("RGB").resize((THUMBNAIL - 2,) * 2, Image.Resampling.BOX)
        sheet.paste(cell, (x + _LABEL + i * THUMBNAIL, y))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command; exits with a one-line message and status 2 if an argument is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tfds_aml.synthetic_smear.contact_sheet",
        description="Draw a contact sheet of a synthetic smear.",
    )
    parser.add_argument("smear", type=Path, metavar="SMEAR_DIR")
    parser.add_argument("out", type=Path, metavar="OUT.png")
    options = parser.parse_args(arguments)
    try:
        draw_contact_sheet(options.smear).save(options.out, format="PNG", optimize=True)
    except (ValueError, OSError) as problem:
        parser.exit(2, f"{parser.prog}: error: {problem}\n")
    print(f"Wrote {options.out}: synthetic cells, {PER_CLASS} of each class")


if __name__ == "__main__":
    main()
