"""Whether the probabilities mean what they say, and one number that mends most of it."""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn import metrics as sk

BINS = 15  # of equal width, as in Guo et al. 2017
LOWEST, HIGHEST = 0.05, 20.0  # temperatures that are looked at
SMALLEST = float(np.finfo(np.float32).tiny)  # stands for a probability that was rounded to 0


def compute_calibration(labels: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Errors of the probabilities, and the reliability diagram's numbers.

    Args:
      labels: int array [n], indices of classes.
      scores: float array [n, 15].

    Returns:
      `expected_calibration_error` of the answers' probabilities (confidences) in 15 bins of equal
      width, each bin with its upper edge (Guo et al. 2017, arXiv 1706.04599); `brier`, the squared
      distance from the right answer, 0 to 2; `log_loss` in nats; and `bins`: for each from 0 to 1
      its edges, number of images, mean confidence and accuracy (None without images).
    """
    scores = scores / scores.sum(axis=1, keepdims=True)
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    which = find_bin(confidence)
    bins: list[dict[str, Any]] = []
    for i in range(BINS):
        inside = which == i
        images = int(inside.sum())
        bins.append(
            {
                "from": i / BINS,
                "to": (i + 1) / BINS,
                "images": images,
                "confidence": float(confidence[inside].mean()) if images else None,
                "accuracy": float(right[inside].mean()) if images else None,
            }
        )
    classes = range(scores.shape[1])
    return {
        "expected_calibration_error": float(
            sum(abs(b["accuracy"] - b["confidence"]) * b["images"] for b in bins if b["images"])
            / len(labels)
        ),
        "brier": float(sk.brier_score_loss(labels, scores, labels=classes)),
        "log_loss": float(compute_log_losses(labels, scores).mean()),
        "bins": bins,
    }


def find_bin(confidence: np.ndarray) -> np.ndarray:
    """Int array [n], each confidence's bin, 0 to 14; an edge belongs to the bin below it."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def compute_log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Each image's loss [n] in nats: minus the logarithm of the right class's probability.

    Not scikit-learn's, which calls a probability at least 2e-16: wrong answers that are surer than
    that exist, and a temperature is to feel how sure.
    """
    return -np.log(np.maximum(scores[np.arange(len(labels)), labels], SMALLEST))


def fit_temperature(labels: np.ndarray, scores: np.ndarray) -> float:
    """The temperature of least log loss.

    Args:
      labels: int array [n], indices of columns.
      scores: float array [n, k], probabilities.

    Returns:
      Above 1 for a network that is too sure of itself; 0.05 to 20.
    """
    logits = np.log(np.maximum(scores, SMALLEST))

    def log_loss(log_temperature: float) -> float:
        return compute_log_losses(labels, _compute_softmax(logits / np.exp(log_temperature))).mean()

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(log_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [n, k] as the network would give them with its logits divided by a number."""
    return _compute_softmax(np.log(np.maximum(scores, SMALLEST)) / temperature)


def fit_temperatures_over_folds(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray
) -> dict[str, Any] | None:
    """Scales each fold by a temperature fitted on the other folds only.

    Args:
      labels: int array [n], indices of classes.
      scores: float array [n, 15].
      folds: int array [n].

    Returns:
      `folds`, each with its temperature and errors before and after, and the errors `before` and
      `after` of all images together; None with a single fold.
    """
    if len(np.unique(folds)) < 2:
        return None
    after = np.empty_like(scores)
    by_fold = {}
    for fold in np.unique(folds):
        inside = folds == fold
        temperature = fit_temperature(labels[~inside], scores[~inside])
        after[inside] = apply_temperature(scores[inside], temperature)
        by_fold[str(fold)] = {
            "temperature": temperature,
            "before": _compute_errors(labels[inside], scores[inside]),
            "after": _compute_errors(labels[inside], after[inside]),
        }
    return {
        "fitted_on": "the other folds",
        "folds": by_fold,
        "before": _compute_errors(labels, scores),
        "after": {
            **_compute_errors(labels, after),
            "bins": compute_calibration(labels, after)["bins"],
        },
    }


def _compute_errors(labels: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    figures = compute_calibration(labels, scores)
    return {k: figures[k] for k in ("expected_calibration_error", "brier", "log_loss")}


def _compute_softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
