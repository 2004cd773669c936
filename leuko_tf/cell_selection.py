"""Options of the commands that run a model, and the cells of a data set that they choose."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.cli import UserError
from leuko_tf.files import CONFIG
from leuko_tf.provenance import describe_model

if TYPE_CHECKING:
    from leuko_tf.config import DataConfig


def add_cell_arguments(parser: Any) -> None:
    """Adds the three options to a parser, or to a group of one; see `select_cells`."""
    parser.add_argument(
        "--dataset", help="TFDS name/configuration (default: the model's training data set)"
    )
    parser.add_argument(
        "--data-dir",
        help="folder that it was built in (default: that of the training, if its config.yaml lies "
        "beside the model; else TFDS' own)",
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

    The training's folder and fold are used for the training's data set only. The model's file tells
    data set and fold, or else the `config.yaml` beside it, which also tells the folder. Raises a
    `UserError` if data set or split are neither given nor known, or a fold does not exist.
    """
    dataset, data_dir, split = arguments.dataset, arguments.data_dir, arguments.split
    facts, trained = describe_model(arguments.model), _read_data_config(arguments.model.parent)
    name = (facts.trained_on or "").rpartition("/")[0]  # TFDS takes no version there
    own, folder, fold = name or None, None, facts.held_out_fold
    if trained and name in ("", trained.dataset):
        own, folder, fold = trained.dataset, trained.data_dir, fold or trained.held_out_fold
    if not own and not (dataset and split):
        raise UserError(
            f"{arguments.model} does not tell what it was trained on: give --dataset and --split."
        )
    if dataset in (None, own):
        dataset, data_dir = dataset or own, data_dir or folder
        split = split or (f"fold_{fold}" if fold else None)
    if not split:
        raise UserError(
            f"{dataset} has no fold that the training is known to have held out: give --split, "
            "such as fold_1+fold_2+fold_3+fold_4+fold_5."
        )
    known = {f"fold_{k}": k for k in range(1, 6)}
    names = {*split.split("+")}
    if not names <= known.keys():
        raise UserError(f"--split takes fold_1 to fold_5, joined by +. Received: {split}")
    return dataset, data_dir, sorted(known[name] for name in names)


def _read_data_config(workdir: Path) -> "DataConfig | None":
    """The data settings of the training in a work folder; None without `config.yaml`."""
    if not (workdir / CONFIG).is_file():
        return None
    from leuko_tf.config import load_config

    return load_config(workdir / CONFIG).data
