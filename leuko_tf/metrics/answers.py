"""Figures of the answers: which of the 15 classes the network names. By scikit-learn."""

from typing import Any

import numpy as np
from sklearn import metrics as sk

from leuko_tf.classes import COARSE_TYPES, CODES, INDEX

CLASS_INDICES = range(len(CODES))
# int array [15]: of each class the first class of its coarse type, which stands for the type.
FIRST_OF_TYPE = np.arange(len(CODES))
for _codes in COARSE_TYPES.values():
    FIRST_OF_TYPE[[INDEX[code] for code in _codes]] = INDEX[_codes[0]]


def compute_overall(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Accuracy and its kin over all classes.

    Args:
      labels: int array [n], indices of classes.
      scores: float array [n, 15], probabilities.

    Returns:
      Balanced accuracy and macro F1 average over the classes that have images. `top2_accuracy`
      is the share of images whose label is among the two most probable classes. Kappa and
      Matthews' correlation are None where chance alone agrees fully (all labels and answers are
      of one class).
    """
    answers = scores.argmax(axis=1)
    present = np.unique(labels)
    chance_differs = len(np.union1d(labels, answers)) > 1
    averaged = {"labels": present, "zero_division": 0}
    return {
        "accuracy": float(sk.accuracy_score(labels, answers)),
        "balanced_accuracy": float(sk.recall_score(labels, answers, average="macro", **averaged)),
        "macro_f1": float(sk.f1_score(labels, answers, average="macro", **averaged)),
        "weighted_f1": float(sk.f1_score(labels, answers, average="weighted", **averaged)),
        "cohen_kappa": float(sk.cohen_kappa_score(labels, answers)) if chance_differs else None,
        "matthews_correlation": (
            float(sk.matthews_corrcoef(labels, answers)) if chance_differs else None
        ),
        "top2_accuracy": float(
            (labels[:, None] == find_two_most_probable(scores)).any(axis=1).mean()
        ),
        "classes_with_images": len(present),
    }


def compute_coarse(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Accuracy and its kin over the coarse types, `leuko_tf.classes.COARSE_TYPES`.

    Args:
      labels, scores: as of `overall`.

    Returns:
      Balanced accuracy and macro F1 average over the types that have images.
    """
    figures = compute_overall(*merge_coarse_types(labels, scores))
    told = {name: figures[name] for name in ("accuracy", "balanced_accuracy", "macro_f1")}
    return {**told, "types_with_images": figures["classes_with_images"]}


def merge_coarse_types(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and probabilities of the coarse types, each in the place of its first class."""
    return FIRST_OF_TYPE[labels], scores @ np.eye(len(CODES))[FIRST_OF_TYPE]


def find_two_most_probable(scores: np.ndarray) -> np.ndarray:
    """Int array [n, 2], the most probable class and the next; the first of equals goes before."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :2]


def compute_per_class(labels: np.ndarray, answers: np.ndarray) -> dict[str, dict[str, Any]]:
    """Each code's figures against all others.

    Args:
      labels: int array [n], indices of classes.
      answers: int array [n].

    Returns:
      For each code precision, sensitivity, specificity, F1, the number of images and how often
      it was answered. A class that was never answered counts as precision 0, as in the paper; a
      class without images has None; specificity is None where all images are of the class.
    """
    precision, sensitivity, f1, support = sk.precision_recall_fscore_support(
        labels, answers, labels=CLASS_INDICES, zero_division=0
    )
    answered = np.bincount(answers, minlength=len(CODES))
    true = np.bincount(labels[labels == answers], minlength=len(CODES))
    negatives = len(labels) - support
    figures = {}
    for i, code in enumerate(CODES):
        false_positives = answered[i] - true[i]
        defined = support[i] > 0
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
