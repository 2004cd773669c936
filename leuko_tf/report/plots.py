"""Plots of the report, as SVG text for the page.

Colours and order of the classes are those of `leuko_tf.classes`.
"""

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from leuko_tf.classes import BY_CODE, CODES, INDEX, LINEAGE_ORDER, QUESTIONS
from leuko_tf.metrics.agreement import select_reannotated
from leuko_tf.metrics.headline import get_nested
from leuko_tf.metrics.published import read_published_figures
from leuko_tf.metrics.questions import compute_question_score
from leuko_tf.metrics.records import Metrics
from leuko_tf.predictions import get_probabilities
from leuko_tf.report.rows import NAMES

NETWORK = "#1f4e79"
FOLD = "#9db8d2"
REFERENCE = "#8a8a8a"
EXAMINERS = {"reannotation_1": ("#d95f02", "s"), "reannotation_2": ("#7b3294", "^")}
OTHERS = ("#1b9e77", "#e7298a", "#666633", "#00868b")
QUESTION_NAMES = {
    "blast": "blast (MYO, MOB)",
    "atypical": "atypical (eight classes)",
    "atypical_without_pmb": "atypical without PMB (seven classes)",
}
# From this AUC on, only the corner of the plot is drawn in which curves differ.
ZOOMED_FROM = 0.97

# Names of networks and their tables of predictions; the evaluated network comes first.
Tables = Sequence[tuple[str, pd.DataFrame]]


def draw_confusion_matrix(metrics: Metrics) -> str:
    """Draws the confusion matrix; colours and numbers are shares of the label's images."""
    counts = np.array(metrics["pooled"]["confusion_matrix"]["rows_are_labels"])
    order = [INDEX[code] for code in LINEAGE_ORDER]
    counts = counts[np.ix_(order, order)]
    images = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(images, 1)

    figure = Figure(figsize=(6.8, 6.0), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.argwhere(shares >= 0.005):
        colour = "white" if shares[row, column] > 0.5 else "black"
        text = f"{100 * shares[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(CODES)), LINEAGE_ORDER, rotation=90)
    labels = [f"{c} ({n:,})" for c, n in zip(LINEAGE_ORDER, images[:, 0], strict=True)]
    axes.set_yticks(range(len(CODES)), labels)
    edges = np.arange(len(CODES) + 1) - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="answer of the network", ylabel="label (images)")
    figure.colorbar(picture, label="% of the label's images", shrink=0.7, aspect=30)
    return to_svg(figure, "Confusion matrix, each row as shares of its label's images")


def draw_classes(metrics: Metrics, with_published: bool) -> str:
    """Draws precision and sensitivity of each class with intervals."""
    published = read_published_figures()["network"]["classes"]
    above, below = (-0.14, 0.2) if with_published else (0, 0)
    figure = Figure(figsize=(6.8, 5.0), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True, gridspec_kw={"wspace": 0.08})
    for axes, name in zip(panels, ("precision", "sensitivity"), strict=True):
        for row, code in enumerate(LINEAGE_ORDER):
            value = get_nested(metrics["pooled"], ("classes", code, name))
            if with_published:
                pooled = published[code][name]["pooled"]
                axes.plot(pooled, row + below, "D", color="white", mec=REFERENCE, ms=4.5)
            if value is None:
                continue
            colour = BY_CODE[code].colour
            interval = get_nested(metrics["intervals"], ("classes", code, name))
            if interval:
                axes.plot(interval, [row + above] * 2, color=colour, linewidth=2.4)
            axes.plot(value, row + above, "o", color=colour, mec="black", mew=0.6, ms=7)
        axes.set(xlim=(-0.05, 1.05), xlabel=name)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    classes = metrics["pooled"]["classes"]
    labels = [f"{code} ({classes[code]['images']:,})" for code in LINEAGE_ORDER]
    panels[0].set_yticks(range(len(labels)), labels)
    panels[0].set_ylim(len(labels) - 0.4, -0.6)
    return to_svg(figure, "Precision and sensitivity of the 15 classes with 95 % intervals")


def draw_roc(name: str, tables: Tables, metrics: Metrics, points: dict[str, Any]) -> str | None:
    """Draws a question's ROC curve; None where the images are all of one kind.

    Shows the examiners' operating points, `points` by re-annotation, and `all` or
    `without_uncertain`. If the examiners saw images of the table, a second curve shows these only.
    """
    figures = metrics["pooled"]["questions"][name]
    if figures["roc_auc"] is None:
        return None
    figure = Figure(figsize=(4.5, 4.9), layout="constrained")
    axes = figure.add_subplot()
    own = tables[0][1]
    folds = sorted(own["fold"].unique())
    for k in folds if len(folds) > 1 else []:
        curve = _compute_roc(own[own["fold"] == k], name)
        if curve:
            label = "each fold" if k == folds[0] else None
            axes.plot(*curve, color=FOLD, linewidth=0.9, label=label)
    for i, (network, table) in enumerate(tables):
        curve = _compute_roc(table, name)
        if curve:
            axes.plot(*curve, label=network, **_choose_line(i))
    curve = _compute_roc(select_reannotated(own), name)
    if curve and metrics["examiners_from"] == "these images":
        axes.plot(*curve, ":", color=NETWORK, linewidth=1.4, label="re-annotated images")
    half = figures["operating_points"]["threshold 0.5"]
    _draw_threshold_point(axes, 1 - half["specificity"], half["sensitivity"])
    for column, (colour, marker) in EXAMINERS.items():
        for way, face in (("all", colour), ("without_uncertain", "white")):
            examiner = points.get(column, {}).get(way)
            if examiner:
                x, y = 1 - examiner["specificity"], examiner["sensitivity"]
                label = NAMES[column] + ("" if way == "all" else ", UNC left out")
                axes.plot(
                    x, y, marker, color=face, mec=colour, mew=1.6, ms=8, zorder=6, label=label
                )
    if figures["roc_auc"] >= ZOOMED_FROM:
        shown = [p[way] for p in points.values() for way in p]
        right = max([0.1, *(1 - p["specificity"] for p in shown)])
        bottom = min([0.9, half["sensitivity"], *(p["sensitivity"] for p in shown)])
        height = 1.2 * (1 - bottom)
        axes.set(xlim=(-0.01 * right, 1.15 * right), ylim=(1 - height, 1 + 0.02 * height))
        axes.set_title("upper left corner of the curve", fontsize=9, color="#555555")
    else:
        axes.plot([0, 1], [0, 1], "--", color="#bbbbbb", linewidth=1)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    _add_legend(figure, axes)
    return to_svg(figure, f"ROC curve, {QUESTION_NAMES[name]}")


def draw_precision_recall(name: str, tables: Tables, metrics: Metrics) -> str | None:
    """Draws precision against sensitivity; None where the images are all of one kind."""
    figures = metrics["pooled"]["questions"][name]
    if figures["roc_auc"] is None:
        return None
    figure = Figure(figsize=(4.5, 4.9), layout="constrained")
    axes = figure.add_subplot()
    lowest = 1.0
    for i, (network, table) in enumerate(tables):
        positive, score = _select_question(table, name)
        if positive.all() or not positive.any():
            continue
        precision, sensitivity, _ = precision_recall_curve(positive, score, drop_intermediate=True)
        axes.plot(sensitivity, precision, label=network, **_choose_line(i))
        lowest = min(lowest, positive.mean())
    half = figures["operating_points"]["threshold 0.5"]
    _draw_threshold_point(axes, half["sensitivity"], half["precision"])
    if figures["roc_auc"] >= ZOOMED_FROM:
        corner = max(0.0, min(0.85, half["sensitivity"], half["precision"]) - 0.1)
        limits = (corner, 1 + 0.03 * (1 - corner))
        axes.set(xlim=limits, ylim=limits)
        axes.set_title("upper right corner of the curve", fontsize=9, color="#555555")
    else:
        axes.axhline(lowest, color="#bbbbbb", linewidth=1, linestyle="--", label="by chance")
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    axes.set(xlabel="sensitivity (recall)", ylabel="precision")
    _add_legend(figure, axes)
    return to_svg(figure, f"Precision-recall curve, {QUESTION_NAMES[name]}")


def draw_reliability(metrics: Metrics) -> str:
    """Draws accuracy against confidence, above a histogram of the confidences."""
    figure = Figure(figsize=(4.5, 5.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    bins = metrics["pooled"]["calibration"]["bins"]
    upper.plot([0, 1], [0, 1], "--", color="#bbbbbb", linewidth=1, label="ideal")
    _draw_reliability_line(upper, bins, NETWORK, "o-", "as predicted")
    if metrics["temperature"]:
        after = metrics["temperature"]["after"]["bins"]
        _draw_reliability_line(upper, after, OTHERS[0], "s--", "after temperature scaling")
    upper.set(ylabel="share of right answers", ylim=(-0.02, 1.02))
    upper.legend(loc="upper left", fontsize=8.5)
    edges = [b["from"] for b in bins]
    lower.bar(edges, [b["images"] for b in bins], 1 / len(bins), align="edge", color=NETWORK)
    lower.set(yscale="log", ylabel="images", xlim=(0, 1))
    lower.set_xlabel("confidence (probability of the answer)")
    tidy_axes(upper)
    tidy_axes(lower)
    return to_svg(figure, "Reliability diagram")


def draw_coverage(metrics: Metrics) -> str:
    """Draws accuracy against the share of images that the network answers."""
    figure = Figure(figsize=(4.5, 4.3), layout="constrained")
    axes = figure.add_subplot()
    curve, points = metrics["selective"]["curve"], metrics["selective"]["at_coverage"]
    axes.plot(curve["coverage"], curve["accuracy"], color=NETWORK, linewidth=2.2)
    for point in points:
        place = (point["coverage"], point["accuracy"])
        axes.plot(*place, "o", color=NETWORK, mec="white", ms=8)
        text, away = f"{point['accuracy']:.3f}", (-7, -10)
        axes.annotate(text, place, away, textcoords="offset points", ha="right", fontsize=8.5)
    room = max(0.02, 1 - min(point["accuracy"] for point in points))
    axes.set(xlim=(0.4, 1.04), ylim=(1 - 1.25 * room, 1 + 0.15 * room))
    axes.set_xlabel("share of images answered, most confident first")
    axes.set_ylabel("share of right answers among them")
    tidy_axes(axes)
    return to_svg(figure, "Accuracy against coverage")


def _draw_reliability_line(
    axes: Axes, bins: list[dict[str, Any]], colour: str, style: str, label: str
) -> None:
    confidence = [b["confidence"] for b in bins if b["images"]]
    accuracy = [b["accuracy"] for b in bins if b["images"]]
    axes.plot(confidence, accuracy, style, color=colour, markersize=5, linewidth=1.6, label=label)


def _draw_threshold_point(axes: Axes, x: float, y: float) -> None:
    axes.plot(x, y, "o", color=NETWORK, mec="white", ms=8, zorder=5, label="at threshold 0.5")


def _add_legend(figure: Figure, axes: Axes) -> None:
    tidy_axes(axes)
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, frameon=False)


def _select_question(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth and score of a question, [n] each."""
    positive = table["label"].isin(QUESTIONS[name]).to_numpy()
    return positive, compute_question_score(get_probabilities(table), QUESTIONS[name])


def _compute_roc(table: pd.DataFrame, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    positive, score = _select_question(table, name)
    if positive.all() or not positive.any():  # also without images
        return None
    return roc_curve(positive, score)[:2]


def _choose_line(network: int) -> dict[str, Any]:
    """Chooses the colour and width of a curve by the network's index among the tables."""
    if network == 0:
        return {"color": NETWORK, "linewidth": 2.2}
    return {"color": OTHERS[(network - 1) % len(OTHERS)], "linewidth": 1.6}


def tidy_axes(axes: Axes) -> None:
    axes.grid(color="#e6e6e6")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def to_svg(figure: Figure, title: str) -> str:
    """Converts a figure to an SVG element: reproducible, with text kept as text."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # The title as salt gives the definitions of each figure ids of their own.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": title}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Ids that nothing in the figure refers to could occur again in the next figure.
    used = set(re.findall(r"#([\w.-]+)", text))
    text = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(title)}" ', 1)
