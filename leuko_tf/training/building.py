"""Builds and compiles the network to train, or restores it from a stopped training."""

import warnings
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from leuko_tf.cli import UserError
from leuko_tf.config import Config
from leuko_tf.files import LAST
from leuko_tf.network.folding import spare_bias_gradients
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import SCALING, from_config, from_model, use_dtype_policy
from leuko_tf.training import callbacks
from leuko_tf.training.losses import AdjustedCrossentropy
from leuko_tf.training.optimizers import Adam, AdamW


def compile_model(
    model: keras.Model, config: Config, steps: int, shares: list[float] | None = None
) -> keras.Model:
    """Compiles the model with its loss, optimizer and schedule, and skips useless gradients.

    Args:
      model: The network.
      config: The whole configuration.
      steps: Optimizer steps per epoch.
      shares: Shares of the classes among the training images, 0 to 1; needed for
        `optimizer.logit_adjustment`.
    """
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
    momentum = settings.ema_momentum
    ema: dict[str, Any] = {"use_ema": True, "ema_momentum": momentum} if momentum else {}
    if settings.name == "adamw":
        optimizer = AdamW(rate, weight_decay=settings.weight_decay, **ema)
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    else:
        optimizer = Adam(rate, **ema)
    smoothing = settings.label_smoothing
    loss: keras.losses.Loss = keras.losses.CategoricalCrossentropy(label_smoothing=smoothing)
    if settings.logit_adjustment:
        assert shares is not None
        loss = AdjustedCrossentropy(shares, smoothing)
    spare_bias_gradients(model)
    jit_compile = _resolve_auto(config.train.jit_compile, on_gpu=True, on_cpu=False)
    model.compile(optimizer, loss=loss, metrics=["accuracy"], jit_compile=jit_compile)
    return model


def make_network(config: Config, precision: str) -> keras.Model:
    """Builds the network to train: new, or a copy of the initial model with its weights."""
    if config.train.initial_model is None:
        return from_config(config.model, precision)
    return from_model(load_model(Path(config.train.initial_model)), config.model, precision)


def build_or_resume(
    config: Config, workdir: Path, steps: int, shares: list[float] | None = None
) -> tuple[keras.Model, int]:
    """Returns the compiled model, restored from `last.keras` if there is one, and its epochs."""
    policy = _resolve_auto(config.train.precision, on_gpu="mixed_bfloat16", on_cpu="float32")
    network = make_network(config, policy)
    network.get_layer(SCALING).field = config.model.input_size  # batches are cropped already
    model = compile_model(network, config, steps, shares)
    last, done = workdir / LAST, 0
    if last.exists():
        try:
            # Under another policy Keras would drop float16's loss scaling, and then the optimizer's
            # variables with only a warning.
            with use_dtype_policy(policy), warnings.catch_warnings():
                warnings.filterwarnings("error", message="Skipping variable loading")
                saved = keras.models.load_model(last)
            done = callbacks.read_epochs_done(last)
        except (ValueError, OSError, UserWarning) as error:
            raise UserError(
                f"{last} cannot be loaded: {error}. Delete {workdir} to start again."
            ) from error
        # Copy only the values: a saved optimizer has forgotten which weights have no decay.
        model.optimizer.build(model.trainable_variables)
        callbacks.copy_values(saved.variables, model.variables)
        callbacks.copy_values(saved.optimizer.variables, model.optimizer.variables)
        print(f"resuming {workdir} after epoch {done}")
    callbacks.truncate_log(workdir, done)
    return model, done


def _resolve_auto(setting: Any, on_gpu: Any, on_cpu: Any) -> Any:
    """Replaces `auto` by the choice for this machine."""
    if setting != "auto":
        return setting
    return on_gpu if tf.config.list_physical_devices("GPU") else on_cpu
