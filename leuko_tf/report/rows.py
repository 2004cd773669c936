"""Rows of the report's tables."""

from dataclasses import dataclass
from typing import Any

from leuko_tf.classes import BY_CODE, LINEAGE_ORDER
from leuko_tf.metrics.headline import PLACES, Headline, at
from leuko_tf.predictions import EXAMINERS
from leuko_tf.published import published_figures

COMPARED = ("precision", "sensitivity")  # what is published of each class
QUESTIONS = ("blast", "atypical")  # what is published of the examiners


@dataclass(frozen=True)
class Compared:
    """A figure beside the published network's.

    Attributes:
      value: float or None. Of all images.
      interval: [lower, upper] or None. 95 %.
      published: dict or None. `mean` and `sd` over the folds, and `pooled`.
      mark: str. `higher` or `lower` than published, where the published figure of all folds pooled
        lies outside of the interval; else empty.
    """

    value: float | None
    interval: list[float] | None
    published: dict[str, float] | None
    mark: str


@dataclass(frozen=True)
class ClassRow:
    """A class; see `leuko_tf.metrics.answers.per_class`."""

    code: str
    name: str
    colour: str
    images: int
    answered: int
    precision: Compared
    sensitivity: Compared
    specificity: Compared
    f1: Compared


@dataclass(frozen=True)
class ExaminerRow:
    """Someone's answers against the labels.

    Attributes:
      name: str.
      images: int.
      agreement, kappa: float or None, each with its interval or None.
      points: dict of question to sensitivity, specificity and precision; {} where not defined.
    """

    name: str
    images: int
    agreement: float | None
    agreement_interval: list[float] | None
    kappa: float | None
    kappa_interval: list[float] | None
    points: dict[str, dict[str, float]]


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


@dataclass(frozen=True)
class Matched:
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


def comparable(source: dict[str, Any]) -> bool:
    """Whether it makes sense to set figures against the published network's."""
    return not source.get("synthetic") and source.get("held_out") is not False


def headline_mark(headline: Headline, source: dict[str, Any]) -> str:
    """As `Compared.mark`."""
    return _mark(headline.interval, headline.published) if comparable(source) else ""


def class_rows(metrics: dict[str, Any]) -> list[ClassRow]:
    """All 15 classes in lineage order."""
    published = published_figures()["network"]["classes"]
    marked = comparable(metrics["source"])

    def compared(code: str, name: str) -> Compared:
        interval = at(metrics["intervals"], ("classes", code, name))
        reference = published[code].get(name)
        mark = _mark(interval, reference) if marked else ""
        return Compared(metrics["pooled"]["classes"][code][name], interval, reference, mark)

    return [
        ClassRow(
            code=code,
            name=BY_CODE[code].name,
            colour=BY_CODE[code].colour,
            images=metrics["pooled"]["classes"][code]["images"],
            answered=metrics["pooled"]["classes"][code]["answered"],
            precision=compared(code, "precision"),
            sensitivity=compared(code, "sensitivity"),
            specificity=compared(code, "specificity"),
            f1=compared(code, "f1"),
        )
        for code in LINEAGE_ORDER
    ]


def examiner_points(metrics: dict[str, Any]) -> dict[str, Any]:
    """Question to re-annotation to `all` and `without_uncertain`; empty where there are none."""
    if metrics["examiners_from"] == "these images":
        questions = metrics["examiners"]["questions"]
        return {name: question["operating_points"] for name, question in questions.items()}
    if metrics["examiners_from"]:
        return published_figures()["examiners"]["operating_points"]
    return {}


def examiner_rows(metrics: dict[str, Any], names: dict[str, str]) -> list[ExaminerRow]:
    """Network and re-annotations against the labels of the re-annotated images.

    Without re-annotated images of its own, a real data set has the published re-annotations; a
    synthetic one has no row.

    Args:
      metrics: what `leuko_tf.evaluate.evaluate` computed.
      names: of the re-annotations.
    """
    points = examiner_points(metrics)
    own = metrics["examiners"]
    rows = []
    if own:
        network = own["network"]
        rows.append(
            ExaminerRow(
                name="this network",
                **network["agreement"]["label_network"],
                points={
                    name: at(
                        network["figures"]["questions"], (name, "operating_points", "threshold 0.5")
                    )
                    or {}
                    for name in QUESTIONS
                },
            )
        )
    for column in EXAMINERS if points else ():
        for way, suffix in (("all", ""), ("without_uncertain", ", UNC left out")):
            at_label = {name: at(points, (name, column, way)) or {} for name in QUESTIONS}
            if own:
                agreement = own["classes"][f"label_{column}"][way]
            else:
                agreement = _published_agreement(column, way)
            rows.append(ExaminerRow(name=names[column] + suffix, **agreement, points=at_label))
    return rows


def matched_rows(metrics: dict[str, Any]) -> list[Matched]:
    """The network at the examiners' operating points.

    On the re-annotated images where there are some; else on all images, the mean over the folds if
    there are several.
    """
    own = metrics["examiners"]
    figures = own["network"]["figures"] if own else metrics["mean"] or metrics["pooled"]
    return [
        Matched(
            question=question,
            examiner=examiner,
            sensitivity=matched["sensitivity"],
            specificity=matched["specificity"],
            network_sensitivity=matched["sensitivity_at_specificity"],
            network_specificity=matched["specificity_at_sensitivity"],
        )
        for question in QUESTIONS
        for examiner, matched in figures["questions"][question]["at_examiners"].items()
    ]


def paired_rows(paired: dict[str, Any]) -> list[PairedRow]:
    """The headline figures of two networks.

    Args:
      paired: of what `leuko_tf.metrics.compare` computed.
    """
    rows = []
    for title, place in PLACES.items():
        this, other = at(paired["this"], place), at(paired["other"], place)
        test = at(paired["delong"], place[1:2]) if place[-1] == "roc_auc" else None
        interval = test["interval"] if test else at(paired["differences"], place)
        difference = this - other if this is not None and other is not None else None
        mark = ""
        if interval and interval[0] > 0:
            mark = "higher"
        elif interval and interval[1] < 0:
            mark = "lower"
        p = test["p_value"] if test else None
        rows.append(PairedRow(title, this, other, difference, interval, p, mark))
    return rows


def _published_agreement(column: str, way: str) -> dict[str, Any]:
    published = published_figures()["examiners"]
    figures = published["agreement"][f"label_{column}"][way]
    return {
        "images": published["operating_points"]["blast"][column][way]["images"],
        "agreement": figures.get("agreement"),
        "agreement_interval": None,
        "kappa": figures.get("kappa"),
        "kappa_interval": None,
    }


def _mark(interval: list[float] | None, published: dict[str, float] | None) -> str:
    if interval is None or published is None:
        return ""
    if interval[0] > published["pooled"]:
        return "higher"
    return "lower" if interval[1] < published["pooled"] else ""
