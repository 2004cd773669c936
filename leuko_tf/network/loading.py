"""Loads saved models."""

from pathlib import Path

import h5py
import keras

import leuko_tf
import leuko_tf.network.layers  # noqa: F401  # registers the layers
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.network.resnext import SCALING


def load_model(file: Path) -> keras.Model:
    """Loads a `.keras` file of this project, such as `best.keras` of a work folder, for inference.

    Returns:
      A float32 model from images in 0 to 255 to 15 probabilities.

    Raises:
      UserError: if the file is missing or not a `.keras` file, or the model is not of this project
        or computes in mixed precision.
    """
    if file.is_dir():
        raise UserError(f"{file} is a folder. Name a .keras file, such as a best.keras.")
    if not file.is_file():
        raise UserError(f"No model {file}. A training writes best.keras into its work folder.")
    try:
        model = keras.models.load_model(file, compile=False)
    except Exception as error:  # of zip, JSON and Keras
        if h5py.is_hdf5(file):
            raise UserError(
                f"{file} is a weight file, not a .keras model. Convert the weights of 2019 with "
                "python -m leuko_tf.import_2019"
            ) from error
        # Keras appends the whole configuration.
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"{file} is not a .keras model that can be loaded: {reason}") from error
    if model.output_shape != (None, len(CODES)):
        raise UserError(
            f"{file} has outputs {model.output_shape}, not the {len(CODES)} classes of this project"
        )
    if not any(layer.name == SCALING for layer in model.layers):
        raise UserError(f"{file} is not a network of this project: it has no layer `{SCALING}`")
    if any(layer.compute_dtype != "float32" for layer in model.layers):
        raise UserError(
            f"{file} computes in mixed precision: it only serves to resume a training. Use the "
            "best.keras beside it."
        )
    return model


def make_embedding_model(model: keras.Model) -> keras.Model:
    """Makes a model that returns the last layer's inputs, float32 [n, features].

    It shares its layers with `model`. The exported signature `embed` returns the same.
    """
    # The only dense layer, of whatever type.
    last = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dense))
    return keras.Model(model.inputs, last.input, name="embedding")
