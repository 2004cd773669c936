"""The model card: a summary of the evaluation, in the order of Mitchell et al. 2019.

Mitchell et al., "Model cards for model reporting", FAT* 2019, arXiv 1810.03993.
"""

from pathlib import Path

from leuko_tf.classes import COARSE_TYPES
from leuko_tf.cli import write_aside
from leuko_tf.metrics.headline import collect_headlines
from leuko_tf.metrics.records import Metrics
from leuko_tf.report.rows import make_class_rows, make_pair_rows
from leuko_tf.report.text import list_limits, make_environment


def format_model_card(metrics: Metrics) -> str:
    """Formats the card as Markdown."""
    source = metrics["source"]
    is_munich = "cytomorphology" in source.get("dataset", "").lower()
    template = make_environment(autoescape=False).get_template("model_card.md.j2")
    return template.render(
        metrics=metrics,
        source=source,
        training=source.get("training"),
        headlines=collect_headlines(metrics),
        classes=make_class_rows(metrics),
        pairs=make_pair_rows(metrics),
        coarse_types=COARSE_TYPES,
        munich=is_munich and not source.get("synthetic"),
        limits=list_limits(source),
    )


def write_model_card(metrics: Metrics, path: Path) -> None:
    with write_aside(path) as aside:
        aside.write_text(format_model_card(metrics), encoding="utf-8")
