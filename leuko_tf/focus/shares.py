"""How much of a saliency map lies in nucleus, cytoplasm and background: of an image, of many."""

from typing import Any

import numpy as np
import pandas as pd

from leuko_tf.classes import LINEAGE_ORDER
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.metrics.bootstrap import PERCENTILES, REPLICATES, draw_weights

# Columns of the table: shares of the map, of the area, and of the map under the others' masks.
SHARES, AREAS, ELSEWHERE = (
    [f"{kind}_{region}" for region in REGIONS] for kind in ("share", "area", "elsewhere")
)
FIGURES = ("share", "area", "ratio", "elsewhere", "excess")


def to_one_hot(mask: np.ndarray) -> np.ndarray:
    """A mask as int32 array [3, height, width], 1 where the region of `REGIONS` is."""
    return np.stack([mask == value for value in range(len(REGIONS))]).astype(np.int32)


def compute_shares(saliency: np.ndarray, regions: np.ndarray) -> np.ndarray:
    """How much of a map lies in each region.

    Args:
      saliency: float array [height, width], not negative.
      regions: int array [3, height, width], of `one_hot`; or a sum of such, for the mean over
        several masks.

    Returns:
      float array [3], in the order of `leuko_tf.focus.segmentation.REGIONS`, with sum 1;
      not-a-number where all of the map, or of the regions, is 0.
    """
    sums = np.tensordot(regions.astype(np.float64), saliency, axes=2)
    total = sums.sum()
    return sums / total if total > 0 else np.full(len(REGIONS), np.nan)


def summarize_shares(rows: pd.DataFrame) -> dict[str, Any]:
    """Means over images, with intervals, of one method.

    Args:
      rows: of the table of images and methods.

    Returns:
      `all`, `right`, `wrong`, and a code for each label that there is: groups of images, each with
      `images` and, for each region, `share`, `area`, `ratio` (of the two means), `elsewhere` (the
      share under the other cells' masks) and `excess` (`share` less `elsewhere`), which are `value`
      and `interval`. What is not defined is None: an interval of one image, the figures of no
      image, a ratio without area. Images whose map is 0 everywhere are left out.
    """
    rows = rows.dropna(subset=SHARES)
    right = rows["label"] == rows["answer"]
    groups = {"all": rows, "right": rows[right], "wrong": rows[~right]}
    for code in LINEAGE_ORDER:
        if (rows["label"] == code).any():
            groups[code] = rows[rows["label"] == code]
    return {name: _group(members) for name, members in groups.items()}


def _group(rows: pd.DataFrame) -> dict[str, Any]:
    def figures(means: np.ndarray) -> np.ndarray:
        """Means [..., 9] to `FIGURES` of the regions: [..., 5, 3]."""
        share, area, elsewhere = np.moveaxis(means.reshape(*means.shape[:-1], 3, 3), -2, 0)
        ratio = np.divide(share, area, out=np.full_like(share, np.nan), where=area > 0)
        return np.stack([share, area, ratio, elsewhere, share - elsewhere], axis=-2)

    values = rows[SHARES + AREAS + ELSEWHERE].to_numpy(np.float64)
    if not len(values):
        estimate, ends = np.full((5, 3), np.nan), np.full((2, 5, 3), np.nan)
    else:
        estimate = figures(values.mean(axis=0))
        ends = np.percentile(figures(_replicated_means(values)), PERCENTILES, axis=0)
        if len(values) == 1:
            ends[:] = np.nan
    return {"images": len(values)} | {
        region: {
            name: {"value": _number(estimate[i, k]), "interval": to_json_interval(ends[:, i, k])}
            for i, name in enumerate(FIGURES)
        }
        for k, region in enumerate(REGIONS)
    }


def compute_mean_intervals(values: np.ndarray) -> np.ndarray:
    """95 % intervals of the means over images.

    Args:
      values: float array [images, columns].

    Returns:
      float array [columns, 2]; not-a-number for a single image.
    """
    if len(values) < 2:
        return np.full((values.shape[1], 2), np.nan)
    return np.percentile(_replicated_means(values), PERCENTILES, axis=0).T


def _replicated_means(values: np.ndarray) -> np.ndarray:
    """Float array [replicates, columns] of float array [images, columns]."""
    alike = np.zeros(len(values), np.int64)  # no strata: a class of one image would have no spread
    weights = np.concatenate([*draw_weights(alike, REPLICATES)])
    return weights.astype(np.float64) @ values / len(values)


def to_json_interval(interval: np.ndarray) -> list[float] | None:
    """An interval for JSON, which has no not-a-number."""
    return interval.tolist() if np.isfinite(interval).all() else None


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
