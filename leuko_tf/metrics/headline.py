"""The headline figures, with which every summary begins."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from leuko_tf.metrics.published import read_published_figures
from leuko_tf.metrics.records import Interval, TableMetrics

# Title to nested key.
PLACES: dict[str, tuple[str, ...]] = {
    "accuracy": ("overall", "accuracy"),
    "balanced accuracy": ("overall", "balanced_accuracy"),
    "macro F1": ("overall", "macro_f1"),
    "weighted F1": ("overall", "weighted_f1"),
    "Cohen's kappa": ("overall", "cohen_kappa"),
    "Matthews' correlation": ("overall", "matthews_correlation"),
    "top-2 accuracy": ("overall", "top2_accuracy"),
    "coarse types: accuracy": ("coarse", "accuracy"),
    "coarse types: balanced accuracy": ("coarse", "balanced_accuracy"),
    "coarse types: macro F1": ("coarse", "macro_f1"),
    "ROC AUC, blast": ("questions", "blast", "roc_auc"),
    "ROC AUC, atypical": ("questions", "atypical", "roc_auc"),
    "ROC AUC, atypical without PMB": ("questions", "atypical_without_pmb", "roc_auc"),
}


@dataclass(frozen=True)
class Figure:
    """One figure, pooled and over the folds, with the published network's; None: not defined."""

    value: float | None  # all images pooled
    interval: Interval | None  # 95 %: DeLong's for an AUC, else bootstrap
    mean: float | None  # over the folds; None with a single fold
    sd: float | None  # the population's, over the folds
    published: dict[str, float] | None  # `mean`, `sd` and `pooled`


def collect_headlines(metrics: TableMetrics) -> dict[str, Figure]:
    """Collects the headline figures by title."""
    return {title: collect_figure(metrics, place) for title, place in PLACES.items()}


def collect_figure(metrics: TableMetrics, place: tuple[str, ...]) -> Figure:
    """Collects everything that is known about the figure at a nested key of `pooled`."""
    if place[-1] == "roc_auc":
        interval = get_nested(metrics["pooled"], (*place[:-1], "roc_auc_interval"))
    else:
        interval = get_nested(metrics["intervals"], place)
    return Figure(
        value=get_nested(metrics["pooled"], place),
        interval=interval,
        mean=get_nested(metrics["mean"], place),
        sd=get_nested(metrics["sd"], place),
        published=get_nested(read_published_figures()["network"], place),
    )


def get_nested(tree: Mapping[str, Any] | None, place: tuple[str, ...]) -> Any:
    """Value at a nested key, or None."""
    for name in place:
        if tree is None:
            return None
        tree = tree.get(name)
    return tree
