"""Trains a network: `python -m leuko_tf.train --config configs/x.yaml --workdir runs/x`.

The work folder then holds:
  config.yaml    the resolved configuration
  run.json       command, versions, git revision, data set, number of parameters
  log.jsonl      one JSON line per epoch
  tensorboard/   the same for TensorBoard
  best.keras     the model to use: float32, weights of the best epoch
  last.keras     the model to resume from, with its optimizer
  cells.npy      the decoded cells, with data.cache=disk and during the training only

The same command resumes a training after the last saved epoch.
"""

import argparse
import sys
from pathlib import Path

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError, import_tensorflow_quietly, run
from leuko_tf.config import Config, list_differences, load_config, make_paths_absolute, save_config
from leuko_tf.files import BEST, CELLS, CONFIG, LAST
from leuko_tf.provenance import describe_dataset, describe_start, facts_of_run, record_run


def train(config: Config, workdir: Path, verbose: int | str = "auto") -> None:
    """Trains for `train.epochs` epochs; resumes a training that the work folder holds.

    Args:
      config: The whole configuration.
      workdir: Folder for this training only; created if missing.
      verbose: As in Keras: 1 for a progress bar, 0 for silence; 2 for a line per epoch, and
        another about every 30 s within an epoch.

    Raises:
      UserError: if the folder holds a training with another configuration, the initial model cannot
        be used, the data set is not built or too small, or the loss becomes NaN.
    """
    refuse_other_configuration(config, workdir)

    import keras
    import numpy as np
    import tensorflow as tf

    from leuko_tf.data import pipeline
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.training import building, callbacks

    last = workdir / LAST
    if last.exists() and callbacks.read_epochs_done(last) >= config.train.epochs:
        print(f"{workdir} is trained: all {config.train.epochs} epochs are done.")
        return
    # Comes first because it finds mistakes about the initial model. Its weights are not kept.
    plain = building.make_network(config, precision="float32")
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()

    builder = pipeline.open_dataset(config.data.dataset, config.data.data_dir)
    held_out, share = config.data.held_out_fold, config.data.validation_share
    folds = [k for k in range(1, 6) if k != held_out]
    file = workdir / CELLS if config.data.cache == "disk" else None
    cells = pipeline.decode_folds(builder, folds, config, file)
    is_validation = pipeline.choose_validation(cells.labels, share, config.train.seed)
    training, validation = np.flatnonzero(~is_validation), np.flatnonzero(is_validation)
    steps = pipeline.count_steps(cells.labels[training], config)

    save_config(config, workdir / CONFIG)
    dataset = describe_dataset(builder)
    images_um = pipeline.find_pixel_size(builder, config.data.pixel_size_um)
    counts = np.bincount(cells.labels[training], minlength=len(CODES))
    model, done = building.build_or_resume(config, workdir, steps, (counts / counts.sum()).tolist())
    devices = [device.device_type for device in tf.config.list_physical_devices()]
    run = record_run(
        workdir,
        describe_start(model.dtype_policy.name, model.jit_compile, devices),
        dataset=dataset,
        class_counts=dict(zip(CODES, counts.tolist(), strict=True)),
        held_out_fold=held_out,
        images_pixel_size_um=images_um,
        initial_model=Path(config.train.initial_model) if config.train.initial_model else None,
        parameters=model.count_params(),
    )
    for network in (plain, model):
        scaling = network.get_layer(SCALING)
        scaling.pixel_size_um = config.data.resample_to_um or images_um
        scaling.trained = facts_of_run(run).to_json()
    per_class = config.data.samples_per_class
    kind = "SYNTHETIC cells" if dataset["synthetic"] else "cells"
    print(
        f"training on {len(training):,} {kind}, validating on {len(validation):,}; fold {held_out} "
        f"held out; {steps} steps of {config.data.batch_size} per epoch"
        + (f" ({per_class} samples of each class)" if per_class else "")
    )

    validates = len(validation) > 0
    monitor = "val_loss" if validates else "loss"
    plain_batches = pipeline.make_plain_batches(cells, validation, config) if validates else None
    model.fit(
        pipeline.make_training_batches(cells, training, config, first_epoch=done),
        initial_epoch=done,
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        validation_data=plain_batches,
        callbacks=callbacks.make_callbacks(config, workdir, plain, steps, monitor, verbose),
        shuffle=False,  # the batches are shuffled already
        verbose=verbose,
    )
    if file:
        file.unlink()
    print(f"trained: {workdir / BEST}")


def refuse_other_configuration(config: Config, workdir: Path) -> None:
    """Raises `UserError` if the work folder holds a training with another configuration."""
    file = workdir / CONFIG
    changed = list_differences(load_config(file), config) if file.exists() else []
    if changed:
        raise UserError(
            f"{workdir} holds a training with another configuration: {'; '.join(changed)}. "
            "Choose another --workdir, or delete this one."
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.train",
        description="Train a network. The same command resumes a stopped training.",
    )
    parser.add_argument("--config", required=True, help="YAML file, such as configs/demo.yaml")
    parser.add_argument("--workdir", required=True, type=Path, help="folder for this training only")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="override the file")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.settings)
    import_tensorflow_quietly()
    train(make_paths_absolute(config), arguments.workdir, verbose=1 if sys.stdout.isatty() else 2)


if __name__ == "__main__":
    run(main)
