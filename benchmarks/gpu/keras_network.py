"""The Keras network on the GPU: JAX's or TensorFlow's, compiled by XLA.

The model is one and the same; what differs by backend is how Keras has a whole step compiled
without bringing the batch to the host and back for every step, as `train_on_batch` does.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.gpu import STEPS_A_TURN
from benchmarks.worker import Work, prepared
from leuko_tf.classes import CODES
from leuko_tf.config import ModelConfig
from leuko_tf.network.resnext import from_config


def probe() -> Work:
    """Tells the GPU that Keras' backend sees; facts `gpu` and `backend`.

    Raises:
      RuntimeError: if it sees none.
    """
    backend = keras.backend.backend()
    name = {"jax": _jax_gpu, "tensorflow": _tensorflow_gpu}.get(backend, lambda: None)()
    if name is None:
        raise RuntimeError(f"Keras on {backend} sees no GPU (KERAS_BACKEND=jax or tensorflow)")
    return prepared({"gpu": name, "backend": backend})


def training(size: int, batch: int) -> Work:
    """Optimizer steps on a batch that lies on the device.

    Args:
      size: side of the images in pixels.
      batch: images a step.
    """
    model = _model(size)
    model.compile("adam", keras.losses.CategoricalCrossentropy(), jit_compile=True)
    images, labels = _batch(size, batch)
    if keras.backend.backend() == "jax":
        return _repeated(_jax_training(model, images, labels), batch)
    return _repeated(_tensorflow_training(model, images, labels), batch)


def inference(size: int, batch: int) -> Work:
    """Probabilities of a batch that lies on the device.

    Args:
      size: side of the images in pixels.
      batch: images a step.
    """
    model, (images, _) = _model(size), _batch(size, batch)
    if keras.backend.backend() == "jax":
        return _repeated(_jax_inference(model, images), batch)
    return _repeated(_tensorflow_inference(model, images), batch)


def _model(size: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return from_config(ModelConfig(input_size=size), precision="mixed_bfloat16")


def _batch(size: int, batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = np.eye(len(CODES), dtype=np.float32)[rng.integers(0, len(CODES), batch)]
    return keras.ops.convert_to_tensor(images, "uint8"), keras.ops.convert_to_tensor(labels)


def _repeated(run: Callable[[], Any], batch: int) -> Work:
    """Several steps in a row, then one look at the last one's result."""

    def step() -> int:
        result = None
        for _ in range(STEPS_A_TURN):
            result = run()
        keras.ops.convert_to_numpy(result)
        return STEPS_A_TURN * batch

    return Work(step, {"note": f"Keras on {keras.backend.backend()}"})


def _jax_training(model: keras.Model, images: Any, labels: Any) -> Callable[[], Any]:
    """Keras' documented way to train in JAX: everything that changes goes in and comes out."""
    import jax

    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)

    def loss_of(trainable: Any, moving: Any) -> tuple[Any, Any]:
        answers, moving = model.stateless_call(trainable, moving, images, training=True)
        return model.loss(labels, answers), moving

    def advance(state: tuple[Any, Any, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
        trainable, moving, numbers = state
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (loss, moving), slopes = gradient(trainable, moving)
        trainable, numbers = optimizer.stateless_apply(numbers, slopes, trainable)
        return loss, (trainable, moving, numbers)

    compiled = jax.jit(advance, donate_argnums=0)
    state = tuple(
        [variable.value for variable in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            optimizer.variables,
        )
    )

    def run() -> Any:
        nonlocal state
        loss, state = compiled(state)
        return loss

    return run


def _jax_inference(model: keras.Model, images: Any) -> Callable[[], Any]:
    import jax

    trainable = [variable.value for variable in model.trainable_variables]
    moving = [variable.value for variable in model.non_trainable_variables]

    @jax.jit
    def answer(trainable: Any, moving: Any, images: Any) -> Any:
        return model.stateless_call(trainable, moving, images, training=False)[0]

    return lambda: answer(trainable, moving, images)


def _tensorflow_training(model: keras.Model, images: Any, labels: Any) -> Callable[[], Any]:
    model.make_train_function()
    batches = itertools.repeat((images, labels))  # no tf.data: the batch stays on the device
    return lambda: model.train_function(batches)["loss"]


def _tensorflow_inference(model: keras.Model, images: Any) -> Callable[[], Any]:
    import tensorflow as tf

    answer = tf.function(lambda given: model(given, training=False), jit_compile=True)
    return lambda: answer(images)


def _jax_gpu() -> str | None:
    import jax

    found = [device for device in jax.devices() if device.platform == "gpu"]
    return found[0].device_kind if found else None


def _tensorflow_gpu() -> str | None:
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return tf.config.experimental.get_device_details(found[0]).get("device_name") if found else None
