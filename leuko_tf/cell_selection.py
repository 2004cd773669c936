"""Which cells of a data set a model is asked about, as several commands take it."""

import argparse
from typing import Any

from leuko_tf.cli import UserError
from leuko_tf.files import CONFIG
from leuko_tf.provenance import describe_model


def add_cell_arguments(parser: Any) -> None:
    """Adds --dataset, --data-dir and --split to a parser, or a group of one; see `asked_cells`."""
    beside = "default: of the training that the model lies with"
    parser.add_argument("--dataset", help=f"TFDS name/configuration; {beside}")
    parser.add_argument(
        "--data-dir",
        help=f"where it was built; {beside} if the data set is, else TFDS' own default",
    )
    parser.add_argument("--split", help=f"such as fold_1, or fold_1+fold_2; {beside}: held out")


def select_cells(arguments: argparse.Namespace) -> tuple[str, str | None, list[int]]:
    """Data set, its folder (None is TFDS' own default) and folds, as given or as trained.

    Folder and fold are those of the training only where the data set is.

    Raises:
      UserError: if data set or split are neither given nor known; or for unknown folds.
    """
    dataset, data_dir, split = arguments.dataset, arguments.data_dir, arguments.split
    config_file = arguments.model.parent / CONFIG
    if config_file.is_file():
        from leuko_tf.config import load_config

        trained = load_config(config_file).data
        if dataset in (None, trained.dataset):
            dataset, data_dir = trained.dataset, data_dir or trained.data_dir
            split = split or f"fold_{trained.held_out_fold}"
    else:  # a model that was copied away from its work folder still knows its data set and fold
        facts = describe_model(arguments.model)
        if dataset is None or dataset == (facts.trained_on or "").rpartition("/")[0]:
            dataset = dataset or facts.trained_on
            split = split or (f"fold_{facts.held_out_fold}" if facts.held_out_fold else None)
        if not dataset or not split:
            raise UserError(
                f"{arguments.model} does not tell what it was trained on: give --dataset and --split."
            )
    if not split:
        raise UserError(
            f"{dataset} is not the data set of the training: give --split, such as "
            "fold_1+fold_2+fold_3+fold_4+fold_5."
        )
    return dataset, data_dir, _folds(split)


def _folds(split: str) -> list[int]:
    """`fold_1` or `fold_1+fold_3` to fold numbers."""
    known = {f"fold_{k}": k for k in range(1, 6)}
    try:
        return sorted({known[name] for name in split.split("+")})
    except KeyError as error:
        raise UserError(
            f"--split takes fold_1 to fold_5, joined by +. Received: {split}"
        ) from error
