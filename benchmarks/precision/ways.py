"""The ways of computing a network's answers, each for a worker process."""

import itertools
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from benchmarks.precision import (
    BATCH,
    CALIBRATION,
    CALIBRATION_CELLS,
    CALIBRATION_SHARE,
    CELLS,
    LABELS,
    REFERENCE,
)
from benchmarks.worker import Work, prepared
from leuko_tf.classes import INDEX
from leuko_tf.cli import UserError
from leuko_tf.data.images import read_image
from leuko_tf.network import runtimes
from leuko_tf.network.folding import fold_batch_norms
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import OUTPUT_NAME, SCALING
from leuko_tf.network.view import to_network_input

Network = Callable[[np.ndarray], np.ndarray]

ENDINGS = (".tif", ".tiff", ".png", ".jpg", ".jpeg")
FEWEST_CELLS = 20
SEED = 1


def make_cells(work: str, model: str, images: str) -> Work:
    """Reads a folder of cells, and answers those that are measured with the Keras model.

    Args:
      work: folder to write to.
      model: a `.keras` file.
      images: folder, its folders included; labels are known if each image lies in one that is
        named by its class.

    Returns:
      Nothing to do; facts `cells`, `calibration` (numbers of them), `size` in pixels, `labelled`.

    Raises:
      UserError: if the model cannot be loaded, or there are too few images.
    """
    loaded = load_model(Path(model))
    scaling = loaded.get_layer(SCALING)
    field, size = scaling.field, scaling.size
    files = sorted(f for f in Path(images).rglob("*") if f.suffix.lower() in ENDINGS)
    if len(files) < FEWEST_CELLS:
        raise UserError(
            f"{images} holds {len(files)} images (TIFF, PNG, JPEG); at least {FEWEST_CELLS} needed"
        )
    files = [files[i] for i in np.random.default_rng(SEED).permutation(len(files))]
    apart = min(CALIBRATION, round(CALIBRATION_SHARE * len(files)))
    cells = np.stack([_cell(file, field, size) for file in files])
    scaling.field = size  # the model is given what it sees
    measured = cells[apart:]
    np.save(Path(work, CALIBRATION_CELLS), cells[:apart])
    np.save(Path(work, CELLS), measured)
    np.save(Path(work, REFERENCE), loaded.predict(measured, batch_size=BATCH, verbose=0))
    classes = [file.parent.name for file in files[apart:]]
    labelled = all(name in INDEX for name in classes)
    if labelled:
        np.save(Path(work, LABELS), [INDEX[name] for name in classes])
    return prepared(
        {"cells": len(measured), "calibration": apart, "size": size, "labelled": labelled}
    )


def tensorflow(work: str, model: str, file: str, precision: str) -> Work:
    """TensorFlow, as an export computes.

    Args:
      work: folder of the preparation.
      model: a `.keras` file.
      file: where in `work` the probabilities go.
      precision: `float32` or `bfloat16`.
    """
    network = load_model(Path(model))
    if precision == "bfloat16":
        network = in_bfloat16(network)
    fold_batch_norms(network)
    graph = runtimes.extract_network(network)
    return _asked(work, file, lambda images: graph(tf.constant(images, tf.float32)).numpy())


def openvino(work: str, model: str, file: str, precision: str) -> Work:
    """OpenVINO, as `leuko_tf.network.runtimes` uses it.

    Args:
      as of `tensorflow`.
    """
    converted = runtimes.convert_for_openvino(runtimes.extract_network(load_model(Path(model))))
    return _asked(work, file, runtimes.compile_for_openvino(converted, precision))


def openvino_int8(work: str, model: str, file: str) -> Work:
    """OpenVINO in int8, its ranges from the cells for calibration.

    Args:
      as of `tensorflow`.
    """
    runtimes.import_openvino()  # before NNCF does, and with the telemetry
    import nncf

    converted = runtimes.convert_for_openvino(runtimes.extract_network(load_model(Path(model))))
    cells = np.load(Path(work, CALIBRATION_CELLS))
    quantised = nncf.quantize(
        converted,
        nncf.Dataset(cells, lambda cell: cell[np.newaxis].astype(np.float32)),
        subset_size=len(cells),
        preset=nncf.QuantizationPreset.MIXED,
    )
    return _asked(work, file, runtimes.compile_for_openvino(quantised))


def in_bfloat16(model: keras.Model) -> keras.Model:
    """The same model under the policy mixed_bfloat16, as a training builds it."""

    def cloned(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name not in (SCALING, OUTPUT_NAME):
            config["dtype"] = "mixed_bfloat16"
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=cloned)
    clone.set_weights(model.get_weights())
    return clone


def _asked(work: str, file: str, network: Network) -> Work:
    """Keeps a network's answers to all cells, then asks it batch after batch."""
    cells = np.load(Path(work, CELLS))
    batches = [cells[i : i + BATCH] for i in range(0, len(cells), BATCH)]
    np.save(Path(work, file), np.concatenate([network(batch) for batch in batches]))
    turns = itertools.cycle(batches[:-1] or batches)  # the last may be smaller: another graph

    def step() -> int:
        batch = next(turns)
        network(batch)
        return len(batch)

    return Work(step)


def _cell(file: Path, field: int, size: int) -> np.ndarray:
    """uint8 [size, size, 3], what the model sees, rounded to whole grey levels."""
    image = to_network_input(read_image(file)[np.newaxis], field, size)[0]
    return tf.saturate_cast(tf.round(image), tf.uint8).numpy()
