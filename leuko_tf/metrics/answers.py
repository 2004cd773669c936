"""Figures of the answers (the most probable class of each image), by scikit-learn.

In all functions `labels` is int [n], indices of classes, and `scores` float [n, 15], probabilities.
"""

from typing import Any

import numpy as np
from sklearn import metrics as sk

from leuko_tf.classes import COARSE_TYPES, CODES, INDEX
from leuko_tf.metrics.records import ClassFigures

CLASS_INDICES = range(len(CODES))
# int array [15]: for each class the first class of its coarse type, which stands for the type.
FIRST_OF_TYPE = np.arange(len(CODES))
for _codes in COARSE_TYPES.values():
    FIRST_OF_TYPE[[INDEX[code] for code in _codes]] = INDEX[_codes[0]]


def compute_overall(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Computes accuracy and similar figures over all classes.

    Balanced accuracy and macro F1 average over the classes that have images. `top2_accuracy` is the
    share of images whose label is among the two most probable classes. Kappa and Matthews'
    correlation are None where all labels and answers are of one class: chance then agrees fully.
    """
    answers = scores.argmax(axis=1)
    present = np.unique(labels)
    chance_differs = len(np.union1d(labels, answers)) > 1
    averaged = {"labels": present, "zero_division": 0}
    in_top_two = (labels[:, None] == find_two_most_probable(scores)).any(axis=1)
    return {
        "accuracy": float(sk.accuracy_score(labels, answers)),
        "balanced_accuracy": float(sk.recall_score(labels, answers, average="macro", **averaged)),
        "macro_f1": float(sk.f1_score(labels, answers, average="macro", **averaged)),
        "weighted_f1": float(sk.f1_score(labels, answers, average="weighted", **averaged)),
        "cohen_kappa": float(sk.cohen_kappa_score(labels, answers)) if chance_differs else None,
        "matthews_correlation": (
            float(sk.matthews_corrcoef(labels, answers)) if chance_differs else None
        ),
        "top2_accuracy": float(in_top_two.mean()),
        "classes_with_images": len(present),
    }


def compute_coarse(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Computes accuracy, balanced accuracy and macro F1 over the coarse types."""
    figures = compute_overall(*merge_coarse_types(labels, scores))
    kept = {name: figures[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {**kept, "types_with_images": figures["classes_with_images"]}


def merge_coarse_types(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the coarse types, each at the index of its first class."""
    return FIRST_OF_TYPE[labels], scores @ np.eye(len(CODES))[FIRST_OF_TYPE]


def find_two_most_probable(scores: np.ndarray) -> np.ndarray:
    """The two most probable classes, int [n, 2]; of equal ones the first in `CODES` wins."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :2]


def compute_per_class(labels: np.ndarray, answers: np.ndarray) -> dict[str, ClassFigures]:
    """Computes each class's figures against all others; `answers` is int [n].

    A class that is never answered has precision 0, as in the paper. A class without images has
    None; specificity is None where all images are of the class.
    """
    precision, sensitivity, f1, support = sk.precision_recall_fscore_support(
        labels, answers, labels=CLASS_INDICES, zero_division=0
    )
    answered = np.bincount(answers, minlength=len(CODES))
    true = np.bincount(labels[labels == answers], minlength=len(CODES))
    negatives = len(labels) - support
    figures: dict[str, ClassFigures] = {}
    for i, code in enumerate(CODES):
        defined = support[i] > 0
        false_positives = answered[i] - true[i]
        figures[code] = {
            "images": int(support[i]),
            "answered": int(answered[i]),
            "precision": float(precision[i]) if defined else None,
            "sensitivity": float(sensitivity[i]) if defined else None,
            "specificity": (
                float(1 - false_positives / negatives[i]) if defined and negatives[i] else None
            ),
            "f1": float(f1[i]) if defined else None,
        }
    return figures


def count_confusions(labels: np.ndarray, answers: np.ndarray) -> dict[str, Any]:
    """Counts [15][15] with labels in rows, in the order of `leuko_tf.classes.CODES`."""
    counts = sk.confusion_matrix(labels, answers, labels=CLASS_INDICES)
    return {"order": list(CODES), "rows_are_labels": counts.tolist()}
