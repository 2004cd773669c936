"""Chooses typical cells of every class, and finds their pictures again."""

from pathlib import Path

import numpy as np
import pandas as pd

from leuko_tf.classes import INDEX, LINEAGE_ORDER
from leuko_tf.explanation.methods import GRAD_CAM, GRADIENT
from leuko_tf.explanation.pictures import Answer, read_answers, to_picture_name
from leuko_tf.predictions import get_probabilities

CELLS = 2  # of a class
PANELS = ("cell", GRADIENT, "overlay", GRAD_CAM)  # of a picture


def rank_cells(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Ranks the rows of each class in checked predictions, the most typical first.

    Typical are right answers of middling probability; of a class without a right answer, wrong
    ones. Classes are in lineage order; those without images are left out.
    """
    scores = get_probabilities(table)
    right = scores.argmax(axis=1) == table["label"].map(INDEX).to_numpy()
    by_confidence = table.assign(_confidence=scores.max(axis=1), _right=right).sort_values(
        ["_confidence", "id"]
    )
    ranked = {}
    for code in LINEAGE_ORDER:
        rows = by_confidence[by_confidence["label"] == code]
        if rows["_right"].any():
            rows = rows[rows["_right"]]
        if len(rows):
            # By rank, not by probability: there the two in the middle would differ by rounding.
            from_middle = np.abs(np.arange(len(rows)) - (len(rows) - 1) / 2)
            rows = rows.assign(_from_middle=from_middle).sort_values(["_from_middle", "id"])
            ranked[code] = rows[table.columns]
    return ranked


def choose_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that the gallery shows: the first ones of every class."""
    return pd.concat([rows.head(CELLS) for rows in rank_cells(table).values()])


def read_gallery(table: pd.DataFrame, folder: Path) -> dict[str, list[Answer]]:
    """Up to `CELLS` most typical answers with a picture, for each class of `rank_cells`.

    The folder may hold the galleries of several folds, so that the most typical cells of the whole
    table need not be among its pictures.
    """
    names = {file.name for file in folder.glob("*.png")}
    found = {}
    for code, rows in rank_cells(table).items():
        drawn = rows[rows["id"].map(to_picture_name).isin(names)]
        found[code] = [a for a in read_answers(drawn, folder) if a.picture][:CELLS]
    return found
