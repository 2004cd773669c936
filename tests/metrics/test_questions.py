"""The binary questions: their scores, areas and operating points."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import some_examples, tables

from leuko_tf.classes import ATYPICAL, ATYPICAL_WITHOUT_PMB, BLAST, INDEX, QUESTIONS
from leuko_tf.metrics.questions import (
    SPECIFICITIES,
    compute_operating_point,
    compute_question_score,
    evaluate_question,
)
from leuko_tf.predictions import get_probabilities


@st.composite
def answers(draw) -> tuple[np.ndarray, np.ndarray]:
    """Truths of both kinds and scores; few different scores make many ties."""
    positives, negatives = draw(st.integers(1, 20)), draw(st.integers(1, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([2, 5, 1000]))
    score = rng.integers(0, steps, positives + negatives) / (steps - 1)
    return np.arange(len(score)) < positives, score


class TestScore:
    def test_it_sums_the_probabilities_of_its_classes(self):
        scores = np.arange(15, dtype=float)[np.newaxis] / 105
        assert compute_question_score(scores, BLAST) == pytest.approx((7 + 12) / 105)
        eight = (7 + 12 + 8 + 9 + 10 + 11 + 13 + 3) / 105
        assert compute_question_score(scores, ATYPICAL) == pytest.approx(eight)
        assert compute_question_score(scores, ATYPICAL_WITHOUT_PMB) == pytest.approx(
            eight - 9 / 105
        )

    def test_rounding_never_takes_it_out_of_0_to_1(self):
        scores = np.zeros((1, 15))
        scores[0, [INDEX[code] for code in ATYPICAL]] = 0.1250001
        assert compute_question_score(scores, ATYPICAL) == [1]

    def test_rounding_of_the_largest_probability_does_not_decide_the_order(self):
        """Two cells are blasts beyond doubt; what is left for the other classes ranks them."""
        scores = np.zeros((2, 15))
        scores[:, INDEX["MYO"]] = [np.float32(1) - np.float32(2**-24), 1]
        scores[:, INDEX["NGS"]] = [1e-12, 1e-9]
        surer, less_sure = compute_question_score(scores, BLAST)
        assert surer > less_sure


class TestByHand:
    # Three positives, seven negatives, all certain.
    POSITIVE = np.array([True] * 3 + [False] * 7)
    SCORE = np.array([1, 1, 0, 1, 1, 0, 0, 0, 0, 0], float)

    def test_areas_under_the_curves(self):
        figures = evaluate_question(self.POSITIVE, self.SCORE)
        assert (figures["positives"], figures["negatives"]) == (3, 7)
        # Of 21 pairs 2*5 are in order and 2*2 + 1*5 are ties.
        assert figures["roc_auc"] == pytest.approx((10 + 9 / 2) / 21)
        # Two thirds of the recall at precision 2/4, the last third at 3/10.
        assert figures["average_precision"] == pytest.approx(2 / 3 * 2 / 4 + 1 / 3 * 3 / 10)

    def test_threshold_one_half(self):
        point = evaluate_question(self.POSITIVE, self.SCORE)["operating_points"]["threshold 0.5"]
        assert point == pytest.approx(
            {"threshold": 0.5, "sensitivity": 2 / 3, "specificity": 5 / 7, "precision": 2 / 4}
        )

    def test_a_score_of_one_half_is_called_positive(self):
        figures = evaluate_question(np.array([True, False]), np.array([0.5, 0.4]))
        assert figures["operating_points"]["threshold 0.5"]["sensitivity"] == 1

    def test_where_nothing_is_called_positive_precision_is_0(self):
        point = compute_operating_point(self.POSITIVE, np.zeros(10, bool))
        assert point == {"sensitivity": 0, "specificity": 1, "precision": 0}

    def test_a_specificity_has_the_lowest_threshold_that_reaches_it(self):
        positive = np.array([False] * 20 + [True] * 5)
        score = np.concatenate([np.arange(20) / 20, [0.86, 0.92, 0.93, 0.97, 0.1]])
        points = evaluate_question(positive, score)["operating_points"]
        assert list(points) == [
            "threshold 0.5", "specificity 0.90", "specificity 0.95", "specificity 0.99",
        ]  # fmt: skip
        # Two of 20 negatives may be called positive: those at .9 and .95.
        assert points["specificity 0.90"] == pytest.approx({
            "threshold": 0.86, "sensitivity": 4 / 5, "specificity": 18 / 20, "precision": 4 / 6,
        })  # fmt: skip
        assert points["specificity 0.95"]["threshold"] == 0.92
        assert points["specificity 0.95"]["sensitivity"] == pytest.approx(3 / 5)
        assert points["specificity 0.99"]["threshold"] == 0.97
        assert points["specificity 0.99"]["sensitivity"] == pytest.approx(1 / 5)

    def test_an_examiner_is_matched_in_one_figure_and_compared_in_the_other(self):
        positive = np.array([True] * 4 + [False] * 5)
        score = np.array([0.9, 0.8, 0.6, 0.3, 0.7, 0.5, 0.2, 0.1, 0.0])
        examiner = {"sensitivity": 0.7, "specificity": 0.65, "precision": 0.6}
        # Above .6: sensitivity 3/4, specificity 4/5. Above .3: 4/4, 3/5, which is too low.
        assert evaluate_question(positive, score, {"A": examiner})["at_examiners"] == {
            "A": pytest.approx({
                "sensitivity": 0.7, "specificity": 0.65,
                "sensitivity_at_specificity": 3 / 4, "specificity_at_sensitivity": 4 / 5,
            })
        }  # fmt: skip


@pytest.mark.parametrize("positive", [[True] * 3, [False] * 3])
def test_without_both_kinds_there_are_no_figures(positive):
    figures = evaluate_question(np.array(positive), np.array([0.1, 0.5, 0.9]), {"A": {}})
    assert figures == {
        "positives": sum(positive), "negatives": 3 - sum(positive),
        "roc_auc": None, "roc_auc_interval": None, "average_precision": None,
        "operating_points": {}, "at_examiners": {},
    }  # fmt: skip


@some_examples
@given(answers())
def test_the_roc_auc_is_the_share_of_pairs_in_order_with_ties_as_half(given_answers):
    positive, score = given_answers
    above = score[positive][:, None] - score[~positive]
    expected = ((above > 0) + (above == 0) / 2).mean()
    assert evaluate_question(positive, score)["roc_auc"] == pytest.approx(expected)


@some_examples
@given(answers())
def test_an_examiner_as_good_as_the_network_at_any_threshold_is_matched(given_answers):
    """Whatever rounding does to shares of images."""
    positive, score = given_answers
    examiners = {str(t): compute_operating_point(positive, score >= t) for t in np.unique(score)}
    for at in evaluate_question(positive, score, examiners)["at_examiners"].values():
        assert at["sensitivity_at_specificity"] >= at["sensitivity"]
        assert at["specificity_at_sensitivity"] >= at["specificity"] - 1e-12


def test_a_specificity_that_rounding_lowers_is_still_reached():
    """9 of 11: one minus two elevenths comes out lower."""
    positive = np.array([True] + [False] * 11)
    score = np.array([0.6, 0.9, 0.9] + [0.1] * 9)
    at = evaluate_question(positive, score, {"A": {"sensitivity": 1.0, "specificity": 9 / 11}})
    assert at["at_examiners"]["A"]["sensitivity_at_specificity"] == 1


@some_examples
@given(tables())
def test_operating_points_reach_their_specificity_and_no_lower_threshold_does(table):
    for codes in QUESTIONS.values():
        positive = table["label"].isin(codes).to_numpy()
        score = compute_question_score(get_probabilities(table), codes)
        figures = evaluate_question(positive, score)
        assert figures["positives"] + figures["negatives"] == len(table)
        if positive.all() or not positive.any():
            continue
        for asked in SPECIFICITIES:
            point = figures["operating_points"][f"specificity {asked:.2f}"]
            called = score >= point["threshold"]
            assert point["specificity"] >= asked
            assert point["specificity"] == pytest.approx(1 - called[~positive].mean())
            assert point["sensitivity"] == pytest.approx(called[positive].mean())
            lower = score[score < point["threshold"]]
            if len(lower):
                called = score >= lower.max()
                assert 1 - called[~positive].mean() < asked
