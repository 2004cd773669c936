"""Draws the pictures of mistakes and of the gallery; this needs the model."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from leuko_tf.classes import CODES
from leuko_tf.cli import write_aside
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.figure import colour_map, overlay
from leuko_tf.explanation.gallery import choose_cells
from leuko_tf.explanation.methods import GRAD_CAM, GRADIENT, Explanation
from leuko_tf.explanation.mistakes import find_mistakes
from leuko_tf.explanation.pictures import delete_pictures, make_note, to_picture_name
from leuko_tf.predictions import get_probabilities

MISTAKE_SIDE, GALLERY_SIDE = 200, 160  # of a panel, in pixels


def draw_mistakes(
    explainer: Explainer, table: pd.DataFrame, images: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Draws the rows of `find_mistakes`: the cell, and the cell under its gradient.

    Deletes pictures of earlier runs.

    Args:
      explainer: Of the model that gave the predictions in `table`.
      images: Id to uint8 array [height, width, 3].
    """

    def compose(explanation: Explanation) -> list[Image.Image]:
        cell, gradient = _make_panels(explanation, MISTAKE_SIDE)
        return [cell, overlay(cell, gradient)]

    _draw_pictures(explainer, find_mistakes(table), images, folder, (GRADIENT,), compose)


def draw_gallery(
    explainer: Explainer, table: pd.DataFrame, images: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Draws the rows of `choose_cells`, with the panels that `gallery.PANELS` names.

    The arguments are those of `draw_mistakes`. SmoothGrad would take twenty times as long.
    """

    def compose(explanation: Explanation) -> list[Image.Image]:
        cell, gradient, cam = _make_panels(explanation, GALLERY_SIDE)
        return [cell, gradient, overlay(cell, gradient), overlay(cell, cam)]

    _draw_pictures(explainer, choose_cells(table), images, folder, (GRADIENT, GRAD_CAM), compose)


def _draw_pictures(
    explainer: Explainer,
    rows: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    folder: Path,
    methods: tuple[str, ...],
    compose: Callable[[Explanation], list[Image.Image]],
) -> None:
    """Draws a picture of each row, of the panels that `compose` makes."""
    delete_pictures(folder)
    explanations = explainer((images[image_id] for image_id in rows["id"]), methods)
    answers = zip(rows["id"], get_probabilities(rows), explanations, strict=True)
    for image_id, scores, explanation in tqdm(
        answers, folder.name, total=len(rows), unit=" pictures"
    ):
        # The table may come from another runtime, which can differ in close answers: a map of
        # another class than the table's would mislead.
        if explanation.code == CODES[scores.argmax()]:
            panels = [np.asarray(panel) for panel in compose(explanation)]
            picture = Image.fromarray(np.hstack(panels))
            with write_aside(folder / to_picture_name(image_id)) as aside:
                picture.save(aside, pnginfo=make_note(scores), compress_level=1)


def _make_panels(explanation: Explanation, side: int) -> list[Image.Image]:
    """The image and its coloured maps, resized to squares."""
    maps = [colour_map(saliency) for saliency in explanation.maps.values()]
    return [
        picture.resize((side, side), Image.Resampling.BICUBIC)
        for picture in (Image.fromarray(explanation.image), *maps)
    ]
