"""Figures of the answers, by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from prediction_tables import indices, some_examples, sure, tables
from sklearn import metrics as sk

from leuko_tf.classes import COARSE_TYPES, CODES, INDEX
from leuko_tf.metrics.answers import (
    compute_coarse,
    compute_overall,
    compute_per_class,
    count_confusions,
    find_two_most_probable,
)
from leuko_tf.predictions import get_probabilities


class TestByHand:
    """Ten images of three classes, every figure worked out on paper."""

    LABELS = np.array([INDEX[c] for c in ["NGS"] * 5 + ["MYO"] * 3 + ["LYT"] * 2])
    ANSWERED = ("NGS", "NGS", "NGS", "NGS", "MYO", "MYO", "MYO", "NGS", "NGB", "MYO")
    ANSWERS = np.array([INDEX[c] for c in ANSWERED])

    def test_accuracy_and_its_kin(self):
        figures = compute_overall(self.LABELS, sure(self.ANSWERED))
        assert figures["accuracy"] == pytest.approx(6 / 10)
        assert figures["classes_with_images"] == 3
        assert figures["balanced_accuracy"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
        # F1: NGS 2*4/(5+5), MYO 2*2/(3+4), LYT 0; NGB has no images and is not averaged over.
        assert figures["macro_f1"] == pytest.approx((8 / 10 + 4 / 7 + 0) / 3)
        assert figures["weighted_f1"] == pytest.approx((5 * 8 / 10 + 3 * 4 / 7 + 0) / 10)
        # By chance: NGS 5*5, MYO 3*4, LYT 2*0, of 100.
        assert figures["cohen_kappa"] == pytest.approx((0.6 - 0.37) / (1 - 0.37))
        # Squares of the labels' counts 25 + 9 + 4, of the answers' 25 + 16 + 1.
        expected = (60 - 37) / np.sqrt((100 - 38) * (100 - 42))
        assert figures["matthews_correlation"] == pytest.approx(expected)

    def test_each_class_against_all_others(self):
        classes = compute_per_class(self.LABELS, self.ANSWERS)
        assert list(classes) == list(CODES)
        assert classes["NGS"] == pytest.approx({
            "images": 5, "answered": 5,
            "precision": 4 / 5, "sensitivity": 4 / 5, "specificity": 4 / 5, "f1": 4 / 5,
        })  # fmt: skip
        assert classes["MYO"] == pytest.approx({
            "images": 3, "answered": 4,
            "precision": 2 / 4, "sensitivity": 2 / 3, "specificity": 5 / 7, "f1": 4 / 7,
        })  # fmt: skip

    def test_a_class_never_answered_counts_as_precision_0(self):
        assert compute_per_class(self.LABELS, self.ANSWERS)["LYT"] == {
            "images": 2, "answered": 0, "precision": 0, "sensitivity": 0, "specificity": 1, "f1": 0,
        }  # fmt: skip

    def test_a_class_without_images_has_no_figures_though_it_was_answered(self):
        classes = compute_per_class(self.LABELS, self.ANSWERS)
        nothing = dict.fromkeys(("precision", "sensitivity", "specificity", "f1"))
        assert classes["NGB"] == {"images": 0, "answered": 1, **nothing}
        assert classes["KSC"] == {"images": 0, "answered": 0, **nothing}

    def test_the_confusion_matrix_has_labels_in_rows(self):
        matrix = count_confusions(self.LABELS, self.ANSWERS)
        assert matrix["order"] == list(CODES)
        expected = np.zeros((15, 15), int)
        np.add.at(expected, (self.LABELS, self.ANSWERS), 1)
        np.testing.assert_array_equal(matrix["rows_are_labels"], expected)


class TestCoarseTypes:
    LABELS = np.array([INDEX[c] for c in ("NGS", "NGB", "PMO", "MMZ", "MYO", "LYT")])

    def test_answers_of_the_same_type_are_right(self):
        answered = ("NGB", "NGB", "PMB", "MYO", "MYO", "MMZ")
        figures = compute_coarse(self.LABELS, sure(answered))
        assert figures["accuracy"] == pytest.approx(4 / 6)
        # Neutrophils 2/2, precursors 1/2, myeloblast 1/1, lymphocyte 0/1.
        assert figures["balanced_accuracy"] == pytest.approx((1 + 1 / 2 + 1 + 0) / 4)
        # F1: 2*2/(2+2), 2*1/(2+2), 2*1/(1+2), 0.
        assert figures["macro_f1"] == pytest.approx((1 + 1 / 2 + 2 / 3 + 0) / 4)
        assert figures["types_with_images"] == 4

    def test_the_stages_of_a_type_have_their_probabilities_together(self):
        """A myeloblast is likelier than any one stage, a precursor likelier than it."""
        scores = np.zeros((1, 15))
        scores[0, [INDEX[c] for c in ("MYO", "PMO", "MYB", "MMZ")]] = 0.4, 0.2, 0.2, 0.2
        assert compute_coarse(np.array([INDEX["PMB"]]), scores)["accuracy"] == 1
        assert compute_coarse(np.array([INDEX["MYO"]]), scores)["accuracy"] == 0

    @some_examples
    @given(tables())
    def test_as_scikit_learn_has_it_with_the_names_of_the_types(self, table):
        names = {code: name for name, codes in COARSE_TYPES.items() for code in codes}
        scores = pd.DataFrame(get_probabilities(table), columns=CODES)
        types = scores.T.groupby(lambda code: names.get(code, code), sort=False).sum().T
        labels = table["label"].map(lambda code: names.get(code, code))
        top_two = np.sort(types.to_numpy(), axis=1)[:, -2:]
        clear = top_two[:, 1] - top_two[:, 0] > 1e-9  # of equals the first in line wins
        if clear.all():
            expected = sk.accuracy_score(labels, types.idxmax(axis=1))
            received = compute_coarse(indices(table), get_probabilities(table))
            assert received["accuracy"] == pytest.approx(expected)


def test_where_all_images_are_of_one_class_its_specificity_is_not_defined():
    row = compute_per_class(np.array([3, 3]), np.array([3, 5]))[CODES[3]]
    assert (row["specificity"], row["sensitivity"], row["precision"]) == (None, 0.5, 1)


def test_kappa_and_correlation_are_not_defined_where_chance_agrees_fully():
    figures = compute_overall(np.array([3, 3]), sure([CODES[3]] * 2))
    assert (figures["cohen_kappa"], figures["matthews_correlation"]) == (None, None)
    figures = compute_overall(np.array([3, 3]), sure([CODES[3], CODES[4]]))
    assert (figures["cohen_kappa"], figures["matthews_correlation"]) == (0, 0)


class TestTopTwo:
    def test_the_two_most_probable_of_each_image(self):
        scores = np.zeros((3, 15))
        scores[0, [4, 7]] = [0.3, 0.7]
        scores[1, [4, 7, 9]] = [0.4, 0.2, 0.4]  # equal: in the classes' order
        scores[2] = 1 / 15
        assert find_two_most_probable(scores).tolist() == [[7, 4], [4, 9], [0, 1]]

    def test_a_label_among_them_is_right(self):
        scores = np.zeros((3, 15))
        scores[:, 7], scores[:, 4], scores[:, 2] = 0.5, 0.3, 0.2
        assert compute_overall(np.array([7, 4, 2]), scores)["top2_accuracy"] == pytest.approx(2 / 3)

    @some_examples
    @given(tables())
    def test_they_hold_the_answer_so_that_the_figure_is_no_lower_than_the_accuracy(self, table):
        labels, scores = indices(table), get_probabilities(table)
        np.testing.assert_array_equal(find_two_most_probable(scores)[:, 0], scores.argmax(axis=1))
        figures = compute_overall(labels, scores)
        assert figures["top2_accuracy"] >= figures["accuracy"]


@some_examples
@given(tables())
def test_each_class_has_the_figures_of_counting_its_images_one_by_one(table):
    labels, answers = indices(table), get_probabilities(table).argmax(axis=1)
    for i, (code, row) in enumerate(compute_per_class(labels, answers).items()):
        pairs = [(label == i, answer == i) for label, answer in zip(labels, answers, strict=True)]
        true, missed = pairs.count((True, True)), pairs.count((True, False))
        false, rest = pairs.count((False, True)), pairs.count((False, False))
        assert (code, row["images"], row["answered"]) == (CODES[i], true + missed, true + false)
        if not true + missed:
            continue
        assert row["precision"] == pytest.approx(true / (true + false) if true + false else 0)
        assert row["sensitivity"] == pytest.approx(true / (true + missed))
        assert row["f1"] == pytest.approx(2 * true / (2 * true + missed + false))
        if false + rest:
            assert row["specificity"] == pytest.approx(rest / (false + rest))
