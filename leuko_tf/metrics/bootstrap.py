"""95 % bootstrap intervals over images, stratified by class.

Each replicate draws, within each class, as many images as the class has, with replacement. How
often an image was drawn is its weight. All figures are functions of sums of weights, which one
matrix product gives for many replicates at once. Intervals are the 2.5th and 97.5th percentiles.

If all images of a class are answered right (or all wrong), no replicate differs: the interval has
no width, however few images there are. The expected calibration error has no interval, because
resampling raises it: 300 images with an error of .015 had an interval of .017 to .039.

In all functions `labels` is int [n], indices of classes, and `scores` float [n, 15], probabilities.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from leuko_tf.classes import CODES, QUESTIONS
from leuko_tf.metrics.answers import find_two_most_probable, merge_coarse_types
from leuko_tf.metrics.calibration import compute_log_losses
from leuko_tf.metrics.questions import compute_question_score

REPLICATES = 2000
SEED = 0
CHUNK = 200  # replicates at once; limits memory, does not change the result
PERCENTILES = (2.5, 97.5)

COARSE_FIGURES = ("accuracy", "balanced_accuracy", "macro_f1")
# Averages of one number for each image.
AVERAGES = (("overall", "top2_accuracy"), ("calibration", "brier"), ("calibration", "log_loss"))

# Nested key of a figure, such as ("classes", "NGS", "precision").
Path = tuple[str, ...]


def bootstrap_intervals(
    labels: np.ndarray, scores: np.ndarray, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Computes intervals of the figures of `leuko_tf.metrics.summary.compute_figures`.

    Returns [lower, upper] at each figure's nested key: `overall`, `coarse`, `classes`, `questions`
    (average precision, and the figures at threshold 0.5) and `calibration`. None where the figure
    is undefined in some replicate. Classes without images, and questions without images of both
    kinds, are left out.
    """
    return _compute_percentiles(_compute_replicates(labels, scores, replicates))


def bootstrap_differences(
    labels: np.ndarray, scores: np.ndarray, others: np.ndarray, replicates: int = REPLICATES
) -> dict[str, Any]:
    """Computes intervals of the differences between two networks, first minus second.

    Both are evaluated on the same replicates. `others` are the second network's probabilities, row
    for row of the same images. Returns a dict as `bootstrap_intervals` does.
    """
    one, other = (_compute_replicates(labels, s, replicates) for s in (scores, others))
    return _compute_percentiles({path: one[path] - other[path] for path in one})


def draw_weights(labels: np.ndarray, replicates: int) -> Iterator[np.ndarray]:
    """Draws how often each replicate contains each image; equal labels give equal weights.

    Yields float32 arrays [up to 200, n] of whole numbers, `replicates` rows in all. Within each
    class a row sums to the class's number of images.
    """
    rng = np.random.default_rng(SEED)
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    for start in range(0, replicates, CHUNK):
        weights = np.zeros((min(CHUNK, replicates - start), len(labels)), np.float32)
        for images in members:
            for row in weights:
                drawn = rng.integers(len(images), size=len(images))
                row[images] = np.bincount(drawn, minlength=len(images))
        yield weights


def _compute_replicates(
    labels: np.ndarray, scores: np.ndarray, replicates: int
) -> dict[Path, np.ndarray]:
    """Computes every figure of every replicate: float arrays [replicates]."""
    weighted = _WeightedFigures(labels, scores)
    chunks = [weighted(weights) for weights in draw_weights(labels, replicates)]
    return {path: np.concatenate([chunk[path] for chunk in chunks]) for path in chunks[0]}


def _compute_percentiles(replicated: dict[Path, np.ndarray]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, values in replicated.items():
        *groups, name = path
        inside = tree
        for group in groups:
            inside = inside.setdefault(group, {})
        defined = np.isfinite(values).all()
        inside[name] = np.percentile(values, PERCENTILES).tolist() if defined else None
    return tree


class _WeightedFigures:
    """Computes figures from weights of images; what is independent of the weights is kept."""

    def __init__(self, labels: np.ndarray, scores: np.ndarray):
        shares = scores / scores.sum(axis=1, keepdims=True)  # as in `compute_calibration`
        types, type_scores = merge_coarse_types(labels, scores)
        columns = [
            _mark_cells(labels, scores),
            _mark_cells(types, type_scores),
            (labels[:, None] == find_two_most_probable(scores)).any(axis=1),
            ((shares - np.eye(len(CODES))[labels]) ** 2).sum(axis=1),
            compute_log_losses(labels, shares),
        ]
        self._columns = np.column_stack(columns).astype(np.float32)
        self._questions = {}
        for name, codes in QUESTIONS.items():
            positive = np.isin(labels, [CODES.index(code) for code in codes])
            if positive.any() and not positive.all():
                self._questions[name] = _WeightedQuestion(
                    positive, compute_question_score(scores, codes)
                )

    def __call__(self, weights: np.ndarray) -> dict[Path, np.ndarray]:
        """Figures [replicates] of weights [replicates, n]."""
        sums = (weights @ self._columns).astype(np.float64)
        cells = len(CODES) ** 2
        counts, coarse_counts, totals = np.split(sums, [cells, 2 * cells], axis=1)
        coarse = _compute_from_counts(coarse_counts)
        figures = _compute_from_counts(counts)
        figures |= {("coarse", name): coarse["overall", name] for name in COARSE_FIGURES}
        figures |= zip(AVERAGES, totals.T / weights.shape[1], strict=True)
        for name, question in self._questions.items():
            of_question = question(weights).items()
            figures |= {("questions", name, *path): values for path, values in of_question}
        return figures


def _mark_cells(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Marks each image's cell of the flattened confusion matrix: one-hot, [n, 225]."""
    cells = labels * len(CODES) + scores.argmax(axis=1)
    return np.eye(len(CODES) ** 2, dtype=np.float32)[cells]


def _compute_from_counts(counts: np.ndarray) -> dict[Path, np.ndarray]:
    """Computes figures from flattened confusion matrices [replicates, 225], labels in rows."""
    counts = counts.reshape(-1, len(CODES), len(CODES))
    total = counts.sum(axis=(1, 2))
    of_label, of_answer = counts.sum(axis=2), counts.sum(axis=1)
    right = np.diagonal(counts, axis1=1, axis2=2)
    present = of_label[0] > 0  # the same in every replicate, because of the stratification
    precision = _divide(right, of_answer, otherwise=0)
    sensitivity = _divide(right, of_label, otherwise=0)
    f1 = _divide(2 * right, of_label + of_answer, otherwise=0)
    negatives = total[:, None] - of_label
    specificity = 1 - _divide(of_answer - right, negatives, otherwise=np.nan)

    accuracy = right.sum(axis=1) / total
    by_chance = (of_label * of_answer).sum(axis=1) / total**2
    # Matthews' correlation for several classes: Gorodkin 2004, Comput. Biol. Chem. 28:367.
    spreads = [1 - (sums**2).sum(axis=1) / total**2 for sums in (of_label, of_answer)]
    # scikit-learn gives a correlation of 0 where all answers are of one class.
    correlation = _divide(accuracy - by_chance, np.sqrt(spreads[0] * spreads[1]), otherwise=0)
    kappa = _divide(accuracy - by_chance, 1 - by_chance, otherwise=np.nan)
    figures: dict[Path, np.ndarray] = {
        ("overall", "accuracy"): accuracy,
        ("overall", "balanced_accuracy"): sensitivity[:, present].mean(axis=1),
        ("overall", "macro_f1"): f1[:, present].mean(axis=1),
        ("overall", "weighted_f1"): (f1 * of_label).sum(axis=1) / total,
        ("overall", "cohen_kappa"): kappa,
        ("overall", "matthews_correlation"): np.where(np.isnan(kappa), np.nan, correlation),
    }
    of_classes = {
        "precision": precision,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "f1": f1,
    }
    for i in np.flatnonzero(present):
        figures |= {("classes", CODES[i], name): v[:, i] for name, v in of_classes.items()}
    return figures


class _WeightedQuestion:
    """Computes average precision and the figures at threshold 0.5 from weights of images."""

    def __init__(self, positive: np.ndarray, score: np.ndarray):
        self._order = np.argsort(-score, kind="stable")
        self._positive = positive[self._order].astype(np.float32)
        descending = score[self._order]
        # The curve has one point for each run of equal scores, at its end.
        self._ends = np.flatnonzero(np.append(np.diff(descending) != 0, True)) + 1
        self._called = int((score >= 0.5).sum())

    def __call__(self, weights: np.ndarray) -> dict[Path, np.ndarray]:
        # Column k counts the k highest scores. Whole numbers below 2^24 are exact in float32.
        weights = weights[:, self._order]
        called, true = (
            np.cumsum(np.pad(each, ((0, 0), (1, 0))), axis=1)
            for each in (weights, weights * self._positive)
        )
        positives, total = true[:, -1], called[:, -1]
        precision = _divide(true[:, self._ends], called[:, self._ends], otherwise=0)
        gained = np.diff(true[:, self._ends], axis=1, prepend=0) / positives[:, None]
        called_at, true_at = called[:, self._called], true[:, self._called]
        half = ("operating_points", "threshold 0.5")
        return {
            ("average_precision",): (precision * gained).sum(axis=1),
            (*half, "sensitivity"): true_at / positives,
            (*half, "specificity"): 1 - (called_at - true_at) / (total - positives),
            (*half, "precision"): _divide(true_at, called_at, otherwise=0),
        }


def _divide(upper: np.ndarray, lower: np.ndarray, otherwise: float) -> np.ndarray:
    """Divides; gives `otherwise` where the divisor is 0."""
    filled = np.full(np.broadcast_shapes(upper.shape, lower.shape), otherwise, np.float64)
    return np.divide(upper, lower, out=filled, where=lower > 0)
