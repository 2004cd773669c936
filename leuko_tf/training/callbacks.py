"""Callbacks of a training: progress, log, saved models, stop on NaN."""

import json
import math
import time
import zipfile
from pathlib import Path
from typing import Any

import keras

from leuko_tf.cli import UserError, write_aside
from leuko_tf.config import Config
from leuko_tf.files import BEST, LAST, LOG, TENSORBOARD

# A member of last.keras, a zip file, so that a kill cannot separate it from weights and optimizer.
# The optimizer's step count is no substitute: float16 training skips steps without counting them.
EPOCHS_DONE = "leuko_tf_epochs_done"

PROGRESS_INTERVAL_S = 30.0


class PrintProgress(keras.callbacks.Callback):
    """Prints a line about every `interval_s` seconds within an epoch, for output into a file.

    Loss and accuracy are averages over the epoch so far. Keras prints the line of a whole epoch.
    """

    def __init__(self, interval_s: float):
        super().__init__()
        self._interval_s = interval_s

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch
        self._start = self._printed = time.monotonic()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        now, steps = time.monotonic(), self.params["steps"]
        if batch + 1 == steps or now - self._printed < self._interval_s:
            return
        self._printed = now
        loss, accuracy = (float((logs or {})[name]) for name in ("loss", "accuracy"))
        print(
            f"epoch {self._epoch + 1} of {self.params['epochs']}, step {batch + 1} of {steps}: "
            f"loss {loss:.4f}, accuracy {accuracy:.4f}, {now - self._start:.0f} s",
            flush=True,
        )


class StopOnNaN(keras.callbacks.Callback):
    """Raises `UserError` at the first step whose loss is not finite."""

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        loss = (logs or {})["loss"]
        if not math.isfinite(loss):
            raise UserError(
                f"The loss became {loss} in epoch {self._epoch + 1}, step {batch + 1}. Models of "
                "earlier epochs are saved. In a new work folder, try a lower "
                "optimizer.learning_rate."
            )


class EpochLog(keras.callbacks.Callback):
    """Appends one JSON line per epoch: all metrics, learning rate, seconds, images per second."""

    def __init__(self, file: Path, images_per_epoch: int):
        super().__init__()
        self._file = file
        self._images = images_per_epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._start = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        seconds = time.monotonic() - self._start
        entry = {
            "epoch": epoch + 1,
            **{name: float(value) for name, value in (logs or {}).items()},
            "learning_rate": float(self.model.optimizer.learning_rate),
            "seconds": round(seconds, 3),
            "images_per_second": round(self._images / seconds, 1),
        }
        with self._file.open("a") as log:
            log.write(json.dumps(entry) + "\n")


class SaveModels(keras.callbacks.Callback):
    """Saves `best.keras` after the best epoch so far, and `last.keras` after every epoch.

    The best model is ready for use: float32, without optimizer, with the averaged weights if the
    training averages. The last one has all that resuming needs. It is written last, because it
    marks the epoch as done.
    """

    def __init__(self, workdir: Path, inference_model: keras.Model, monitor: str, best: float):
        super().__init__()
        self._workdir = workdir
        self._inference_model = inference_model
        self._monitor = monitor
        self._best = best

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        value = float((logs or {})[self._monitor])
        if value < self._best:
            self._best = value
            copy_for_inference(self.model, self._inference_model)
            with write_aside(self._workdir / BEST) as aside:
                self._inference_model.save(aside)
        with write_aside(self._workdir / LAST) as aside:
            self.model.save(aside)
            with zipfile.ZipFile(aside, "a") as file:
                file.writestr(EPOCHS_DONE, str(epoch + 1))


def make_callbacks(
    config: Config,
    workdir: Path,
    inference_model: keras.Model,
    steps: int,
    monitor: str,
    verbose: int | str,
) -> list[keras.callbacks.Callback]:
    """Makes the callbacks of a training.

    Args:
      config: The whole configuration.
      workdir: The work folder.
      inference_model: The network at float32, for `best.keras`.
      steps: Steps per epoch.
      monitor: Metric whose lowest value marks the best epoch.
      verbose: As for `fit`; 2 adds lines within the epoch.
    """
    best = min((entry[monitor] for entry in read_log(workdir)), default=math.inf)
    callbacks = [
        StopOnNaN(),
        EpochLog(workdir / LOG, steps * config.data.batch_size),
        SaveModels(workdir, inference_model, monitor, best),
        keras.callbacks.TensorBoard(workdir / TENSORBOARD, write_graph=False),
    ]
    if verbose == 2:
        callbacks.append(PrintProgress(PROGRESS_INTERVAL_S))
    if config.optimizer.ema_momentum is not None:
        # Validation, and so the choice of the best epoch, uses the averaged weights.
        callbacks.append(keras.callbacks.SwapEMAWeights())
    return callbacks


def copy_for_inference(trained: keras.Model, inference_model: keras.Model) -> None:
    """Copies the weights; the averaged ones if the optimizer keeps an average."""
    copy_values(trained.variables, inference_model.variables)
    optimizer = getattr(trained.optimizer, "inner_optimizer", trained.optimizer)
    if optimizer.use_ema:
        averages = optimizer._model_variables_moving_average  # not public in Keras
        copy_values(averages, inference_model.trainable_variables)


def copy_values(sources: list[Any], targets: list[Any]) -> None:
    """Copies the values of variables."""
    for source, target in zip(sources, targets, strict=True):
        target.assign(source)


def read_epochs_done(last: Path) -> int:
    """Reads the number of trained epochs from a `last.keras`; `UserError` if it is damaged."""
    try:
        with zipfile.ZipFile(last) as file:
            return int(file.read(EPOCHS_DONE))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{last} is damaged: {error}. Delete the folder to start again.") from error


def read_log(workdir: Path) -> list[dict[str, Any]]:
    """Reads the log, oldest epoch first, without a last line that a kill has cut off."""
    file = workdir / LOG
    entries = []
    for line in file.read_text().splitlines() if file.exists() else []:
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return entries


def truncate_log(workdir: Path, epochs: int) -> None:
    """Drops the lines of epochs that were logged but not saved, and will be trained again."""
    kept = [e for e in read_log(workdir) if e["epoch"] <= epochs]
    with write_aside(workdir / LOG) as aside:
        aside.write_text("".join(json.dumps(e) + "\n" for e in kept))
