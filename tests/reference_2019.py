"""The network of 2019 as its authors built it, with the Keras 2 of today: `tf_keras`.

Tests compare it with what `leuko_tf.import_2019` makes of its weight file; it shares no code with
the project. Source of the construction: Matek et al. 2019, and the ResNeXt code for Keras that it
follows.
"""

import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import tf_keras
from tf_keras import layers

# The outputs in the order of the file; EBO and EBO2 together are the erythroblast.
OUTPUTS = (
    "BAS", "EBO", "EBO2", "EOS", "KSC", "LYA", "LYT", "MMZ",
    "MOB", "MON", "MYB", "MYO", "NGB", "NGS", "PMB", "PMO",
)  # fmt: skip

SLOPE = 0.3  # Keras 2's default
CARDINALITY = 32
SPREAD = 1.0  # standard deviation of each logit over the images of `fill`


class _Numbered:
    """Makes layers with the names that Keras 2.2.4 gives: conv2d_1, conv2d_2, ..."""

    def __init__(self) -> None:
        self._made: Counter[str] = Counter()

    def __call__(self, kind: str, layer: type, *arguments, **settings):
        self._made[kind] += 1
        return layer(*arguments, name=f"{kind}_{self._made[kind]}", **settings)

    def convolution(self, x, filters: int, size: int, strides: int = 1):
        settings = {"kernel_size": size, "strides": strides, "padding": "same"}
        return self("conv2d", layers.Conv2D, filters, **settings)(x)

    def norm(self, x):
        return self("batch_normalization", layers.BatchNormalization)(x)

    def activation(self, x):
        return self("leaky_re_lu", layers.LeakyReLU, SLOPE)(x)

    def grouped_convolution(self, x, filters: int, strides: int):
        width = filters // CARDINALITY
        groups = []
        for j in range(CARDINALITY):
            first, end = j * width, (j + 1) * width
            group = self("lambda", layers.Lambda, lambda z, i=first, k=end: z[..., i:k])(x)
            groups.append(self.convolution(group, width, 3, strides))
        return self("concatenate", layers.Concatenate)(groups)

    def block(self, y, inner: int, outer: int, strides: int, project: bool):
        shortcut = y
        y = self.activation(self.norm(self.convolution(y, inner, 1)))
        y = self.activation(self.norm(self.grouped_convolution(y, inner, strides)))
        y = self.norm(self.convolution(y, outer, 1))
        if project:
            shortcut = self.norm(self.convolution(shortcut, outer, 1, strides))
        return self.activation(self("add", layers.Add)([shortcut, y]))


def build() -> tf_keras.Model:
    """Builds the network: float32 images [n, 400, 400, 3], 0 to 1, to 16 probabilities."""
    make = _Numbered()
    images = layers.Input((400, 400, 3), name="input_1")
    x = make.activation(make.norm(make.convolution(images, 64, 7, 2)))
    x = make("max_pooling2d", layers.MaxPooling2D, 3, strides=2, padding="same")(x)
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            first = block == 0
            strides = 2 if first and stage > 0 else 1
            x = make.block(x, 128 * 2**stage, 256 * 2**stage, strides, project=first)
    x = make("global_average_pooling2d", layers.GlobalAveragePooling2D)(x)
    return tf_keras.Model(images, make("dense", layers.Dense, 16, activation="softmax")(x))


def fill(model: tf_keras.Model, images: np.ndarray) -> None:
    """Fills the weights with random numbers for which the answers to these images differ.

    The moving averages are near the true ones of the images, which one pass in training mode finds.
    Otherwise the signal would vanish or explode over 53 layers.

    Args:
      model: From `build`.
      images: uint8 array [n, 400, 400, 3].
    """
    rng = np.random.default_rng(2019)
    pixels = scale(images)
    norms = [n for n in model.layers if isinstance(n, layers.BatchNormalization)]
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            kernel, bias = layer.get_weights()
            kernel = rng.normal(0, np.sqrt(2 / np.prod(kernel.shape[:3])), kernel.shape)
            layer.set_weights([kernel, rng.normal(0, 0.1, bias.shape)])
    for norm in norms:
        gamma = norm.gamma.shape
        norm.set_weights(
            [rng.uniform(0.5, 1.5, gamma), rng.normal(0, 0.3, gamma), *norm.get_weights()[2:]]
        )
        norm.momentum = 0.0
    model(pixels, training=True)
    for norm in norms:
        gamma, beta, mean, variance = norm.get_weights()
        mean = mean + rng.normal(0, 0.2, mean.shape) * np.sqrt(variance)
        norm.set_weights([gamma, beta, mean, variance * rng.uniform(0.7, 1.5, variance.shape)])
        norm.momentum = 0.99
    dense = model.layers[-1]
    features = tf_keras.Model(model.inputs, dense.input)(pixels).numpy()
    kernel = rng.normal(0, 1, dense.kernel.shape)
    kernel *= SPREAD / (features @ kernel).std(axis=0)
    dense.set_weights([kernel, -(features @ kernel).mean(axis=0)])


def scale(images: np.ndarray) -> np.ndarray:
    """Scales uint8 images by 1/255, as the network takes them."""
    return images.astype(np.float32) / 255


def predict(model: tf_keras.Model, images: np.ndarray) -> np.ndarray:
    """Computes float32 probabilities [n, 16] of uint8 images [n, 400, 400, 3]."""
    return model(scale(images), training=False).numpy()


def save(model: tf_keras.Model, weights: Path, whole: Path) -> None:
    """Writes both file formats of Keras 2: weights alone, and the whole model with optimizer."""
    model.save_weights(weights)
    model.compile("adam", loss="categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="You are saving your model as an HDF5 file")
        model.save(whole)
