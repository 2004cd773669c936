"""Finds the wrong answers with the highest probability, and their pictures."""

from pathlib import Path

import pandas as pd

from leuko_tf.classes import INDEX
from leuko_tf.explanation.pictures import Answer, read_answers
from leuko_tf.predictions import get_probabilities

SHOWN = 12


def find_mistakes(table: pd.DataFrame, number: int = SHOWN) -> pd.DataFrame:
    """Finds the wrong answers with the highest probability in checked predictions."""
    scores = get_probabilities(table)
    wrong = scores.argmax(axis=1) != table["label"].map(INDEX).to_numpy()
    by_confidence = table.assign(_confidence=scores.max(axis=1))[wrong].sort_values(
        ["_confidence", "id"], ascending=[False, True]
    )
    return by_confidence.drop(columns="_confidence").head(number)


def read_mistakes(table: pd.DataFrame, folder: Path) -> list[Answer]:
    """The mistakes of `find_mistakes`, with the pictures that the folder has of them."""
    return read_answers(find_mistakes(table), folder)
