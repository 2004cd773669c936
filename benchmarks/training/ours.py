"""Ours, and the same network with Keras' own grouped convolution."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.worker import Work
from leuko_tf.classes import CODES
from leuko_tf.config import Config, ModelConfig
from leuko_tf.network.layers import Conv2D
from leuko_tf.network.resnext import from_config
from leuko_tf.training.building import compile_model

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def training(size: int, batch: int, precision: str, stock: bool = False) -> Work:
    """Optimizer steps, by the function that `fit` calls.

    Args:
      size: side of the images in pixels.
      batch: images a step.
      precision: `float32` or `bfloat16`.
      stock: whether grouped convolutions are `keras.layers.Conv2D`.
    """
    keras.utils.set_random_seed(1)
    config = Config(model=ModelConfig(input_size=size))
    model = from_config(config.model, precision=POLICIES[precision])
    if stock:
        model = keras.models.clone_model(model, clone_function=_stock_layer)
    compile_model(model, config, steps=1000)
    iterator = iter(tf.data.Dataset.from_tensors(random_batch(size, batch)).repeat())
    model.make_train_function()

    def step() -> int:
        logs = model.train_function(iterator)
        logs["loss"].numpy()
        return batch

    return Work(step)


def random_batch(size: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """float32 images [batch, size, size, 3] in 0 to 255, and one-hot labels [batch, 15]."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, size, size, 3)).astype(np.float32)
    return images, np.eye(len(CODES), dtype=np.float32)[rng.integers(0, len(CODES), batch)]


def _stock_layer(layer: keras.Layer) -> keras.Layer:
    if isinstance(layer, Conv2D) and layer.groups > 1:
        return keras.layers.Conv2D.from_config(layer.get_config())
    return layer.__class__.from_config(layer.get_config())
