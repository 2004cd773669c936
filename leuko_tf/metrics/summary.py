"""All figures of a table of predictions: pooled, of each fold, and over the folds."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from leuko_tf.classes import INDEX, QUESTIONS
from leuko_tf.metrics import answers
from leuko_tf.metrics.bootstrap import REPLICATES, bootstrap_intervals
from leuko_tf.metrics.calibration import compute_calibration, fit_temperatures_over_folds
from leuko_tf.metrics.questions import compute_question_score, evaluate_question
from leuko_tf.metrics.records import Figures, TableMetrics
from leuko_tf.metrics.selective import compute_conformal_sets, compute_selective
from leuko_tf.predictions import get_probabilities

# Confusion matrices are not averaged over the folds.
AVERAGED = ("overall", "coarse", "classes", "questions", "calibration")

# Question, then examiner, then `sensitivity` and `specificity`: see `measure_operating_points`.
Points = Mapping[str, Mapping[str, Mapping[str, float]]]


def compute_metrics(
    table: pd.DataFrame, examiners: Points | None = None, replicates: int = REPLICATES
) -> TableMetrics:
    """Computes every figure of the evaluation from checked predictions.

    Means and deviations are over the folds that define the figure. The binary questions are
    compared with the examiners' points. Without replicates the only intervals are DeLong's.
    """
    labels, scores = table["label"].map(INDEX).to_numpy(), get_probabilities(table)
    fold_of = table["fold"].to_numpy()
    folds = {str(k): compute_figures(table[fold_of == k], examiners) for k in np.unique(fold_of)}
    parts = [{k: v for k, v in fold.items() if k in AVERAGED} for fold in folds.values()]
    several = len(parts) > 1
    return {
        "pooled": compute_figures(table, examiners),
        "intervals": bootstrap_intervals(labels, scores, replicates) if replicates else None,
        "bootstrap_replicates": replicates,
        "folds": folds,
        "mean": aggregate_folds(parts, np.mean) if several else None,
        "sd": aggregate_folds(parts, np.std) if several else None,
        "temperature": fit_temperatures_over_folds(labels, scores, fold_of),
        "selective": compute_selective(labels, scores),
        "conformal": compute_conformal_sets(labels, scores, fold_of),
    }


def compute_figures(table: pd.DataFrame, examiners: Points | None = None) -> Figures:
    """Computes the figures of one set of images; arguments as for `compute_metrics`."""
    labels, scores = table["label"].map(INDEX).to_numpy(), get_probabilities(table)
    answered = scores.argmax(axis=1)
    return {
        "images": len(table),
        "overall": answers.compute_overall(labels, scores),
        "coarse": answers.compute_coarse(labels, scores),
        "classes": answers.compute_per_class(labels, answered),
        "confusion_matrix": answers.count_confusions(labels, answered),
        "questions": {
            name: evaluate_question(
                table["label"].isin(codes).to_numpy(),
                compute_question_score(scores, codes),
                (examiners or {}).get(name),
            )
            for name, codes in QUESTIONS.items()
        },
        "calibration": compute_calibration(labels, scores),
    }


def aggregate_folds(folds: list[Any], statistic: Callable[[Any], Any]) -> Any:
    """Computes one number, such as `numpy.mean`, from each figure's values over the folds.

    Returns a dict nested as `folds`, which are of `compute_figures`, without counts, intervals and
    bins.
    """
    present = [fold for fold in folds if fold is not None]
    if not present:
        return None
    if isinstance(present[0], float):
        return float(statistic(present))
    names = dict.fromkeys(name for fold in present for name in fold)
    tree = {}
    for name in names:
        values = [fold.get(name) for fold in present]
        if any(isinstance(v, float | dict) for v in values) or all(v is None for v in values):
            tree[name] = aggregate_folds(values, statistic)
    return tree
