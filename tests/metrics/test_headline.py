"""The figures that every summary begins with."""

import numpy as np
from prediction_tables import plausible, table_of

from leuko_tf.classes import CODES
from leuko_tf.metrics import compute_metrics
from leuko_tf.metrics.headline import PLACES, collect_headlines, get_nested
from leuko_tf.metrics.published import read_published_figures


def test_each_has_its_value_interval_mean_and_deviation():
    labels = np.random.default_rng(0).integers(15, size=100)
    scores = plausible(np.random.default_rng(1), labels)
    table = table_of([CODES[i] for i in labels], scores, np.arange(100) % 2 + 1)
    metrics = compute_metrics(table, replicates=20)
    figures = collect_headlines(metrics)
    assert list(figures) == list(PLACES)
    for figure in figures.values():
        assert figure.interval[0] <= figure.value <= figure.interval[1]
        assert 0 <= figure.sd <= 1
        assert -1 <= figure.mean <= 1
    accuracy = figures["accuracy"]
    assert accuracy.value == metrics["pooled"]["overall"]["accuracy"]
    assert accuracy.interval == metrics["intervals"]["overall"]["accuracy"]
    assert accuracy.mean == metrics["mean"]["overall"]["accuracy"]
    assert accuracy.published == read_published_figures()["network"]["overall"]["accuracy"]
    delong = metrics["pooled"]["questions"]["blast"]["roc_auc_interval"]
    assert figures["ROC AUC, blast"].interval == delong


def test_what_one_image_does_not_define_is_none():
    metrics = compute_metrics(table_of(["NGS"], np.eye(15)[:1]), replicates=5)
    figures = collect_headlines(metrics)
    assert (figures["accuracy"].value, figures["accuracy"].interval) == (1, [1, 1])
    for figure in figures.values():
        assert figure.mean is figure.sd is None
    for title in ("Cohen's kappa", "ROC AUC, blast"):
        assert figures[title].value is figures[title].interval is None


def test_a_place_that_is_not_there_has_none():
    tree = {"overall": {"accuracy": 0.5, "cohen_kappa": None}}
    assert get_nested(tree, ("overall", "accuracy")) == 0.5
    assert get_nested(tree, ("overall", "cohen_kappa", "deeper")) is None
    assert get_nested(tree, ("questions", "blast", "roc_auc")) is None
    assert get_nested(None, ("overall",)) is None
