"""Writes the report's page, from metrics and predictions, and its short form, a model card."""

import base64
import io
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import yaml
from markdown_it import MarkdownIt
from PIL import Image

from leuko_tf.classes import BY_CODE, COARSE_TYPES, LINEAGE_ORDER
from leuko_tf.cli import format_command_line, write_aside
from leuko_tf.explanation.gallery import PANELS
from leuko_tf.explanation.pictures import Answer, split_panels
from leuko_tf.metrics.headline import PLACES, collect_headlines, get_nested
from leuko_tf.metrics.records import Metrics
from leuko_tf.report import plots, rows
from leuko_tf.report.text import list_limits, make_environment

JPEG_QUALITY = 85
SHOWN_ELSEWHERE = ("training", "remark")  # keys of the source


def write_report(
    table: pd.DataFrame,
    others: Mapping[str, pd.DataFrame],
    metrics: Metrics,
    disputed: pd.DataFrame,
    surest: list[Answer],
    typical: Mapping[str, list[Answer]],
    path: Path,
) -> None:
    """Writes one HTML file without external resources.

    `others` are other networks' checked predictions, by name; `disputed` is of `find_disputes`,
    `surest` of `read_mistakes`, and `typical` of `read_gallery`.
    """
    source = metrics["source"]
    training = source.get("training")
    headlines = collect_headlines(metrics)
    template = make_environment(autoescape=True).get_template("report.html.j2")
    page = template.render(
        metrics=metrics,
        source={key: value for key, value in source.items() if key not in SHOWN_ELSEWHERE},
        synthetic=bool(source.get("synthetic")),
        comparable=rows.is_comparable(source),
        marked=rows.can_mark(source),
        same_mix=rows.has_published_mix(metrics),
        headlines=headlines,
        marks={t: rows.mark_headline(figure, metrics) for t, figure in headlines.items()},
        classes=rows.make_class_rows(metrics),
        pairs=rows.make_pair_rows(metrics),
        points=rows.make_point_rows(metrics),
        matched=rows.find_matched(metrics),
        question_names=plots.QUESTION_NAMES,
        names=rows.NAMES,
        figures=_draw_figures([(rows.THIS, table), *others.items()], metrics),
        mistakes=[(mistake, _embed_picture(mistake)) for mistake in surest],
        gallery=[(code, [(a, _embed_panels(a)) for a in each]) for code, each in typical.items()],
        without_images=[code for code in LINEAGE_ORDER if code not in typical],
        by_code=BY_CODE,
        coarse_types=COARSE_TYPES,
        disputes=rows.make_dispute_rows(disputed),
        limits=list_limits(source),
        remark=source.get("remark"),
        card=_render_markdown(format_model_card(metrics)),
        training=training,
        other_figures={
            name: {title: get_nested(comparison["other"], place) for title, place in PLACES.items()}
            for name, comparison in metrics["comparisons"].items()
        },
        paired={
            name: rows.make_paired_rows(comparison["paired"])
            for name, comparison in metrics["comparisons"].items()
            if comparison["paired"]
        },
        versions={"leuko_tf": metrics["leuko_tf"]}
        | {name: version(name) for name in ("scikit-learn", "numpy", "pandas")},
        configuration=training and yaml.safe_dump(training["configuration"], sort_keys=False),
        command=format_command_line(),
    )
    with write_aside(path) as aside:
        aside.write_text(page, encoding="utf-8")


def format_model_card(metrics: Metrics) -> str:
    """Formats the model card as Markdown, in the order of Mitchell et al., arXiv 1810.03993."""
    source = metrics["source"]
    is_munich = "cytomorphology" in source.get("dataset", "").lower()
    template = make_environment(autoescape=False).get_template("model_card.md.j2")
    return template.render(
        metrics=metrics,
        source=source,
        training=source.get("training"),
        headlines=collect_headlines(metrics),
        classes=rows.make_class_rows(metrics),
        pairs=rows.make_pair_rows(metrics),
        coarse_types=COARSE_TYPES,
        munich=is_munich and not source.get("synthetic"),
        limits=list_limits(source),
    )


def write_model_card(metrics: Metrics, path: Path) -> None:
    with write_aside(path) as aside:
        aside.write_text(format_model_card(metrics), encoding="utf-8")


def _draw_figures(tables: plots.Tables, metrics: Metrics) -> dict[str, str | None]:
    """Draws the figures as SVG text by name; None where the images do not define one."""
    points = rows.find_examiner_points(metrics)
    comparable = rows.is_comparable(metrics["source"])
    figures: dict[str, str | None] = {
        "classes": plots.draw_classes(metrics, with_published=comparable),
        "confusion_matrix": plots.draw_confusion_matrix(metrics),
        "reliability": plots.draw_reliability(metrics),
        "coverage": plots.draw_coverage(metrics),
    }
    for name in ("blast", "atypical"):
        figures[f"roc_{name}"] = plots.draw_roc(name, tables, metrics, points.get(name, {}))
        figures[f"precision_recall_{name}"] = plots.draw_precision_recall(name, tables, metrics)
    return figures


def _embed_picture(answered: Answer) -> str | None:
    """Encodes the picture as a data URI; None where there is none."""
    if answered.picture is None:
        return None
    with Image.open(answered.picture) as picture:
        return encode_jpeg(picture.convert("RGB"))


def _embed_panels(answered: Answer) -> list[tuple[str, str]]:
    """Names and data URIs of the panels, each an image: on a phone they do not fit in one row."""
    assert answered.picture
    with Image.open(answered.picture) as picture:
        panels = split_panels(picture.convert("RGB"))
    return [(name, encode_jpeg(panel)) for name, panel in zip(PANELS, panels, strict=True)]


def encode_jpeg(picture: Image.Image) -> str:
    """Encodes a picture as a data URI. As PNG, the page would be about six times as large."""
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def _render_markdown(markdown: str) -> str:
    """Renders the card as HTML, one heading level lower; HTML in the card stays text."""
    html = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    html = re.sub(r"(</?h)(\d)>", lambda tag: f"{tag[1]}{int(tag[2]) + 1}>", html)
    return html.replace("<table>", '<div class="scroll"><table>').replace(
        "</table>", "</table></div>"
    )
