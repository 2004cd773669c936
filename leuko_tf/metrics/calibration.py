"""Calibration of the probabilities, and temperature scaling.

In all functions `labels` is int [n], indices of columns, and `scores` float [n, k], probabilities.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import softmax
from sklearn import metrics as sk

from leuko_tf.metrics.records import Calibration, CalibrationErrors, FoldTemperature, Temperature

BINS = 15  # of equal width, as in Guo et al. 2017
LOWEST, HIGHEST = 0.05, 20.0  # range in which a temperature is searched
SMALLEST = float(np.finfo(np.float32).tiny)  # replaces a probability that was rounded to 0


def compute_calibration(labels: np.ndarray, scores: np.ndarray) -> Calibration:
    """Computes calibration errors and the numbers of the reliability diagram.

    The expected calibration error is of the answers' probabilities (confidences), in 15 bins of
    equal width; the upper edge belongs to the bin.
    """
    scores = scores / scores.sum(axis=1, keepdims=True)
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    bin_of_image = find_bin(confidence)
    bins: list[dict[str, Any]] = []
    for i in range(BINS):
        inside = bin_of_image == i
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
    gaps = sum(abs(b["accuracy"] - b["confidence"]) * b["images"] for b in bins if b["images"])
    classes = range(scores.shape[1])
    return {
        "expected_calibration_error": float(gaps / len(labels)),
        "brier": float(sk.brier_score_loss(labels, scores, labels=classes)),
        "log_loss": float(compute_log_losses(labels, scores).mean()),
        "bins": bins,
    }


def find_bin(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, int [n], 0 to 14; an edge belongs to the bin below it."""
    return np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)


def compute_log_losses(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Computes each image's loss in nats: minus the logarithm of the right class's probability.

    Not by scikit-learn, which clips probabilities at 2e-16: some wrong answers are surer than that,
    and the fitted temperature should depend on how sure they are.
    """
    return -np.log(np.maximum(scores[np.arange(len(labels)), labels], SMALLEST))


def fit_temperature(labels: np.ndarray, scores: np.ndarray) -> float:
    """Finds the temperature with the lowest log loss, 0.05 to 20.

    It is above 1 for an overconfident network.
    """

    def compute_loss(log_temperature: float) -> float:
        scaled = apply_temperature(scores, np.exp(log_temperature))
        return compute_log_losses(labels, scaled).mean()

    bounds = (np.log(LOWEST), np.log(HIGHEST))
    found = minimize_scalar(compute_loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def apply_temperature(scores: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities that the network would give with its logits divided by the temperature."""
    return softmax(np.log(np.maximum(scores, SMALLEST)) / temperature, axis=1)


def fit_temperatures_over_folds(
    labels: np.ndarray, scores: np.ndarray, folds: np.ndarray
) -> Temperature | None:
    """Scales each fold by a temperature fitted on the other folds only; None with a single fold."""
    if len(np.unique(folds)) < 2:
        return None
    after = np.empty_like(scores)
    by_fold: dict[str, FoldTemperature] = {}
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
        "after": compute_calibration(labels, after),
    }


def _compute_errors(labels: np.ndarray, scores: np.ndarray) -> CalibrationErrors:
    figures = compute_calibration(labels, scores)
    return {
        "expected_calibration_error": figures["expected_calibration_error"],
        "brier": figures["brier"],
        "log_loss": figures["log_loss"],
    }
