"""Where the network looks: `python -m leuko_tf.saliency --model M --out DIR IMAGE...`.

With --score in place of images it puts that into numbers, over a data set: `leuko_tf.focus.score`.

The methods, for the class that the network answers: `leuko_tf.explanation.methods`.

Each image gives one figure with image, map and overlay for each method.
"""

import argparse
from itertools import groupby
from pathlib import Path

from leuko_tf.cell_selection import add_cell_arguments, select_cells
from leuko_tf.cli import UserError, import_tensorflow_quietly, run

SCORED_IMAGES = 150  # by --score; see `leuko_tf.focus.score`


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.saliency",
        description="Draw where the network looks: gradient, SmoothGrad and Grad-CAM++; or, with "
        "--score, put it into numbers.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="TIFF, PNG or JPEG")
    scoring = parser.add_argument_group("numbers instead of pictures")
    scoring.add_argument(
        "--score",
        action="store_true",
        help="shares of saliency in nucleus, cytoplasm and background; insertion and deletion; "
        "comparison with fresh weights: over cells of a data set",
    )
    add_cell_arguments(scoring)
    scoring.add_argument(
        "--masks",
        type=Path,
        metavar="DIR",
        help="exact masks, such as a synthetic smear's folder `masks`; else cells are segmented",
    )
    scoring.add_argument(
        "--images",
        type=int,
        dest="number",
        metavar="N",
        help=f"how many, evenly by class (default {SCORED_IMAGES})",
    )
    arguments = parser.parse_args()
    if arguments.score:
        _score(arguments)
    else:
        _draw(arguments)


def _score(arguments: argparse.Namespace) -> None:
    if arguments.images:
        raise UserError("--score takes its images from a data set, and no IMAGE: see --dataset")
    number = SCORED_IMAGES if arguments.number is None else arguments.number
    if number < 2:
        raise UserError(f"--images takes 2 or more. Received: {number}")
    if arguments.masks and not arguments.masks.is_dir():
        raise UserError(f"--masks {arguments.masks} is no folder")
    dataset, data_dir, folds = select_cells(arguments)
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work
    import_tensorflow_quietly()
    from leuko_tf.focus.page import PAGE
    from leuko_tf.focus.score import score, summary

    result = score(
        arguments.model,
        dataset,
        data_dir,
        folds,
        arguments.out,
        masks=arguments.masks,
        number=number,
    )
    print(summary(result))
    print(f"page: {arguments.out / PAGE}")


def _draw(arguments: argparse.Namespace) -> None:
    of_score = ("dataset", "data_dir", "split", "masks", "number")
    if any(getattr(arguments, name) is not None for name in of_score):
        raise UserError("--dataset, --data-dir, --split, --masks and --images belong to --score")
    if not arguments.images:
        raise UserError("Name images to draw, or --score to score a data set's cells")
    from leuko_tf.data.images import read_image

    stems = [image.stem for image in arguments.images]
    doubled = {s for s in stems if stems.count(s) > 1}
    if doubled:
        raise UserError(f"Figures are named after their images; several are {doubled.pop()}")
    pictures = [read_image(path) for path in arguments.images]
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work

    import_tensorflow_quietly()
    import numpy as np
    from tqdm import tqdm

    from leuko_tf.data.images import batched
    from leuko_tf.explanation.explainer import BATCH, Explainer
    from leuko_tf.explanation.figure import draw_figure
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    explain_batch = Explainer(load_model(arguments.model))
    drawn = ", network trained on SYNTHETIC cells" * bool(describe_model(arguments.model).synthetic)
    with tqdm(total=len(pictures), desc="saliency", unit=" images") as progress:
        for _, group in groupby(
            zip(arguments.images, pictures, strict=True), key=lambda pair: pair[1].shape
        ):
            for batch in batched(group, BATCH):
                explanations = explain_batch(np.stack([picture for _, picture in batch]))
                for (path, _), explanation in zip(batch, explanations, strict=True):
                    draw_figure(explanation, path.name + drawn, arguments.out / f"{path.stem}.png")
                progress.update(len(batch))
    print(f"figures: {arguments.out}")


if __name__ == "__main__":
    run(main)
