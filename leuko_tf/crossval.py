"""Cross-validates: trains five networks and tests each on the fold that it did not see.

  python -m leuko_tf.crossval --config configs/x.yaml --workdir runs/x
  python -m leuko_tf.crossval --config configs/x.yaml --workdir runs/x --fold 3

The first form trains the missing folds one after the other, then joins their held-out predictions
into one table and one report. The second form does one fold only, for a cluster with one job per
fold; when all five are done, the first form only joins them. The same command resumes.

The work folder then holds `fold_1` to `fold_5`, which are work folders of `leuko_tf.train` with
their `predictions.parquet`, and what `leuko_tf.evaluate` writes for all folds together.
"""

import argparse
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from leuko_tf.cli import UserError, import_tensorflow_quietly, run
from leuko_tf.config import Config, load_config, make_paths_absolute
from leuko_tf.evaluate import add_evaluation_arguments, check_options, evaluate, format_summary
from leuko_tf.files import BEST, GALLERY, MISTAKES, PREDICTIONS, REPORT
from leuko_tf.provenance import Source

if TYPE_CHECKING:
    import pandas as pd

FOLDS = (1, 2, 3, 4, 5)


def cross_validate(
    config: Config, workdir: Path, folds: tuple[int, ...], verbose: int | str
) -> None:
    """Trains and predicts the folds that are not done, with `config` but for its held-out fold.

    For the other arguments and errors see `leuko_tf.train.train` and
    `leuko_tf.inference.predict_folds`.
    """
    from leuko_tf.train import refuse_other_configuration, train

    configs = {k: replace(config, data=replace(config.data, held_out_fold=k)) for k in FOLDS}
    for k in FOLDS:  # before the first one trains for days
        refuse_other_configuration(configs[k], get_fold_folder(workdir, k))
    for k in folds:
        folder = get_fold_folder(workdir, k)
        if is_fold_done(workdir, k):
            print(f"fold {k} is done: {folder / PREDICTIONS}", flush=True)
            continue
        print(f"fold {k}:", flush=True)
        import_tensorflow_quietly()
        import keras

        from leuko_tf.inference import predict_folds

        train(configs[k], folder, verbose)
        predict_folds(folder / BEST, config.data.dataset, config.data.data_dir, [k], folder)
        keras.backend.clear_session()  # frees the fold's graphs


def join_folds(workdir: Path) -> Path:
    """Joins the folds' held-out predictions into one table, and copies their pictures.

    Returns the table's path. Raises `UserError` if a fold is not done, its table cannot be used, or
    the data sets differ.
    """
    import pandas as pd

    from leuko_tf.explanation import pictures
    from leuko_tf.predictions import write_predictions

    missing = [str(k) for k in FOLDS if not is_fold_done(workdir, k)]
    if missing:
        raise UserError(f"{workdir}: fold {' '.join(missing)} is not done")
    tables, sources = zip(*(_read_fold(workdir, k) for k in FOLDS), strict=True)
    first = sources[0]
    if training := first.get("training"):
        training["configuration"]["data"]["held_out_fold"] = "each in turn"
    held_out = {source.get("held_out") for source in sources}
    for k, source in zip(FOLDS, sources, strict=True):
        for name in ("dataset", "folds", "synthetic"):
            if source.get(name) != first.get(name):
                raise UserError(
                    f"{workdir}: fold 1 was predicted on {name} {first.get(name)}, fold {k} on "
                    f"{source.get(name)}. Delete the wrong one, and run again."
                )
    joined: Source = {
        **first,
        "split": "+".join(source["split"] for source in sources),
        "model": f"{get_fold_folder(workdir, 1)}/{BEST} and those of the other four folds; each "
        "predicted the fold that it did not see",
        "held_out": False if False in held_out else None if None in held_out else True,
    }
    for name in (MISTAKES, GALLERY):
        pictures.delete_pictures(workdir / name)
        for k in FOLDS:
            folder = get_fold_folder(workdir, k) / name
            if folder.is_dir():
                shutil.copytree(folder, workdir / name, dirs_exist_ok=True)
    write_predictions(pd.concat(tables, ignore_index=True), joined, workdir / PREDICTIONS)
    return workdir / PREDICTIONS


def _read_fold(workdir: Path, fold: int) -> "tuple[pd.DataFrame, Source]":
    """Reads the table of a fold and its source, and checks that they are of this fold."""
    from leuko_tf.predictions import read_predictions

    file = get_fold_folder(workdir, fold) / PREDICTIONS
    try:
        table, source = read_predictions(file)
    except UserError as error:
        raise UserError(f"{error}. Delete it, and run again.") from error
    if source.get("split") != f"fold_{fold}" or {*table["fold"]} != {fold}:
        split = source.get("split", "images unknown")
        raise UserError(f"{file} is not of fold {fold}, but of {split}. Delete it, and run again.")
    return table, source


def get_fold_folder(workdir: Path, fold: int) -> Path:
    """Returns the work folder of the training that holds out a fold."""
    return workdir / f"fold_{fold}"


def is_fold_done(workdir: Path, fold: int) -> bool:
    """Whether the fold is trained and predicted."""
    return (get_fold_folder(workdir, fold) / PREDICTIONS).is_file()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.crossval",
        description="Train and test on five folds. The same command resumes.",
    )
    parser.add_argument("--config", required=True, help="YAML file, such as configs/demo.yaml")
    parser.add_argument("--workdir", required=True, type=Path, help="folder for this only")
    parser.add_argument("--fold", type=int, choices=FOLDS, help="do only this fold; do not join")
    add_evaluation_arguments(parser)
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="override the file")
    arguments = parser.parse_intermixed_args()
    if any(setting.startswith("data.held_out_fold=") for setting in arguments.settings):
        raise UserError("The cross-validation sets data.held_out_fold; choose a fold with --fold")
    config = make_paths_absolute(load_config(arguments.config, arguments.settings))
    others, replicates = check_options(arguments)
    if arguments.fold and others:
        raise UserError("--compare belongs to the joined report, which --fold does not write")
    folds = (arguments.fold,) if arguments.fold else FOLDS

    workdir = arguments.workdir
    cross_validate(config, workdir, folds, verbose=1 if sys.stdout.isatty() else 2)
    if arguments.fold:
        done = sum(is_fold_done(workdir, k) for k in FOLDS)
        print(
            f"fold {arguments.fold} is done; {done} of {len(FOLDS)} folds are done. Without "
            "--fold the same command joins them."
        )
        return
    metrics = evaluate(join_folds(workdir), workdir, others=others, replicates=replicates)
    print(format_summary(metrics))
    print(f"report: {workdir / REPORT}")


if __name__ == "__main__":
    run(main)
