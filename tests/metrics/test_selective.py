"""Abstention: accuracy against coverage."""

import numpy as np
import pytest
from hypothesis import given
from prediction_tables import indices, some_examples, tables

from leuko_tf.classes import CODES
from leuko_tf.metrics.selective import ACCURACIES, COVERAGES, compute_selective
from leuko_tf.predictions import get_probabilities


def make_answers(confidence: list[float], right: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores of answers that are so sure, and right or wrong."""
    scores = np.zeros((len(right), 15))
    scores[:, 0] = confidence
    scores[:, 1:] = (1 - scores[:, :1]) / 14
    return np.where(right, 0, 1), scores


class TestByHand:
    """Five answers; two of them are equally sure, and stay or go together."""

    @pytest.fixture
    def figures(self) -> dict:
        confidence, right = [0.6, 0.9, 0.8, 0.8, 0.5], [True, True, True, False, False]
        return compute_selective(*make_answers(confidence, right))

    def test_curve(self, figures):
        assert figures["curve"]["coverage"] == pytest.approx([1 / 5, 3 / 5, 4 / 5, 1])
        assert figures["curve"]["accuracy"] == pytest.approx([1, 2 / 3, 3 / 4, 3 / 5])

    def test_the_threshold_keeps_at_least_the_share_asked_for(self, figures):
        rows = {row["asked"]: row for row in figures["at_coverage"]}
        assert list(rows) == list(COVERAGES)
        kept = [(row["threshold"], row["coverage"], row["accuracy"]) for row in rows.values()]
        everything, four, three = (0.5, 1, 3 / 5), (0.6, 4 / 5, 3 / 4), (0.8, 3 / 5, 2 / 3)
        expected = [everything, everything, everything, four, four, three]
        assert kept == [pytest.approx(row) for row in expected]

    def test_the_share_kept_of_each_class(self, figures):
        # Of NGS, three images, stays all but the one at .6; of NGB, two images, the one at .8.
        classes = figures["at_coverage"][-1]["classes"]
        assert list(classes) == list(CODES)
        assert (classes["NGS"], classes["NGB"]) == pytest.approx((2 / 3, 1 / 2))
        assert classes["LYT"] is None

    def test_the_largest_share_that_reaches_an_accuracy(self, figures):
        rows = {row["asked"]: row["coverage"] for row in figures["at_accuracy"]}
        assert rows == dict.fromkeys(ACCURACIES, 1 / 5)

    def test_area_under_risk_and_coverage(self, figures):
        # Errors among the surest one, three, three, four and five.
        risks = [0, 1 / 3, 1 / 3, 1 / 4, 2 / 5]
        assert figures["area_under_risk_coverage"] == pytest.approx(np.mean(risks))


def test_an_accuracy_that_no_share_reaches_has_no_coverage():
    figures = compute_selective(*make_answers([0.9, 0.8], [False, True]))
    assert [row["coverage"] for row in figures["at_accuracy"]] == [None] * len(ACCURACIES)


def test_the_largest_share_may_come_after_smaller_ones_that_do_not_reach_it():
    right = [False, *[True] * 99]
    figures = compute_selective(*make_answers(list(np.linspace(0.9, 0.2, 100)), right))
    assert {row["coverage"] for row in figures["at_accuracy"]} == {1}


@some_examples
@given(tables())
def test_the_figures_are_those_of_trying_every_threshold(table):
    labels, scores = indices(table), get_probabilities(table)
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    tried, risks = [], []
    for threshold in sorted(set(confidence), reverse=True):
        kept = confidence >= threshold
        tried.append((threshold, kept.mean(), right[kept].mean()))
        # One more for each image that this threshold keeps and the one before did not.
        risks += [1 - right[kept].mean()] * (confidence == threshold).sum()
    figures = compute_selective(labels, scores)
    assert figures["curve"]["coverage"] == pytest.approx([c for _, c, _ in tried])
    assert figures["curve"]["accuracy"] == pytest.approx([a for _, _, a in tried])
    for row in figures["at_coverage"]:
        first = next(one for one in tried if one[1] >= row["asked"])
        assert (row["threshold"], row["coverage"], row["accuracy"]) == pytest.approx(first)
        for i, code in enumerate(CODES):
            kept = confidence[labels == i] >= row["threshold"]
            assert row["classes"][code] == (pytest.approx(kept.mean()) if len(kept) else None)
    assert figures["at_coverage"][0]["accuracy"] == pytest.approx(right.mean())  # all images
    for row in figures["at_accuracy"]:
        reached = [coverage for _, coverage, accuracy in tried if accuracy >= row["asked"]]
        assert row["coverage"] == (pytest.approx(max(reached)) if reached else None)
    assert figures["area_under_risk_coverage"] == pytest.approx(np.mean(risks))


def test_the_curve_of_many_images_has_at_most_201_points_and_both_ends():
    rng = np.random.default_rng(0)
    right = rng.uniform(size=5000) < 0.8
    figures = compute_selective(*make_answers(list(rng.uniform(0.2, 1, 5000)), right))
    coverage, accuracy = figures["curve"]["coverage"], figures["curve"]["accuracy"]
    assert len(coverage) == len(accuracy) == 201
    assert (coverage[0], coverage[-1]) == (1 / 5000, 1)
    assert accuracy[-1] == pytest.approx(right.mean())
    assert coverage == sorted(coverage)
