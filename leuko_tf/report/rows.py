"""Rows of the report's tables."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from leuko_tf.classes import BY_CODE, CODES, LINEAGE_ORDER
from leuko_tf.metrics.agreement import NETWORK, NETWORK_PAIRS, PAIRS
from leuko_tf.metrics.headline import PLACES, Headline, get_nested
from leuko_tf.metrics.published import read_published_figures
from leuko_tf.metrics.questions import compute_wilson_interval
from leuko_tf.predictions import EXAMINERS

QUESTIONS = ("blast", "atypical")  # what is published of the examiners
EXAMPLES = 3  # images named of each kind of dispute
THIS = "this network"
NAMES = {
    "label": "label",
    NETWORK: THIS,
    "reannotation_1": "re-annotation 1",
    "reannotation_2": "re-annotation 2",
}
# Shares of the classes that differ no more than this make accuracies comparable.
SAME_MIX = 0.05


@dataclass(frozen=True)
class ComparedFigure:
    """A figure beside the published network's.

    Attributes:
      value: float or None. Of all images.
      interval: [lower, upper] or None. 95 %.
      mean, sd: float or None. Over the folds.
      published: dict or None. `pooled`, `mean` and `sd`.
      mark: str. `higher` or `lower` than published, where the published figure of all folds pooled
        lies outside of the interval; else empty.
    """

    value: float | None
    interval: list[float] | None
    mean: float | None
    sd: float | None
    published: dict[str, float] | None
    mark: str


@dataclass(frozen=True)
class ClassRow:
    """A class; see `leuko_tf.metrics.answers.compute_per_class`."""

    code: str
    name: str
    images: int
    precision: ComparedFigure
    sensitivity: ComparedFigure
    specificity: ComparedFigure
    f1: ComparedFigure


@dataclass(frozen=True)
class PairRow:
    """Two who answered the same images; 15 classes.

    Attributes:
      names: (str, str).
      images: int.
      all: dict. `agreement` and `kappa` with their intervals, UNC being an answer of its own.
      without_uncertain: dict. The same without the images with an UNC of the two.
    """

    names: tuple[str, str]
    images: int
    all: dict[str, Any]
    without_uncertain: dict[str, Any]


@dataclass(frozen=True)
class PointRow:
    """Someone's answers to a binary question, against the labels.

    Attributes:
      question: str.
      name: str. Who.
      images: int.
      figures: dict of sensitivity, specificity and precision; None where not defined.
      intervals: dict of sensitivity and specificity; Wilson's, None where not known.
    """

    question: str
    name: str
    images: int
    figures: dict[str, float | None]
    intervals: dict[str, list[float] | None]


@dataclass(frozen=True)
class MatchedRow:
    """The network at an examiner's operating point.

    Attributes:
      question, examiner: str.
      sensitivity, specificity: float. The examiner's.
      network_sensitivity: float. At a specificity no lower than the examiner's.
      network_specificity: float. At a sensitivity no lower than the examiner's.
    """

    question: str
    examiner: str
    sensitivity: float
    specificity: float
    network_sensitivity: float
    network_specificity: float


@dataclass(frozen=True)
class DisputeRow:
    """Images with one label that both re-annotations answer with one other class.

    Attributes:
      label, reannotated: str. Codes.
      images: int.
      as_label, as_reannotated: int. How many of them the network answers so.
      examples: list of str. Ids.
    """

    label: str
    reannotated: str
    images: int
    as_label: int
    as_reannotated: int
    examples: list[str]


@dataclass(frozen=True)
class PairedRow:
    """A figure of two networks on the same images.

    Attributes:
      title: str.
      this, other, difference: float or None.
      interval: [lower, upper] or None. Of the difference, 95 %.
      p: float or None. Of DeLong's test, for areas under ROC curves.
      mark: str. `higher` or `lower` where the interval does not hold 0, else empty.
    """

    title: str
    this: float | None
    other: float | None
    difference: float | None
    interval: list[float] | None
    p: float | None
    mark: str


def is_comparable(source: dict[str, Any]) -> bool:
    """Whether the published network's figures of the classes stand beside."""
    return not source.get("synthetic") and source.get("held_out") is not False


def can_mark(source: dict[str, Any]) -> bool:
    """Whether differences from the published network are marked: of real, held-out images only."""
    return source.get("synthetic") is False and source.get("held_out") is True


def has_published_mix(metrics: dict[str, Any]) -> bool:
    """Whether the classes' shares are near the published images'.

    Else accuracies, averages over classes and precisions differ for that reason alone.
    """
    published = read_published_figures()["network"]
    images = {code: metrics["pooled"]["classes"][code]["images"] for code in CODES}
    return all(
        images[code] > 0
        and abs(
            images[code] / metrics["pooled"]["images"]
            - published["classes"][code]["images"] / published["images"]
        )
        < SAME_MIX
        for code in CODES
    )


def mark_headline(headline: Headline, metrics: dict[str, Any]) -> str:
    """As `Compared.mark`."""
    if not can_mark(metrics["source"]) or not has_published_mix(metrics):
        return ""
    return _mark_difference(headline.interval, headline.published)


def make_class_rows(metrics: dict[str, Any]) -> list[ClassRow]:
    """All 15 classes in lineage order."""
    published = read_published_figures()["network"]["classes"]
    marked = {
        "sensitivity": can_mark(metrics["source"]),
        "precision": can_mark(metrics["source"]) and has_published_mix(metrics),
    }

    def compared(code: str, name: str) -> ComparedFigure:
        place = ("classes", code, name)
        interval = get_nested(metrics["intervals"], place)
        reference = published[code].get(name)
        return ComparedFigure(
            value=get_nested(metrics["pooled"], place),
            interval=interval,
            mean=get_nested(metrics["mean"], place),
            sd=get_nested(metrics["sd"], place),
            published=reference,
            mark=_mark_difference(interval, reference) if marked.get(name) else "",
        )

    return [
        ClassRow(
            code=code,
            name=BY_CODE[code].name,
            images=metrics["pooled"]["classes"][code]["images"],
            precision=compared(code, "precision"),
            sensitivity=compared(code, "sensitivity"),
            specificity=compared(code, "specificity"),
            f1=compared(code, "f1"),
        )
        for code in LINEAGE_ORDER
    ]


def find_examiner_points(metrics: dict[str, Any]) -> dict[str, Any]:
    """Question to re-annotation to `all` and `without_uncertain`; empty where there are none."""
    if metrics["examiners_from"] == "these images":
        questions = metrics["examiners"]["questions"]
        return {name: question["operating_points"] for name, question in questions.items()}
    if metrics["examiners_from"]:
        return read_published_figures()["examiners"]["operating_points"]
    return {}


def make_pair_rows(metrics: dict[str, Any]) -> list[PairRow]:
    """Who agrees with whom: examiners among themselves, then the network with each.

    Without re-annotated images of its own, a real table has the published re-annotations alone; a
    synthetic one has no row.
    """
    own = metrics["examiners"]
    if own:
        pairs = {
            **{pair: own["classes"]["_".join(pair)] for pair in PAIRS},
            **{pair: own["network"]["agreement"]["_".join(pair)] for pair in NETWORK_PAIRS},
        }
    elif metrics["examiners_from"]:
        published = read_published_figures()["examiners"]
        images = published["images"]
        pairs = {
            pair: {
                "all": {"images": images, **published["agreement"]["_".join(pair)]["all"]},
                "without_uncertain": published["agreement"]["_".join(pair)]["without_uncertain"],
            }
            for pair in PAIRS
        }
    else:
        pairs = {}
    return [
        PairRow(
            names=(NAMES[one], NAMES[other]),
            images=both["all"]["images"],
            all=both["all"],
            without_uncertain=both["without_uncertain"],
        )
        for (one, other), both in pairs.items()
    ]


def make_point_rows(metrics: dict[str, Any]) -> list[PointRow]:
    """Network and re-annotations as answers to the two binary questions.

    The network, at threshold 0.5, on the images that the re-annotations saw where there are some;
    else on all of its own.
    """
    own = metrics["examiners"]
    points = find_examiner_points(metrics)
    figures = own["network"]["figures"] if own else metrics["pooled"]
    rows = []
    for question in QUESTIONS if points else ():
        of_network = figures["questions"][question]
        rows.append(
            _make_point_row(
                question,
                THIS if own else f"{THIS}, on its own images",
                of_network["operating_points"].get("threshold 0.5", {}),
                of_network["positives"] + of_network["negatives"],
                of_network["positives"],
            )
        )
        for column in EXAMINERS:
            for way, suffix in (("all", ""), ("without_uncertain", ", UNC left out")):
                point = get_nested(points, (question, column, way))
                if point:
                    rows.append(
                        _make_point_row(
                            question,
                            NAMES[column] + suffix,
                            point,
                            point["images"],
                            point.get("positives"),
                        )
                    )
    return rows


def make_matched_rows(metrics: dict[str, Any]) -> list[MatchedRow]:
    """The network at the examiners' operating points.

    On the re-annotated images where there are some; else on all images, the mean over the folds if
    there are several.
    """
    own = metrics["examiners"]
    figures = own["network"]["figures"] if own else metrics["mean"] or metrics["pooled"]
    return [
        MatchedRow(
            question=question,
            examiner=NAMES[examiner],
            sensitivity=matched["sensitivity"],
            specificity=matched["specificity"],
            network_sensitivity=matched["sensitivity_at_specificity"],
            network_specificity=matched["specificity_at_sensitivity"],
        )
        for question in QUESTIONS
        for examiner, matched in figures["questions"][question]["at_examiners"].items()
    ]


def make_dispute_rows(disputed: pd.DataFrame) -> list[DisputeRow]:
    """The kinds of disputes, the most frequent first.

    Args:
      disputed: see `leuko_tf.metrics.agreement.find_disputes`, with the network's answers.
    """
    rows = [
        DisputeRow(
            label=str(label),
            reannotated=str(reannotated),
            images=len(images),
            as_label=int((images["network"] == label).sum()),
            as_reannotated=int((images["network"] == reannotated).sum()),
            examples=images["id"].head(EXAMPLES).tolist(),
        )
        for (label, reannotated), images in disputed.groupby(["label", "reannotated"], sort=False)
    ]
    return sorted(rows, key=lambda row: -row.images)  # stable: equals stay in the classes' order


def make_paired_rows(paired: dict[str, Any]) -> list[PairedRow]:
    """The headline figures of two networks.

    Args:
      paired: of what `leuko_tf.metrics.compare` computed.
    """
    rows = []
    for title, place in PLACES.items():
        this, other = get_nested(paired["this"], place), get_nested(paired["other"], place)
        test = get_nested(paired["delong"], place[1:2]) if place[-1] == "roc_auc" else None
        interval = test["interval"] if test else get_nested(paired["differences"], place)
        difference = this - other if this is not None and other is not None else None
        mark = ""
        if interval and interval[0] > 0:
            mark = "higher"
        elif interval and interval[1] < 0:
            mark = "lower"
        p = test["p_value"] if test else None
        rows.append(PairedRow(title, this, other, difference, interval, p, mark))
    return rows


def _make_point_row(
    question: str, name: str, point: dict[str, Any], images: int, positives: int | None
) -> PointRow:
    figures = {f: point.get(f) for f in ("sensitivity", "specificity", "precision")}
    intervals: dict[str, list[float] | None] = {"sensitivity": None, "specificity": None}
    if point and positives is not None:
        intervals = {
            "sensitivity": compute_wilson_interval(point["sensitivity"], positives),
            "specificity": compute_wilson_interval(point["specificity"], images - positives),
        }
    return PointRow(question, name, images, figures, intervals)


def _mark_difference(interval: list[float] | None, published: dict[str, float] | None) -> str:
    # An interval without width does not mean certainty: see `leuko_tf.metrics.bootstrap`.
    if interval is None or published is None or interval[0] == interval[1]:
        return ""
    if interval[0] > published["pooled"]:
        return "higher"
    return "lower" if interval[1] < published["pooled"] else ""
