"""Chooses the cells of a data set that a model is run on: --dataset, --data-dir, --split."""

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


def select_cells(arguments: argparse.Namespace) -> tuple[str, str | None, list[int]]:
    """Returns data set, its folder (None is TFDS' default) and folds; defaults are the training's.

    The training's folder and fold are used for the training's data set only. They come from the
    `config.yaml` beside the model, or else from the facts inside its file.

    Raises:
      UserError: if data set or split are neither given nor known, or a fold does not exist.
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
    return dataset, data_dir, _parse_split(split)


def _parse_split(split: str) -> list[int]:
    """Turns `fold_1` or `fold_1+fold_3` into fold numbers."""
    known = {f"fold_{k}": k for k in range(1, 6)}
    try:
        return sorted({known[name] for name in split.split("+")})
    except KeyError as error:
        raise UserError(
            f"--split takes fold_1 to fold_5, joined by +. Received: {split}"
        ) from error
