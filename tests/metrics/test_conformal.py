"""Prediction sets: their thresholds, and that they are right as often as they promise."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prediction_tables import few_examples, indices, plausible, some_examples, tables

from leuko_tf.classes import CODES
from leuko_tf.metrics.selective import compute_conformal_sets, compute_conformal_threshold
from leuko_tf.predictions import get_probabilities


class TestThreshold:
    def test_by_hand(self):
        errors = np.array([0.5, 0.1, 0.9, 0.3, 0.7, 0.2, 0.8, 0.4, 0.6])
        assert compute_conformal_threshold(errors, 0.9) == 0.9  # the 9th: 10 * .9
        assert compute_conformal_threshold(errors, 0.8) == 0.8
        assert (
            compute_conformal_threshold(errors, 0.75) == 0.8
        )  # 7.5, and never less than the level
        assert compute_conformal_threshold(errors, 0.95) == np.inf  # the 10th of 9

    @some_examples
    @given(st.integers(0, 2000), st.integers(1, 99))
    @example(99, 7)  # 100 * .07 comes out above 7
    def test_its_rank_is_that_of_whole_numbers(self, n, percent):
        rank = -(-(n + 1) * percent // 100)
        expected = rank if rank <= n else np.inf
        assert compute_conformal_threshold(np.arange(n, 0, -1), percent / 100) == expected

    @pytest.mark.parametrize(("level", "least"), [(0.9, 9), (0.95, 19)])
    def test_it_is_infinite_where_there_are_too_few_images(self, level, least):
        assert compute_conformal_threshold(np.zeros(least - 1), level) == np.inf
        assert compute_conformal_threshold(np.zeros(least), level) == 0

    @pytest.mark.parametrize("n", [30, 59, 200])
    def test_a_new_image_is_below_it_with_the_level_and_hardly_more(self, n):
        """Of even errors the threshold is itself the share below it.

        Its mean over calibrations is rank / (n + 1), and its SD that of an order statistic.
        """
        rng, level, draws = np.random.default_rng(n), 0.9, 4000
        mean = np.mean(
            [compute_conformal_threshold(rng.uniform(size=n), level) for _ in range(draws)]
        )
        error = 4 * np.sqrt(level * (1 - level) / n / draws)
        assert level - error <= mean <= level + 1 / (n + 1) + error


def average_coverage(folds_of, labels, scores, draws: int) -> tuple[dict, dict]:
    """Means over random folds of each level's and method's coverage, and their errors."""
    rng = np.random.default_rng(0)
    seen: dict[tuple[float, str], list[float]] = {}
    for _ in range(draws):
        for row in compute_conformal_sets(labels, scores, folds_of(rng)):
            seen.setdefault((row["level"], row["method"]), []).append(row["coverage"])
    return (
        {key: np.mean(values) for key, values in seen.items()},
        {key: np.std(values) / np.sqrt(draws) for key, values in seen.items()},
    )


class TestCoverage:
    """On folds drawn at random the promise holds for any table: here over 200 such draws."""

    DRAWS = 200

    def test_a_threshold_for_all_is_right_as_often_as_it_promises(self):
        rng = np.random.default_rng(0)
        labels = rng.choice([0, 2, 7, 9], 250, p=[0.5, 0.2, 0.2, 0.1])
        scores = rng.dirichlet(np.ones(15), 250) * 0.5 + np.eye(15)[labels] * 0.5

        def folds_of(rng):
            return rng.permutation(np.arange(250) % 5)

        mean, error = average_coverage(folds_of, labels, scores, self.DRAWS)
        for level in (0.9, 0.95):
            key = (level, "marginal")
            slack = 4 * error[key]
            assert level - slack <= mean[key] <= level + 1 / (200 + 1) + slack

    def test_a_threshold_for_each_class_is_right_within_each(self):
        rng = np.random.default_rng(0)
        labels = np.repeat([0, 7], [150, 50])
        # Myeloblasts are far harder: one threshold for all would fail them.
        scores = plausible(rng, labels, skill=3)
        scores[labels == 7] = plausible(rng, labels[labels == 7], skill=0)

        def folds_of(rng):  # as many images of a class in each fold
            return np.concatenate([rng.permutation(np.arange(n) % 5) for n in (150, 50)])

        seen: dict[str, dict[str, list[float]]] = {}
        for _ in range(self.DRAWS):
            for row in compute_conformal_sets(labels, scores, folds_of(rng))[:2]:
                for code in ("NGS", "MYO"):
                    of_method = seen.setdefault(row["method"], {}).setdefault(code, [])
                    of_method.append(row["classes"][code])
        for code, calibration_images in (("NGS", 120), ("MYO", 40)):
            values = seen["by_class"][code]
            slack = 4 * np.std(values) / np.sqrt(self.DRAWS)
            assert 0.9 - slack <= np.mean(values) <= 0.9 + 1 / (calibration_images + 1) + slack
        assert np.mean(seen["marginal"]["MYO"]) < 0.8


@few_examples
@given(tables(min_size=2))
def test_the_sets_are_those_of_asking_every_class_of_every_image(table):
    labels, scores, folds = indices(table), get_probabilities(table), table["fold"].to_numpy()
    figures = compute_conformal_sets(labels, scores, folds)
    if len(set(folds)) == 1:
        assert figures is None
        return
    assert [(row["level"], row["method"]) for row in figures] == [
        (0.90, "marginal"), (0.90, "by_class"), (0.95, "marginal"), (0.95, "by_class"),
    ]  # fmt: skip
    for row in figures:
        covered, sizes = [], []
        for label, score, fold in zip(labels, scores, folds, strict=True):
            others = folds != fold
            inside = []
            for i in range(len(CODES)):
                kept = others & (labels == i) if row["method"] == "by_class" else others
                errors = np.array([1 - scores[j, labels[j]] for j in np.flatnonzero(kept)])
                inside.append(1 - score[i] <= compute_conformal_threshold(errors, row["level"]))
            covered.append(inside[label])
            sizes.append(sum(inside))
        covered, sizes = np.array(covered), np.array(sizes)
        assert row["coverage"] == pytest.approx(covered.mean())
        assert row["mean_size"] == pytest.approx(sizes.mean())
        assert row["empty"] == pytest.approx((sizes == 0).mean())
        assert row["single"] == pytest.approx((sizes == 1).mean())
        assert row["folds"] == {
            str(fold): pytest.approx(covered[folds == fold].mean()) for fold in sorted(set(folds))
        }
        for i, code in enumerate(CODES):
            of_class = covered[labels == i]
            expected = pytest.approx(of_class.mean()) if len(of_class) else None
            assert row["classes"][code] == expected


def test_where_there_are_too_few_images_every_class_is_in_every_set():
    labels, scores = np.array([0, 1, 2, 3]), np.eye(15)[[0, 1, 2, 3]]
    for row in compute_conformal_sets(labels, scores, np.array([1, 1, 2, 2])):
        assert (row["coverage"], row["mean_size"], row["empty"], row["single"]) == (1, 15, 0, 0)


def test_classes_with_too_few_images_to_calibrate_are_named_and_in_every_set():
    """Nine images allow a level of .90; .95 needs nineteen."""
    rng = np.random.default_rng(0)
    labels = np.repeat([CODES.index("NGS"), CODES.index("LYA")], [60, 22])
    folds = np.tile([1, 2], 41)  # eleven of LYA in each: too few for .95, enough for .90
    by_class = {
        sets["level"]: sets
        for sets in compute_conformal_sets(labels, plausible(rng, labels), folds)
        if sets["method"] == "by_class"
    }
    never_seen = [code for code in CODES if code not in ("NGS", "LYA")]
    assert by_class[0.90]["always"] == never_seen
    assert by_class[0.95]["always"] == [c for c in CODES if c != "NGS"]
    assert by_class[0.95]["classes"]["LYA"] == 1
    assert by_class[0.95]["mean_size"] >= 14
