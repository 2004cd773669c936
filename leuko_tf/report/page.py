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
from leuko_tf.cli import format_command_line, write_aside
from leuko_tf.explanation.gallery import PANELS
from leuko_tf.explanation.pictures import Answer, split_panels
from leuko_tf.metrics.headline import PLACES, get_nested, list_headlines
from leuko_tf.report import plots
from leuko_tf.report.card import format_model_card
from leuko_tf.report.rows import (
    THIS,
    can_mark,
    find_examiner_points,
    has_published_mix,
    is_comparable,
    make_class_rows,
    make_dispute_rows,
    make_matched_rows,
    make_pair_rows,
    make_paired_rows,
    make_point_rows,
    mark_headline,
)
from leuko_tf.report.text import list_limits, make_environment

JPEG_QUALITY = 85
IN_SOURCE = ("training", "remark")  # told elsewhere on the page


def write_report(
    table: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    metrics: dict[str, Any],
    disputed: pd.DataFrame,
    surest: list[Answer],
    typical: Mapping[str, list[Answer]],
    path: Path,
) -> None:
    """Writes one HTML file that needs no network and no other file.

    Args:
      table: checked predictions.
      others: those of other networks, by name.
      metrics: what `leuko_tf.evaluate.evaluate` computed.
      disputed: see `leuko_tf.metrics.agreement.find_disputes`.
      surest: see `leuko_tf.explanation.mistakes.read_mistakes`.
      typical: see `leuko_tf.explanation.gallery.read_gallery`.
      path: file to write.
    """
    source = metrics["source"]
    template = make_environment(autoescape=True).get_template("report.html.j2")
    page = template.render(
        metrics=metrics,
        source={key: value for key, value in source.items() if key not in IN_SOURCE},
        synthetic=bool(source.get("synthetic")),
        comparable=is_comparable(source),
        marked=can_mark(source),
        same_mix=has_published_mix(metrics),
        headlines=[(h, mark_headline(h, metrics)) for h in list_headlines(metrics)],
        classes=make_class_rows(metrics),
        pairs=make_pair_rows(metrics),
        points=make_point_rows(metrics),
        matched=make_matched_rows(metrics),
        question_names=plots.QUESTION_NAMES,
        figures=_draw_figures([(THIS, table), *others.items()], metrics),
        mistakes=[(mistake, _embed_picture(mistake)) for mistake in surest],
        gallery=[
            (code, [(a, _embed_panels(a)) for a in answers]) for code, answers in typical.items()
        ],
        without_images=[code for code in LINEAGE_ORDER if code not in typical],
        by_code=BY_CODE,
        coarse_types=COARSE_TYPES,
        disputes=make_dispute_rows(disputed),
        limits=list_limits(source),
        remark=source.get("remark"),
        card=_render_markdown(format_model_card(metrics)),
        training=source.get("training"),
        other_figures={
            name: {title: get_nested(comparison["other"], place) for title, place in PLACES.items()}
            for name, comparison in metrics["comparisons"].items()
        },
        paired={
            name: make_paired_rows(comparison["paired"])
            for name, comparison in metrics["comparisons"].items()
            if comparison["paired"]
        },
        versions={"leuko_tf": metrics["leuko_tf"]}
        | {name: version(name) for name in ("scikit-learn", "numpy", "pandas")},
        configuration=_format_yaml((source.get("training") or {}).get("configuration")),
        command=format_command_line(),
    )
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def _draw_figures(tables: plots.Tables, metrics: dict[str, Any]) -> dict[str, str | None]:
    """SVG text by name; None where the images do not define the plot."""
    points = find_examiner_points(metrics)
    figures: dict[str, str | None] = {
        "classes": plots.draw_classes(metrics, with_published=is_comparable(metrics["source"])),
        "confusion_matrix": plots.draw_confusion_matrix(metrics),
        "reliability": plots.draw_reliability(metrics),
        "coverage": plots.draw_coverage(metrics),
    }
    for name in ("blast", "atypical"):
        figures[f"roc_{name}"] = plots.draw_roc(name, tables, metrics, points.get(name, {}))
        figures[f"precision_recall_{name}"] = plots.draw_precision_recall(name, tables, metrics)
    return figures


def _embed_picture(answered: Answer) -> str | None:
    """Data URI of the picture; None where there is none."""
    if answered.picture is None:
        return None
    with Image.open(answered.picture) as picture:
        return _encode_jpeg(picture.convert("RGB"))


def _embed_panels(answered: Answer) -> list[tuple[str, str]]:
    """Name and data URI of each panel by itself: on a phone they do not fit in one row."""
    assert answered.picture
    with Image.open(answered.picture) as picture:
        panels = split_panels(picture.convert("RGB"))
    return [(name, _encode_jpeg(panel)) for name, panel in zip(PANELS, panels, strict=True)]


def _encode_jpeg(picture: Image.Image) -> str:
    """Data URI. As PNG the pictures would make the page some six times as large."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _render_markdown(markdown: str) -> str:
    """HTML of the card as a section of the page; what looks like HTML in it stays text."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    html = re.sub(r"(</?h)(\d)>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", html)
    return html.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )


def _format_yaml(configuration: dict[str, Any] | None) -> str | None:
    return yaml.safe_dump(configuration, sort_keys=False) if configuration else None
