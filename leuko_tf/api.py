"""The Python API, for notebooks and scripts: `leuko_tf.load_model`, `predict`, `explain` ...

    import leuko_tf

    model = leuko_tf.load_model("runs/small/best.keras")
    table = leuko_tf.predict(model, "cells/")
    explanations = leuko_tf.explain(model, leuko_tf.read_image("cells/a.tiff"))

`import leuko_tf` stays light: this module, and TensorFlow with it, is imported at first use.
Research use only: a class is no diagnosis.
"""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd

from leuko_tf.classes import CODES
from leuko_tf.classification import View, classify_arrays, classify_files, compute_model_factor
from leuko_tf.cli import UserError
from leuko_tf.data import images as image_files
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.methods import METHODS, Explanation
from leuko_tf.network import loading

__all__ = ["CODES", "explain", "load_model", "predict", "read_image"]

FilePath = str | os.PathLike[str]
Images = FilePath | Sequence[FilePath] | np.ndarray | Sequence[np.ndarray]


def load_model(file: FilePath) -> keras.Model:
    """Loads a model of this project, such as the `best.keras` of a training.

    Returns:
      A float32 model from images, uint8 or float [n, height, width, 3] in 0 to 255, to
      probabilities, float32 [n, 15] in the order of `leuko_tf.CODES`.

    Raises:
      UserError: if the file is missing, or holds no model of this project to predict with.
    """
    return loading.load_model(Path(file))


def read_image(file: FilePath) -> np.ndarray:
    """Reads a TIFF, PNG or JPEG file as uint8 [height, width, 3]; drops an alpha channel.

    Raises:
      UserError: if the file is missing, damaged, too large, or not 8-bit.
    """
    return image_files.read_image(Path(file))


def predict(
    model: keras.Model,
    images: Images,
    pixel_size_um: float | None = None,
    symmetries: bool = False,
) -> pd.DataFrame:
    """Classifies images of single cells of any size.

    The network looks at the middle of each image, at the scale of its pixels.

    Args:
      model: of `load_model`.
      images: a folder, a file or a list of files; or images in 0 to 255: an array
        [height, width, 3] or [n, height, width, 3], or a list of arrays of any sizes.
      pixel_size_um: side of the images' pixels in micrometres on the slide. If given, images are
        resampled to the pixel size that the model was trained on.
      symmetries: averages over eight turns and reflections of each image, at eight times the work.

    Returns:
      A row for each image: `id`, `width`, `height`, `answer` (a code), `confidence`,
      `blast_score`, `atypical_score`, and the probabilities `p_NGS` ... `p_KSC`. Files that cannot
      be read are left out, with a warning; `table.attrs["problems"]` says why.

    Raises:
      UserError: if there are no images, none can be read, or an array is no image.
    """
    view = View(factor=compute_model_factor(model, pixel_size_um))
    files = _find_files(images)
    if files is None:
        arrays = _check_arrays(images)
        if not arrays:
            raise UserError("There are no images to classify.")
        numbered = ((str(i), array) for i, array in enumerate(arrays))
        return classify_arrays(model, numbered, view, symmetries=symmetries)
    table, problems = classify_files(model, files, view, symmetries=symmetries)
    if problems:
        warnings.warn(
            f"{len(problems):,} of {len(files):,} images could not be read; the first: "
            f"{problems[0]}",
            stacklevel=2,
        )
    table.attrs["problems"] = problems
    return table


def explain(
    model: keras.Model,
    images: np.ndarray | Sequence[np.ndarray],
    methods: tuple[str, ...] = METHODS,
) -> list[Explanation]:
    """Computes where a model looks for the class that it answers.

    Args:
      model: of `load_model`.
      images: as arrays, like those of `predict`.
      methods: of "gradient", "SmoothGrad" and "Grad-CAM++"; see `leuko_tf.explanation.methods`.

    Returns:
      An explanation for each image, in their order; its maps have the image's size.

    Raises:
      UserError: if an array is no image, or a method is unknown.
    """
    unknown = {*methods} - {*METHODS}
    if unknown:
        raise UserError(f"Unknown method {min(unknown)!r}: choose from {', '.join(METHODS)}")
    arrays = _check_arrays(images)
    # Sorted, so that images of one size are explained together.
    order = sorted(range(len(arrays)), key=lambda i: arrays[i].shape)
    explanations = Explainer(model)((arrays[i] for i in order), methods)
    by_index = dict(zip(order, explanations, strict=True))
    return [by_index[i] for i in range(len(arrays))]


def _find_files(images: Any) -> dict[str, Path] | None:
    """The files that are meant, by id; None where arrays are."""
    paths = [images] if isinstance(images, str | os.PathLike) else images
    if not len(paths) or not all(isinstance(path, str | os.PathLike) for path in paths):
        return None
    return image_files.find_images([Path(path) for path in paths])


def _check_arrays(images: Any) -> list[np.ndarray]:
    """One array, a batch or a list of them, as images uint8 [height, width, 3]."""
    is_one = isinstance(images, np.ndarray) and images.ndim == 3
    return [_check_image(image) for image in ([images] if is_one else images)]


def _check_image(image: Any) -> np.ndarray:
    """The image as uint8 [height, width, 3]; refuses other shapes, and values not 0 to 255."""
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise UserError(
            "An image must be an array [height, width, 3], red, green and blue in 0 to 255. "
            f"Received: shape {list(array.shape)}"
        )
    if array.dtype == np.uint8:
        return array
    numbers = array.astype(np.float64)
    if not np.isfinite(numbers).all() or numbers.min() < 0 or numbers.max() > 255:
        raise UserError(
            "An image must hold values in 0 to 255. Received: values from "
            f"{numbers.min():g} to {numbers.max():g}"
        )
    if numbers.max() <= 1:
        raise UserError(
            "An image must hold values in 0 to 255; this one has none above 1. If its values are "
            "0 to 1, multiply it by 255."
        )
    return numbers.round().astype(np.uint8)
