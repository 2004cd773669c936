"""All figures of a table of predictions: pooled, of each fold, and over the folds."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from leuko_tf.classes import INDEX, QUESTIONS
from leuko_tf.metrics import answers
from leuko_tf.metrics.bootstrap import REPLICATES, bootstrap_intervals
from leuko_tf.metrics.calibration import compute_calibration, fit_temperatures_over_folds
from leuko_tf.metrics.questions import compute_question_score, evaluate_question
from leuko_tf.metrics.selective import compute_conformal_sets, compute_selective
from leuko_tf.predictions import get_probabilities

AVERAGED = ("overall", "coarse", "classes", "questions", "calibration")

# Question and examiner to sensitivity and specificity, as `leuko_tf.metrics.agreement` makes them.
Points = Mapping[str, Mapping[str, Mapping[str, float]]]


def compute_metrics(
    table: pd.DataFrame, examiners: Points | None = None, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Computes every figure of the evaluation.

    Args:
      table: checked predictions, see `leuko_tf.predictions`.
      examiners: operating points that the binary questions are compared with.
      replicates: of the bootstrap; 0 for no intervals but DeLong's.

    Returns:
      JSON-like dict:
        `pooled`: `figures` of all images.
        `intervals`: 95 % bootstrap intervals of the pooled figures, in their places; None without.
        `folds`: `figures` of each fold, by its number as text.
        `mean`, `sd`: of the figures over the folds, in their places, the SD being the population's
          as in the paper; None with a single fold.
        `temperature`, `selective`, `conformal`: see `leuko_tf.metrics.calibration` and
          `leuko_tf.metrics.selective`; the first and last are None with a single fold.
      A figure that the images do not define, such as the sensitivity of a class without images,
      is None; means are over the folds that define it.
    """
    labels, scores = table["label"].map(INDEX).to_numpy(), get_probabilities(table)
    fold_of = table["fold"].to_numpy()
    folds = {str(k): compute_figures(table[fold_of == k], examiners) for k in np.unique(fold_of)}
    parts = [{name: fold[name] for name in AVERAGED} for fold in folds.values()]
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


def compute_figures(table: pd.DataFrame, examiners: Points | None = None) -> dict[str, Any]:
    """Figures of one set of images.

    Args:
      table: checked predictions.
      examiners: as for `compute_metrics`.

    Returns:
      `images`, `overall`, `coarse`, `classes`, `confusion_matrix`, `questions` and `calibration`;
      see the modules beside this one.
    """
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


def aggregate_folds(folds: list[Any], statistic: Any) -> Any:
    """One number out of each figure's values over the folds, in the figures' own tree.

    Args:
      folds: the trees of `figures`, or their parts.
      statistic: function of a list of floats, such as `numpy.mean`.

    Returns:
      The tree, without what is no figure: counts, intervals and bins.
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
