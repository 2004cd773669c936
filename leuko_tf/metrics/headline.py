"""The few figures that every summary begins with."""

from dataclasses import dataclass
from typing import Any

from leuko_tf.metrics.published import read_published_figures

# Title to the figure's place.
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
class Headline:
    """One figure, in all the ways that it is told.

    Attributes:
      title: str.
      value: float or None. Of all images together; None where it is not defined.
      interval: [lower, upper] or None. 95 %, DeLong's for an AUC, else bootstrap.
      mean: float or None. Over the folds; None with a single one.
      sd: float or None. Population's, over the folds.
      published: dict or None. `mean`, `sd` and `pooled` of the published network.
    """

    title: str
    value: float | None
    interval: list[float] | None
    mean: float | None
    sd: float | None
    published: dict[str, float] | None


def list_headlines(metrics: dict[str, Any]) -> list[Headline]:
    """The headline figures of what `leuko_tf.metrics.compute_metrics` computed."""
    published = read_published_figures()["network"]
    return [
        Headline(
            title=title,
            value=get_nested(metrics["pooled"], place),
            interval=find_interval(metrics, place),
            mean=get_nested(metrics["mean"], place),
            sd=get_nested(metrics["sd"], place),
            published=get_nested(published, place),
        )
        for title, place in PLACES.items()
    ]


def find_interval(metrics: dict[str, Any], place: tuple[str, ...]) -> list[float] | None:
    """The 95 % interval of the pooled figure at a place; None without."""
    if place[-1] == "roc_auc":
        return get_nested(metrics["pooled"], (*place[:-1], "roc_auc_interval"))
    return get_nested(metrics["intervals"], place)


def get_nested(tree: dict[str, Any] | None, place: tuple[str, ...]) -> Any:
    """What stands at a place of a tree of figures; None where there is no such place."""
    for name in place:
        if tree is None:
            return None
        tree = tree.get(name)
    return tree
