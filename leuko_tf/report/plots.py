"""Plots of the report, as SVG text to put into the page."""

import io
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from leuko_tf.classes import CODES, INDEX, LINEAGE_ORDER, QUESTIONS
from leuko_tf.metrics import question_score
from leuko_tf.predictions import probabilities

QUESTION_COLOURS = {"blast": "#d62728", "atypical": "#9467bd", "atypical_without_pmb": "#7f7f7f"}
QUESTION_NAMES = {
    "blast": "blast (MYO, MOB)",
    "atypical": "atypical (eight classes)",
    "atypical_without_pmb": "atypical without PMB",
}


def confusion_matrix(metrics: dict[str, Any]) -> str:
    """Confusion matrix as SVG: colour by share of the row, counts as text, lineage order."""
    counts = np.array(metrics["confusion_matrix"]["rows_are_labels"])
    order = [INDEX[code] for code in LINEAGE_ORDER]
    counts = counts[np.ix_(order, order)]
    images = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(images, 1)

    figure = Figure(figsize=(7.2, 6.4), layout="constrained")
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(counts > 0):
        colour = "white" if shares[row, column] > 0.5 else "black"
        axes.text(
            column, row, counts[row, column], ha="center", va="center", fontsize=8, color=colour
        )
    axes.set_xticks(range(len(CODES)), LINEAGE_ORDER, rotation=90)
    axes.set_yticks(
        range(len(CODES)), [f"{c} ({n})" for c, n in zip(LINEAGE_ORDER, images[:, 0], strict=True)]
    )
    axes.set_xlabel("network")
    axes.set_ylabel("label (images)")
    figure.colorbar(picture, label="share of the label's images", shrink=0.8)
    return _svg(figure)


def roc_curves(table: pd.DataFrame, metrics: dict[str, Any]) -> str:
    """ROC curves of the binary questions as SVG; a question without both kinds is left out."""
    figure = Figure(figsize=(5.6, 5.2), layout="constrained")
    axes = figure.add_subplot()
    scores = probabilities(table)
    for name, codes in QUESTIONS.items():
        figures = metrics["questions"][name]
        if figures["roc_auc"] is None:
            continue
        positive = table["label"].isin(codes)
        false_positive, true_positive, _ = roc_curve(positive, question_score(scores, codes))
        label = f"{QUESTION_NAMES[name]}: AUC {figures['roc_auc']:.4f}"
        axes.plot(false_positive, true_positive, color=QUESTION_COLOURS[name], label=label)
        at = figures["operating_points"][0]
        axes.plot(1 - at["specificity"], at["sensitivity"], "o", color=QUESTION_COLOURS[name])
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linewidth=1, linestyle="--")
    axes.set_xlabel("1 - specificity")
    axes.set_ylabel("sensitivity")
    axes.set_aspect("equal")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower right", title="points: threshold 0.5")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element: text as text, and repeatable, for it has no date."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "leuko_tf"}):
        figure.savefig(buffer, format="svg", metadata=no_metadata)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
