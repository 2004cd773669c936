"""Classifies image files: `python -m leuko_tf.predict FOLDER|FILE... --model M --out P.parquet`.

Writes the table that `leuko_tf.classification` describes, and with --abstain-below a column
`abstains`: whether the confidence is below that.

The network looks at the middle of each image, at the scale of its pixels; edges are mirrored
outwards where an image is smaller. For images of another magnification --pixel-size-um tells how
large their pixels are, and --fit resize squeezes the whole image into the network's view.

Research use only: a class is no diagnosis.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.cell_selection import add_inference_arguments, check_pixel_size
from leuko_tf.classes import BY_CODE, CODES, SYNTHETIC_REMARK
from leuko_tf.classification import (
    CROP,
    RESIZE,
    View,
    classify_files,
    compute_model_factor,
    draw_saliency,
)
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_aside
from leuko_tf.data.images import find_images
from leuko_tf.network.runtimes import TENSORFLOW

if TYPE_CHECKING:
    import pandas as pd


def main() -> None:
    arguments = _parse_arguments()
    images = find_images(arguments.images)
    for folder in (arguments.out.parent, arguments.saliency):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)  # fails now rather than after the work

    import_tensorflow_quietly()
    from leuko_tf.network.loading import load_model
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.provenance import describe_model

    model = load_model(arguments.model)
    synthetic = bool(describe_model(arguments.model).synthetic)
    runtime = arguments.runtime or TENSORFLOW
    view = View(arguments.fit or CROP, compute_model_factor(model, arguments.pixel_size_um))
    table, problems = classify_files(model, images, view, runtime, arguments.symmetries)
    threshold = arguments.abstain_below
    if threshold is not None:
        after_confidence = [*table.columns].index("confidence") + 1
        table.insert(after_confidence, "abstains", table["confidence"] < threshold)
    source = {
        "model": str(arguments.model),
        "trained_on_synthetic": synthetic,
        "fit": view.fit,
        "pixel_size_um": arguments.pixel_size_um,
        "runtime": runtime,
        "averaged_over_symmetries": arguments.symmetries,
        "abstain_below": threshold,
        "unreadable": problems,
        "research_use_only": True,
    }
    _write_table(table, source, arguments.out)
    print(f"classified {len(table):,} of {len(images):,} images: {arguments.out}")
    if not arguments.fit:
        _warn_of_sizes(table, model.get_layer(SCALING).field, view.factor)
    print(_format_results(table, problems, synthetic), flush=True)
    if arguments.saliency:
        draw_saliency(model, table, images, arguments.saliency, view, synthetic)
        print(f"figures: {arguments.saliency}")
    sys.exit(bool(problems))


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.predict",
        description="Classify images of single cells.",
        epilog="Exit status: 0, or 1 if some files could not be read; the table then holds the "
        "others. Research use only: no class is a diagnosis.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="FOLDER|FILE", help="TIFF, PNG or JPEG"
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument("--out", required=True, type=Path, help="table to write, .parquet or .csv")
    parser.add_argument(
        "--fit",
        choices=(CROP, RESIZE),
        help="crop (default): take the middle of each image, mirror the edges of small ones; warns "
        "about images of unexpected size. resize: squeeze the whole image into the network's view",
    )
    add_inference_arguments(parser, unscaled="no resampling")
    parser.add_argument(
        "--abstain-below",
        type=float,
        metavar="P",
        help="mark answers whose probability is below P, 0 to 1, for a person to decide",
    )
    parser.add_argument(
        "--saliency", type=Path, metavar="DIR", help="draw into DIR where the network looks"
    )
    arguments = parser.parse_args()
    if arguments.out.suffix not in (".parquet", ".csv"):
        raise UserError(f"--out must end in .parquet or .csv. Received: {arguments.out}")
    if arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a folder")
    threshold = arguments.abstain_below
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--abstain-below takes a probability, 0 to 1. Received: {threshold}")
    check_pixel_size(arguments.pixel_size_um)
    if arguments.pixel_size_um is not None and arguments.fit == RESIZE:
        raise UserError("--fit resize ignores the pixel size: give --pixel-size-um or --fit resize")
    return arguments


def _write_table(table: "pd.DataFrame", source: Mapping[str, Any], out: Path) -> None:
    """Replaces `out`, a .parquet or .csv file, as a whole; CSV cannot hold the source."""
    from leuko_tf.predictions import write_parquet

    if out.suffix == ".csv":
        with write_aside(out) as aside:
            table.to_csv(aside, index=False, float_format="%.7g")
    else:
        write_parquet(table, source, out)


def _format_results(table: "pd.DataFrame", problems: list[str], synthetic: bool) -> str:
    """The results for the terminal: answers by class, and files that could not be read."""
    answered = table[~table["abstains"]] if "abstains" in table else table
    counts = answered["answer"].value_counts()
    lines = [f"  {BY_CODE[code].name:<26}{counts[code]:>7,}" for code in CODES if code in counts]
    if "abstains" in table:
        lines.append(f"  {'abstained: too unsure':<26}{table['abstains'].sum():>7,}")
    if problems:
        lines.append(f"{len(problems):,} of {len(table) + len(problems):,} could not be read:")
        lines += [f"  {problem}" for problem in problems]
    if synthetic:
        lines.append(SYNTHETIC_REMARK)
    return "\n".join([*lines, "Research use only: no class is a diagnosis."])


def _warn_of_sizes(table: "pd.DataFrame", field: int, factor: float) -> None:
    """Warns about images that are smaller than the network's view, or larger than trained on."""
    from leuko_tf.network.view import FIELD

    sides = (table[["width", "height"]] * factor).round()
    usual = max(field, FIELD)
    small = f"smaller than the {field} pixels that the network looks at: their edges were mirrored"
    large = f"larger than {usual} pixels: only the {field} in their middle were looked at"
    for unusual, what in ((sides < field, f"{small} outwards"), (sides > usual, large)):
        number = int(unusual.any(axis=1).sum())
        if number:
            print(
                f"warning: {number:,} of {len(table):,} images are {what}. Say --fit crop if that "
                "is right; --pixel-size-um or --fit resize if they were taken at another "
                "magnification."
            )


if __name__ == "__main__":
    run(main)
