"""Typical cells of every class, as pictures of where the network looks."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leuko_tf.classes import INDEX, LINEAGE_ORDER
from leuko_tf.explanation import pictures
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.methods import GRAD_CAM, GRADIENT, Explanation
from leuko_tf.explanation.pictures import Answer, delete_pictures
from leuko_tf.predictions import get_probabilities

FOLDER = "gallery"  # beside the table of predictions
CELLS = 2  # of a class
SIDE = 160  # of each panel, in pixels
# Fine and noisy; coarse and smooth. SmoothGrad would take twenty times as long.
METHODS = (GRADIENT, GRAD_CAM)
PANELS = ("cell", GRADIENT, "overlay", GRAD_CAM)


def rank_cells(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows that may stand for their class, the most typical first.

    They are the right answers, of middling probability first; of a class without a right answer,
    the wrong ones.

    Args:
      table: checked predictions.

    Returns:
      Code to rows, in lineage order; classes without images are left out.
    """
    scores = get_probabilities(table)
    right = scores.argmax(axis=1) == table["label"].map(INDEX).to_numpy()
    by_confidence = table.assign(_confidence=scores.max(axis=1), _right=right).sort_values(
        ["_confidence", "id"]
    )
    found = {}
    for code in LINEAGE_ORDER:
        rows = by_confidence[by_confidence["label"] == code]
        if rows["_right"].any():
            rows = rows[rows["_right"]]
        if len(rows):
            # By places, not by probabilities: the two in the middle would differ by rounding.
            from_middle = np.abs(np.arange(len(rows)) - (len(rows) - 1) / 2)
            rows = rows.assign(_from_middle=from_middle).sort_values(["_from_middle", "id"])
            found[code] = rows[table.columns]
    return found


def choose_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the gallery shows: the first candidates of every class."""
    return pd.concat([rows.head(CELLS) for rows in rank_cells(table).values()])


def read_gallery(table: pd.DataFrame, folder: Path) -> dict[str, list[Answer]]:
    """The pictured answers of each class, the most typical first.

    Only pictures that the folder has: of folds that were joined, it has the typical cells of each.

    Args:
      table: checked predictions.
      folder: what `draw` wrote to; it need not be there.

    Returns:
      Code to answers, in lineage order; empty where there is no picture. Classes without images
      are left out.
    """
    there = {file.name for file in folder.glob("*.png")}
    found = {}
    for code, rows in rank_cells(table).items():
        drawn = rows[rows["id"].map(pictures.to_picture_name).isin(there)]
        answers = pictures.read_answers(drawn, folder)
        found[code] = [answer for answer in answers if answer.picture][:CELLS]
    return found


def draw(
    explain: Explainer, table: pd.DataFrame, images: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Draws the typical cells, into a folder that holds no other pictures afterwards.

    Args:
      explain: of the model that gave the predictions.
      table: of predictions.
      images: id to uint8 array [height, width, 3], of one size; of `typical` at least.
      folder: made if it is not there.
    """
    delete_pictures(folder)
    pictures.draw(explain, choose_cells(table), images, folder, METHODS, _picture)


def _picture(explanation: Explanation) -> Image.Image:
    """The panels that `PANELS` names."""
    cell = pictures.panel(explanation.image, SIDE)
    gradient, cam = (pictures.heat(explanation.maps[name], SIDE) for name in METHODS)
    return pictures.strip(
        [cell, gradient, pictures.overlay(cell, gradient), pictures.overlay(cell, cam)]
    )
