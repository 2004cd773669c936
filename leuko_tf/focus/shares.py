"""Computes how much of a saliency map lies in nucleus, cytoplasm and background."""

from typing import Any

import numpy as np
import pandas as pd

from leuko_tf.classes import LINEAGE_ORDER
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.metrics.bootstrap import PERCENTILES, REPLICATES, draw_weights

# Columns of the table: shares of the map, of the area, and of the map under the other cells' masks.
SHARES, AREAS, ELSEWHERE = (
    [f"{kind}_{region}" for region in REGIONS] for kind in ("share", "area", "elsewhere")
)
COLUMNS = SHARES + AREAS + ELSEWHERE
FIGURES = ("share", "area", "ratio", "elsewhere", "excess")


def to_one_hot(mask: np.ndarray) -> np.ndarray:
    """A mask as int32 array [3, height, width]: a plane of zeros and ones for each of `REGIONS`."""
    return np.stack([mask == value for value in range(len(REGIONS))]).astype(np.int32)


def compute_shares(saliency: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """Computes the share of a map in each region.

    Args:
      saliency: float array [height, width], not negative.
      regions: int array [3, height, width] of `to_one_hot`; or a sum of such, for the mean over
        several masks.

    Returns:
      float array [3] in the order of `REGIONS`, with sum 1; NaN where the map, or all regions, are
      0 everywhere.
    """
    sums = np.tensordot(regions.astype(np.float64), saliency, axes=2)
    total = sums.sum()
    return sums / total if total > 0 else np.full(len(REGIONS), np.nan)


def summarize_shares(rows: pd.DataFrame) -> dict[str, Any]:
    """Averages one method's rows of the table over groups of images, with intervals.

    Returns:
      Figures of `all` images, of `right` and `wrong` answers, and of each label by its code. Each
      group has `images` and, for each region, `share`, `area`, `ratio` (of the two means),
      `elsewhere` (the share under the other cells' masks) and `excess` (`share` minus `elsewhere`),
      as `value` and `interval`. Undefined ones are None: an interval of one image, figures of no
      image, a ratio without area. Images whose map is 0 everywhere are left out.
    """
    rows = rows.dropna(subset=SHARES)
    right = rows["label"] == rows["answer"]
    groups = {"all": rows, "right": rows[right], "wrong": rows[~right]}
    labels = {*rows["label"]}
    groups |= {code: rows[rows["label"] == code] for code in LINEAGE_ORDER if code in labels}
    return {name: _summarize_group(members) for name, members in groups.items()}


def _summarize_group(rows: pd.DataFrame) -> dict[str, Any]:
    values = rows[COLUMNS].to_numpy(np.float64)
    estimate, ends = np.full((5, 3), np.nan), np.full((2, 5, 3), np.nan)
    if len(values):
        estimate = _derive_figures(values.mean(axis=0))
    if len(values) > 1:
        replicates = _derive_figures(_resample_means(values))
        ends = np.percentile(replicates, PERCENTILES, axis=0)
    return {"images": len(values)} | {
        region: {
            name: {
                "value": float(estimate[i, k]) if np.isfinite(estimate[i, k]) else None,
                "interval": to_json_interval(ends[:, i, k]),
            }
            for i, name in enumerate(FIGURES)
        }
        for k, region in enumerate(REGIONS)
    }


def _derive_figures(means: np.ndarray) -> np.ndarray:
    """Means [..., 9] to `FIGURES` of the regions, [..., 5, 3]."""
    share, area, elsewhere = np.moveaxis(means.reshape(*means.shape[:-1], 3, 3), -2, 0)
    ratio = np.divide(share, area, out=np.full_like(share, np.nan), where=area > 0)
    return np.stack([share, area, ratio, elsewhere, share - elsewhere], axis=-2)


def compute_mean_intervals(values: np.ndarray) -> np.ndarray:
    """Computes 95 % intervals [columns, 2] of means of [images, columns]; NaN for one image."""
    if len(values) < 2:
        return np.full((values.shape[1], 2), np.nan)
    return np.percentile(_resample_means(values), PERCENTILES, axis=0).T


def _resample_means(values: np.ndarray) -> np.ndarray:
    """Bootstraps float array [images, columns] to means, [replicates, columns]."""
    one_stratum = np.zeros(len(values), np.int64)  # by class, single images would have no spread
    weights = np.concatenate([*draw_weights(one_stratum, REPLICATES)])
    return weights.astype(np.float64) @ values / len(values)


def to_json_interval(ends: np.ndarray) -> list[float] | None:
    """The ends as a list; None where they are NaN, which JSON does not have."""
    return ends.tolist() if np.isfinite(ends).all() else None
