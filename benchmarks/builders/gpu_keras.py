"""The Keras network on the GPU, on JAX or TensorFlow, compiled by XLA.

The model is the same on both. They differ in how Keras compiles a whole step without copying the
batch to the host and back for every step, as `train_on_batch` does.
"""

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from benchmarks.stages.gpu import repeat_steps
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from leuko_tf.config import ModelConfig
from leuko_tf.network.resnext import from_config

BACKEND = keras.backend.backend()


def probe() -> Work:
    """Finds the GPU that Keras' backend sees; facts `gpu` and `backend`. RuntimeError if none."""
    name = None
    if BACKEND == "jax":
        import jax

        name = next((d.device_kind for d in jax.devices() if d.platform == "gpu"), None)
    elif BACKEND == "tensorflow":
        import tensorflow as tf

        for device in tf.config.list_physical_devices("GPU")[:1]:
            name = tf.config.experimental.get_device_details(device).get("device_name")
    if name is None:
        raise RuntimeError(f"Keras on {BACKEND} sees no GPU (KERAS_BACKEND=jax or tensorflow)")
    return Work(facts={"gpu": name, "backend": BACKEND})


def build_training(size: int, batch: int) -> Work:
    """Optimizer steps on a batch that lies on the device."""
    model = _make_model(size)
    model.compile("adam", keras.losses.CategoricalCrossentropy(), jit_compile=True)
    make_run = _make_jax_training if BACKEND == "jax" else _make_tensorflow_training
    return _repeat(make_run(model, *_draw_batch(size, batch)), batch)


def build_inference(size: int, batch: int) -> Work:
    """Probabilities of a batch that lies on the device."""
    model, (images, _) = _make_model(size), _draw_batch(size, batch)
    make_run = _make_jax_inference if BACKEND == "jax" else _make_tensorflow_inference
    return _repeat(make_run(model, images), batch)


def _make_model(size: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    return from_config(ModelConfig(input_size=size, field=size), precision="mixed_bfloat16")


def _draw_batch(size: int, batch: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, size, size, 3), np.uint8)
    labels = np.eye(len(CODES), dtype=np.float32)[rng.integers(0, len(CODES), batch)]
    return keras.ops.convert_to_tensor(images, "uint8"), keras.ops.convert_to_tensor(labels)


def _repeat(run: Callable[[], Any], batch: int) -> Work:
    return repeat_steps(run, keras.ops.convert_to_numpy, batch, f"Keras on {BACKEND}")


def _make_jax_training(model: keras.Model, images: Any, labels: Any) -> Callable[[], Any]:
    """Keras' documented way to train in JAX: everything that changes goes in and comes out."""
    import jax

    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)

    def compute_loss(trainable: Any, moving: Any) -> tuple[Any, Any]:
        answers, moving = model.stateless_call(trainable, moving, images, training=True)
        return model.loss(labels, answers), moving

    def advance(state: tuple[Any, Any, Any]) -> tuple[Any, tuple[Any, Any, Any]]:
        trainable, moving, optimizer_state = state
        compute_gradient = jax.value_and_grad(compute_loss, has_aux=True)
        (loss, moving), gradient = compute_gradient(trainable, moving)
        trainable, optimizer_state = optimizer.stateless_apply(optimizer_state, gradient, trainable)
        return loss, (trainable, moving, optimizer_state)

    compiled = jax.jit(advance, donate_argnums=0)
    state = (*_get_values(model), [variable.value for variable in optimizer.variables])

    def run() -> Any:
        nonlocal state
        loss, state = compiled(state)
        return loss

    return run


def _make_jax_inference(model: keras.Model, images: Any) -> Callable[[], Any]:
    import jax

    trainable, moving = _get_values(model)

    @jax.jit
    def predict(trainable: Any, moving: Any, images: Any) -> Any:
        return model.stateless_call(trainable, moving, images, training=False)[0]

    return lambda: predict(trainable, moving, images)


def _get_values(model: keras.Model) -> tuple[list[Any], list[Any]]:
    """Trainable and other values of a model."""
    variables = model.trainable_variables, model.non_trainable_variables
    trainable, moving = ([variable.value for variable in group] for group in variables)
    return trainable, moving


def _make_tensorflow_training(model: keras.Model, images: Any, labels: Any) -> Callable[[], Any]:
    model.make_train_function()
    batches = itertools.repeat((images, labels))  # no tf.data: the batch stays on the device
    return lambda: model.train_function(batches)["loss"]


def _make_tensorflow_inference(model: keras.Model, images: Any) -> Callable[[], Any]:
    import tensorflow as tf

    predict = tf.function(lambda given: model(given, training=False), jit_compile=True)
    return lambda: predict(images)
