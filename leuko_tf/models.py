"""Loading a saved model, for every command that takes one."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import keras

import leuko_tf
import leuko_tf.layers  # registers the layers
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.resnext import SCALING


def load_model(file: Path) -> keras.Model:
    """Loads a `.keras` file of this project for inference.

    Args:
      file: the file; `best.keras` of a work folder is float32 and without optimizer.

    Returns:
      A float32 model from images in 0 to 255 to 15 probabilities.

    Raises:
      UserError: if the file is missing or no `.keras` file, or the model is another network or
        computes in mixed precision.
    """
    if not file.is_file():
        raise UserError(f"No model {file}. A training writes best.keras into its work folder.")
    try:
        model = keras.models.load_model(file, compile=False)
    except Exception as error:  # zip, JSON and Keras each raise their own
        if h5py.is_hdf5(file):
            raise UserError(
                f"{file} is a weight file, and no .keras model. The weights of 2019 become one by "
                "python -m leuko_tf.import_2019"
            ) from error
        # Keras goes on with the whole configuration.
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{file} is not a .keras model that can be loaded: {reason}") from error
    if model.output_shape != (None, len(CODES)):
        raise UserError(
            f"{file} has outputs {model.output_shape}, not the {len(CODES)} classes of this project"
        )
    if not any(layer.name == SCALING for layer in model.layers):
        raise UserError(f"{file} is no network of this project: it has no layer `{SCALING}`")
    if any(layer.compute_dtype != "float32" for layer in model.layers):
        raise UserError(
            f"{file} computes in mixed precision: it is there to resume a training. Use the "
            "best.keras beside it."
        )
    return model


def embedding_model(model: keras.Model) -> keras.Model:
    """The network without its last layer: the features by which it tells the classes apart.

    Args:
      model: a model of this project, which keeps its layers: the two share them.

    Returns:
      A model from the same images to features, float32 [n, features], in the order of the images.
      They are what the exported signature `embed` gives.
    """
    # The one dense layer of the network, whatever makes 15 classes of its units.
    last = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    return keras.Model(model.inputs, last.input, name="embedding")


def describe_model(file: Path) -> dict[str, Any]:
    """Facts about a model's training, from the work folder that it lies in; None where unknown.

    Returns:
      JSON-like dict; `synthetic` tells whether it was trained on drawn cells.
    """
    run_file = file.parent / "run.json"
    try:
        trained = json.loads(run_file.read_text()) if run_file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{run_file} is damaged: {error}. Move it away, or repair it.") from error
    dataset = trained.get("dataset", {})
    return {
        "model": file.name,
        "research_use_only": True,
        "synthetic": dataset.get("synthetic"),
        "trained_on": dataset.get("name"),
        "trained_on_images": dataset.get("images"),
        "folds": dataset.get("folds"),
        "held_out_fold": trained.get("held_out_fold"),
        "images_pixel_size_um": trained.get("images_pixel_size_um", dataset.get("pixel_size_um")),
        "versions": trained.get("versions", {"leuko_tf": leuko_tf.__version__}),
        "git_revision": trained.get("git_revision"),
    }


def same_images(described: Mapping[str, Any], name: str, metadata: Mapping[str, Any]) -> bool:
    """Whether a model was trained on this build of a data set, with the same folds.

    Args:
      described: of `describe_model`.
      name: full name of the data set, with configuration and version.
      metadata: of its `info`.
    """
    before = [described[k] for k in ("trained_on", "synthetic", "trained_on_images", "folds")]
    return before == [name, *(metadata.get(k) for k in ("synthetic", "images", "folds"))]
