"""Bootstrap intervals: exactly those of repeated rows, and those of SciPy's bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from prediction_tables import (
    few_examples,
    indices,
    leaves,
    plausible,
    some_examples,
    table_of,
    tables,
)
from scipy.stats import bootstrap
from sklearn import metrics as sk

from leuko_tf.classes import BLAST, CODES, INDEX
from leuko_tf.metrics.bootstrap import (
    CHUNK,
    bootstrap_differences,
    bootstrap_intervals,
    draw_weights,
)
from leuko_tf.metrics.headline import get_nested
from leuko_tf.metrics.questions import compute_question_score
from leuko_tf.metrics.summary import compute_figures
from leuko_tf.predictions import get_probabilities

REPLICATES = 5
# Sums over images are made in float32.
ROUNDING = {"rel": 1e-6, "abs": 1e-6}


def list_places(tree) -> list[tuple[str, ...]]:
    """Where the tree's figures stand, each once."""
    return list(dict.fromkeys(place for place, _ in leaves(tree)))


def evaluate_repeated_rows(table, replicates: int) -> list[dict]:
    """The figures, by scikit-learn, of every replicate's images written out."""
    rows = np.arange(len(table))
    drawn = np.concatenate([*draw_weights(indices(table), replicates)]).astype(int)
    return [compute_figures(table.iloc[np.repeat(rows, weights)]) for weights in drawn]


class TestWeights:
    @some_examples
    @given(tables())
    def test_every_replicate_has_as_many_images_of_each_class_as_there_are(self, table):
        labels = indices(table)
        weights = np.concatenate([*draw_weights(labels, REPLICATES)])
        assert weights.shape == (REPLICATES, len(labels))
        np.testing.assert_array_equal(weights, weights.round())
        for label in np.unique(labels):
            assert (weights[:, labels == label].sum(axis=1) == (labels == label).sum()).all()

    def test_they_come_in_chunks_and_are_as_many_as_asked_for(self):
        chunks = [len(w) for w in draw_weights(np.zeros(3, int), 2 * CHUNK + 1)]
        assert chunks == [CHUNK, CHUNK, 1]

    def test_an_image_is_drawn_as_often_as_chance_has_it(self):
        """Once on the average, with the variance of drawing 10 times out of 10."""
        weights = np.concatenate([*draw_weights(np.zeros(10, int), 4000)])
        assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=4 * np.sqrt(0.9 / 4000))
        assert weights.var() == pytest.approx(0.9, rel=0.03)

    def test_they_are_the_same_each_time(self):
        labels = np.arange(30) % 4
        one, two = (np.concatenate([*draw_weights(labels, 7)]) for _ in range(2))
        np.testing.assert_array_equal(one, two)


def assert_intervals_are_those_of_repeated_rows(table) -> None:
    repeated = evaluate_repeated_rows(table, REPLICATES)
    intervals = bootstrap_intervals(indices(table), get_probabilities(table), REPLICATES)
    for place in list_places(intervals):
        values = [get_nested(replicate, place) for replicate in repeated]
        interval = get_nested(intervals, place)
        if None in values:
            assert interval is None, place
        else:
            expected = np.percentile(values, [2.5, 97.5])
            assert interval == pytest.approx(expected, **ROUNDING), place


class TestAgainstRepeatedRows:
    @few_examples
    @given(tables())
    def test_intervals_are_the_percentiles_of_the_repeated_rows_figures(self, table):
        assert_intervals_are_those_of_repeated_rows(table)

    def test_equal_scores_and_scores_of_just_one_half_make_no_exception(self):
        rng = np.random.default_rng(0)
        labels = rng.choice([INDEX["NGS"], INDEX["MYO"]], 80)
        scores = np.zeros((80, 15))
        scores[:, INDEX["MYO"]] = rng.integers(0, 5, 80) / 4
        scores[:, INDEX["NGS"]] = 1 - scores[:, INDEX["MYO"]]
        assert_intervals_are_those_of_repeated_rows(table_of([CODES[i] for i in labels], scores))

    def test_sums_of_probabilities_that_are_not_quite_1_make_no_exception(self):
        rng = np.random.default_rng(0)
        labels = rng.integers(15, size=80)
        scores = plausible(rng, labels).round(3)
        assert_intervals_are_those_of_repeated_rows(table_of([CODES[i] for i in labels], scores))

    @few_examples
    @given(tables(min_size=2))
    def test_every_figure_has_its_interval(self, table):
        """But the AUC, which has DeLong's, points whose thresholds are found on the images, and the
        calibration error, which resampling raises.
        """
        pooled = compute_figures(table)
        expected = {
            *(("overall", name) for name in pooled["overall"] if name != "classes_with_images"),
            *(("coarse", name) for name in pooled["coarse"] if name != "types_with_images"),
            *(("calibration", name) for name in ("brier", "log_loss")),
        }
        for code in table["label"].unique():
            names = ("precision", "sensitivity", "specificity", "f1")
            expected |= {("classes", code, name) for name in names}
        for question, values in pooled["questions"].items():
            if values["roc_auc"] is not None:
                half = ("questions", question, "operating_points", "threshold 0.5")
                names = ("sensitivity", "specificity", "precision")
                expected |= {(*half, name) for name in names}
                expected |= {("questions", question, "average_precision")}
        intervals = bootstrap_intervals(indices(table), get_probabilities(table), REPLICATES)
        assert set(list_places(intervals)) == expected

    def test_differences_are_the_percentiles_of_the_repeated_rows_differences(self):
        rng = np.random.default_rng(0)
        labels = rng.choice([0, 4, 7], 60)
        codes = [CODES[i] for i in labels]
        table, other = (table_of(codes, plausible(rng, labels, skill)) for skill in (2, 1))
        pairs = [
            *zip(evaluate_repeated_rows(table, 8), evaluate_repeated_rows(other, 8), strict=True)
        ]
        differences = bootstrap_differences(
            labels, get_probabilities(table), get_probabilities(other), replicates=8
        )
        for place in list_places(differences):
            values = [get_nested(one, place) - get_nested(two, place) for one, two in pairs]
            expected = np.percentile(values, [2.5, 97.5])
            assert get_nested(differences, place) == pytest.approx(expected, **ROUNDING), place

    @few_examples
    @given(tables())
    def test_a_network_does_not_differ_from_itself(self, table):
        labels, scores = indices(table), get_probabilities(table)
        for place, value in leaves(bootstrap_differences(labels, scores, scores, REPLICATES)):
            assert value in (0, None), place


class TestAgainstSciPy:
    """400 images of four classes, one sample a class: SciPy, too, then resamples within classes."""

    @pytest.fixture
    def labels(self) -> np.ndarray:
        classes = [INDEX[code] for code in ("NGS", "MYO", "MON", "MOB")]
        return np.repeat(classes, [180, 120, 70, 30])

    @pytest.fixture
    def scores(self, labels) -> np.ndarray:
        return plausible(np.random.default_rng(1), labels)

    def test_intervals_agree_within_the_error_of_simulation(self, labels, scores):
        """A percentile's standard error is sqrt(q (1 - q) / B) / density, for a normal figure
        2.67 SD / sqrt(B): with B = 500 there and 2000 here .133 SD in all, and an interval is
        3.92 SD wide. Four such errors are .136 of the width.
        """
        answers, blast = scores.argmax(axis=1), compute_question_score(scores, BLAST)
        places = (
            ("overall", "balanced_accuracy"),
            ("overall", "macro_f1"),
            ("overall", "cohen_kappa"),
            ("classes", "MYO", "precision"),
            ("questions", "blast", "average_precision"),
        )

        def statistic(*samples):
            rows = np.concatenate(samples)
            truth, answered = labels[rows], answers[rows]
            one = {"labels": [INDEX["MYO"]], "average": None}
            present = {"labels": np.unique(labels), "average": "macro"}
            return np.array([
                sk.recall_score(truth, answered, **present),
                sk.f1_score(truth, answered, **present),
                sk.cohen_kappa_score(truth, answered),
                sk.precision_score(truth, answered, **one)[0],
                sk.average_precision_score(
                    np.isin(truth, [INDEX[code] for code in BLAST]), blast[rows]
                ),
            ])  # fmt: skip

        theirs = bootstrap(
            [np.flatnonzero(labels == label) for label in np.unique(labels)],
            statistic,
            n_resamples=500,
            method="percentile",
            vectorized=False,
            rng=np.random.default_rng(2),
        ).confidence_interval
        ours = bootstrap_intervals(labels, scores)
        for place, low, high in zip(places, theirs.low, theirs.high, strict=True):
            tolerance = 0.136 * (high - low)
            assert get_nested(ours, place) == pytest.approx([low, high], abs=tolerance), place

    def test_the_accuracys_interval_is_that_of_binomial_counts_in_each_class(self, labels, scores):
        right = scores.argmax(axis=1) == labels
        variance = (
            sum(
                right[labels == label].mean() * (1 - right[labels == label].mean()) * count
                for label, count in zip(*np.unique(labels, return_counts=True), strict=True)
            )
            / len(labels) ** 2
        )
        lower, upper = bootstrap_intervals(labels, scores)["overall"]["accuracy"]
        assert upper - lower == pytest.approx(2 * 1.96 * np.sqrt(variance), rel=0.1)
        assert (lower + upper) / 2 == pytest.approx(right.mean(), abs=0.005)


def test_a_class_answered_all_right_has_an_interval_without_width():
    labels = np.array([0] * 5 + [7] * 5)
    scores = np.eye(15)[labels]
    interval = bootstrap_intervals(labels, scores, REPLICATES)["classes"]["NGS"]["sensitivity"]
    assert interval == [1, 1]
