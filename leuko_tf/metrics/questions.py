"""The paper's binary questions, blast and atypical: ROC, precision-recall, operating points."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import binomtest
from sklearn import metrics as sk

from leuko_tf.classes import CODES
from leuko_tf.metrics.delong import compute_delong_interval

# Specificities at which the sensitivity is told besides threshold 0.5.
SPECIFICITIES = (0.90, 0.95, 0.99)
ROUNDING = 1e-12  # 1 - 2/11 comes out below 9/11, and yet it reaches it


def compute_question_score(scores: np.ndarray, codes: Sequence[str]) -> np.ndarray:
    """A binary question's score: the summed probability of its classes.

    It is divided by the sum of all, which is 1 only up to the rounding of float32. At the upper
    end, where most blasts lie, that rounding would otherwise decide the order.

    Args:
      scores: float array [n, 15].
      codes: the classes that count as positive.

    Returns:
      float array [n], 0 to 1.
    """
    inside = np.isin(CODES, codes)
    positive, negative = scores[:, inside].sum(axis=1), scores[:, ~inside].sum(axis=1)
    return positive / (positive + negative)


def evaluate_question(
    positive: np.ndarray,
    score: np.ndarray,
    examiners: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Any]:
    """Areas under the curves and operating points of one question.

    Args:
      positive: bool array [n].
      score: float array [n], 0 to 1.
      examiners: name to `sensitivity` and `specificity` of an examiner, to be matched.

    Returns:
      `positives`, `negatives`, `roc_auc` with DeLong's `roc_auc_interval`, `average_precision`
      (the area under the precision-recall curve as a step function), `operating_points` by name
      (threshold 0.5, and for each of `SPECIFICITIES` the lowest threshold that reaches it), and
      `at_examiners`: for each of them its own two figures, the sensitivity that the network has
      at a specificity no lower (`sensitivity_at_specificity`), and the converse
      (`specificity_at_sensitivity`).
      Without positives or without negatives the figures are None, or empty.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    counts = {"positives": positives, "negatives": negatives}
    if not positives or not negatives:
        return {
            **counts,
            **dict.fromkeys(("roc_auc", "roc_auc_interval", "average_precision")),
            "operating_points": {},
            "at_examiners": {},
        }
    false_positive, true_positive, thresholds = sk.roc_curve(
        positive, score, drop_intermediate=False
    )
    specificity = 1 - false_positive
    points = {"threshold 0.5": 0.5}
    for asked in SPECIFICITIES:
        lowest = thresholds[np.flatnonzero(specificity >= asked)[-1]]
        # The curve begins above the highest score, at infinity: nothing is called positive there.
        points[f"specificity {asked:.2f}"] = min(float(lowest), 1.0 + 1e-6)
    return {
        **counts,
        "roc_auc": float(sk.roc_auc_score(positive, score)),
        "roc_auc_interval": compute_delong_interval(positive, score),
        "average_precision": float(sk.average_precision_score(positive, score)),
        "operating_points": {
            name: {**compute_operating_point(positive, score >= t), "threshold": t}
            for name, t in points.items()
        },
        "at_examiners": {
            name: {
                "sensitivity": at["sensitivity"],
                "specificity": at["specificity"],
                "sensitivity_at_specificity": float(
                    true_positive[specificity >= at["specificity"] - ROUNDING].max()
                ),
                "specificity_at_sensitivity": float(
                    specificity[true_positive >= at["sensitivity"] - ROUNDING].max()
                ),
            }
            for name, at in (examiners or {}).items()
        },
    }


def compute_wilson_interval(share: float, of: int) -> list[float] | None:
    """95 % interval of a share of independent images (Wilson 1927); None without images."""
    if not of:
        return None
    interval = binomtest(round(share * of), of).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def compute_operating_point(positive: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Sensitivity, specificity and precision of yes-or-no answers.

    Args:
      positive: bool array [n], the truth, of both kinds.
      called: bool array [n], the answers.

    Returns:
      Floats, 0 to 1; precision is 0 where nothing is called positive.
    """
    return {
        "sensitivity": float(called[positive].mean()),
        "specificity": float((~called)[~positive].mean()),
        "precision": float(positive[called].mean()) if called.any() else 0.0,
    }
