"""The ways of computing a network's answers, and how far each is from the float32 Keras model."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from benchmarks.contenders import POLICIES
from benchmarks.precision import BATCH
from benchmarks.worker import Work
from leuko_tf.classes import INDEX
from leuko_tf.cli import UserError
from leuko_tf.data.finding import walk_images
from leuko_tf.data.images import read_image
from leuko_tf.network import runtimes
from leuko_tf.network.folding import fold_batch_norms
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import OUTPUT_NAME, SCALING
from leuko_tf.network.view import to_network_input

# What the preparation writes.
CELLS, CALIBRATION_CELLS = "cells.npy", "calibration.npy"
LABELS, REFERENCE = "labels.npy", "reference.npy"

# Cells that only calibrate int8: at most so many, and at most this share of the folder. NNCF takes
# 300 if there are as many; more changed nothing.
CALIBRATION, CALIBRATION_SHARE = 300, 0.25

FEWEST_CELLS = 20
SEED = 1


def compare(
    found: np.ndarray, reference: np.ndarray, labels: np.ndarray | None
) -> dict[str, float | None]:
    """Compares probabilities [n, classes] of the same cells with the reference.

    Args:
      labels: int array [n], or None if they are not known.

    Returns:
      changed: Number of cells whose most probable class is another.
      changed_share: The same as a share of all cells, 0 to 1.
      to_right: Changed answers that became right; None without labels.
      to_wrong: Changed answers that had been right; None without labels.
      largest: Largest absolute difference of a probability.
      mean: Mean over the cells of their largest absolute difference.
      accuracy: Share of cells answered right; None without labels.

    Raises:
      ValueError: if the shapes differ, or `found` holds values that are not finite.
    """
    if found.shape != reference.shape:
        raise ValueError(f"its probabilities are {found.shape}, the model's {reference.shape}")
    if not np.isfinite(found).all():
        raise ValueError("its probabilities are not finite")
    differences = np.abs(found - reference).max(axis=1)
    after, before = found.argmax(axis=1), reference.argmax(axis=1)
    changed = after != before
    is_labelled = labels is not None
    return {
        "changed": int(changed.sum()),
        "changed_share": float(changed.mean()),
        "to_right": int((changed & (after == labels)).sum()) if is_labelled else None,
        "to_wrong": int((changed & (before == labels)).sum()) if is_labelled else None,
        "largest": float(differences.max()),
        "mean": float(differences.mean()),
        "accuracy": float((after == labels).mean()) if is_labelled else None,
    }


def make_cells(work: str, model: str, images: str) -> Work:
    """Reads a folder of cells, and predicts the measured ones with the Keras model.

    Args:
      model: A `.keras` file.
      images: Folder, searched with its subfolders. Labels are known if each image lies in a folder
        that is named by its class.

    Returns:
      Facts `cells` and `calibration` (numbers of them), `size` in pixels, `labelled`.

    Raises:
      UserError: if the model cannot be loaded, or there are too few images.
    """
    loaded = load_model(Path(model))
    scaling = loaded.get_layer(SCALING)
    field, size = scaling.field, scaling.size
    files = sorted(walk_images(Path(images), follow_links=False))
    if len(files) < FEWEST_CELLS:
        raise UserError(
            f"{images} holds {len(files)} images (TIFF, PNG, JPEG); at least {FEWEST_CELLS} needed"
        )
    files = [files[i] for i in np.random.default_rng(SEED).permutation(len(files))]
    calibrating = min(CALIBRATION, round(CALIBRATION_SHARE * len(files)))
    cells = np.stack([_read_cell(file, field, size) for file in files])
    scaling.field = size  # the cells are cropped and resized already
    measured = cells[calibrating:]
    np.save(Path(work, CALIBRATION_CELLS), cells[:calibrating])
    np.save(Path(work, CELLS), measured)
    np.save(Path(work, REFERENCE), loaded.predict(measured, batch_size=BATCH, verbose=0))
    classes = [file.parent.name for file in files[calibrating:]]
    is_labelled = all(name in INDEX for name in classes)
    if is_labelled:
        np.save(Path(work, LABELS), [INDEX[name] for name in classes])
    facts = {"cells": len(measured), "calibration": calibrating, "size": size}
    return Work(facts=facts | {"labelled": is_labelled})


def build_tensorflow(work: str, model: str, precision: str) -> Work:
    """TensorFlow, computing as an export does, in `float32` or `bfloat16`."""
    network = load_model(Path(model))
    if precision == "bfloat16":
        network = copy_in_bfloat16(network)
    fold_batch_norms(network)
    graph: Any = runtimes.extract_network(network)
    return _build_asking(work, lambda images: graph(tf.constant(images, tf.float32)).numpy())


def build_openvino(work: str, model: str, precision: str) -> Work:
    """OpenVINO as `leuko_tf.network.runtimes` uses it, in `float32`, `bfloat16` or `int8`."""
    network = runtimes.convert_for_openvino(runtimes.extract_network(load_model(Path(model))))
    if precision != "int8":
        return _build_asking(work, runtimes.compile_for_openvino(network, precision))
    import nncf  # after OpenVINO, whose telemetry is off by then

    cells = np.load(Path(work, CALIBRATION_CELLS))
    quantised = nncf.quantize(
        network,
        nncf.Dataset(cells, lambda cell: cell[np.newaxis].astype(np.float32)),
        subset_size=len(cells),
        preset=nncf.QuantizationPreset.MIXED,
    )
    return _build_asking(work, runtimes.compile_for_openvino(quantised))


def copy_in_bfloat16(model: keras.Model) -> keras.Model:
    """Copies a model under the policy mixed_bfloat16, as a training builds it."""

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer.name not in (SCALING, OUTPUT_NAME):
            config["dtype"] = POLICIES["bfloat16"]
        return type(layer).from_config(config)

    clone = keras.models.clone_model(model, clone_function=copy_layer)
    clone.set_weights(model.get_weights())
    return clone


def _build_asking(work: str, predict: Callable[[np.ndarray], np.ndarray]) -> Work:
    """Compares a network's probabilities of all cells (fact `comparison`), then asks on."""
    cells = np.load(Path(work, CELLS))
    labels = np.load(Path(work, LABELS)) if Path(work, LABELS).is_file() else None
    batches = [cells[i : i + BATCH] for i in range(0, len(cells), BATCH)]
    found = np.concatenate([predict(batch) for batch in batches])
    facts = {"comparison": compare(found, np.load(Path(work, REFERENCE)), labels)}
    turns = itertools.cycle(batches[:-1] or batches)  # the last may be smaller: another graph

    def step() -> int:
        batch = next(turns)
        predict(batch)
        return len(batch)

    return Work(step, facts)


def _read_cell(file: Path, field: int, size: int) -> np.ndarray:
    """What the model sees, rounded to whole grey levels: uint8 [size, size, 3]."""
    image = to_network_input(read_image(file)[np.newaxis], field, size)[0]
    return tf.saturate_cast(tf.round(image), tf.uint8).numpy()
