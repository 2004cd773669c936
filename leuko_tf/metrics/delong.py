"""DeLong's interval of a ROC AUC, and DeLong's test between two AUCs on the same images.

DeLong, DeLong, Clarke-Pearson 1988, Biometrics 44:837, by the mid-ranks of Sun and Xu 2014, IEEE
Signal Processing Letters 21:1389. Neither scikit-learn nor SciPy has it. In all functions
`positive` is bool [n], the truth, and `score` float [n].
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm, rankdata

LEVEL = 0.95
NO_VARIANCE = 1e-24  # smaller variances of AUCs are rounding errors of 0


@dataclass(frozen=True)
class PairedTest:
    """AUCs of two scores on the same images, and the test between them.

    `interval` (95 %) is of `auc` minus `other_auc`; `p_value` is two-sided. Both are None where
    they are not defined: with fewer than two images of a kind, or where the difference has no
    variance.
    """

    auc: float
    other_auc: float
    interval: tuple[float, float] | None
    p_value: float | None


def compute_delong_interval(positive: np.ndarray, score: np.ndarray) -> list[float] | None:
    """Computes the 95 % interval of the AUC: normal, cut off at 0 and 1.

    None with fewer than two positives or two negatives. Where the score separates the two kinds
    completely, the variance is 0 and the interval has no width.
    """
    of_positives, of_negatives = _compute_components(positive, score)
    variance = _compute_variance(of_positives, of_negatives)
    if variance is None:
        return None
    auc, half = of_positives.mean(), norm.ppf((1 + LEVEL) / 2) * np.sqrt(variance)
    return [float(max(auc - half, 0)), float(min(auc + half, 1))]


def run_delong_test(positive: np.ndarray, score: np.ndarray, other: np.ndarray) -> PairedTest:
    """Compares the AUCs of two scores of the same images, which must be of both kinds."""
    one, two = _compute_components(positive, score), _compute_components(positive, other)
    auc, other_auc = float(one[0].mean()), float(two[0].mean())
    difference = auc - other_auc
    # Both variances minus twice the covariance give the same, but with a rounding error that can
    # turn a variance of 0 into a small positive one.
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
    """Computes DeLong's structural components, of the positives [m] and of the negatives [n].

    A component is the share of images of the other kind that are in the right order with this
    image; ties count half. The mean of either array is the AUC.
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
