"""The figures: by hand, against the published network's, and what must hold of any table."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leuko_tf.classes import ATYPICAL, ATYPICAL_WITHOUT_PMB, BLAST, CODES, INDEX, QUESTIONS
from leuko_tf.metrics import (
    SPECIFICITIES,
    binary_question,
    compute_metrics,
    operating_point,
    per_class,
    question_score,
)
from leuko_tf.predictions import PROBABILITIES


def _table(labels: Sequence[str], scores: np.ndarray) -> pd.DataFrame:
    table = pd.DataFrame(scores, columns=PROBABILITIES)
    table.insert(0, "id", [f"{i}.tiff" for i in range(len(labels))])
    table.insert(1, "label", labels)
    table.insert(2, "fold", 1)
    table.insert(3, "reannotation_1", "none")
    table.insert(4, "reannotation_2", "none")
    return table


def _sure(codes: Sequence[str]) -> np.ndarray:
    """Scores of a network that is certain of these codes."""
    return np.eye(15)[[INDEX[code] for code in codes]]


class TestByHand:
    """Ten images of three classes, every figure worked out on paper."""

    LABELS = ("NGS",) * 5 + ("MYO",) * 3 + ("LYT",) * 2
    PREDICTED = ("NGS", "NGS", "NGS", "NGS", "MYO", "MYO", "MYO", "NGS", "NGB", "MYO")

    @pytest.fixture
    def metrics(self) -> dict:
        return compute_metrics(_table(self.LABELS, _sure(self.PREDICTED)))

    def test_accuracy_and_its_kin(self, metrics):
        assert metrics["images"] == 10
        assert metrics["classes_with_images"] == 3
        assert metrics["accuracy"] == pytest.approx(6 / 10)
        assert metrics["balanced_accuracy"] == pytest.approx((4 / 5 + 2 / 3 + 0) / 3)
        # F1: NGS 2*4/(5+5), MYO 2*2/(3+4), LYT 0; NGB has no images and is not averaged over.
        assert metrics["macro_f1"] == pytest.approx((8 / 10 + 4 / 7 + 0) / 3)
        assert metrics["weighted_f1"] == pytest.approx((5 * 8 / 10 + 3 * 4 / 7 + 0) / 10)
        # By chance: NGS 5*5, MYO 3*4, LYT 2*0, of 100.
        assert metrics["cohen_kappa"] == pytest.approx((0.6 - 0.37) / (1 - 0.37))

    def test_classes(self, metrics):
        classes = metrics["classes"]
        assert list(classes) == list(CODES)
        assert classes["NGS"] == pytest.approx(
            {"precision": 4 / 5, "sensitivity": 4 / 5, "f1": 4 / 5, "images": 5}
        )
        assert classes["MYO"] == pytest.approx(
            {"precision": 2 / 4, "sensitivity": 2 / 3, "f1": 4 / 7, "images": 3}
        )
        assert classes["LYT"] == {"precision": 0, "sensitivity": 0, "f1": 0, "images": 2}
        # Predicted once, and yet no figure: no image is of this class.
        nothing = {"precision": None, "sensitivity": None, "f1": None, "images": 0}
        assert classes["NGB"] == classes["KSC"] == nothing

    def test_confusion_matrix_has_labels_in_rows(self, metrics):
        assert metrics["confusion_matrix"]["order"] == list(CODES)
        counts = np.array(metrics["confusion_matrix"]["rows_are_labels"])
        expected = np.zeros((15, 15), int)
        for label, predicted in zip(self.LABELS, self.PREDICTED, strict=True):
            expected[INDEX[label], INDEX[predicted]] += 1
        np.testing.assert_array_equal(counts, expected)

    def test_blast_at_threshold_one_half(self, metrics):
        blast = metrics["questions"]["blast"]
        assert (blast["positives"], blast["negatives"]) == (3, 7)
        assert blast["operating_points"][0] == pytest.approx({
            "at": "threshold 0.5", "threshold": 0.5,
            "sensitivity": 2 / 3, "specificity": 5 / 7, "precision": 2 / 4,
        })  # fmt: skip
        # Of 21 pairs 2*5 are in order and 2*2 + 1*5 are ties.
        assert blast["roc_auc"] == pytest.approx((10 + 9 / 2) / 21)

    def test_operating_points_at_a_specificity_have_the_lowest_threshold_that_reaches_it(self):
        positive = np.array([False] * 20 + [True] * 5)
        score = np.concatenate([np.arange(20) / 20, [0.86, 0.92, 0.93, 0.97, 0.1]])
        points = {p["at"]: p for p in binary_question(positive, score)["operating_points"]}
        assert list(points) == [
            "threshold 0.5", "specificity 0.90", "specificity 0.95", "specificity 0.99",
        ]  # fmt: skip
        # Two of 20 negatives may be called positive: those at .9 and .95.
        assert points["specificity 0.90"] == pytest.approx({
            "at": "specificity 0.90", "threshold": 0.86,
            "sensitivity": 4 / 5, "specificity": 18 / 20, "precision": 4 / 6,
        })  # fmt: skip
        assert points["specificity 0.95"]["threshold"] == 0.92
        assert points["specificity 0.95"]["sensitivity"] == pytest.approx(3 / 5)
        assert points["specificity 0.99"]["threshold"] == 0.97
        assert points["specificity 0.99"]["sensitivity"] == pytest.approx(1 / 5)


# The paper's table: precision mean and SD over the folds, then sensitivity mean and SD.
PUBLISHED_CLASSES = {
    "NGS": ".990 .003 .961 .010", "NGB": ".247 .074 .591 .160", "LYT": ".958 .015 .947 .016",
    "LYA": ".200 .400 .067 .133", "MON": ".901 .041 .901 .051", "EOS": ".949 .044 .948 .009",
    "BAS": ".483 .158 .817 .068", "MYO": ".938 .014 .939 .019", "PMO": ".628 .158 .542 .196",
    "PMB": ".447 .324 .407 .370", "MYB": ".463 .191 .426 .074", "MMZ": ".067 .133 .133 .267",
    "MOB": ".520 .302 .577 .265", "EBO": ".746 .202 .874 .089", "KSC": ".534 .277 .770 .204",
}  # fmt: skip
# Mean and population SD over the folds, to the digits given.
PUBLISHED_FIGURES = {
    "accuracy": (".9390", ".0045"),
    "weighted_f1": (".9435", None),
    "macro_f1": (".605", None),
    "balanced_accuracy": (".660", None),
    "cohen_kappa": (".914", None),
}
PUBLISHED_AUC = {
    "blast": (".9946", ".0012"),
    "atypical": (".9942", ".0016"),
    "atypical_without_pmb": (".9935", ".0016"),
}
# Sensitivity, specificity, precision. The paper's summary has .935 for the precision of blasts:
# .93448, rounded to .9345 and then once more.
PUBLISHED_AT_HALF = {"blast": (".933", ".986", ".9345"), "atypical": (".938", ".984", ".935")}


def _printed(value: float, like: str) -> str:
    """The value to as many digits as the figure in print."""
    return f"{value:.{len(like) - 1}f}".removeprefix("0")


def _shared() -> Path:
    folder = os.environ.get("LEUKO_SHARED")
    if not folder:
        pytest.skip("LEUKO_SHARED, the folder of shared data, is not set")
    return Path(folder)


@pytest.fixture(scope="module")
def published_figures() -> dict:
    return json.loads((_shared() / "data/published_network/expected_metrics.json").read_text())


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    with np.load(_shared() / "data/published_network/heldout_outputs.npz") as given:
        outputs = dict(zip(given["outputs16"], given["probability16"].T, strict=True))
        labels = given["codes15"][given["label"]]
        folds = given["fold"]
    outputs["EBO"] = outputs["EBO"] + outputs.pop("EBO2")
    table = _table(list(labels), np.stack([outputs[code] for code in CODES], axis=1))
    table["fold"] = folds
    return table


@pytest.fixture(scope="module")
def folds(published) -> list[dict]:
    return [compute_metrics(published[published["fold"] == k]) for k in range(1, 6)]


class TestPublishedNetwork:
    """Held-out outputs of the network of 2019 on all 18,365 images, and figures made elsewhere."""

    def test_confusion_matrices_are_exactly_those_computed_elsewhere(
        self, published, folds, published_figures
    ):
        assert published_figures["order"] == list(CODES)
        pooled = compute_metrics(published)
        assert pooled["images"] == 18_365
        assert (
            pooled["confusion_matrix"]["rows_are_labels"] == published_figures["confusion_pooled"]
        )
        received = [fold["confusion_matrix"]["rows_are_labels"] for fold in folds]
        assert received == published_figures["confusion_folds"]

    def test_every_folds_summary_is_that_computed_elsewhere(self, folds, published_figures):
        names = {
            "accuracy": "acc", "weighted_f1": "wF1", "macro_f1": "macroF1",
            "balanced_accuracy": "bacc", "cohen_kappa": "kappa",
        }  # fmt: skip
        for fold, summary in zip(folds, published_figures["summary"], strict=True):
            for ours, theirs in names.items():
                assert fold[ours] == pytest.approx(summary[theirs], abs=1e-12)

    def test_every_folds_classes_and_aucs_are_those_computed_elsewhere(
        self, folds, published_figures
    ):
        for row in published_figures["classes"]:
            received = [fold["classes"][row["cls"]] for fold in folds]
            assert [r["images"] for r in received] == row["n_per_fold"]
            assert [r["precision"] for r in received] == pytest.approx(row["prec_folds"])
            assert [r["sensitivity"] for r in received] == pytest.approx(row["sens_folds"])
        for name, key in (("blast", "auc_blast_folds"), ("atypical", "auc_atyp8_folds")):
            received = [fold["questions"][name]["roc_auc"] for fold in folds]
            assert received == pytest.approx(published_figures[key], abs=1e-12)

    @pytest.mark.parametrize("name", PUBLISHED_FIGURES)
    def test_overall_figures_are_those_in_print(self, folds, name):
        mean, deviation = PUBLISHED_FIGURES[name]
        values = [fold[name] for fold in folds]
        assert _printed(np.mean(values), mean) == mean
        if deviation:
            assert _printed(np.std(values), deviation) == deviation

    @pytest.mark.parametrize("code", CODES)
    def test_every_class_has_the_figures_in_print(self, folds, code):
        rows = [fold["classes"][code] for fold in folds]
        figures = []
        for name in ("precision", "sensitivity"):
            values = [row[name] for row in rows]
            figures += [np.mean(values), np.std(values)]
        printed = PUBLISHED_CLASSES[code].split()
        assert [_printed(f, p) for f, p in zip(figures, printed, strict=True)] == printed

    @pytest.mark.parametrize("question", QUESTIONS)
    def test_the_areas_under_the_curves_are_those_in_print(self, folds, question):
        mean, deviation = PUBLISHED_AUC[question]
        values = [fold["questions"][question]["roc_auc"] for fold in folds]
        assert _printed(np.mean(values), mean) == mean
        assert _printed(np.std(values), deviation) == deviation

    @pytest.mark.parametrize("question", PUBLISHED_AT_HALF)
    def test_the_figures_at_threshold_one_half_are_those_in_print(self, folds, question):
        points = [fold["questions"][question]["operating_points"][0] for fold in folds]
        printed = PUBLISHED_AT_HALF[question]
        for name, figure in zip(("sensitivity", "specificity", "precision"), printed, strict=True):
            assert _printed(np.mean([point[name] for point in points]), figure) == figure

    @pytest.mark.parametrize(
        ("question", "column", "all_answers", "without_uncertain"),
        [
            ("blast", 2, ".935 .915 .854", ".957 .911 .854"),
            ("blast", 3, ".799 .957 .909", ".907 .952 .909"),
            ("atypical", 2, ".934 .913 .864", ".959 .910 .864"),
            ("atypical", 3, ".809 .958 .920", ".917 .953 .920"),
        ],
    )
    def test_the_examiners_operating_points_are_those_in_print(
        self, question, column, all_answers, without_uncertain
    ):
        lines = (_shared() / "data/aml_lmu/annotations.dat").read_text().splitlines()
        rows = [r for r in (line.split() for line in lines) if r[column] != "nan"]
        assert len(rows) == 1905
        for answers, printed in (
            (rows, all_answers.split()),
            ([r for r in rows if r[column] != "UNC"], without_uncertain.split()),
        ):
            point = operating_point(
                np.array([r[1] in QUESTIONS[question] for r in answers]),
                np.array([r[column] in QUESTIONS[question] for r in answers]),
            )
            received = [point[name] for name in ("sensitivity", "specificity", "precision")]
            assert [_printed(r, p) for r, p in zip(received, printed, strict=True)] == printed


@st.composite
def tables(draw) -> pd.DataFrame:
    labels = draw(st.lists(st.sampled_from(CODES), min_size=1, max_size=40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    concentration = draw(st.sampled_from([0.05, 1.0, 20.0]))  # from sure to undecided
    return _table(labels, rng.dirichlet(np.full(15, concentration), len(labels)))


class TestOfAnyTable:
    @settings(deadline=None, max_examples=25)
    @given(tables())
    def test_figures_are_json_and_within_their_ranges(self, table):
        metrics = compute_metrics(table)
        again = json.loads(json.dumps(metrics, allow_nan=False))
        assert again == metrics
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
            assert 0 <= metrics[name] <= 1
        counts = np.array(metrics["confusion_matrix"]["rows_are_labels"])
        assert counts.sum() == len(table)
        assert metrics["accuracy"] == pytest.approx(np.trace(counts) / len(table))
        assert counts.sum(axis=1).tolist() == [r["images"] for r in metrics["classes"].values()]

    @settings(deadline=None, max_examples=25)
    @given(tables())
    def test_a_class_without_images_has_no_figures_and_one_with_images_has_all(self, table):
        present = set(table["label"])
        for code, row in compute_metrics(table)["classes"].items():
            figures = [row["precision"], row["sensitivity"], row["f1"]]
            assert (None in figures) == (code not in present)
            assert figures == [None] * 3 or None not in figures

    @settings(deadline=None, max_examples=25)
    @given(tables(), st.randoms(use_true_random=False))
    def test_the_order_of_the_rows_does_not_matter(self, table, random):
        rows = list(range(len(table)))
        random.shuffle(rows)
        one, other = compute_metrics(table), compute_metrics(table.iloc[rows])
        assert other == _approximately(one)

    @settings(deadline=None, max_examples=25)
    @given(tables())
    def test_operating_points_reach_their_specificity_by_their_own_threshold(self, table):
        scores = table[PROBABILITIES].to_numpy()
        for codes in QUESTIONS.values():
            positive, score = table["label"].isin(codes).to_numpy(), question_score(scores, codes)
            question = binary_question(positive, score)
            assert question["positives"] + question["negatives"] == len(table)
            if positive.all() or not positive.any():
                assert (question["roc_auc"], question["operating_points"]) == (None, [])
                continue
            for asked, point in zip(SPECIFICITIES, question["operating_points"][1:], strict=True):
                called = score >= point["threshold"]
                assert point["specificity"] >= asked
                assert point["specificity"] == pytest.approx(1 - called[~positive].mean())
                assert point["sensitivity"] == pytest.approx(called[positive].mean())
                # No lower threshold would do: the next lower score calls too many negatives.
                lower = score[score < point["threshold"]]
                if len(lower):
                    called = score >= lower.max()
                    assert 1 - called[~positive].mean() < asked

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from(CODES), min_size=1, max_size=40))
    def test_a_perfect_network_has_ones_everywhere(self, labels):
        metrics = compute_metrics(_table(labels, _sure(labels)))
        for name in ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1"):
            assert metrics[name] == 1
        # With a single class, chance alone agrees fully.
        assert metrics["cohen_kappa"] == (1 if len(set(labels)) > 1 else None)
        for code in set(labels):
            row = metrics["classes"][code]
            assert row["precision"] == row["sensitivity"] == row["f1"] == 1
        for question in metrics["questions"].values():
            assert question["roc_auc"] in (1, None)
            for point in question["operating_points"]:
                assert point["sensitivity"] == point["specificity"] == point["precision"] == 1

    @settings(deadline=None, max_examples=25)
    @given(st.lists(st.sampled_from(CODES), min_size=2, max_size=40).filter(lambda x: "NGS" in x))
    def test_a_network_that_always_says_the_same_is_as_good_as_chance(self, labels):
        metrics = compute_metrics(_table(labels, _sure(["NGS"] * len(labels))))
        classes = len(set(labels))
        assert metrics["accuracy"] == pytest.approx(labels.count("NGS") / len(labels))
        assert metrics["balanced_accuracy"] == pytest.approx(1 / classes)
        assert metrics["cohen_kappa"] == (pytest.approx(0) if classes > 1 else None)
        for question in metrics["questions"].values():
            assert question["roc_auc"] in (0.5, None)
            for point in question["operating_points"]:
                # Nothing is called positive; a precision of nothing counts as 0.
                figures = (point["sensitivity"], point["specificity"], point["precision"])
                assert figures == (0, 1, 0)


def _approximately(value):
    """`value` with every float inside replaced by one that compares up to rounding."""
    if isinstance(value, dict):
        return {key: _approximately(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_approximately(inner) for inner in value]
    return pytest.approx(value) if isinstance(value, float) else value


class TestQuestionScore:
    def test_it_sums_the_probabilities_of_its_classes(self):
        scores = np.arange(15, dtype=float)[np.newaxis] / 105
        assert question_score(scores, BLAST) == pytest.approx((7 + 12) / 105)
        eight = (7 + 12 + 8 + 9 + 10 + 11 + 13 + 3) / 105
        assert question_score(scores, ATYPICAL) == pytest.approx(eight)
        assert question_score(scores, ATYPICAL_WITHOUT_PMB) == pytest.approx(eight - 9 / 105)

    def test_rounding_never_takes_it_out_of_0_to_1(self):
        scores = np.zeros((1, 15))
        scores[0, [INDEX[code] for code in ATYPICAL]] = 0.1250001
        assert question_score(scores, ATYPICAL) == [1]

    def test_rounding_of_the_largest_probability_does_not_decide_the_order(self):
        """Two cells are blasts beyond doubt; what is left for the other classes ranks them."""
        scores = np.zeros((2, 15))
        scores[:, INDEX["MYO"]] = [np.float32(1) - np.float32(2**-24), 1]
        scores[:, INDEX["NGS"]] = [1e-12, 1e-9]
        surer, less_sure = question_score(scores, BLAST)
        assert surer > less_sure


def test_a_class_never_predicted_counts_as_precision_0():
    row = per_class(np.array([0, 1]), np.array([0, 0]))["NGB"]
    assert (row["precision"], row["sensitivity"], row["images"]) == (0, 0, 1)
