"""The paper's binary questions, blast and atypical: ROC, precision-recall, operating points."""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics as sk

from leuko_tf.classes import CODES
from leuko_tf.metrics.delong import compute_delong_interval
from leuko_tf.metrics.records import Interval, OperatingPoint, QuestionFigures

# Besides threshold 0.5, sensitivity is reported at these specificities.
SPECIFICITIES = (0.90, 0.95, 0.99)
ROUNDING = 1e-12  # 1 - 2/11 is computed as slightly less than 9/11, but reaches it


def compute_question_score(scores: np.ndarray, codes: Sequence[str]) -> np.ndarray:
    """Computes a binary question's score, [n], 0 to 1: the summed probability of its classes.

    The sum is divided by the sum of all probabilities, which differs from 1 by float32 rounding.
    Near 1, where most blasts lie, that rounding would otherwise decide the order. `scores` is
    float [n, 15]; `codes` are the classes that count as positive.
    """
    inside = np.isin(CODES, codes)
    positive, negative = scores[:, inside].sum(axis=1), scores[:, ~inside].sum(axis=1)
    return positive / (positive + negative)


def evaluate_question(
    positive: np.ndarray,
    score: np.ndarray,
    examiners: Mapping[str, Mapping[str, float]] | None = None,
) -> QuestionFigures:
    """Computes areas under the curves and operating points of one question.

    Operating points are at threshold 0.5 and, for each of `SPECIFICITIES`, at the lowest threshold
    that reaches it. `at_examiners` gives the network's sensitivity at a specificity no lower than
    the examiner's, and its specificity at a sensitivity no lower than the examiner's.

    Args:
      positive: bool array [n].
      score: float array [n], 0 to 1.
      examiners: `sensitivity` and `specificity` by examiner.
    """
    figures: QuestionFigures = {
        "positives": int(positive.sum()),
        "negatives": int((~positive).sum()),
        "roc_auc": None,
        "roc_auc_interval": None,
        "average_precision": None,
        "operating_points": {},
        "at_examiners": {},
    }
    if not figures["positives"] or not figures["negatives"]:
        return figures
    figures["roc_auc"] = float(sk.roc_auc_score(positive, score))
    figures["roc_auc_interval"] = compute_delong_interval(positive, score)
    figures["average_precision"] = float(sk.average_precision_score(positive, score))
    false_positive, sensitivity, thresholds = sk.roc_curve(positive, score, drop_intermediate=False)
    specificity = 1 - false_positive
    points = {"threshold 0.5": 0.5}
    for asked in SPECIFICITIES:
        lowest = thresholds[np.flatnonzero(specificity >= asked)[-1]]
        # The curve starts at threshold infinity, where nothing is called positive.
        points[f"specificity {asked:.2f}"] = min(float(lowest), 1.0 + 1e-6)
    for name, threshold in points.items():
        point = compute_operating_point(positive, score >= threshold)
        figures["operating_points"][name] = {**point, "threshold": threshold}
    for name, own in (examiners or {}).items():
        as_specific = specificity >= own["specificity"] - ROUNDING
        as_sensitive = sensitivity >= own["sensitivity"] - ROUNDING
        figures["at_examiners"][name] = {
            "sensitivity": own["sensitivity"],
            "specificity": own["specificity"],
            "sensitivity_at_specificity": float(sensitivity[as_specific].max()),
            "specificity_at_sensitivity": float(specificity[as_sensitive].max()),
        }
    return figures


def compute_wilson_interval(share: float, images: int) -> Interval | None:
    """Computes the 95 % interval of a share of independent images (Wilson 1927), or None."""
    if not images:
        return None
    interval = binomtest(round(share * images), images).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def compute_operating_point(positive: np.ndarray, called: np.ndarray) -> OperatingPoint:
    """Computes sensitivity, specificity and precision of yes-or-no answers.

    Both are bool [n]: the truth, which must have images of both kinds, and the answers.
    """
    return {
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called)[~positive].mean()),
        "precision": float(positive[called].mean()) if called.any() else 0.0,
    }
