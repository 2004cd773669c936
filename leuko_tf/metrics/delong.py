"""Intervals of ROC AUCs, and the test between two on the same images, without resampling.

DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837, by the mid-ranks of Sun and Xu 2014, IEEE
Signal Processing Letters 21:1389. Neither scikit-learn nor SciPy has it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

LEVEL = 0.95


@dataclass(frozen=True)
class PairedTest:
    """Two scores' AUCs on the same images.

    Attributes:
      auc: float. Of the first score.
      other_auc: float. Of the second.
      interval: (float, float) or None. 95 % interval of first minus second.
      p_value: float or None. Two-sided, of no difference.
      Both are None where they are not defined: fewer than two images of a kind, or a difference
      without any variance.
    """

    auc: float
    other_auc: float
    interval: tuple[float, float] | None
    p_value: float | None


def delong_interval(positive: np.ndarray, score: np.ndarray) -> list[float] | None:
    """95 % interval of the AUC: normal, cut off at 0 and 1.

    Args:
      positive: bool array [n].
      score: float array [n].

    Returns:
      [lower, upper], or None with fewer than two positives or two negatives. Where the score
      separates the two kinds completely, the variance and so the interval's width is 0.
    """
    aucs, covariance = _aucs_and_covariance(positive, score[None])
    if covariance is None:
        return None
    half = norm.ppf((1 + LEVEL) / 2) * np.sqrt(covariance[0, 0])
    return [float(max(aucs[0] - half, 0)), float(min(aucs[0] + half, 1))]


def delong_test(positive: np.ndarray, score: np.ndarray, other: np.ndarray) -> PairedTest:
    """Compares the AUCs of two scores of the same images.

    Args:
      positive: bool array [n], of both kinds.
      score: float array [n].
      other: float array [n].
    """
    aucs, covariance = _aucs_and_covariance(positive, np.stack([score, other]))
    difference = aucs[0] - aucs[1]
    auc, other_auc = (float(a) for a in aucs)
    if covariance is None:
        return PairedTest(auc, other_auc, None, None)
    variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    if variance < 1e-18:  # rounding leaves no exact zero
        same = abs(difference) < 1e-12
        return PairedTest(auc, other_auc, (0.0, 0.0) if same else None, 1.0 if same else None)
    error = np.sqrt(variance)
    half = norm.ppf((1 + LEVEL) / 2) * error
    p_value = 2 * norm.sf(abs(difference) / error)
    interval = (float(difference - half), float(difference + half))
    return PairedTest(auc, other_auc, interval, float(p_value))


def _aucs_and_covariance(
    positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """AUCs [k] of scores [k, n], and their covariance [k, k] where it is defined."""
    positives, negatives = scores[:, positive], scores[:, ~positive]
    m, n = positives.shape[1], negatives.shape[1]
    ranks = rankdata(np.concatenate([positives, negatives], axis=1), axis=1)
    # The share of the other kind that each image is ordered right with, ties counting half.
    of_positives = (ranks[:, :m] - rankdata(positives, axis=1)) / n
    of_negatives = 1 - (ranks[:, m:] - rankdata(negatives, axis=1)) / m
    aucs = of_positives.mean(axis=1)
    if min(m, n) < 2:
        return aucs, None
    return aucs, np.atleast_2d(np.cov(of_positives) / m + np.cov(of_negatives) / n)
