"""Fills the report's page from metrics and predictions."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

import leuko_tf
from leuko_tf.classes import BY_CODE, LINEAGE_ORDER
from leuko_tf.cli import written_aside
from leuko_tf.report import plots

# To be stated wherever results are shown.
LIMITS = (
    "Research use only: nothing here is a diagnosis, and a cell's class is not a patient's.",
    "No split by patient is possible: images of one patient lie in several folds, so the figures "
    "are optimistic for new patients.",
    "Blasts come from patients and normal cells mostly from controls: stain and background can "
    "give the class away.",
    "The labels are one examiner's; the re-annotators disagree with 15 to 20 % of them.",
    "Classes of 11 to 26 images make averages over classes swing.",
)


def write_report(table: pd.DataFrame, metrics: dict[str, Any], path: Path) -> None:
    """Writes one HTML file that needs no network and no other file.

    Args:
      table: checked predictions, see `leuko_tf.predictions`.
      metrics: what `leuko_tf.metrics.compute_metrics` made of them, with `source`.
      path: file to write.
    """
    environment = Environment(
        loader=PackageLoader("leuko_tf.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure"] = lambda value: "-" if value is None else f"{value:.3f}"
    page = environment.get_template("report.html.j2").render(
        metrics=metrics,
        source=metrics["source"],
        classes=[BY_CODE[code] for code in LINEAGE_ORDER],
        question_names=plots.QUESTION_NAMES,
        confusion_matrix=plots.confusion_matrix(metrics),
        roc_curves=plots.roc_curves(table, metrics),
        limits=LIMITS,
        version=leuko_tf.__version__,
    )
    with written_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")
