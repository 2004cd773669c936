"""Abstention and prediction sets: figures of a network that may decline or name several classes.

In all functions `labels` is int [n], indices of classes, and `scores` float [n, 15], probabilities.
"""

import itertools
from typing import Any

import numpy as np

from leuko_tf.classes import CODES
from leuko_tf.metrics.records import PredictionSets, Selective

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
ACCURACIES = (0.95, 0.97, 0.98, 0.99)
CURVE_POINTS = 200
CONFORMAL_LEVELS = (0.90, 0.95)


def compute_selective(labels: np.ndarray, scores: np.ndarray) -> Selective:
    """Computes accuracy against coverage, where the least confident answers are left to a person.

    `curve` has at most 201 points. `at_coverage` gives, for each of `COVERAGES`, the threshold on
    the confidence (the highest probability) that keeps at least that share of the images, and what
    it keeps. `at_accuracy` gives, for each of `ACCURACIES`, the largest share that reaches it.
    `area_under_risk_coverage` is the mean share of errors over all coverages.
    """
    confidence = scores.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    right = (scores.argmax(axis=1) == labels)[order]
    # A threshold keeps all images of equal confidence or none: the curve has one point for them.
    ends = np.flatnonzero(np.append(np.diff(sorted_confidence) != 0, True))
    kept = ends + 1
    coverage, accuracy = kept / len(labels), np.cumsum(right)[ends] / kept

    at_coverage = []
    for asked in COVERAGES:
        first = int(np.flatnonzero(coverage >= asked - 1e-12)[0])
        threshold = sorted_confidence[ends[first]]
        at_coverage.append(
            {
                "asked": asked,
                "threshold": float(threshold),
                "coverage": float(coverage[first]),
                "accuracy": float(accuracy[first]),
                "classes": _average_by_class(confidence >= threshold, labels),
            }
        )
    at_accuracy = []
    for asked in ACCURACIES:
        reached = coverage[accuracy >= asked]
        at_accuracy.append(
            {"asked": asked, "coverage": float(reached[-1]) if len(reached) else None}
        )
    # Within a run of equal confidences the risk is that at the end of the run.
    risks = np.repeat(1 - accuracy, np.diff(ends, prepend=-1))
    shown = np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS + 1).round().astype(int))
    return {
        "curve": {"coverage": coverage[shown].tolist(), "accuracy": accuracy[shown].tolist()},
        "at_coverage": at_coverage,
        "at_accuracy": at_accuracy,
        "area_under_risk_coverage": float(risks.mean()),
    }


def compute_conformal_threshold(errors: np.ndarray, level: float) -> float:
    """Computes the error up to which a class belongs to the set, from calibration images.

    If a new image is drawn as the calibration images were, its class is then in its set with a
    probability of at least `level`, whatever the network (split conformal prediction; Vovk et al.
    2005; Angelopoulos and Bates 2021, arXiv 2107.07511, section 1). `errors` is float [n], 1 minus
    the probability of the right class; `level` is 0 to 1, such as 0.95.

    Returns the ceil((n + 1) level)-th smallest error; infinity where n is too small for the level.
    """
    rank = int(np.ceil((len(errors) + 1) * level - 1e-9))
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else float("inf")


def compute_conformal_sets(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray
) -> list[PredictionSets] | None:
    """Computes prediction sets of each fold, calibrated on the other folds.

    `marginal` uses one threshold, which keeps the level on average over all images; `by_class` uses
    one threshold for each class, which keeps it within each class. Returns a record for each of
    `CONFORMAL_LEVELS` and each method; None with a single fold.
    """
    if len(np.unique(folds)) < 2:
        return None
    figures: list[PredictionSets] = []
    for level, method in itertools.product(CONFORMAL_LEVELS, ("marginal", "by_class")):
        sets = np.zeros(scores.shape, bool)
        always = np.zeros(len(CODES), bool)
        for fold in np.unique(folds):
            inside = folds == fold
            thresholds = _compute_thresholds(labels[~inside], scores[~inside], level, method)
            sets[inside] = 1 - scores[inside] <= thresholds
            always |= np.isinf(thresholds)
        covered = sets[np.arange(len(labels)), labels]
        size = sets.sum(axis=1)
        figures.append(
            {
                "level": level,
                "method": method,
                "coverage": float(covered.mean()),
                "folds": {str(k): float(covered[folds == k].mean()) for k in np.unique(folds)},
                "classes": _average_by_class(covered, labels),
                "mean_size": float(size.mean()),
                "empty": float((size == 0).mean()),
                "single": float((size == 1).mean()),
                "always": [CODES[i] for i in np.flatnonzero(always)],
            }
        )
    return figures


def _compute_thresholds(
    labels: np.ndarray, scores: np.ndarray, level: float, method: str
) -> np.ndarray:
    errors = 1 - scores[np.arange(len(labels)), labels]
    if method == "marginal":
        return np.full(len(CODES), compute_conformal_threshold(errors, level))
    by_class = [errors[labels == i] for i in range(len(CODES))]
    return np.array([compute_conformal_threshold(own, level) for own in by_class])


def _average_by_class(values: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Mean of each class's values; None without images."""
    by_class = {code: values[labels == i] for i, code in enumerate(CODES)}
    return {code: float(v.mean()) if len(v) else None for code, v in by_class.items()}
