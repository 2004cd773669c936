"""Rows of the report's tables. A figure that is not defined is None."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from leuko_tf.classes import BY_CODE, CODES, LINEAGE_ORDER
from leuko_tf.metrics.agreement import NETWORK, NETWORK_PAIRS, PAIRS
from leuko_tf.metrics.headline import PLACES, Figure, collect_figure, get_nested
from leuko_tf.metrics.published import read_published_figures
from leuko_tf.metrics.questions import compute_wilson_interval
from leuko_tf.metrics.records import Interval, Metrics, PairedFigures
from leuko_tf.predictions import EXAMINERS
from leuko_tf.provenance import Source

QUESTIONS = ("blast", "atypical")  # those with published figures of the examiners
EXAMPLES = 3  # image ids listed for each kind of dispute
THIS = "this network"
NAMES = {
    "label": "label",
    NETWORK: THIS,
    "reannotation_1": "re-annotation 1",
    "reannotation_2": "re-annotation 2",
}
# Accuracies are comparable if no class's share of the images differs by more than this.
SAME_MIX = 0.05


@dataclass(frozen=True)
class ClassRow:
    """A class with its figures."""

    code: str
    name: str
    images: int
    precision: Figure
    sensitivity: Figure
    specificity: Figure
    f1: Figure
    # By figure: `higher` or `lower` where its interval does not contain the published pooled one.
    marks: dict[str, str]


@dataclass(frozen=True)
class PairRow:
    """Agreement of two answers on the same images, in the 15 classes."""

    names: tuple[str, str]
    all: Mapping[str, Any]  # UNC is an answer of its own
    without_uncertain: Mapping[str, Any]


@dataclass(frozen=True)
class PointRow:
    """Answers of a network or an examiner to a binary question, against the labels."""

    question: str
    name: str
    figures: Mapping[str, Any]  # images; sensitivity, specificity and precision if defined
    intervals: dict[str, Interval | None]  # Wilson's, of sensitivity and specificity


@dataclass(frozen=True)
class DisputeRow:
    """Images of one label for which both re-annotations give the same other class."""

    label: str
    reannotated: str
    images: int
    as_label: int  # images that the network answers like the label
    as_reannotated: int
    examples: list[str]  # ids


@dataclass(frozen=True)
class PairedRow:
    """A figure of two networks on the same images."""

    title: str
    this: float | None
    other: float | None
    difference: float | None  # this minus other
    interval: Interval | None  # of the difference
    p: float | None  # of DeLong's test, for areas under ROC curves
    mark: str  # `higher` or `lower` where the interval does not contain 0, else empty


def is_comparable(source: Source) -> bool:
    """Whether the published network's figures of the classes are shown for comparison."""
    return not source.get("synthetic") and source.get("held_out") is not False


def can_mark(source: Source) -> bool:
    """Whether differences from the published network are marked: only for real, held-out images."""
    return source.get("synthetic") is False and source.get("held_out") is True


def has_published_mix(metrics: Metrics) -> bool:
    """Whether the classes' shares are close to those of the published images.

    Otherwise accuracies, averages over classes and precisions differ for that reason alone.
    """
    published, pooled = read_published_figures()["network"], metrics["pooled"]
    for code in CODES:
        images = pooled["classes"][code]["images"]
        share = published["classes"][code]["images"] / published["images"]
        if not images or abs(images / pooled["images"] - share) >= SAME_MIX:
            return False
    return True


def mark_headline(figure: Figure, metrics: Metrics) -> str:
    """Marks a headline figure like those of `ClassRow`."""
    if not can_mark(metrics["source"]) or not has_published_mix(metrics):
        return ""
    return _mark_difference(figure)


def make_class_rows(metrics: Metrics) -> list[ClassRow]:
    """Makes the rows of all 15 classes, in lineage order."""
    marked = []
    if can_mark(metrics["source"]):
        marked = ["sensitivity", "precision"] if has_published_mix(metrics) else ["sensitivity"]
    rows = []
    for code in LINEAGE_ORDER:
        names = ("precision", "sensitivity", "specificity", "f1")
        figures = {name: collect_figure(metrics, ("classes", code, name)) for name in names}
        marks = {name: _mark_difference(figures[name]) for name in marked}
        images = metrics["pooled"]["classes"][code]["images"]
        rows.append(ClassRow(code, BY_CODE[code].name, images, marks=marks, **figures))
    return rows


def find_examiner_points(metrics: Metrics) -> dict[str, Any]:
    """Operating points by question, re-annotation, and `all` or `without_uncertain`; may be {}."""
    own = metrics["examiners"]
    if own and metrics["examiners_from"] == "these images":
        return {name: question["operating_points"] for name, question in own["questions"].items()}
    if metrics["examiners_from"]:
        return read_published_figures()["examiners"]["operating_points"]
    return {}


def make_pair_rows(metrics: Metrics) -> list[PairRow]:
    """Makes the rows of agreement: examiners with each other, then the network with each.

    Without re-annotated images, a real table gets the published re-annotations' rows only, and a
    synthetic one no rows.
    """
    own = metrics["examiners"]
    pairs: dict[tuple[str, str], Mapping[str, Any]] = {}
    if own:
        pairs |= {pair: own["classes"]["_".join(pair)] for pair in PAIRS}
        pairs |= {pair: own["network"]["agreement"]["_".join(pair)] for pair in NETWORK_PAIRS}
    elif metrics["examiners_from"]:
        published = read_published_figures()["examiners"]
        for pair in PAIRS:
            both = published["agreement"]["_".join(pair)]
            pairs[pair] = {**both, "all": {"images": published["images"], **both["all"]}}
    return [
        PairRow((NAMES[one], NAMES[other]), both["all"], both["without_uncertain"])
        for (one, other), both in pairs.items()
    ]


def make_point_rows(metrics: Metrics) -> list[PointRow]:
    """Makes the rows of network and re-annotations as answers to the two binary questions.

    The network, at threshold 0.5, on the re-annotated images, or on all images if there are none.
    """
    own = metrics["examiners"]
    points = find_examiner_points(metrics)
    figures = own["network"]["figures"] if own else metrics["pooled"]
    rows = []
    for question in QUESTIONS if points else ():
        network = figures["questions"][question]
        point = {
            **network["operating_points"].get("threshold 0.5", {}),
            "images": network["positives"] + network["negatives"],
            "positives": network["positives"],
        }
        rows.append(_make_point_row(question, THIS if own else f"{THIS}, on its own images", point))
        for column in EXAMINERS:
            for way, suffix in (("all", ""), ("without_uncertain", ", UNC left out")):
                point = get_nested(points, (question, column, way))
                if point:
                    rows.append(_make_point_row(question, NAMES[column] + suffix, point))
    return rows


def find_matched(metrics: Metrics) -> dict[str, Any]:
    """The network at the examiners' operating points, by question and examiner.

    On the re-annotated images; if there are none, on all images, as the mean over several folds.
    """
    own = metrics["examiners"]
    figures: Any = own["network"]["figures"] if own else metrics["mean"] or metrics["pooled"]
    return {question: figures["questions"][question]["at_examiners"] for question in QUESTIONS}


def make_dispute_rows(disputed: pd.DataFrame) -> list[DisputeRow]:
    """Makes a row for each kind of dispute of `find_disputes`, the most frequent first."""
    rows = []
    kinds: Any = disputed.groupby(["label", "reannotated"], sort=False)
    for (label, reannotated), images in kinds:
        as_label = int((images["network"] == label).sum())
        as_reannotated = int((images["network"] == reannotated).sum())
        examples = images["id"].head(EXAMPLES).tolist()
        rows.append(DisputeRow(label, reannotated, len(images), as_label, as_reannotated, examples))
    return sorted(rows, key=lambda row: -row.images)  # stable: ties keep the order of the classes


def make_paired_rows(paired: PairedFigures) -> list[PairedRow]:
    """Makes the rows of the headline figures of two networks."""
    rows = []
    for title, place in PLACES.items():
        this, other = get_nested(paired["this"], place), get_nested(paired["other"], place)
        test = get_nested(paired["delong"], place[1:2]) if place[-1] == "roc_auc" else None
        interval = test["interval"] if test else get_nested(paired["differences"], place)
        difference = this - other if this is not None and other is not None else None
        mark = _place_interval(interval, 0) if interval else ""
        p = test["p_value"] if test else None
        rows.append(PairedRow(title, this, other, difference, interval, p, mark))
    return rows


def _make_point_row(question: str, name: str, point: Mapping[str, Any]) -> PointRow:
    intervals = {}
    if "sensitivity" in point and "positives" in point:
        numbers = {
            "sensitivity": point["positives"],
            "specificity": point["images"] - point["positives"],
        }
        intervals = {name: compute_wilson_interval(point[name], n) for name, n in numbers.items()}
    return PointRow(question, name, point, intervals)


def _mark_difference(figure: Figure) -> str:
    interval, published = figure.interval, figure.published
    # An interval without width does not mean certainty: see `leuko_tf.metrics.bootstrap`.
    if interval is None or published is None or interval[0] == interval[1]:
        return ""
    return _place_interval(interval, published["pooled"])


def _place_interval(interval: Interval, value: float) -> str:
    """`higher` or `lower` where the interval does not contain the value, else empty."""
    return "higher" if interval[0] > value else "lower" if interval[1] < value else ""
