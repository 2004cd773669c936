"""Our answers by the runtimes and by the exported SavedModel, and the network that all run."""

import itertools
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.builders.answers import (
    Answer,
    add_scores,
    build_asking,
    check_probabilities,
    read_png_files,
)
from benchmarks.contenders import POLICIES
from benchmarks.stages.inference import (
    CELLS,
    EXPECTED,
    EXPORTS,
    IMAGES,
    KERAS_MODEL,
    SIZE,
    WEIGHTS,
)
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
    if (folder / EXPORTS).is_dir():
        return Work()  # made for another stage
    images = draw_cells(CELLS)
    model = fit_network(ModelConfig(input_size=SIZE), images)
    np.save(folder / IMAGES, images)
    np.save(folder / EXPECTED, model.predict(images, batch_size=8, verbose=0))
    np.savez(folder / WEIGHTS, allow_pickle=False, **get_keras_weights(model))
    model.save(folder / KERAS_MODEL)
    for precision, policy in POLICIES.items():
        copy = from_config(ModelConfig(input_size=SIZE), precision=policy)
        copy.set_weights(model.get_weights())
        export(copy, folder / EXPORTS / precision, {"benchmark": True})
    return Work()


def build_tensorflow(work: str, batch: int, precision: str) -> Work:
    """The default runtime of the commands that take a model; float32."""
    return _build_runtime(runtimes.TENSORFLOW, work, batch, precision)


def build_openvino(work: str, batch: int, precision: str, files: bool) -> Work:
    """`--runtime openvino`; float32. `files`: whether a step begins with PNG files."""
    return _build_runtime(runtimes.OPENVINO, work, batch, precision, files)


def _build_runtime(
    runtime: str, work: str, batch: int, precision: str, files: bool = False
) -> Work:
    predict = runtimes.make_predictor(load_model(Path(work, KERAS_MODEL)), runtime)
    return build_asking(work, batch, precision, lambda images: add_scores(predict(images)), files)


def build_exported(work: str, batch: int, precision: str) -> Work:
    """The signature `serving_default` of the export in this precision."""
    loaded = tf.saved_model.load(str(Path(work, EXPORTS, precision, "1")))

    def ask(images: np.ndarray) -> Answer:
        answers = loaded.signatures["serving_default"](images=tf.constant(images))
        return {name: answer.numpy() for name, answer in answers.items()}

    return build_asking(work, batch, precision, ask)


def build_encoded(work: str, batch: int) -> Work:
    """The signature `encoded` of the float32 export: PNG files to NumPy arrays."""
    loaded = tf.saved_model.load(str(Path(work, EXPORTS, "float32", "1")))
    files = read_png_files(work)
    batches = [files[k : k + batch] for k in range(0, len(files), batch)]

    def ask(images: list[bytes]) -> Answer:
        signature = loaded.signatures[ENCODED]  # by itself it does not keep its variables alive
        return {name: a.numpy() for name, a in signature(images=tf.constant(images)).items()}

    error = check_probabilities(work, np.concatenate([ask(b)["probabilities"] for b in batches]))
    turns = itertools.cycle(batches)

    def step() -> int:
        ask(next(turns))
        return batch

    return Work(step, {"error": error})


def draw_cells(number: int) -> np.ndarray:
    """Draws synthetic cells, uint8 [number, 400, 400, 3], class after class."""
    drawn = [
        draw_cell(CODES[i % len(CODES)], np.random.default_rng([1, i]))[0] for i in range(number)
    ]
    return np.stack([cell[..., :3] for cell in drawn])


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
