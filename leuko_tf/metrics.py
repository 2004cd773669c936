"""Figures from a table of predictions. scikit-learn computes what it can."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from leuko_tf.classes import CODES, INDEX, QUESTIONS
from leuko_tf.predictions import probabilities

# Specificities at which the binary questions' sensitivity is told besides threshold 0.5.
SPECIFICITIES = (0.90, 0.95, 0.99)


def compute_metrics(table: pd.DataFrame) -> dict[str, Any]:
    """Computes every figure of the evaluation.

    Args:
      table: checked predictions, see `leuko_tf.predictions`.

    Returns:
      JSON-like dict. A figure that the images do not define, such as the sensitivity of a class
      without images, is None; a class never predicted counts as precision 0, as in the paper.
    """
    scores = probabilities(table)
    labels = table["label"].map(INDEX).to_numpy()
    predicted = scores.argmax(axis=1)
    return {
        "images": len(table),
        **overall(labels, predicted),
        "classes": per_class(labels, predicted),
        "confusion_matrix": {
            "order": list(CODES),
            "rows_are_labels": sk.confusion_matrix(
                labels, predicted, labels=range(len(CODES))
            ).tolist(),
        },
        "questions": {
            name: binary_question(
                table["label"].isin(codes).to_numpy(), question_score(scores, codes)
            )
            for name, codes in QUESTIONS.items()
        },
    }


def overall(labels: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Accuracy and its kin over all classes.

    Args:
      labels: int array [n], indices of classes.
      predicted: int array [n].

    Returns:
      Balanced accuracy and macro F1 average over the classes that have images; kappa is None where
      chance alone agrees fully (all labels and predictions are of one class).
    """
    present = np.unique(labels)
    chance_differs = len(np.union1d(labels, predicted)) > 1
    f1 = {"labels": present, "zero_division": 0}
    return {
        "accuracy": float(sk.accuracy_score(labels, predicted)),
        "balanced_accuracy": float(
            sk.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
        ),
        "macro_f1": float(sk.f1_score(labels, predicted, average="macro", **f1)),
        "weighted_f1": float(sk.f1_score(labels, predicted, average="weighted", **f1)),
        "cohen_kappa": float(sk.cohen_kappa_score(labels, predicted)) if chance_differs else None,
        "classes_with_images": len(present),
    }


def per_class(labels: np.ndarray, predicted: np.ndarray) -> dict[str, dict[str, float | None]]:
    """Precision, sensitivity, F1 and number of images of each code; arguments as in `overall`."""
    precision, sensitivity, f1, support = sk.precision_recall_fscore_support(
        labels, predicted, labels=range(len(CODES)), zero_division=0
    )
    return {
        code: {
            "precision": float(precision[i]) if support[i] else None,
            "sensitivity": float(sensitivity[i]) if support[i] else None,
            "f1": float(f1[i]) if support[i] else None,
            "images": int(support[i]),
        }
        for i, code in enumerate(CODES)
    }


def question_score(scores: np.ndarray, codes: Sequence[str]) -> np.ndarray:
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


def binary_question(positive: np.ndarray, score: np.ndarray) -> dict[str, Any]:
    """ROC AUC and operating points of one question.

    Args:
      positive: bool array [n].
      score: float array [n], 0 to 1.

    Returns:
      `roc_auc`, `positives`, `negatives`, and `operating_points`: threshold 0.5, and for each of
      `SPECIFICITIES` the lowest threshold that reaches it. Without positives or without
      negatives the AUC is None and there are no operating points.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    counts = {"positives": positives, "negatives": negatives}
    if not positives or not negatives:
        return {"roc_auc": None, **counts, "operating_points": []}
    rates, _, thresholds = sk.roc_curve(positive, score, drop_intermediate=False)
    lowest = [thresholds[np.flatnonzero(1 - rates >= s)[-1]] for s in SPECIFICITIES]
    asked = [("threshold 0.5", 0.5)] + [
        # The curve begins above the highest score, at infinity: nothing is called positive there.
        (f"specificity {s:.2f}", min(float(t), 1.0 + 1e-6))
        for s, t in zip(SPECIFICITIES, lowest, strict=True)
    ]
    return {
        "roc_auc": float(sk.roc_auc_score(positive, score)),
        **counts,
        "operating_points": [
            {"at": name, **operating_point(positive, score >= t), "threshold": t}
            for name, t in asked
        ],
    }


def operating_point(positive: np.ndarray, called: np.ndarray) -> dict[str, float]:
    """Sensitivity, specificity and precision of yes-or-no answers.

    Args:
      positive: bool array [n], the truth, of both kinds.
      called: bool array [n], the answers.

    Returns:
      Floats, 0 to 1; precision is 0 where nothing is called positive.
    """
    return {
        "sensitivity": float(sk.recall_score(positive, called)),
        "specificity": float(sk.recall_score(~positive, ~called)),
        "precision": float(sk.precision_score(positive, called, zero_division=0)),
    }
