"""What is gained when the network may abstain, or may answer with several classes."""

from typing import Any

import numpy as np

from leuko_tf.classes import CODES

COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)
ACCURACIES = (0.95, 0.97, 0.98, 0.99)
CURVE_POINTS = 200
CONFORMAL_LEVELS = (0.90, 0.95)


def compute_selective(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Accuracy against coverage, where the least confident answers are left to a person.

    Args:
      labels: int array [n], indices of classes.
      scores: float array [n, 15].

    Returns:
      `curve`, coverages and accuracies, at most 201 points; `at_coverage`, for each of
      `COVERAGES` the threshold on the confidence (the highest probability) that keeps at least
      that share of the images, the share kept, its accuracy, and the share kept of each class
      (None without images); `at_accuracy`, for each of `ACCURACIES` the largest share that
      reaches it (None where none does); and `area_under_risk_coverage`, the mean share of errors
      over all coverages (Geifman and El-Yaniv 2017, arXiv 1705.08500), lower is better.
    """
    confidence = scores.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence = confidence[order]
    right = (scores.argmax(axis=1) == labels)[order]
    # A threshold keeps all images of one confidence, or none: only there the curve has points.
    ends = np.flatnonzero(np.append(np.diff(sorted_confidence) != 0, True))
    kept = ends + 1
    coverage, accuracy = kept / len(labels), np.cumsum(right)[ends] / kept

    at_coverage = []
    for asked in COVERAGES:
        first = int(np.flatnonzero(coverage >= asked - 1e-12)[0])
        threshold = sorted_confidence[ends[first]]
        stays = confidence >= threshold
        at_coverage.append(
            {
                "asked": asked,
                "threshold": float(threshold),
                "coverage": float(coverage[first]),
                "accuracy": float(accuracy[first]),
                "classes": {
                    code: _compute_mean(stays[labels == i]) for i, code in enumerate(CODES)
                },
            }
        )
    at_accuracy = []
    for asked in ACCURACIES:
        reached = np.flatnonzero(accuracy >= asked)
        at_accuracy.append(
            {"asked": asked, "coverage": float(coverage[reached[-1]]) if len(reached) else None}
        )
    # The risk at a coverage inside of a run of equal confidences is that at the run's end.
    risks = np.repeat(1 - accuracy, np.diff(ends, prepend=-1))
    some = np.unique(np.linspace(0, len(ends) - 1, CURVE_POINTS + 1).round().astype(int))
    return {
        "curve": {"coverage": coverage[some].tolist(), "accuracy": accuracy[some].tolist()},
        "at_coverage": at_coverage,
        "at_accuracy": at_accuracy,
        "area_under_risk_coverage": float(risks.mean()),
    }


def compute_conformal_threshold(errors: np.ndarray, level: float) -> float:
    """The error up to which a class belongs into the set, from calibration images.

    With it a new image's class is in its set with a probability of at least `level`, whatever
    the network, if the new image is drawn as the calibration images were (split conformal
    prediction; Vovk et al. 2005; Angelopoulos and Bates 2021, arXiv 2107.07511, section 1).

    Args:
      errors: float array [n], 1 minus the probability of the right class.
      level: 0 to 1, such as 0.95.

    Returns:
      The ceil((n + 1) level)-th smallest error; infinity where n is too small for the level.
    """
    rank = int(np.ceil((len(errors) + 1) * level - 1e-9))
    return float(np.sort(errors)[rank - 1]) if rank <= len(errors) else float("inf")


def compute_conformal_sets(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray
) -> list[dict[str, Any]] | None:
    """Prediction sets of each fold, calibrated on the other folds, and how often they are right.

    Args:
      labels: int array [n], indices of classes.
      scores: float array [n, 15].
      folds: int array [n].

    Returns:
      For each of `CONFORMAL_LEVELS` and each method a dict: `level`; `method`, `marginal` (one
      threshold, right on the average over all images) or `by_class` (one threshold a class, right
      within each); the share of sets with the right class (`coverage`), also for each fold and
      class; the mean number of classes in a set, and the shares of sets with none and with one; and
      the classes that are `always` in the set of some fold, for want of calibration images.
      None with a single fold.
    """
    if len(np.unique(folds)) < 2:
        return None
    figures = []
    for level in CONFORMAL_LEVELS:
        for method in ("marginal", "by_class"):
            sets = np.zeros(scores.shape, bool)
            always = np.zeros(len(CODES), bool)
            for fold in np.unique(folds):
                inside = folds == fold
                thresholds = _compute_thresholds(labels[~inside], scores[~inside], level, method)
                sets[inside] = 1 - scores[inside] <= thresholds
                always |= np.isinf(thresholds)
            figures.append(
                {
                    "level": level,
                    "method": method,
                    **_measure_coverage(sets, labels, folds),
                    "always": [code for code, is_so in zip(CODES, always, strict=True) if is_so],
                }
            )
    return figures


def _compute_thresholds(
    labels: np.ndarray, scores: np.ndarray, level: float, method: str
) -> np.ndarray:
    errors = 1 - scores[np.arange(len(labels)), labels]
    if method == "marginal":
        return np.full(len(CODES), compute_conformal_threshold(errors, level))
    return np.array(
        [compute_conformal_threshold(errors[labels == i], level) for i in range(len(CODES))]
    )


def _measure_coverage(sets: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> dict[str, Any]:
    covered = sets[np.arange(len(labels)), labels]
    size = sets.sum(axis=1)
    return {
        "coverage": float(covered.mean()),
        "folds": {str(fold): float(covered[folds == fold].mean()) for fold in np.unique(folds)},
        "classes": {code: _compute_mean(covered[labels == i]) for i, code in enumerate(CODES)},
        "mean_size": float(size.mean()),
        "empty": float((size == 0).mean()),
        "single": float((size == 1).mean()),
    }


def _compute_mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
