"""The wrong answers that the network is surest of, as pictures with their saliency maps."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from leuko_tf.classes import INDEX
from leuko_tf.explanation import pictures
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.methods import GRADIENT, Explanation
from leuko_tf.explanation.pictures import Answer, delete_pictures
from leuko_tf.predictions import get_probabilities

FOLDER = "mistakes"  # beside the table of predictions
SHOWN = 12
SIDE = 200  # of each of the two panels, in pixels
# The map of the picture: the plain gradient, the likeliest variant of the paper's.
METHOD = GRADIENT


def find_mistakes(table: pd.DataFrame, number: int = SHOWN) -> pd.DataFrame:
    """The rows of the wrong answers with the highest probability, the surest first.

    Args:
      table: checked predictions.
      number: of rows at most.
    """
    scores = get_probabilities(table)
    wrong = scores.argmax(axis=1) != table["label"].map(INDEX).to_numpy()
    surest_first = table.assign(_confidence=scores.max(axis=1))[wrong].sort_values(
        ["_confidence", "id"], ascending=[False, True]
    )
    return surest_first.drop(columns="_confidence").head(number)


def read_mistakes(table: pd.DataFrame, folder: Path) -> list[Answer]:
    """The surest mistakes, with their pictures where the folder has them."""
    return pictures.read_answers(find_mistakes(table), folder)


def draw(
    explain: Explainer, table: pd.DataFrame, images: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Draws the surest mistakes, into a folder that holds no other pictures afterwards.

    Args:
      explain: of the model that gave the predictions.
      table: of predictions.
      images: id to uint8 array [height, width, 3], of one size; of `surest` at least.
      folder: made if there is a mistake.
    """
    delete_pictures(folder)
    pictures.draw(explain, find_mistakes(table), images, folder, (METHOD,), _picture)


def _picture(explanation: Explanation) -> Image.Image:
    """The cell, and the cell under its map."""
    cell = pictures.panel(explanation.image, SIDE)
    heat = pictures.heat(explanation.maps[METHOD], SIDE)
    return pictures.strip([cell, pictures.overlay(cell, heat)])
