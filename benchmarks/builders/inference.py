"""Our answers by the runtimes and by the exported SavedModel, and the network that all run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.builders.answers import Answer, add_scores, build_asking
from benchmarks.contenders import POLICIES
from benchmarks.stages import inference as stage
from benchmarks.stages.serving import ENCODED
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from leuko_tf.config import ModelConfig
from leuko_tf.export import export
from leuko_tf.network import runtimes
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import OUTPUT_NAME, from_config
from tfds_aml.synthetic_smear.drawing import draw_cell

# Standard deviation of the logits over the cells: probabilities from near 0 to near 1, as from a
# trained network, so that rounding shows.
LOGIT_SPREAD = 3.0
# The statistics of so many cells become the moving averages.
FITTED = 8


def make_network(work: str) -> Work:
    """Writes model, weights, exports, cells and their probabilities."""
    folder = Path(work)
    if (folder / stage.EXPORTS).is_dir():
        return Work()  # made for another stage
    images = draw_cells(stage.CELLS)
    config = ModelConfig(input_size=stage.SIZE)
    model = fit_network(config, images)
    np.save(folder / stage.IMAGES, images)
    np.save(folder / stage.EXPECTED, model.predict(images, batch_size=8, verbose=0))
    np.savez(folder / stage.WEIGHTS, allow_pickle=False, **get_keras_weights(model))
    model.save(folder / stage.KERAS_MODEL)
    for precision, policy in POLICIES.items():
        copy = from_config(config, precision=policy)
        copy.set_weights(model.get_weights())
        export(copy, folder / stage.EXPORTS / precision, {"benchmark": True})
    return Work()


def build_runtime(
    work: str, batch: int, precision: str, runtime: str = runtimes.TENSORFLOW, files: bool = False
) -> Work:
    """What a command's `--runtime` computes; float32."""
    predict = runtimes.make_predictor(load_model(Path(work, stage.KERAS_MODEL)), runtime)
    return build_asking(work, batch, precision, lambda images: add_scores(predict(images)), files)


def build_exported(work: str, batch: int, precision: str) -> Work:
    """The signature `serving_default` of the export in this precision."""
    return build_asking(work, batch, precision, _load_signature(work, precision, "serving_default"))


def build_encoded(work: str, batch: int) -> Work:
    """The signature `encoded` of the float32 export: PNG files to NumPy arrays."""
    ask = _load_signature(work, "float32", ENCODED)
    return build_asking(work, batch, "float32", ask, files=True, decode=False)


def _load_signature(work: str, precision: str, name: str) -> Callable[[Any], Answer]:
    loaded = tf.saved_model.load(str(Path(work, stage.EXPORTS, precision, "1")))

    def ask(images: Any) -> Answer:
        signature = loaded.signatures[name]  # by itself it does not keep its variables alive
        return {key: a.numpy() for key, a in signature(images=tf.constant(images)).items()}

    return ask


def draw_cells(number: int) -> np.ndarray:
    """Draws synthetic cells, uint8 [number, 400, 400, 3], class after class."""
    codes = [CODES[i % len(CODES)] for i in range(number)]
    return np.stack([draw_cell(c, np.random.default_rng([1, i]))[0] for i, c in enumerate(codes)])


def fit_network(config: ModelConfig, images: np.ndarray) -> keras.Model:
    """Makes a network with activations as large as a trained one's, and answers that differ.

    Its last layer looks at the directions in which its features differ most. Random weights still
    separate cells little, so that rounding matters more than in a trained network.

    Args:
      images: uint8 [n, height, width, 3], at least 15; moving averages and last layer are fitted
        to them.
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


def get_keras_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """`<layer>/<number>` to array, of every layer that has weights."""
    return {
        f"{layer.name}/{k}": keras.ops.convert_to_numpy(weight)
        for layer in model.layers
        for k, weight in enumerate(layer.weights)
    }
