"""Our training step, and that of the same network with Keras' own grouped convolution."""

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contenders import POLICIES
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from leuko_tf.config import Config, ModelConfig
from leuko_tf.network.layers import Conv2D
from leuko_tf.network.resnext import from_config
from leuko_tf.training.building import compile_model


def build_training(size: int, batch: int, precision: str, stock: bool = False) -> Work:
    """Optimizer steps, by the function that `fit` calls, on one random batch.

    Args:
      stock: Whether grouped convolutions are `keras.layers.Conv2D`.
    """
    keras.utils.set_random_seed(1)
    config = Config(model=ModelConfig(input_size=size, field=size))
    model = from_config(config.model, precision=POLICIES[precision])
    if stock:
        model = use_stock_convolutions(model)
    compile_model(model, config, steps=1000)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, size, size, 3)).astype(np.float32)
    labels = np.eye(len(CODES), dtype=np.float32)[rng.integers(0, len(CODES), batch)]
    iterator = iter(tf.data.Dataset.from_tensors((images, labels)).repeat())
    model.make_train_function()

    def step() -> int:
        logs = model.train_function(iterator)
        logs["loss"].numpy()
        return batch

    return Work(step)


def use_stock_convolutions(model: keras.Model) -> keras.Model:
    """Copies a network and replaces grouped convolutions by `keras.layers.Conv2D`."""

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        is_grouped = isinstance(layer, Conv2D) and layer.groups > 1
        kind = keras.layers.Conv2D if is_grouped else type(layer)
        return kind.from_config(layer.get_config())

    return keras.models.clone_model(model, clone_function=copy_layer)
