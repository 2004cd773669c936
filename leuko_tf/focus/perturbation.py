"""Insertion and deletion: does the network's answer hang on the pixels that a map points at?

Pixels are deleted in the order of saliency, or inserted into an empty field, and the probability of
the answered class is followed (Petsiuk et al. 2018, RISE, arXiv 1806.07421). A map that finds what
the answer rests on makes it fall early in the first case, so that the area under the curve is
small, and rise early in the second.

Deleted pixels take the colour of the plasma: it is what lies where no cell is, so that an image
with all pixels deleted is an empty field. A blurred image, RISE's start of insertion, would keep
the cell's size and stain, from which a network can tell much. Both curves thus run between the
same two images.

What maps leave open is decided at random, and so is all of the order that they are compared with:
by the network's own pixels, which are larger than the image's where it looks at less than all of
them. Pixels of the image, taken one by one, would vanish when it is shrunk to the network's input:
that would fade the whole image evenly, and delete nothing.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from sklearn.metrics import auc

from leuko_tf.focus.segmentation import plasma_colour
from leuko_tf.focus.shares import ends_of, intervals_of_means

CURVES = ("insertion", "deletion")
RANDOM = "random order"  # what the methods' curves are compared with
STEPS = 20
BATCH = 8  # images at once; bounds the memory, not the result


def pixel_order(saliency: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels by saliency, the most salient first; equal ones at random, by the network's pixels.

    Args:
      saliency: float array [side, side]; zeros for an order that is random throughout.
      size: int. Side of the network's input in pixels, of which each is a block of the map's.
      rng: of the order of equal pixels.

    Returns:
      int array [side * side], indices into the flattened map.
    """
    own = rng.permutation(size * size).reshape(size, size)
    nearest = (2 * np.arange(len(saliency)) + 1) * size // (2 * len(saliency))
    enlarged = own[np.ix_(nearest, nearest)]
    return np.lexsort((enlarged.ravel(), -saliency.ravel()))


def curves(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    order: np.ndarray,
    answer: int,
    steps: int = STEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """The probability of a class while pixels are inserted, and while they are deleted.

    Args:
      predict: from uint8 images [n, height, width, 3] to probabilities [n, classes].
      image: uint8 array [height, width, 3].
      order: int array [height * width]: the pixels, in the order in which they change.
      answer: column of the probability to follow.
      steps: int above 0. After k of them, k/steps of the pixels have changed.

    Returns:
      (insertion, deletion): float arrays [steps + 1].
    """
    empty = np.broadcast_to(plasma_colour(image).round().astype(np.uint8), image.shape)
    moments = np.empty(image.shape[:2], np.int64)
    moments.ravel()[order] = np.arange(order.size)
    changed = [moments < round(order.size * k / steps) for k in range(steps + 1)]
    frames = [np.where(done[..., None], empty, image) for done in changed]
    frames += [np.where(done[..., None], image, empty) for done in changed[1:-1]]
    followed = np.concatenate(
        [
            predict(np.stack(frames[start : start + BATCH]))[:, answer]
            for start in range(0, len(frames), BATCH)
        ]
    )
    deletion = followed[: steps + 1]
    insertion = np.concatenate([deletion[-1:], followed[steps + 1 :], deletion[:1]])
    return insertion, deletion


def area(curve: np.ndarray) -> float:
    """Area under a curve of `curves`, 0 to 1, by the trapezoidal rule."""
    return float(auc(np.linspace(0, 1, len(curve)), curve))


def curve_figures(followed: Mapping[str, Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """Mean curves and the areas under them.

    Args:
      followed: method or `RANDOM` to `insertion` and `deletion`: float arrays [images, steps + 1].

    Returns:
      `steps`, and for each method `insertion` and `deletion`: `curve`, the mean over images;
      `area` and its `interval`; `minus_random`, of the same images, with `minus_random_interval`.
    """
    areas = {
        method: {name: np.array([*map(area, curves[name])]) for name in CURVES}
        for method, curves in followed.items()
    }
    figures: dict[str, Any] = {"steps": STEPS, "methods": {}}
    for method, curves in followed.items():
        figures["methods"][method] = {}
        for name in CURVES:
            both = np.stack([areas[method][name], areas[method][name] - areas[RANDOM][name]], 1)
            own, beside = intervals_of_means(both)
            figures["methods"][method][name] = {
                "curve": curves[name].mean(axis=0).tolist(),
                "area": float(both[:, 0].mean()),
                "interval": ends_of(own),
                "minus_random": float(both[:, 1].mean()),
                "minus_random_interval": ends_of(beside),
            }
    return figures
