"""What must hold of the figures of any table."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import approximately, few_examples, leaves, sure, table_of, tables

from leuko_tf.classes import CODES, QUESTIONS
from leuko_tf.metrics import compute_metrics
from leuko_tf.metrics.headline import get_nested
from leuko_tf.metrics.summary import compute_figures

pytestmark = pytest.mark.filterwarnings("error")

REPLICATES = 20
OVERALL = ("accuracy", "balanced_accuracy", "macro_f1", "weighted_f1", "top2_accuracy")
EXAMINERS = {
    "blast": {"reannotation_1": {"sensitivity": 0.9, "specificity": 0.8, "precision": 0.7}}
}
# All other figures are shares.
RANGES = {
    "cohen_kappa": (-1, 1),
    "matthews_correlation": (-1, 1),
    "brier": (0, 2),
    "log_loss": (0, 88),
    "temperature": (0.05, 20),
    "mean_size": (0, 15),
}
ROUNDING = 2e-6


@few_examples
@given(tables())
def test_they_are_json_without_nan_and_in_their_ranges(table):
    metrics = compute_metrics(table, EXAMINERS, REPLICATES)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    for place, value in leaves(metrics):
        if isinstance(value, float):
            low, high = RANGES.get(place[-1], (0, 1))
            assert low - ROUNDING <= value <= high + ROUNDING, place


@few_examples
@given(tables())
def test_the_figures_agree_with_each_other_and_with_those_of_the_folds(table):
    metrics = compute_metrics(table, replicates=0)
    pooled, folds = metrics["pooled"], metrics["folds"]
    assert list(folds) == [str(k) for k in sorted(set(table["fold"]))]
    assert pooled["images"] == len(table) == sum(fold["images"] for fold in folds.values())
    for k, fold in folds.items():
        assert fold == compute_figures(table[table["fold"] == int(k)])
    of_folds = [fold["confusion_matrix"]["rows_are_labels"] for fold in folds.values()]
    counts = np.array(pooled["confusion_matrix"]["rows_are_labels"])
    np.testing.assert_array_equal(counts, np.sum(of_folds, 0))
    classes = pooled["classes"].values()
    accuracy = pooled["overall"]["accuracy"]
    assert accuracy == pytest.approx(np.trace(counts) / len(table))
    assert counts.sum(axis=1).tolist() == [row["images"] for row in classes]
    assert counts.sum(axis=0).tolist() == [row["answered"] for row in classes]
    defined = [row["sensitivity"] for row in classes if row["images"]]
    assert pooled["overall"]["balanced_accuracy"] == pytest.approx(np.mean(defined))
    bins = pooled["calibration"]["bins"]
    right = sum(b["accuracy"] * b["images"] for b in bins if b["images"])
    assert right == pytest.approx(np.trace(counts))
    assert metrics["selective"]["at_coverage"][0]["accuracy"] == pytest.approx(accuracy)


@few_examples
@given(tables())
def test_classes_without_images_have_no_figures_and_intervals_stand_in_their_places(table):
    metrics = compute_metrics(table, replicates=REPLICATES)
    present = set(table["label"])
    for code, row in metrics["pooled"]["classes"].items():
        values = [row["precision"], row["sensitivity"], row["f1"]]
        if code in present:
            assert None not in values
            assert (row["specificity"] is None) == (present == {code})
        else:
            assert values == [None] * 3
    assert set(metrics["intervals"]["classes"]) == present
    assert metrics["bootstrap_replicates"] == REPLICATES
    for place in {place for place, _ in leaves(metrics["intervals"])}:
        interval, figure = (get_nested(metrics[k], place) for k in ("intervals", "pooled"))
        assert interval is None or interval[0] <= interval[1], place
        assert interval is None or isinstance(figure, float), place


@few_examples
@given(tables())
def test_mean_and_deviation_are_over_the_folds_that_define_a_figure(table):
    metrics = compute_metrics(table, EXAMINERS, replicates=0)
    if len(metrics["folds"]) == 1:
        assert metrics["mean"] is metrics["sd"] is None
        return
    places = [place for place, _ in leaves(metrics["mean"])]
    assert places == [place for place, _ in leaves(metrics["sd"])]
    assert len(places) > 15 * 4
    for place in places:
        values = [get_nested(fold, place) for fold in metrics["folds"].values()]
        defined = [value for value in values if value is not None]
        if defined:
            assert get_nested(metrics["mean"], place) == pytest.approx(np.mean(defined)), place
            assert get_nested(metrics["sd"], place) == pytest.approx(np.std(defined)), place
        else:
            assert get_nested(metrics["mean"], place) is get_nested(metrics["sd"], place) is None


def test_mean_and_deviation_by_hand():
    """LYA has images in two of three folds, and is right in one of them."""
    labels = ["LYA", "NGS", "LYA", "NGS", "NGS", "NGS"]
    table = table_of(labels, sure(["LYA", "NGS", "NGS", "NGS", "NGS", "MYO"]), [1, 1, 2, 2, 3, 3])
    metrics = compute_metrics(table, replicates=0)
    assert get_nested(metrics["mean"], ("classes", "LYA", "sensitivity")) == 0.5
    assert get_nested(metrics["sd"], ("classes", "LYA", "sensitivity")) == 0.5
    assert get_nested(metrics["mean"], ("overall", "accuracy")) == pytest.approx(
        (1 + 0.5 + 0.5) / 3
    )
    assert get_nested(metrics["sd"], ("overall", "accuracy")) == pytest.approx(
        np.std([1, 0.5, 0.5])
    )
    assert get_nested(metrics["mean"], ("classes", "KSC", "sensitivity")) is None


@few_examples
@given(tables())
def test_without_replicates_there_are_no_intervals_but_delongs(table):
    metrics = compute_metrics(table, replicates=0)
    assert (metrics["intervals"], metrics["bootstrap_replicates"]) == (None, 0)
    for question in metrics["pooled"]["questions"].values():
        enough = min(question["positives"], question["negatives"]) > 1
        assert (question["roc_auc_interval"] is not None) == enough


@few_examples
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(table, random):
    """Of the bootstrap it does: other images have the same dice."""
    rows = list(range(len(table)))
    random.shuffle(rows)
    one, other = (compute_metrics(t, EXAMINERS, 0) for t in (table, table.iloc[rows]))
    temperature, other_temperature = one.pop("temperature"), other.pop("temperature")
    assert other == approximately(one)
    # A search for the least of a flat curve: its place is less sure than its height.
    assert other_temperature == approximately(temperature, rel=1e-3, abs=1e-6)


@few_examples
@given(st.lists(st.sampled_from(CODES), min_size=1, max_size=40), st.integers(1, 5))
def test_a_perfect_network_has_ones_everywhere(labels, folds):
    table = table_of(labels, sure(labels), np.arange(len(labels)) % folds + 1)
    metrics = compute_metrics(table, EXAMINERS, REPLICATES)
    pooled, several = metrics["pooled"], len(set(labels)) > 1
    for name in OVERALL:
        assert pooled["overall"][name] == 1
        assert metrics["intervals"]["overall"][name] == pytest.approx([1, 1])
    # With a single class, chance alone agrees fully.
    for name in ("cohen_kappa", "matthews_correlation"):
        assert pooled["overall"][name] == (pytest.approx(1) if several else None)
    for code in set(labels):
        row = pooled["classes"][code]
        assert row["precision"] == row["sensitivity"] == row["f1"] == 1
    for question in pooled["questions"].values():
        assert question["roc_auc"] in (1, None)
        assert question["roc_auc_interval"] in ([1, 1], None)
        for point in question["operating_points"].values():
            assert point["sensitivity"] == point["specificity"] == point["precision"] == 1
        for at_examiner in question["at_examiners"].values():
            assert at_examiner["sensitivity_at_specificity"] == 1
            assert at_examiner["specificity_at_sensitivity"] == 1
    for name in ("expected_calibration_error", "brier", "log_loss"):
        assert pooled["calibration"][name] == 0
    assert metrics["selective"]["area_under_risk_coverage"] == 0
    assert {row["coverage"] for row in metrics["selective"]["at_accuracy"]} == {1}
    for row in metrics["conformal"] or []:
        assert row["coverage"] == 1


@few_examples
@given(st.lists(st.sampled_from(CODES), min_size=2, max_size=40).filter(lambda x: "NGS" in x))
def test_a_network_that_always_says_the_same_is_as_good_as_chance(labels):
    metrics = compute_metrics(table_of(labels, sure(["NGS"] * len(labels))), replicates=REPLICATES)
    pooled, classes = metrics["pooled"], len(set(labels))
    share = labels.count("NGS") / len(labels)
    assert pooled["overall"]["accuracy"] == pytest.approx(share)
    assert pooled["overall"]["balanced_accuracy"] == pytest.approx(1 / classes)
    for name in ("cohen_kappa", "matthews_correlation"):
        assert pooled["overall"][name] == (pytest.approx(0) if classes > 1 else None)
    for name, question in pooled["questions"].items():
        assert question["roc_auc"] in (0.5, None)
        for point in question["operating_points"].values():
            # Nothing is called positive; a precision of nothing counts as 0.
            received = (point["sensitivity"], point["specificity"], point["precision"])
            assert received == (0, 1, 0)
        if question["roc_auc"]:
            positives = sum(label in QUESTIONS[name] for label in labels)
            assert question["average_precision"] == pytest.approx(positives / len(labels))
    assert pooled["calibration"]["expected_calibration_error"] == pytest.approx(1 - share)
    assert metrics["selective"]["area_under_risk_coverage"] == pytest.approx(1 - share)


@few_examples
@given(st.lists(st.sampled_from(CODES), min_size=2, max_size=40), st.integers(2, 5))
def test_a_network_that_finds_all_images_alike_orders_nothing(labels, folds):
    scores = np.tile(np.random.default_rng(0).dirichlet(np.ones(15)), (len(labels), 1))
    table = table_of(labels, scores, np.arange(len(labels)) % folds + 1)
    metrics = compute_metrics(table, replicates=REPLICATES)
    for question in metrics["pooled"]["questions"].values():
        assert question["roc_auc"] in (0.5, None)
        assert question["roc_auc_interval"] in ([0.5, 0.5], None)
    # All images stay, or none.
    assert metrics["selective"]["curve"]["coverage"] == [1]
    assert {row["coverage"] for row in metrics["selective"]["at_coverage"]} == {1}


@few_examples
@given(tables(max_size=1))
def test_a_single_image_has_the_figures_that_it_defines_and_no_others(table):
    metrics = compute_metrics(table, EXAMINERS, REPLICATES)
    pooled = metrics["pooled"]
    assert pooled["images"] == 1
    assert pooled["overall"]["accuracy"] in (0, 1)
    assert metrics["mean"] is metrics["sd"] is None
    assert metrics["temperature"] is metrics["conformal"] is None
    for question in pooled["questions"].values():
        assert question["roc_auc"] is question["roc_auc_interval"] is None
        assert question["average_precision"] is None
        assert question["operating_points"] == question["at_examiners"] == {}
    # Every replicate draws the same image.
    for place, value in leaves(metrics["intervals"]):
        assert value == approximately(get_nested(pooled, place), rel=1e-6, abs=1e-6), place


def test_a_fold_of_one_class_leaves_the_rest_to_the_other_folds():
    labels = ["NGS"] * 4 + ["MYO", "MYO", "NGS", "NGS"]
    answers = ["NGS"] * 4 + ["MYO", "NGS", "NGS", "NGS"]
    table = table_of(labels, sure(answers), [1] * 4 + [2] * 4)
    metrics = compute_metrics(table, replicates=REPLICATES)
    one, two = metrics["folds"].values()
    assert one["overall"]["cohen_kappa"] is None
    assert one["questions"]["blast"]["roc_auc"] is None
    for place in (("overall", "cohen_kappa"), ("questions", "blast", "roc_auc")):
        assert get_nested(metrics["mean"], place) == get_nested(two, place)
        assert get_nested(metrics["sd"], place) == 0
    threshold = ("questions", "blast", "operating_points", "threshold 0.5", "sensitivity")
    assert get_nested(metrics["mean"], threshold) == 0.5


def test_examiners_are_compared_in_the_questions_that_they_answered():
    rng = np.random.default_rng(0)
    labels = rng.choice(CODES, 60)
    table = table_of(labels.tolist(), rng.dirichlet(np.ones(15), 60), np.arange(60) % 2 + 1)
    metrics = compute_metrics(table, EXAMINERS, replicates=0)
    for figures_of in (metrics["pooled"], *metrics["folds"].values(), metrics["mean"]):
        questions = figures_of["questions"]
        assert list(questions["blast"]["at_examiners"]) == ["reannotation_1"]
        assert questions["atypical"]["at_examiners"] == {}
