"""Insertion and deletion: does the answer depend on the pixels that a map highlights?

Pixels are deleted from the image, or inserted into an empty field, the most salient first, while
the probability of the answered class is recorded (Petsiuk et al. 2018, RISE, arXiv 1806.07421). A
good map makes it fall early under deletion (small area under the curve) and rise early under
insertion (large area).

Deleted pixels take the colour of the plasma, so that an image with all pixels deleted is an empty
field. RISE inserts into a blurred image instead, but that keeps the cell's size and stain, from
which a network can tell much. Here both curves run between the same two images.

Pixels of equal saliency change in random order, and so do all pixels of the baseline `RANDOM`. The
order is drawn for pixels of the network's input, which are larger than the image's where the image
is shrunk: single image pixels would average out, and fade the whole image instead of deleting
parts of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import auc

from leuko_tf.data.images import batched
from leuko_tf.focus.segmentation import estimate_plasma_colour
from leuko_tf.focus.shares import compute_mean_intervals, to_json_interval

CURVES = ("insertion", "deletion")
RANDOM = "random order"  # the baseline of the methods' curves
STEPS = 20
BATCH = 8  # images at once; bounds the memory, not the result


def sort_pixels(saliency: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorts pixels by falling saliency; equal ones at random, a network pixel at a time.

    Args:
      saliency: float array [side, side]; zeros for a wholly random order.
      size: Side of the network's input in pixels, each of which is a block of the map's.

    Returns:
      int array [side * side], indices into the flattened map.
    """
    own = rng.permutation(size * size).reshape(size, size)
    nearest = (2 * np.arange(len(saliency)) + 1) * size // (2 * len(saliency))
    enlarged = own[np.ix_(nearest, nearest)]
    return np.lexsort((enlarged.ravel(), -saliency.ravel()))


def compute_curves(
    predict: Callable[[np.ndarray], np.ndarray],
    image: np.ndarray,
    order: np.ndarray,
    answer: int,
    steps: int = STEPS,
) -> tuple[np.ndarray, np.ndarray]:
    """Records the probability of a class while pixels are inserted, and while they are deleted.

    Args:
      predict: From uint8 images [n, height, width, 3] to probabilities [n, classes].
      image: uint8 array [height, width, 3].
      order: int array [height * width]: the pixels, in the order in which they change.
      answer: Column of the probability to record.
      steps: Above 0. After k of them, k/steps of the pixels have changed.

    Returns:
      (insertion, deletion): float arrays [steps + 1].
    """
    empty = np.broadcast_to(estimate_plasma_colour(image).round().astype(np.uint8), image.shape)
    ranks = np.empty(image.shape[:2], np.int64)
    ranks.ravel()[order] = np.arange(order.size)
    changed = [ranks < round(order.size * k / steps) for k in range(steps + 1)]
    frames = [np.where(done[..., None], empty, image) for done in changed]
    frames += [np.where(done[..., None], image, empty) for done in changed[1:-1]]
    batches = batched(frames, BATCH)
    scores = np.concatenate([predict(np.stack(batch))[:, answer] for batch in batches])
    deletion = scores[: steps + 1]
    insertion = np.concatenate([deletion[-1:], scores[steps + 1 :], deletion[:1]])
    return insertion, deletion


def compute_area(curve: np.ndarray) -> float:
    """Area under a curve of `compute_curves`, 0 to 1, by the trapezoidal rule."""
    return float(auc(np.linspace(0, 1, len(curve)), curve))


def summarize_curves(curves: Mapping[str, Mapping[str, Sequence[np.ndarray]]]) -> dict[str, Any]:
    """Averages curves and the areas under them over images.

    Args:
      curves: Method or `RANDOM` to `insertion` and `deletion`: a curve for each image.

    Returns:
      `steps`, and `methods`: for each method `insertion` and `deletion`, with `curve`, the mean
      over images; `area` and its `interval`; `minus_random`, the difference to the random order of
      the same images, and `minus_random_interval`.
    """
    methods: dict[str, Any] = {method: {} for method in curves}
    for name in CURVES:
        by_chance = np.array([*map(compute_area, curves[RANDOM][name])])
        for method, pair in curves.items():
            area = np.array([*map(compute_area, pair[name])])
            both = np.stack([area, area - by_chance], axis=1)
            interval, minus_random_interval = compute_mean_intervals(both)
            methods[method][name] = {
                "curve": np.mean(pair[name], axis=0).tolist(),
                "area": float(both[:, 0].mean()),
                "interval": to_json_interval(interval),
                "minus_random": float(both[:, 1].mean()),
                "minus_random_interval": to_json_interval(minus_random_interval),
            }
    return {"steps": STEPS, "methods": methods}
