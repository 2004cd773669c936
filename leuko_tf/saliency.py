"""Draws where the network looks: `python -m leuko_tf.saliency --model M --out DIR IMAGE...`.

Writes a figure for each image: a row for each method of `leuko_tf.explanation.methods`, for the
class that the network answers. With --score it computes figures over a data set instead, see
`leuko_tf.focus.score`.
"""

import argparse
from collections import Counter
from pathlib import Path

from leuko_tf.cell_selection import add_cell_arguments, select_cells
from leuko_tf.cli import UserError, import_tensorflow_quietly, run

SCORED_IMAGES = 150  # by --score


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.saliency",
        description="Draw where the network looks: gradient, SmoothGrad, Grad-CAM++. With --score, "
        "measure it over a data set.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="TIFF, PNG or JPEG")
    scoring = parser.add_argument_group("scores over a data set instead of pictures")
    scoring.add_argument(
        "--score",
        action="store_true",
        help="compute shares of saliency in nucleus, cytoplasm and background, insertion and "
        "deletion curves, and a sanity check with fresh weights",
    )
    add_cell_arguments(scoring)
    scoring.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="exact masks, such as the folder `masks` of a synthetic smear (default: segment)",
    )
    scoring.add_argument(
        "--images",
        type=int,
        dest="number",
        metavar="N",
        help=f"number of images, evenly by class (default: {SCORED_IMAGES})",
    )
    arguments = parser.parse_args()
    (_score if arguments.score else _draw)(arguments)


def _score(arguments: argparse.Namespace) -> None:
    if arguments.images:
        raise UserError("--score takes its images from a data set (--dataset): name no IMAGE")
    number = SCORED_IMAGES if arguments.number is None else arguments.number
    if number < 2:
        raise UserError(f"--images takes 2 or more. Received: {number}")
    if arguments.masks and not arguments.masks.is_dir():
        raise UserError(f"--masks {arguments.masks} is not a folder")
    dataset, data_dir, folds = select_cells(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it
    import_tensorflow_quietly()
    from leuko_tf.focus.page import PAGE
    from leuko_tf.focus.score import format_summary, score

    cells = (dataset, data_dir, folds)
    result = score(arguments.model, *cells, arguments.out, masks=arguments.masks, number=number)
    print(format_summary(result))
    print(f"page: {arguments.out / PAGE}")


def _draw(arguments: argparse.Namespace) -> None:
    score_options = ("dataset", "data_dir", "split", "masks", "number")
    if any(getattr(arguments, name) is not None for name in score_options):
        raise UserError("--dataset, --data-dir, --split, --masks and --images belong to --score")
    if not arguments.images:
        raise UserError("Name images to draw, or give --score to score the cells of a data set")
    from leuko_tf.data.images import read_image

    name, count = Counter(image.stem for image in arguments.images).most_common(1)[0]
    if count > 1:
        raise UserError(
            f"Figures are named after their images, and {count} are named {name}: draw them into "
            "different folders"
        )
    images = [read_image(path) for path in arguments.images]
    arguments.out.mkdir(parents=True, exist_ok=True)  # fails before the work, not after it

    import_tensorflow_quietly()
    from tqdm import tqdm

    from leuko_tf.explanation.explainer import Explainer
    from leuko_tf.explanation.figure import draw_figure
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    explanations = Explainer(load_model(arguments.model))(images)
    synthetic = bool(describe_model(arguments.model).synthetic)
    for path, explanation in zip(
        tqdm(arguments.images, "saliency", unit=" images"), explanations, strict=True
    ):
        draw_figure(explanation, path.name, synthetic, arguments.out / f"{path.stem}.png")
    print(f"figures: {arguments.out}")


if __name__ == "__main__":
    run(main)
