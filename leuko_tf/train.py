"""Trains a network: `python -m leuko_tf.train --config configs/x.yaml --workdir runs/x`.

The work folder then holds:
  config.yaml    the configuration as it was resolved
  run.json       command, versions, git revision, data set, number of parameters
  log.jsonl      one JSON line an epoch
  tensorboard/   the same for TensorBoard
  best.keras     the model to use: float32, weights of the best epoch
  last.keras     the model to resume from, with its optimizer
  cells.npy      the decoded cells, with data.cache=disk and while it trains

Running the same command again resumes after the last epoch that was saved.
"""

import argparse
import json
import math
import platform
import subprocess
import sys
import warnings
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import leuko_tf
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError, command_line, import_tensorflow_quietly, run, write_json
from leuko_tf.config import Config, differences, load_config, save_config, with_absolute_paths

if TYPE_CHECKING:
    import keras

CONFIG = "config.yaml"
RUN = "run.json"


def train(config: Config, workdir: Path, verbose: int | str = "auto") -> None:
    """Trains until `train.epochs` epochs are done, from where the work folder left off.

    Args:
      config: the whole configuration.
      workdir: folder of this training alone; made if it is not there.
      verbose: Keras' own: 1 a progress bar, 2 a line an epoch, 0 silent.

    Raises:
      UserError: if the folder holds a training of another configuration, the initial model cannot
        be used, the data set is not built or too small, or the loss becomes NaN.
    """
    refuse_other_configuration(config, workdir)

    import keras
    import numpy as np
    import tensorflow as tf

    from leuko_tf import callbacks, data
    from leuko_tf.resnext import SCALING

    last = workdir / callbacks.LAST
    if last.exists() and callbacks.epochs_done(last) >= config.train.epochs:
        print(f"{workdir} is trained: all of {config.train.epochs} epochs are done.")
        return
    # First, since a mistake about the initial model shows here; its weights are not kept.
    plain = _network(config, precision="float32")
    keras.utils.set_random_seed(config.train.seed)
    if config.train.deterministic:
        tf.config.experimental.enable_op_determinism()

    builder = data.open_dataset(config.data.dataset, config.data.data_dir)
    folds = [k for k in range(1, 6) if k != config.data.held_out_fold]
    file = workdir / "cells.npy" if config.data.cache == "disk" else None
    cells = data.decode_folds(builder, folds, config, file)
    validates = data.validation_split(cells.labels, config.data.validation_share, config.train.seed)
    training, validation = np.flatnonzero(~validates), np.flatnonzero(validates)
    steps = data.steps_per_epoch(cells.labels[training], config)

    save_config(config, workdir / CONFIG)
    images_um = data.pixel_size(builder, config.data.pixel_size_um)
    plain.get_layer(SCALING).pixel_size_um = config.data.resample_to_um or images_um
    shares = np.bincount(cells.labels[training], minlength=len(CODES)) / len(training)
    model, done = _build_or_resume(config, workdir, steps, shares.tolist())
    _describe_run(workdir, config, builder, model, images_um)
    kind = "SYNTHETIC cells" if builder.info.metadata["synthetic"] else "cells"
    print(
        f"training on {len(training):,} {kind}, validating on {len(validation):,}; fold "
        f"{config.data.held_out_fold} held out; {steps} steps of {config.data.batch_size} an epoch"
    )

    monitor = "val_loss" if len(validation) else "loss"
    best = min((e[monitor] for e in callbacks.read_log(workdir)), default=math.inf)
    callback_list = [
        callbacks.StopOnNaN(),
        callbacks.EpochLog(workdir / callbacks.LOG, steps * config.data.batch_size),
        callbacks.SaveModels(workdir, plain, monitor, best),
        keras.callbacks.TensorBoard(workdir / "tensorboard", write_graph=False),
    ]
    if config.optimizer.ema_momentum is not None:
        # Validation, and so the choice of the best epoch, is of the averaged weights.
        callback_list.append(keras.callbacks.SwapEMAWeights())
    model.fit(
        data.training_batches(cells, training, config, first_epoch=done),
        initial_epoch=done,
        epochs=config.train.epochs,
        steps_per_epoch=steps,
        validation_data=(
            data.plain_batches(cells, validation, config) if len(validation) else None
        ),
        callbacks=callback_list,
        shuffle=False,  # the batches come shuffled
        verbose=verbose,
    )
    if file:
        file.unlink()
    print(f"trained: {workdir / callbacks.BEST}")


def refuse_other_configuration(config: Config, workdir: Path) -> None:
    """Raises `UserError` if the work folder holds a training of another configuration."""
    file = workdir / CONFIG
    changed = differences(load_config(file), config) if file.exists() else []
    if changed:
        raise UserError(
            f"{workdir} holds a training of another configuration: {'; '.join(changed)}. "
            "Name another --workdir, or delete this one."
        )


def compiled(
    model: "keras.Model", config: Config, steps: int, shares: list[float] | None = None
) -> "keras.Model":
    """Gives the model its loss, optimizer and schedule, and makes it ready to train fast.

    Args:
      model: the network.
      config: the whole configuration.
      steps: optimizer steps of one epoch.
      shares: classes' shares among the training images, 0 to 1; only for
        `optimizer.logit_adjustment`.
    """
    import keras

    from leuko_tf.folding import spare_bias_gradients
    from leuko_tf.losses import AdjustedCrossentropy
    from leuko_tf.optimizers import Adam, AdamW

    settings = config.optimizer
    rate: Any = settings.learning_rate
    if settings.schedule == "cosine":
        total, warmup = steps * config.train.epochs, round(steps * settings.warmup_epochs)
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else settings.learning_rate,
            decay_steps=max(1, total - warmup),
            warmup_target=settings.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
    ema: dict[str, Any] = {}
    if settings.ema_momentum is not None:
        ema = {"use_ema": True, "ema_momentum": settings.ema_momentum}
    if settings.name == "adamw":
        optimizer = AdamW(rate, weight_decay=settings.weight_decay, **ema)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = Adam(rate, **ema)
    loss: keras.losses.Loss = keras.losses.CategoricalCrossentropy(
        label_smoothing=settings.label_smoothing
    )
    if settings.logit_adjustment:
        assert shares is not None
        loss = AdjustedCrossentropy(shares, settings.label_smoothing)
    spare_bias_gradients(model)
    model.compile(
        optimizer,
        loss=loss,
        metrics=["accuracy"],
        jit_compile=_resolve(config.train.jit_compile, on_gpu=True, on_cpu=False),
    )
    return model


def _network(config: Config, precision: str) -> "keras.Model":
    """The network to train: new, or that of the initial model with its weights."""
    from leuko_tf.models import load_model
    from leuko_tf.resnext import from_config, from_model

    if config.train.initial_model is None:
        return from_config(config.model, precision)
    return from_model(load_model(Path(config.train.initial_model)), config.model, precision)


def _build_or_resume(
    config: Config, workdir: Path, steps: int, shares: list[float] | None = None
) -> tuple["keras.Model", int]:
    """The model, ready to train, and how many epochs it has behind it."""
    import keras

    from leuko_tf import callbacks
    from leuko_tf.resnext import SCALING, default_policy

    policy = _resolve(config.train.precision, on_gpu="mixed_bfloat16", on_cpu="float32")
    network = _network(config, policy)
    network.get_layer(SCALING).field = config.model.input_size  # batches come as they are seen
    model = compiled(network, config, steps, shares)
    last = workdir / callbacks.LAST
    done = 0
    if last.exists():
        try:
            # Under another policy Keras would leave out float16's loss scaling, and then, with no
            # more than a warning, the optimizer's numbers.
            with default_policy(policy), warnings.catch_warnings():
                warnings.filterwarnings("error", message="Skipping variable loading")
                saved = keras.models.load_model(last)
            done = callbacks.epochs_done(last)
        except (ValueError, OSError, UserWarning) as error:
            raise UserError(
                f"{last} cannot be loaded: {error}. Delete {workdir} to begin anew."
            ) from error
        # Only the numbers are taken over: a saved optimizer does not know any more which weights
        # are spared from decay.
        model.optimizer.build(model.trainable_variables)
        _copy_numbers(saved.variables, model.variables)
        _copy_numbers(saved.optimizer.variables, model.optimizer.variables)
        print(f"resuming {workdir} after epoch {done}")
    callbacks.truncate_log(workdir, done)
    return model, done


def _copy_numbers(sources: list[Any], targets: list[Any]) -> None:
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def _resolve(setting: Any, on_gpu: Any, on_cpu: Any) -> Any:
    """Replaces `auto` by what suits the machine."""
    import tensorflow as tf

    if setting != "auto":
        return setting
    return on_gpu if tf.config.list_physical_devices("GPU") else on_cpu


def _describe_run(
    workdir: Path, config: Config, builder: Any, model: "keras.Model", images_um: float | None
) -> None:
    """Writes run.json at the start, and adds a line for every time the training is resumed."""
    import tensorflow as tf

    from leuko_tf.models import describe_model

    own = {"python": platform.python_version(), "leuko_tf": leuko_tf.__version__}
    packages = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
    start = {
        "command": command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": own | {p: version(p) for p in packages},
        "git_revision": _git_revision(),
        "precision": model.dtype_policy.name,
        "jit_compile": model.jit_compile,
        "devices": [d.device_type for d in tf.config.list_physical_devices()],
    }
    if (workdir / RUN).exists():
        description = read_run(workdir)
        description["resumed"].append(start)
    else:
        dataset = {"name": builder.info.full_name, **dict(builder.info.metadata)}
        file = config.train.initial_model
        initial = describe_model(Path(file)) if file is not None else None
        description = {
            **start,
            "dataset": dataset,
            "held_out_fold": _unseen_fold(config, dataset, initial),
            "images_pixel_size_um": images_um,
            "initial_model": initial,
            "parameters": model.count_params(),
            "resumed": [],
        }
    write_json(workdir / RUN, description)


def _unseen_fold(
    config: Config, dataset: dict[str, Any], initial: dict[str, Any] | None
) -> int | None:
    """The held-out fold; None where the initial model may have been trained on it."""
    from leuko_tf.models import same_images

    fold = config.data.held_out_fold
    if initial is None:
        return fold
    known = same_images(initial, dataset["name"], dataset) and initial["held_out_fold"] == fold
    return fold if known else None


def _git_revision() -> str | None:
    """The checkout's revision, marked `-dirty` where files are changed; None outside of one."""
    checkout = Path(__file__).parent.parent
    if not (checkout / "pyproject.toml").is_file():
        return None  # installed; a repository around it is not this project's
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def read_run(workdir: Path) -> dict[str, Any]:
    """What run.json of a work folder tells."""
    return json.loads((workdir / RUN).read_text())


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.train",
        description="Train a network. The same command again resumes it.",
    )
    parser.add_argument("--config", required=True, help="YAML file, such as configs/demo.yaml")
    parser.add_argument("--workdir", required=True, type=Path, help="folder of this training")
    parser.add_argument("settings", nargs="*", metavar="key.sub=value", help="win over the file")
    arguments = parser.parse_intermixed_args()
    config = load_config(arguments.config, arguments.settings)
    import_tensorflow_quietly()
    train(with_absolute_paths(config), arguments.workdir, verbose=1 if sys.stdout.isatty() else 2)


if __name__ == "__main__":
    run(main)
