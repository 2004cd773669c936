"""Two networks on the same images."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import (
    approximately,
    few_examples,
    indices,
    leaves,
    plausible,
    softmax,
    table_of,
    tables,
)

from leuko_tf.classes import CODES, QUESTIONS
from leuko_tf.metrics import compare
from leuko_tf.metrics.delong import run_delong_test
from leuko_tf.metrics.questions import compute_question_score
from leuko_tf.metrics.summary import compute_figures
from leuko_tf.predictions import PROBABILITIES, get_probabilities

REPLICATES = 20


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    labels = np.random.default_rng(0).integers(15, size=150)
    codes = [CODES[i] for i in labels]
    return table_of(codes, plausible(np.random.default_rng(1), labels, skill=3))


@pytest.fixture(scope="module")
def other(table) -> pd.DataFrame:
    """A poorer network on the same images."""
    worse = table.copy()
    worse[PROBABILITIES] = plausible(np.random.default_rng(2), indices(table), skill=1)
    return worse


class TestPairing:
    def test_images_are_joined_by_id_whatever_the_order_of_the_rows(self, table, other):
        shuffled = other.sample(frac=1, random_state=0)
        one, two = compare(table, other, REPLICATES), compare(table, shuffled, REPLICATES)
        assert one["common_images"] == two["common_images"] == 150
        assert one["paired"] == two["paired"]

    def test_only_common_images_are_paired(self, table, other):
        compared = compare(table.iloc[:100], other.iloc[40:], replicates=0)
        assert compared["common_images"] == 60
        assert compared["other"] == compute_figures(other.iloc[40:])
        assert compared["paired"]["this"] == compute_figures(table.iloc[40:100])
        assert compared["paired"]["other"] == compute_figures(other.iloc[40:100])

    def test_without_a_common_image_nothing_is_paired(self, table, other):
        compared = compare(table.iloc[:50], other.iloc[50:])
        assert (compared["common_images"], compared["paired"]) == (0, None)
        assert compared["other"]["images"] == 100

    def test_different_labels_of_one_image_are_refused_by_its_name(self, table, other):
        wrong = other.copy()
        assert "KSC" not in table["label"][[7, 9]].tolist()
        wrong.loc[[7, 9], "label"] = "KSC"
        expected = f"7.tiff is {table['label'][7]} in one table and KSC in the other; 2 labels"
        with pytest.raises(ValueError, match=expected):
            compare(table, wrong)


class TestDifferences:
    def test_a_clearly_better_network_is_better_in_every_interval(self, table, other):
        paired = compare(table, other, replicates=200)["paired"]
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "cohen_kappa"):
            lower, upper = paired["differences"]["overall"][name]
            difference = paired["this"]["overall"][name] - paired["other"]["overall"][name]
            assert 0 < lower < difference < upper
        for test in paired["delong"].values():
            assert test["interval"][0] > 0
            assert test["p_value"] < 0.01

    def test_without_replicates_there_are_no_differences_but_delongs(self, table, other):
        paired = compare(table, other, replicates=0)["paired"]
        assert paired["differences"] is None
        assert list(paired["delong"]) == list(QUESTIONS)

    def test_areas_are_compared_by_delongs_test(self, table, other):
        paired = compare(table, other, replicates=0)["paired"]
        for name, codes in QUESTIONS.items():
            scores = [compute_question_score(get_probabilities(t), codes) for t in (table, other)]
            expected = run_delong_test(table["label"].isin(codes).to_numpy(), *scores)
            received = paired["delong"][name]
            assert received["difference"] == expected.auc - expected.other_auc
            assert received["interval"] == list(expected.interval)
            assert received["p_value"] == expected.p_value
            areas = [paired[t]["questions"][name]["roc_auc"] for t in ("this", "other")]
            assert received["difference"] == pytest.approx(areas[0] - areas[1])

    def test_exchanging_the_networks_turns_the_differences_round(self, table, other):
        one = compare(table, other, REPLICATES)["paired"]
        two = compare(other, table, REPLICATES)["paired"]
        for name, (lower, upper) in one["differences"]["overall"].items():
            assert two["differences"]["overall"][name] == pytest.approx([-upper, -lower])
        for name, test in one["delong"].items():
            assert two["delong"][name]["difference"] == pytest.approx(-test["difference"])
            assert two["delong"][name]["p_value"] == pytest.approx(test["p_value"])


@pytest.mark.filterwarnings("error")
class TestOfAnyTable:
    @few_examples
    @given(tables())
    def test_a_network_does_not_differ_from_itself(self, table):
        compared = compare(table, table, REPLICATES)
        assert compared["common_images"] == len(table)
        paired = compared["paired"]
        assert paired["this"] == paired["other"] == compared["other"]
        for place, value in leaves(paired["differences"]):
            assert value in (0, None), place
        for name, test in paired["delong"].items():
            if paired["this"]["questions"][name]["roc_auc"] is None:
                assert test is None
            else:
                assert test["difference"] == 0
                assert test["p_value"] in (1, None)

    @few_examples
    @given(tables(), st.integers(0, 2**32 - 1))
    def test_a_comparison_can_be_written_as_json(self, table, seed):
        other = table.copy()
        noise = np.random.default_rng(seed).normal(0, 3, (len(table), 15))
        other[PROBABILITIES] = softmax(noise).astype(np.float32)
        compared = compare(table, other, REPLICATES)
        again = json.loads(json.dumps(compared, allow_nan=False))
        assert again == approximately(compared)
