"""Intervals of ROC AUCs, and the test between two on the same images, without resampling.

DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837, by the mid-ranks of Sun and Xu 2014, IEEE
Signal Processing Letters 21:1389. Neither scikit-learn nor SciPy has it.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

LEVEL = 0.95
NO_VARIANCE = 1e-24  # of AUCs; rounding leaves no exact zero


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


def compute_delong_interval(positive: np.ndarray, score: np.ndarray) -> list[float] | None:
    """95 % interval of the AUC: normal, cut off at 0 and 1.

    Args:
      positive: bool array [n].
      score: float array [n].

    Returns:
      [lower, upper], or None with fewer than two positives or two negatives. Where the score
      separates the two kinds completely, the variance and so the interval's width is 0.
    """
    of_positives, of_negatives = _compute_components(positive, score)
    variance = _compute_variance(of_positives, of_negatives)
    if variance is None:
        return None
    auc, half = of_positives.mean(), norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    return [float(max(auc - half, 0)), float(min(auc + half, 1))]


def run_delong_test(positive: np.ndarray, score: np.ndarray, other: np.ndarray) -> PairedTest:
    """Compares the AUCs of two scores of the same images.

    Args:
      positive: bool array [n], of both kinds.
      score: float array [n].
      other: float array [n].
    """
    one, two = _compute_components(positive, score), _compute_components(positive, other)
    auc, other_auc = float(one[0].mean()), float(two[0].mean())
    difference = auc - other_auc
    # The sum of both variances less twice the covariance would be the same but for its rounding,
    # which takes no variance for a little.
    variance = _compute_variance(one[0] - two[0], one[1] - two[1])
    if variance is None:
        return PairedTest(auc, other_auc, None, None)
    if variance < NO_VARIANCE:
        same = abs(difference) < 1e-12
        return PairedTest(auc, other_auc, (0.0, 0.0) if same else None, 1.0 if same else None)
    error = np.sqrt(variance)
    half = norm.ppf((1 + LEVEL) / 2) * error
    p_value = 2 * norm.sf(abs(difference) / error)
    interval = (float(difference - half), float(difference + half))
    return PairedTest(auc, other_auc, interval, float(p_value))


def _compute_components(positive: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of the other kind that each image is ordered right with, ties counting half.

    Of the positives [m] and of the negatives [n]: DeLong's structural components. The mean of
    either is the AUC.
    """
    positives, negatives = score[positive], score[~positive]
    m, n = len(positives), len(negatives)
    ranks = rankdata(np.concatenate([positives, negatives]))
    return (
        (ranks[:m] - rankdata(positives)) / n,
        1 - (ranks[m:] - rankdata(negatives)) / m,
    )


def _compute_variance(of_positives: np.ndarray, of_negatives: np.ndarray) -> float | None:
    """Variance of an AUC, or of a difference; None with fewer than two images of a kind."""
    m, n = len(of_positives), len(of_negatives)
    if min(m, n) < 2:
        return None
    return float(of_positives.var(ddof=1) / m + of_negatives.var(ddof=1) / n)
