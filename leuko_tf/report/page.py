"""Fills the report's page from metrics and predictions."""

import base64
import io
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from leuko_tf.classes import BY_CODE, COARSE_TYPES, LINEAGE_ORDER
from leuko_tf.cli import command_line, write_aside
from leuko_tf.explanation.gallery import PANELS
from leuko_tf.explanation.pictures import Answered, panels_of
from leuko_tf.metrics.headline import PLACES, at, headlines
from leuko_tf.report import plots
from leuko_tf.report.card import model_card
from leuko_tf.report.rows import (
    THIS,
    beside_published,
    class_rows,
    dispute_rows,
    examiner_points,
    headline_mark,
    is_marked,
    matched_rows,
    pair_rows,
    paired_rows,
    point_rows,
    same_mix,
)
from leuko_tf.report.text import environment, limits

JPEG_QUALITY = 85
IN_SOURCE = ("training", "remark")  # told elsewhere on the page


def write_report(
    table: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    metrics: dict[str, Any],
    disputed: pd.DataFrame,
    surest: list[Answered],
    typical: Mapping[str, list[Answered]],
    path: Path,
) -> None:
    """Writes one HTML file that needs no network and no other file.

    Args:
      table: checked predictions.
      others: those of other networks, by name.
      metrics: what `leuko_tf.evaluate.evaluate` computed.
      disputed: see `leuko_tf.metrics.agreement.find_disputes`.
      surest: see `leuko_tf.explanation.mistakes.described`.
      typical: see `leuko_tf.explanation.gallery.described`.
      path: file to write.
    """
    source = metrics["source"]
    template = environment(autoescape=True).get_template("report.html.j2")
    page = template.render(
        metrics=metrics,
        source={key: value for key, value in source.items() if key not in IN_SOURCE},
        synthetic=bool(source.get("synthetic")),
        comparable=beside_published(source),
        marked=is_marked(source),
        same_mix=same_mix(metrics),
        headlines=[(h, headline_mark(h, metrics)) for h in headlines(metrics)],
        classes=class_rows(metrics),
        pairs=pair_rows(metrics),
        points=point_rows(metrics),
        matched=matched_rows(metrics),
        question_names=plots.QUESTION_NAMES,
        figures=_figures([(THIS, table), *others.items()], metrics),
        mistakes=[(mistake, _whole(mistake)) for mistake in surest],
        gallery=[(code, [(a, _panels(a)) for a in answers]) for code, answers in typical.items()],
        without_images=[code for code in LINEAGE_ORDER if code not in typical],
        by_code=BY_CODE,
        coarse_types=COARSE_TYPES,
        disputes=dispute_rows(disputed),
        limits=limits(source),
        remark=source.get("remark"),
        card=_as_html(model_card(metrics)),
        training=source.get("training"),
        other_figures={
            name: {title: at(comparison["other"], place) for title, place in PLACES.items()}
            for name, comparison in metrics["comparisons"].items()
        },
        paired={
            name: paired_rows(comparison["paired"])
            for name, comparison in metrics["comparisons"].items()
            if comparison["paired"]
        },
        versions={"leuko_tf": metrics["leuko_tf"]}
        | {name: version(name) for name in ("scikit-learn", "numpy", "pandas")},
        configuration=_as_yaml((source.get("training") or {}).get("configuration")),
        command=command_line(),
    )
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _figures(tables: plots.Tables, metrics: dict[str, Any]) -> dict[str, str | None]:
    """SVG text by name; None where the images do not define the plot."""
    points = examiner_points(metrics)
    figures: dict[str, str | None] = {
        "classes": plots.classes(metrics, with_published=beside_published(metrics["source"])),
        "confusion_matrix": plots.confusion_matrix(metrics),
        "reliability": plots.reliability(metrics),
        "coverage": plots.coverage(metrics),
    }
    for name in ("blast", "atypical"):
        figures[f"roc_{name}"] = plots.roc(name, tables, metrics, points.get(name, {}))
        figures[f"precision_recall_{name}"] = plots.precision_recall(name, tables, metrics)
    return figures


def _whole(answered: Answered) -> str | None:
    """Data URI of the picture; None where there is none."""
    if answered.picture is None:
        return None
    with Image.open(answered.picture) as picture:
        return _jpeg(picture.convert("RGB"))


def _panels(answered: Answered) -> list[tuple[str, str]]:
    """Name and data URI of each panel by itself: on a phone they do not fit in one row."""
    assert answered.picture
    with Image.open(answered.picture) as picture:
        panels = panels_of(picture.convert("RGB"))
    return [(name, _jpeg(panel)) for name, panel in zip(PANELS, panels, strict=True)]


def _jpeg(picture: Image.Image) -> str:
    """Data URI. As PNG the pictures would make the page some six times as large."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _as_html(markdown: str) -> str:
    """HTML of the card as a section of the page; what looks like HTML in it stays text."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    html = re.sub(r"(</?h)(\d)>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", html)
    return html.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


def _as_yaml(configuration: dict[str, Any] | None) -> str | None:
    return yaml.safe_dump(configuration, sort_keys=False) if configuration else None
