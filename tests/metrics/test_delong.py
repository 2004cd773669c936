"""DeLong's intervals and test: by hand, against the definition of 1988, and how often they hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import some_examples
from scipy.stats import norm

from leuko_tf.metrics.delong import compute_delong_interval, run_delong_test

Z = norm.ppf(0.975)


def kernel(positives: np.ndarray, negatives: np.ndarray) -> np.ndarray:
    """Of every pair of images: 1 where they are in order, 1/2 where they tie."""
    return np.array([[(x > y) + (x == y) / 2 for y in negatives] for x in positives])


def aucs_and_covariance(positive: np.ndarray, scores: list[np.ndarray]):
    """DeLong et al. 1988, equations 4 to 6, pair by pair."""
    kernels = [kernel(score[positive], score[~positive]) for score in scores]
    m, n = kernels[0].shape
    aucs = np.array([k.mean() for k in kernels])
    covariance = np.empty((len(scores), len(scores)))
    for r, one in enumerate(kernels):
        for s, other in enumerate(kernels):
            s10 = sum((one.mean(1) - aucs[r]) * (other.mean(1) - aucs[s])) / (m - 1)
            s01 = sum((one.mean(0) - aucs[r]) * (other.mean(0) - aucs[s])) / (n - 1)
            covariance[r, s] = s10 / m + s01 / n
    return aucs, covariance


@st.composite
def two_scores(draw, least: int = 2):
    """Truths, and two scores with few or many ties, related to each other and to the truth."""
    m, n = draw(st.integers(least, 15)), draw(st.integers(least, 15))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    steps = draw(st.sampled_from([2, 6, 10_000]))
    positive = np.arange(m + n) < m
    base = rng.normal(positive * draw(st.sampled_from([0.0, 1.0, 4.0])), 1, m + n)
    other = base + rng.normal(0, draw(st.sampled_from([0.1, 1.0])), m + n)
    shuffled = rng.permutation(m + n)
    one, two = (np.round(norm.cdf(s) * steps) / steps for s in (base, other))
    return positive[shuffled], one[shuffled], two[shuffled]


class TestByHand:
    """Positives .8 .4 .6 and negatives .5 .2: of six pairs one, .4 and .5, is not in order."""

    POSITIVE = np.array([True, True, True, False, False])
    SCORE = np.array([0.8, 0.4, 0.6, 0.5, 0.2])
    OTHER = np.array([0.9, 0.3, 0.7, 0.5, 0.4])

    def test_interval(self):
        # Of the positives 1, 1/2, 1: variance 1/12; of the negatives 2/3, 1: variance 1/18.
        half = Z * np.sqrt(1 / 12 / 3 + 1 / 18 / 2)
        assert compute_delong_interval(self.POSITIVE, self.SCORE) == pytest.approx(
            [5 / 6 - half, 1]
        )

    def test_test(self):
        # The other score's 1, 0, 1 and 2/3, 2/3; differences 0, 1/2, 0 and 0, 1/3.
        test = run_delong_test(self.POSITIVE, self.SCORE, self.OTHER)
        error = np.sqrt(1 / 12 / 3 + 1 / 18 / 2)
        assert (test.auc, test.other_auc) == pytest.approx((5 / 6, 4 / 6))
        assert test.interval == pytest.approx((1 / 6 - Z * error, 1 / 6 + Z * error))
        assert test.p_value == pytest.approx(2 * norm.sf(1 / 6 / error))


class TestAgainstTheDefinition:
    @some_examples
    @given(two_scores())
    def test_variances(self, given_scores):
        positive, *scores = given_scores
        aucs, covariance = aucs_and_covariance(positive, scores)
        for score, auc, variance in zip(scores, aucs, np.diag(covariance), strict=True):
            half = Z * np.sqrt(variance)
            expected = [max(auc - half, 0), min(auc + half, 1)]
            assert compute_delong_interval(positive, score) == pytest.approx(expected, abs=1e-10)

    @some_examples
    @given(two_scores())
    def test_covariances_and_the_paired_test(self, given_scores):
        positive, *scores = given_scores
        aucs, covariance = aucs_and_covariance(positive, scores)
        variance = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
        test = run_delong_test(positive, *scores)
        assert (test.auc, test.other_auc) == pytest.approx(aucs, abs=1e-10)
        if variance < 1e-12:  # a rounding error of 0: see below
            assert test.p_value in (1, None)
            return
        difference, error = aucs[0] - aucs[1], np.sqrt(variance)
        expected = (difference - Z * error, difference + Z * error)
        assert test.interval == pytest.approx(expected, abs=1e-10)
        assert test.p_value == pytest.approx(2 * norm.sf(abs(difference) / error), abs=1e-10)


class TestWhatIsNotDefined:
    @some_examples
    @given(two_scores(least=1))
    def test_with_a_single_image_of_a_kind_there_are_areas_but_no_intervals(self, given_scores):
        positive, score, other = given_scores
        alone = positive & (positive.cumsum() == 1)
        for kind in (alone, ~alone):
            test = run_delong_test(kind, score, other)
            assert compute_delong_interval(kind, score) is test.interval is test.p_value is None
            assert 0 <= test.auc <= 1

    def test_complete_separation_has_an_interval_without_width(self):
        positive = np.array([False] * 5 + [True] * 5)
        assert compute_delong_interval(positive, np.arange(10) / 10) == [1, 1]
        assert compute_delong_interval(positive, np.full(10, 0.3)) == [0.5, 0.5]

    @some_examples
    @given(two_scores())
    def test_a_score_does_not_differ_from_another_of_the_same_order(self, given_scores):
        positive, score, _ = given_scores
        test = run_delong_test(positive, score, score**3)
        assert (test.interval, test.p_value) == ((0, 0), 1)

    def test_a_difference_that_is_the_same_for_every_image_has_no_interval(self):
        positive = np.array([False] * 5 + [True] * 5)
        test = run_delong_test(positive, np.arange(10) / 10, np.full(10, 0.3))
        assert (test.auc, test.other_auc) == (1, 0.5)
        assert (test.interval, test.p_value) == (None, None)

    def test_rounding_makes_no_variance(self):
        """Both scores vary, their difference does not: it is 2/3 for every image."""
        positive = np.array([True, True, True, False, False, False])
        score = np.array([0.75, 0.25, 0.25, 0, 0.25, 0.25])
        other = np.array([0.5, 0, 0, 0.25, 0.75, 0.75])
        test = run_delong_test(positive, score, other)
        assert test.auc - test.other_auc == pytest.approx(2 / 3)
        assert (test.interval, test.p_value) == (None, None)


@some_examples
@given(two_scores())
def test_exchanging_the_scores_turns_the_difference_round(given_scores):
    positive, score, other = given_scores
    one, two = run_delong_test(positive, score, other), run_delong_test(positive, other, score)
    assert one.p_value == pytest.approx(two.p_value)
    if one.interval:
        assert one.interval == pytest.approx((-two.interval[1], -two.interval[0]))


class TestHowOftenTheyHold:
    """500 draws: a share of 95 % is seen within three standard errors, .03, of it."""

    DRAWS = 500

    def test_the_interval_holds_the_true_area_of_a_binormal_model_in_95_percent(self):
        rng = np.random.default_rng(0)
        positive = np.arange(200) < 80
        true = norm.cdf(1.2 / np.sqrt(2))
        held = []
        for _ in range(self.DRAWS):
            lower, upper = compute_delong_interval(positive, rng.normal(1.2 * positive, 1))
            held.append(lower <= true <= upper)
        assert np.mean(held) == pytest.approx(0.95, abs=0.03)

    def test_two_equally_good_scores_are_told_apart_in_5_percent(self):
        rng = np.random.default_rng(0)
        positive = np.arange(200) < 80
        told_apart = []
        for _ in range(self.DRAWS):
            seen = rng.normal(1.2 * positive, 0.8)
            one, two = seen + rng.normal(0, 0.6, (2, len(seen)))
            told_apart.append(run_delong_test(positive, one, two).p_value < 0.05)
        assert np.mean(told_apart) == pytest.approx(0.05, abs=0.03)
