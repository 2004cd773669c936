"""Errors of probabilities, and temperatures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import few_examples, indices, plausible, softmax, some_examples, tables

from leuko_tf.metrics.calibration import (
    BINS,
    apply_temperature,
    compute_calibration,
    find_bin,
    fit_temperature,
    fit_temperatures_over_folds,
)
from leuko_tf.predictions import get_probabilities


def draw_labels(rng: np.random.Generator, scores: np.ndarray) -> np.ndarray:
    """Labels that have just these probabilities."""
    return (scores.cumsum(axis=1) < rng.uniform(size=(len(scores), 1))).sum(axis=1)


class TestErrors:
    def test_by_hand(self):
        """Four images, two in the last bin and two in the bin from 8/15 to 9/15."""
        scores = np.zeros((4, 15))
        scores[:, 0] = [0.98, 0.94, 0.55, 0.59]
        scores[:, 1] = 1 - scores[:, 0]
        figures = compute_calibration(np.array([0, 1, 0, 0]), scores)
        # Half of the images are right .5 and sure .96, half are right 1 and sure .57.
        expected = (2 * abs(0.5 - 0.96) + 2 * abs(1 - 0.57)) / 4
        assert figures["expected_calibration_error"] == pytest.approx(expected)
        distances = [2 * 0.02**2, 2 * 0.94**2, 2 * 0.45**2, 2 * 0.41**2]
        assert figures["brier"] == pytest.approx(np.mean(distances))
        assert figures["log_loss"] == pytest.approx(-np.log([0.98, 0.06, 0.55, 0.59]).mean())
        bins = figures["bins"]
        assert len(bins) == BINS
        assert bins[14] == pytest.approx(
            {"from": 14 / 15, "to": 1, "images": 2, "confidence": 0.96, "accuracy": 0.5}
        )
        assert bins[8] == pytest.approx(
            {"from": 8 / 15, "to": 9 / 15, "images": 2, "confidence": 0.57, "accuracy": 1}
        )
        assert bins[3] == {
            "from": 3 / 15, "to": 4 / 15, "images": 0, "confidence": None, "accuracy": None,
        }  # fmt: skip

    def test_an_edge_belongs_to_the_bin_below_it(self):
        edges = np.arange(1, BINS + 1) / BINS
        assert find_bin(edges).tolist() == list(range(BINS))
        assert find_bin(edges[:-1] + 1e-12).tolist() == list(range(1, BINS))
        assert find_bin(np.array([0.0])) == [0]

    @some_examples
    @given(tables())
    def test_the_calibration_error_is_that_of_a_loop_over_bins(self, table):
        labels, scores = indices(table), get_probabilities(table)
        scores = scores / scores.sum(axis=1, keepdims=True)
        confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
        error = 0.0
        for lower, upper in zip(np.arange(BINS) / BINS, np.arange(1, BINS + 1) / BINS, strict=True):
            inside = (confidence > lower) & (confidence <= upper)
            if inside.any():
                error += abs(right[inside].mean() - confidence[inside].mean()) * inside.mean()
        figures = compute_calibration(labels, scores)
        assert figures["expected_calibration_error"] == pytest.approx(error)
        assert sum(b["images"] for b in figures["bins"]) == len(table)

    @some_examples
    @given(tables())
    def test_brier_score_and_log_loss_are_those_of_their_definitions(self, table):
        labels, scores = indices(table), get_probabilities(table)
        scores = scores / scores.sum(axis=1, keepdims=True)
        wanted = np.eye(15)[labels]
        figures = compute_calibration(labels, scores)
        assert figures["brier"] == pytest.approx(np.square(scores - wanted).sum(axis=1).mean())
        of_label = scores[wanted == 1]
        if (of_label > 1e-37).all():
            assert figures["log_loss"] == pytest.approx(-np.log(of_label).mean(), abs=1e-12)

    def test_a_probability_that_was_rounded_to_0_costs_much_but_not_everything(self):
        scores = np.eye(15)[[3]]
        loss = compute_calibration(np.array([4]), scores)["log_loss"]
        assert loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))


class TestTemperature:
    """20,000 images: a temperature near 1 is then found to about 1 %."""

    IMAGES = 20_000

    @pytest.fixture
    def logits(self) -> np.ndarray:
        return np.random.default_rng(0).normal(0, 3, (self.IMAGES, 15))

    @pytest.mark.parametrize("true", [0.5, 1.0, 2.5])
    def test_the_fit_finds_the_temperature_that_the_labels_were_drawn_with(self, logits, true):
        labels = draw_labels(np.random.default_rng(1), softmax(logits / true))
        assert fit_temperature(labels, softmax(logits)) == pytest.approx(true, rel=0.03)

    def test_the_fit_mends_the_calibration(self, logits):
        labels, scores = draw_labels(np.random.default_rng(1), softmax(logits / 2)), softmax(logits)
        before = compute_calibration(labels, scores)
        after = compute_calibration(
            labels, apply_temperature(scores, fit_temperature(labels, scores))
        )
        assert before["expected_calibration_error"] > 0.1
        assert after["expected_calibration_error"] < 0.01
        assert after["log_loss"] < before["log_loss"]

    @few_examples
    @given(st.floats(0.5, 2), st.integers(0, 2**32 - 1))
    def test_a_network_tempered_by_t_wants_a_temperature_t_times_lower(self, t, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(15, size=300)
        scores = plausible(rng, labels)
        expected = fit_temperature(labels, scores) / t
        assert fit_temperature(labels, apply_temperature(scores, t)) == pytest.approx(
            expected, rel=1e-4
        )

    @few_examples
    @given(st.integers(0, 2**32 - 1))
    def test_no_other_temperature_has_a_lower_log_loss(self, seed):
        rng = np.random.default_rng(seed)
        labels = rng.integers(15, size=100)
        scores = plausible(rng, labels, skill=rng.uniform(0, 5), spread=rng.uniform(0.1, 5))

        def loss(temperature):
            return compute_calibration(labels, apply_temperature(scores, temperature))["log_loss"]

        best = loss(fit_temperature(labels, scores))
        assert all(best <= loss(t) + 1e-6 for t in np.geomspace(0.05, 20, 50))

    @some_examples
    @given(tables(), st.floats(0.5, 2), st.floats(0.5, 2))
    def test_tempering_keeps_probabilities_and_their_order(self, table, one, other):
        scores = get_probabilities(table)
        twice = apply_temperature(apply_temperature(scores, one), other)
        assert twice.sum(axis=1) == pytest.approx(np.ones(len(table)))
        assert (np.diff(np.take_along_axis(twice, scores.argsort(axis=1), 1), axis=1) >= 0).all()

    def test_tempering_twice_is_tempering_by_the_product_and_by_1_nothing(self):
        scores = np.random.default_rng(0).dirichlet(np.ones(15), 50)
        np.testing.assert_allclose(apply_temperature(scores, 1), scores)
        twice = apply_temperature(apply_temperature(scores, 1.9), 1 / 1.9)
        np.testing.assert_allclose(twice, scores)
        np.testing.assert_allclose(
            apply_temperature(apply_temperature(scores, 2), 3), apply_temperature(scores, 6)
        )


class TestTemperatureOverFolds:
    @pytest.fixture
    def labels(self) -> np.ndarray:
        return np.random.default_rng(0).integers(15, size=300)

    @pytest.fixture
    def scores(self, labels) -> np.ndarray:
        return plausible(np.random.default_rng(1), labels, skill=2, spread=3)

    FOLDS = np.arange(300) % 3 + 1

    def test_a_folds_temperature_does_not_depend_on_its_own_labels(self, labels, scores):
        changed = np.where(self.FOLDS == 2, (labels + 1) % 15, labels)
        one = fit_temperatures_over_folds(labels, scores, self.FOLDS)["folds"]
        two = fit_temperatures_over_folds(changed, scores, self.FOLDS)["folds"]
        assert one["2"]["temperature"] == two["2"]["temperature"]
        assert one["1"]["temperature"] != two["1"]["temperature"]

    def test_it_is_the_one_fitted_on_the_other_folds(self, labels, scores):
        received = fit_temperatures_over_folds(labels, scores, self.FOLDS)
        after = np.empty_like(scores)
        for k in (1, 2, 3):
            inside = k == self.FOLDS
            expected = fit_temperature(labels[~inside], scores[~inside])
            fold = received["folds"][str(k)]
            assert fold["temperature"] == expected
            after[inside] = apply_temperature(scores[inside], expected)
            for name, value in fold["before"].items():
                assert value == compute_calibration(labels[inside], scores[inside])[name]
            for name, value in fold["after"].items():
                assert value == compute_calibration(labels[inside], after[inside])[name]
        for name, value in received["before"].items():
            assert value == compute_calibration(labels, scores)[name]
        for name, value in received["after"].items():
            assert value == compute_calibration(labels, after)[name]

    def test_with_a_single_fold_there_is_none(self, labels, scores):
        assert fit_temperatures_over_folds(labels, scores, np.full(300, 4)) is None
