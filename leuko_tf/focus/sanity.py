"""Sanity check: do maps depend on the trained weights, or only on the image?

Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv 1810.03292: the same images and
classes are explained with a network of the same architecture and fresh weights. A method that
gives the same maps for it shows edges, and not what was learned.

Two maps are compared by Spearman's rank correlation of their pixels, without its sign (an inverted
map carries the same information), and by their structural similarity (SSIM). Neither is 0 for
unrelated maps: the networks look at cells in the middle of their images, and most of a map is
dark. The baseline is therefore the similarity to the fresh network's map of *another* image. A
method passes if, by both measures and with 95 % confidence, its maps of the same image lie nearer
to that baseline than to identity (1). An edge detector scores 1 and cannot pass.

The check gives no verdict for few images, nor where the baseline itself is close to 1, as for a
blob in the middle of every map. Fresh weights are drawn once. Passing proves nothing: noise, which
is never the same, passes too.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from leuko_tf.focus.shares import compute_mean_intervals, to_json_interval

MEASURES = ("spearman", "ssim")
MIN_IMAGES = 10  # with contrast, for a verdict
MAX_BASELINE = 0.8  # for a verdict; chosen: above it less than a fifth is left to 1


def measure_similarity(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Compares two maps, float arrays [height, width] of at least 7 pixels on a side.

    Returns:
      Spearman's correlation without its sign, 0 to 1, and the SSIM of the maps scaled to 0 to 1,
      -1 to 1; NaN where a map is constant.
    """
    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return float("nan"), float("nan")
    scaled = [(saliency - saliency.min()) / np.ptp(saliency) for saliency in (one, other)]
    correlation = abs(spearmanr(one, other, axis=None).statistic)
    return float(correlation), float(structural_similarity(*scaled, data_range=1.0))


def compare_maps(trained: Sequence[np.ndarray], fresh: Sequence[np.ndarray]) -> np.ndarray:
    """Compares a method's maps of several images with the fresh network's maps of the same images.

    Returns:
      float array [2, images, 2]: similarities by each of `MEASURES` to the fresh map of the same
      image, and to that of the next image; NaN where not defined.
    """
    shifted = [*fresh[1:], fresh[0]]
    pairs = (zip(trained, others, strict=True) for others in (fresh, shifted))
    return np.array([[measure_similarity(*pair) for pair in group] for group in pairs])


def check(similarities: np.ndarray) -> dict[str, Any]:
    """Checks whether a method passes, by the similarities of `compare_maps`.

    Returns:
      `images`, the number whose maps have contrast; `spearman` and `ssim`, each with `value` (mean
      over images) and `interval` for the same image, `unrelated` (the mean for another image),
      `threshold` (half of the way from there to 1) and `passed`; and `passed`: False if one of the
      measures failed, True if both passed. It is None without a verdict: with fewer than
      `MIN_IMAGES` images, or if `unrelated` is above `MAX_BASELINE`. Without images all figures are
      None.
    """
    same, unrelated = similarities[:, np.isfinite(similarities).all(axis=(0, 2))]
    result: dict[str, Any] = {"images": len(same)}
    if not len(same):
        nothing = dict.fromkeys(("value", "interval", "unrelated", "threshold", "passed"))
        return result | {name: nothing for name in MEASURES} | {"passed": None}
    intervals = compute_mean_intervals(same)
    # Upper ends of "how far above the middle between baseline and identity".
    excess = compute_mean_intervals(same - (unrelated + 1) / 2)[:, 1]
    for k, name in enumerate(MEASURES):
        baseline = unrelated[:, k].mean()
        has_verdict = len(same) >= MIN_IMAGES and baseline <= MAX_BASELINE
        result[name] = {
            "value": float(same[:, k].mean()),
            "interval": to_json_interval(intervals[k]),
            "unrelated": float(baseline),
            "threshold": float((baseline + 1) / 2),
            "passed": bool(excess[k] < 0) if has_verdict else None,
        }
    verdicts = [result[name]["passed"] for name in MEASURES]
    undecided = None in verdicts and False not in verdicts
    return result | {"passed": None if undecided else all(verdicts)}


def format_verdict(checked: Mapping[str, Any]) -> str:
    """The outcome of `check` in words."""
    if not checked["images"]:
        return "not measured"
    return {True: "passed", False: "FAILED", None: "no verdict"}[checked["passed"]]
