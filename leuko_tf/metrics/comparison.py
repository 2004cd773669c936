"""Comparison of two networks on the same images."""

from typing import Any

import pandas as pd

from leuko_tf.classes import INDEX, QUESTIONS
from leuko_tf.metrics.bootstrap import REPLICATES, bootstrap_differences
from leuko_tf.metrics.delong import run_delong_test
from leuko_tf.metrics.questions import compute_question_score
from leuko_tf.metrics.records import Comparison
from leuko_tf.metrics.summary import compute_figures
from leuko_tf.predictions import get_probabilities


def compare(table: pd.DataFrame, other: pd.DataFrame, replicates: int = REPLICATES) -> Comparison:
    """Compares checked predictions with another network's; images are joined by id.

    Without bootstrap replicates the only intervals are DeLong's. Raises a ValueError if the tables
    give one image different labels.
    """
    result: Comparison = {"other": compute_figures(other), "common_images": 0, "paired": None}
    common = table["id"][table["id"].isin(other["id"])]
    if common.empty:
        return result
    mine = table.set_index("id").loc[common].reset_index()
    theirs = other.set_index("id").loc[common].reset_index()
    differ = (mine["label"] != theirs["label"]).to_numpy()
    if differ.any():
        row = int(differ.argmax())
        raise ValueError(
            f"{mine['id'][row]} is {mine['label'][row]} in one table and {theirs['label'][row]} in "
            f"the other; {int(differ.sum())} labels differ"
        )
    labels = mine["label"].map(INDEX).to_numpy()
    scores, others = get_probabilities(mine), get_probabilities(theirs)
    delong: dict[str, dict[str, Any] | None] = dict.fromkeys(QUESTIONS)
    for name, codes in QUESTIONS.items():
        positive = mine["label"].isin(codes).to_numpy()
        if positive.any() and not positive.all():
            one, two = (compute_question_score(s, codes) for s in (scores, others))
            test = run_delong_test(positive, one, two)
            delong[name] = {
                "difference": test.auc - test.other_auc,
                "interval": list(test.interval) if test.interval else None,
                "p_value": test.p_value,
            }
    differences = bootstrap_differences(labels, scores, others, replicates) if replicates else None
    result["common_images"] = len(common)
    result["paired"] = {
        "this": compute_figures(mine),
        "other": compute_figures(theirs),
        "differences": differences,
        "delong": delong,
    }
    return result
