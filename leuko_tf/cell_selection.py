"""Options of the commands that run a model, and the cells of a data set that they choose."""

import argparse
from typing import Any

from leuko_tf.cli import UserError
from leuko_tf.files import CONFIG
from leuko_tf.provenance import describe_model


def add_cell_arguments(parser: Any) -> None:
    """Adds the three options to a parser, or to a group of one; see `select_cells`."""
    parser.add_argument(
        "--dataset", help="TFDS name/configuration (default: the model's training data set)"
    )
    parser.add_argument(
        "--data-dir",
        help="folder that it was built in (default: that of the training; TFDS' own for another "
        "data set)",
    )
    parser.add_argument(
        "--split",
        help="such as fold_1, or fold_1+fold_2 (default: the fold that the training held out)",
    )


def add_inference_arguments(parser: Any, unscaled: str) -> None:
    """Adds --runtime (None by default), --pixel-size-um and --symmetries.

    Args:
      unscaled: what the command does without --pixel-size-um, for the help.
    """
    from leuko_tf.network.runtimes import RUNTIMES, TENSORFLOW

    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help=f"what computes the probabilities (default {TENSORFLOW}). openvino is faster on a CPU "
        "and equal to 1e-4, but converts for some seconds; pip install leuko_tf[openvino]",
    )
    parser.add_argument(
        "--pixel-size-um",
        type=float,
        metavar="UM",
        help="side of the images' pixels in micrometres: resamples images to the pixel size that "
        f"the model was trained on (default: {unscaled})",
    )
    parser.add_argument(
        "--symmetries",
        action="store_true",
        help="average over eight turns and reflections of each image; takes eight times as long",
    )


def check_pixel_size(side: float | None) -> None:
    """Raises `UserError` for a --pixel-size-um that cannot be meant."""
    if side is not None and not 0 < side < 10:
        raise UserError(f"--pixel-size-um takes micrometres, 0 to 10. Received: {side}")


def select_cells(arguments: argparse.Namespace) -> tuple[str, str | None, list[int]]:
    """Returns data set, its folder (None is TFDS' default) and folds; defaults are the training's.

    The training's folder and fold are used for the training's data set only. They come from the
    `config.yaml` beside the model, or else from the facts inside its file. Raises a `UserError` if
    data set or split are neither given nor known, or a fold does not exist.
    """
    dataset, data_dir, split = arguments.dataset, arguments.data_dir, arguments.split
    config_file = arguments.model.parent / CONFIG
    if config_file.is_file():
        from leuko_tf.config import load_config

        trained = load_config(config_file).data
        if dataset in (None, trained.dataset):
            dataset, data_dir = trained.dataset, data_dir or trained.data_dir
            split = split or f"fold_{trained.held_out_fold}"
    else:
        facts = describe_model(arguments.model)
        if dataset is None or dataset == (facts.trained_on or "").rpartition("/")[0]:
            dataset = dataset or facts.trained_on
            split = split or (f"fold_{facts.held_out_fold}" if facts.held_out_fold else None)
        if not dataset or not split:
            raise UserError(
                f"{arguments.model} does not tell what it was trained on: give --dataset and "
                "--split."
            )
    if not split:
        raise UserError(
            f"{dataset} is not the data set of the training: give --split, such as "
            "fold_1+fold_2+fold_3+fold_4+fold_5."
        )
    known = {f"fold_{k}": k for k in range(1, 6)}
    names = {*split.split("+")}
    if not names <= known.keys():
        raise UserError(f"--split takes fold_1 to fold_5, joined by +. Received: {split}")
    return dataset, data_dir, sorted(known[name] for name in names)
