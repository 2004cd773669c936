"""Makes the network that all contenders run, and the cells that they are checked on."""

from pathlib import Path

import keras
import numpy as np

from benchmarks.inference import CELLS, EXPECTED, EXPORTS, IMAGES, KERAS_MODEL, SIZE, WEIGHTS
from benchmarks.worker import Work, prepared
from leuko_tf.classes import CODES
from leuko_tf.config import ModelConfig
from leuko_tf.export import export
from leuko_tf.network.resnext import OUTPUT_NAME, from_config
from tfds_aml.synthetic_smear.drawing import draw_cell

# Standard deviation of the logits over the cells: probabilities from near 0 to near 1, as of a
# trained network, so that rounding shows.
LOGIT_SPREAD = 3.0
# Cells whose statistics become the moving averages.
FITTED = 8

POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


def make_network(work: str) -> Work:
    """Writes model, weights, exports, cells and their probabilities.

    Args:
      work: folder to write to.
    """
    folder = Path(work)
    if (folder / EXPORTS).is_dir():
        return prepared()  # another stage wanted it, too
    images = cells(CELLS)
    model = network(ModelConfig(input_size=SIZE), images)
    np.save(folder / IMAGES, images)
    np.save(folder / EXPECTED, model.predict(images, batch_size=8, verbose=0))
    np.savez(folder / WEIGHTS, allow_pickle=False, **keras_weights(model))
    model.save(folder / KERAS_MODEL)
    for precision, policy in POLICIES.items():
        copy = from_config(ModelConfig(input_size=SIZE), precision=policy)
        copy.set_weights(model.get_weights())
        export(copy, folder / EXPORTS / precision, {"benchmark": True})
    return prepared()


def cells(number: int) -> np.ndarray:
    """uint8 [number, 400, 400, 3]: synthetic cells, class after class."""
    drawn = [
        draw_cell(CODES[i % len(CODES)], np.random.default_rng([1, i]))[0] for i in range(number)
    ]
    return np.stack([cell[..., :3] for cell in drawn])


def network(config: ModelConfig, images: np.ndarray) -> keras.Model:
    """A network whose activations are those of a trained one in size, and whose answers differ.

    Its last layer looks at the directions in which its features differ most. Still, random
    weights tell cells apart by little, so that rounding weighs more than in a trained network.

    Args:
      config: its sizes.
      images: uint8 [n, height, width, 3] that its moving averages and last layer are fitted to;
        at least 15.
    """
    keras.utils.set_random_seed(1)
    model = from_config(config, precision="float32")
    norms = [n for n in model.layers if isinstance(n, keras.layers.BatchNormalization)]
    for norm in norms:
        norm.momentum = 0.0  # one batch decides
    model(images[:FITTED], training=True)
    for norm in norms:
        norm.momentum = config.batch_norm_momentum
    features = keras.Model(model.input, model.get_layer(OUTPUT_NAME).input)
    pooled = features.predict(images, batch_size=8, verbose=0)
    mean = pooled.mean(axis=0)
    directions = np.linalg.svd(pooled - mean, full_matrices=False)[2][: len(CODES)].T
    mixing, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(CODES), len(CODES))))
    kernel = directions @ mixing
    kernel *= LOGIT_SPREAD / ((pooled - mean) @ kernel).std()
    model.get_layer(OUTPUT_NAME).set_weights([kernel, -mean @ kernel])
    return model


def keras_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """`<layer>/<number>` to array, of every layer that has weights."""
    return {
        f"{layer.name}/{k}": keras.ops.convert_to_numpy(weight)
        for layer in model.layers
        for k, weight in enumerate(layer.weights)
    }
