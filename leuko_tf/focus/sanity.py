"""Does a map tell about the trained network, or only about the image?

Adebayo et al. 2018, "Sanity checks for saliency maps", arXiv 1810.03292: the same images, and the
same classes, are explained with a network of the same construction whose weights are fresh. A
method that gives the same maps for it shows edges, and not what was learned.

Two maps of an image are compared by Spearman's rank correlation of their pixels, without its sign
(an inverted map tells the same), and by their structural similarity (SSIM). Neither is 0 where maps
have nothing in common, since the networks look at cells in the middle of their images and maps are
mostly dark. What maps have in common anyway is measured: it is the similarity to the fresh
network's map of *another* image. A method passes if its maps of the same image lie nearer to that
than to identity (1), with 95 % confidence, by both measures. An edge detector has 1 and cannot
pass.

Nothing can be told of few images, nor where maps of different images are as good as the same, such
as a blob in the middle: between that and identity there is no room. Fresh weights are drawn once.
To pass is no proof: noise, which is never the same, passes too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from leuko_tf.focus.shares import ends_of, intervals_of_means

MEASURES = ("spearman", "ssim")
FEWEST = 10  # images with contrast
NO_ROOM = 0.8  # similarity to another image's map; chosen: less than a fifth is left to 1


@dataclass(frozen=True)
class Similarities:
    """How alike maps of a trained and of a fresh network are; not-a-number where not defined.

    Attributes:
      same: float array [images, 2], of the same image, by each of `MEASURES`.
      unrelated: likewise, of the trained network's map and the fresh one's of the next image.
    """

    same: np.ndarray
    unrelated: np.ndarray


def similarity(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Rank correlation and SSIM of two maps; not-a-number where one of them has no contrast.

    Args:
      one: float array [height, width], at least 7 pixels on a side.
      other: likewise.

    Returns:
      (Spearman's correlation without its sign, 0 to 1; SSIM of the maps scaled to 0 to 1, -1 to 1).
    """
    if not (np.ptp(one) > 0 and np.ptp(other) > 0):
        return float("nan"), float("nan")
    scaled = [(saliency - saliency.min()) / np.ptp(saliency) for saliency in (one, other)]
    correlation = abs(spearmanr(one, other, axis=None).statistic)
    return float(correlation), float(structural_similarity(*scaled, data_range=1.0))


def compare(trained: Sequence[np.ndarray], fresh: Sequence[np.ndarray]) -> Similarities:
    """Compares a method's maps of the trained network with those of a fresh one.

    Args:
      trained: maps of several images, float arrays [height, width].
      fresh: of the same images, with fresh weights.
    """
    others = [*fresh[1:], fresh[0]]
    return Similarities(
        same=np.array([similarity(a, b) for a, b in zip(trained, fresh, strict=True)]),
        unrelated=np.array([similarity(a, b) for a, b in zip(trained, others, strict=True)]),
    )


def check(similarities: Similarities) -> dict[str, Any]:
    """Whether a method passes.

    Args:
      similarities: of its maps.

    Returns:
      JSON-like dict: `images`, of those whose maps have contrast; `spearman` and `ssim`, each with
      `value` (mean over images) and `interval` for the same image, `unrelated` (the mean for
      another image), `threshold` (half of the way from there to 1) and `passed`; `passed`, false if
      one of both is, true if both are. It is None where that cannot be told: with fewer than
      `FEWEST` images, or if `unrelated` is above `NO_ROOM`. Without images all figures are None.
    """
    same, unrelated = similarities.same, similarities.unrelated
    defined = np.isfinite(same).all(axis=1) & np.isfinite(unrelated).all(axis=1)
    same, unrelated = same[defined], unrelated[defined]
    result: dict[str, Any] = {"images": len(same)}
    if not len(same):
        nothing = dict.fromkeys(("value", "interval", "unrelated", "threshold", "passed"))
        return result | {name: nothing for name in MEASURES} | {"passed": None}
    between = intervals_of_means(same)
    above = intervals_of_means(same - (unrelated + 1) / 2)[:, 1]
    for k, name in enumerate(MEASURES):
        tells = len(same) >= FEWEST and unrelated[:, k].mean() <= NO_ROOM
        result[name] = {
            "value": float(same[:, k].mean()),
            "interval": ends_of(between[k]),
            "unrelated": float(unrelated[:, k].mean()),
            "threshold": float((unrelated[:, k].mean() + 1) / 2),
            "passed": bool(above[k] < 0) if tells else None,
        }
    verdicts = [result[name]["passed"] for name in MEASURES]
    if None in verdicts and False not in verdicts:
        return result | {"passed": None}
    return result | {"passed": all(verdicts)}


def verdict(checked: Mapping[str, Any]) -> str:
    """What `check` found, in words."""
    if not checked["images"]:
        return "not measured"
    return {True: "passed", False: "FAILED", None: "cannot tell"}[checked["passed"]]
