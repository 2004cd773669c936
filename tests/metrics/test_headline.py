"""The figures that every summary begins with."""

import numpy as np
import pytest
from prediction_tables import plausible, table_of

from leuko_tf.classes import CODES
from leuko_tf.metrics import compute_metrics
from leuko_tf.metrics.headline import PLACES, find_interval, get_nested, list_headlines
from leuko_tf.metrics.published import read_published_figures


@pytest.fixture(scope="module")
def metrics() -> dict:
    labels = np.random.default_rng(0).integers(15, size=100)
    scores = plausible(np.random.default_rng(1), labels)
    return compute_metrics(
        table_of([CODES[i] for i in labels], scores, np.arange(100) % 2 + 1), replicates=20
    )


def test_each_has_its_value_interval_mean_and_deviation(metrics):
    rows = {row.title: row for row in list_headlines(metrics)}
    assert list(rows) == list(PLACES)
    for row in rows.values():
        assert row.interval[0] <= row.value <= row.interval[1]
        assert 0 <= row.sd <= 1
        assert -1 <= row.mean <= 1
    assert rows["accuracy"].value == metrics["pooled"]["overall"]["accuracy"]
    assert rows["accuracy"].interval == metrics["intervals"]["overall"]["accuracy"]
    assert rows["accuracy"].mean == metrics["mean"]["overall"]["accuracy"]
    assert rows["accuracy"].published == read_published_figures()["network"]["overall"]["accuracy"]


def test_an_areas_interval_is_delongs(metrics):
    interval = metrics["pooled"]["questions"]["blast"]["roc_auc_interval"]
    assert find_interval(metrics, PLACES["ROC AUC, blast"]) == interval
    assert next(
        row for row in list_headlines(metrics) if row.title == "ROC AUC, blast"
    ).interval == (interval)


def test_what_one_image_does_not_define_is_none():
    metrics = compute_metrics(table_of(["NGS"], np.eye(15)[:1]), replicates=5)
    rows = {row.title: row for row in list_headlines(metrics)}
    assert (rows["accuracy"].value, rows["accuracy"].interval) == (1, [1, 1])
    for row in rows.values():
        assert row.mean is row.sd is None
    for title in ("Cohen's kappa", "ROC AUC, blast"):
        assert rows[title].value is rows[title].interval is None


def test_a_place_that_is_not_there_has_none():
    tree = {"overall": {"accuracy": 0.5, "cohen_kappa": None}}
    assert get_nested(tree, ("overall", "accuracy")) == 0.5
    assert get_nested(tree, ("overall", "cohen_kappa", "deeper")) is None
    assert get_nested(tree, ("questions", "blast", "roc_auc")) is None
    assert get_nested(None, ("overall",)) is None
