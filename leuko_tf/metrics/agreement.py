"""Agreement of the examiners with each other, and of a network with them.

The label and the two re-annotations come from two examiners, one of whom looked twice. The data set
does not say which re-annotation is whose: one of the three pairs in `PAIRS` compares an examiner
with himself (intra-rater agreement), two compare the two examiners (inter-rater agreement).

An examiner may answer UNC (uncertain). Every figure is computed twice: over all images (`all`),
where UNC is an answer of its own and counts as "no" in binary questions, and over the images where
neither of the pair is UNC (`without_uncertain`).
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from leuko_tf.classes import CODES, INDEX, NOT_REANNOTATED, QUESTIONS, UNCERTAIN
from leuko_tf.cli import UserError, write_aside
from leuko_tf.metrics.bootstrap import PERCENTILES, REPLICATES, SEED
from leuko_tf.metrics.questions import compute_operating_point
from leuko_tf.metrics.records import Agreement, NetworkAgreement, OperatingPoint, PairAgreement
from leuko_tf.metrics.summary import Points, compute_figures
from leuko_tf.predictions import EXAMINERS, get_probabilities

ANSWERS = (*CODES, UNCERTAIN)
PAIRS = (("label", EXAMINERS[0]), ("label", EXAMINERS[1]), (EXAMINERS[0], EXAMINERS[1]))
NETWORK = "network"
NETWORK_PAIRS = (("label", NETWORK), (NETWORK, EXAMINERS[0]), (NETWORK, EXAMINERS[1]))


def select_reannotated(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that have both re-annotations."""
    return table[(table[EXAMINERS] != NOT_REANNOTATED).all(axis=1)]


def measure_agreement(table: pd.DataFrame) -> Agreement:
    """Compares label and re-annotations, for the 15 classes and for each binary question.

    `table` has columns `id`, `label` and `EXAMINERS`; images without re-annotations are left out.
    Raises a `UserError` if no image is re-annotated.
    """
    rows = select_reannotated(table)
    if rows.empty:
        raise UserError("no image has two re-annotations: there is nothing to compare")
    return {
        "images": len(rows),
        "classes": {"_".join(pair): _compare_pair(rows, pair) for pair in PAIRS},
        "questions": {
            name: {
                **{"_".join(pair): _compare_pair(rows, pair, codes) for pair in PAIRS},
                "operating_points": _compute_operating_points(rows, codes),
            }
            for name, codes in QUESTIONS.items()
        },
        "disputes": _count_kinds(find_disputes(table)),
    }


def measure_pair_agreement(one: pd.Series, other: pd.Series) -> PairAgreement:
    """Measures the share of equal answers, and Cohen's kappa, of two columns.

    Intervals are 95 % bootstrap intervals over images. Without images all figures are None. Kappa
    is None where chance alone agrees fully, and its interval where that holds in some replicate.
    """
    images = len(one)
    if not images:
        return PairAgreement(
            images=0, agreement=None, agreement_interval=None, kappa=None, kappa_interval=None
        )
    answers, index = np.unique(np.concatenate([one, other]), return_inverse=True)
    # Not by scikit-learn, which warns if there is a single answer.
    counts = np.zeros((len(answers), len(answers)), int)
    np.add.at(counts, tuple(index.reshape(2, images)), 1)
    # Drawing images with replacement is the same as drawing cells of this table.
    rng = np.random.default_rng(SEED)
    drawn = rng.multinomial(images, counts.ravel() / images, size=REPLICATES)
    shares, kappas = _compute_agreement_and_kappa(drawn.reshape(-1, *counts.shape))
    return {
        "images": images,
        "agreement": float(np.trace(counts) / images),
        "agreement_interval": np.percentile(shares, PERCENTILES).tolist(),
        "kappa": float(sk.cohen_kappa_score(one, other)) if len(answers) > 1 else None,
        "kappa_interval": (
            np.percentile(kappas, PERCENTILES).tolist() if np.isfinite(kappas).all() else None
        ),
    }


def find_disputes(table: pd.DataFrame) -> pd.DataFrame:
    """Finds the images on which both re-annotations agree on a class that is not the label.

    Returns columns `id`, `label`, `reannotated` and, if the table has probabilities, the network's
    answer `network` with its `probability`; sorted by label, re-annotation and id.
    """
    one, other = (table[column] for column in EXAMINERS)
    rows = table[(one == other) & (one != table["label"]) & one.isin(CODES)]
    found = rows[["id", "label"]].assign(reannotated=rows[EXAMINERS[0]])
    if f"p_{CODES[0]}" in table.columns:
        scores = get_probabilities(rows)
        found["network"] = np.array(CODES)[scores.argmax(axis=1)] if len(rows) else []
        found["probability"] = scores.max(axis=1, initial=0)
    return found.sort_values(
        ["label", "reannotated", "id"],
        key=lambda column: column if column.name == "id" else column.map(INDEX),
        ignore_index=True,
    )


def measure_operating_points(table: pd.DataFrame) -> Points | None:
    """Measures the re-annotations' operating points against the label, by question and examiner.

    Over all re-annotated images; UNC counts as "no". A question whose images are all of one kind is
    left out. None where no image is re-annotated.
    """
    rows = select_reannotated(table)
    if rows.empty:
        return None
    points: dict[str, Any] = {}
    for question, codes in QUESTIONS.items():
        by_column = _compute_operating_points(rows, codes)
        if by_column:
            points[question] = {column: both["all"] for column, both in by_column.items()}
    return points


def compare_network(table: pd.DataFrame) -> NetworkAgreement | None:
    """Compares the network with label and re-annotations, on the re-annotated images.

    Adds to `measure_agreement`, under `network`, the `agreement` of `NETWORK_PAIRS`, the `figures`
    of these images, and on how many disputed images the answer is that of the `label`, that of the
    re-annotations (`reannotated`), or `neither`. None where no image is re-annotated.
    """
    rows = select_reannotated(table)
    if rows.empty:
        return None
    rows = rows.assign(network=np.array(CODES)[get_probabilities(rows).argmax(axis=1)])
    disputed = find_disputes(rows)
    as_label = int((disputed["network"] == disputed["label"]).sum())
    as_reannotated = int((disputed["network"] == disputed["reannotated"]).sum())
    neither = len(disputed) - as_label - as_reannotated
    return {
        **measure_agreement(rows),
        "network": {
            "agreement": {"_".join(pair): _compare_pair(rows, pair) for pair in NETWORK_PAIRS},
            "figures": compute_figures(rows, measure_operating_points(rows)),
            "disputes": {"label": as_label, "reannotated": as_reannotated, "neither": neither},
        },
    }


def read_annotation_table(file: Path) -> pd.DataFrame:
    """Reads the columns `id`, `label` and `EXAMINERS` of an annotations.dat.

    Raises a `UserError` if there is no such file, or a line is not as
    `tfds_aml.aml_cytomorphology_lmu.download` describes it.
    """
    from tfds_aml.aml_cytomorphology_lmu.download import read_annotations
    from tfds_aml.problems import BadDownloadError, Problems

    if not file.is_file():
        raise UserError(f"No file {file}. Name the annotations.dat of the data set.")
    problems = Problems(file, use="read")
    annotations, _ = read_annotations(file, problems)
    try:
        problems.raise_if_any()
    except BadDownloadError as error:
        raise UserError(str(error)) from error
    rows = [(a.path, a.label, a.reannotation_1, a.reannotation_2) for a in annotations]
    return pd.DataFrame(rows, columns=["id", "label", *EXAMINERS])


def join_annotations(table: pd.DataFrame, annotations: pd.DataFrame) -> pd.DataFrame:
    """Adds the re-annotations of an annotations.dat to predictions, joined by id.

    Raises a `UserError` if an id is not annotated or has another label.
    """
    found = annotations.set_index("id").reindex(table["id"]).reset_index()
    missing = found["label"].isna().to_numpy()
    differs = ~missing & (found["label"].to_numpy() != table["label"].to_numpy())
    for bad, what in (
        (missing, "are not in the annotations"),
        (differs, "have another label in the annotations"),
    ):
        if bad.any():
            first = table["id"].to_numpy()[bad][0]
            raise UserError(f"{int(bad.sum()):,} predicted images {what}; the first is {first}")
    return table.assign(**{column: found[column].to_numpy() for column in EXAMINERS})


def _compare_pair(
    rows: pd.DataFrame, pair: tuple[str, str], codes: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Compares two columns: as answers or, given the codes of a binary question, as yes and no."""
    one, other = (rows[column] for column in pair)
    answers: tuple[str, ...] = ANSWERS
    if codes:
        one, other = (column.isin(codes).map({True: "yes", False: "no"}) for column in (one, other))
        answers = ("yes", "no")
    certain = (rows[[*pair]] != UNCERTAIN).all(axis=1)
    counts = sk.confusion_matrix(one, other, labels=answers)
    return {
        "all": measure_pair_agreement(one, other),
        "without_uncertain": measure_pair_agreement(one[certain], other[certain]),
        "confusion_matrix": {"order": [*answers], f"rows_are_{pair[0]}": counts.tolist()},
    }


def _compute_operating_points(
    rows: pd.DataFrame, codes: tuple[str, ...]
) -> dict[str, dict[str, OperatingPoint]]:
    """Computes both re-annotations' points against the label.

    Empty if the labels, of all images or of those without UNC, are all of one kind.
    """
    points: dict[str, dict[str, OperatingPoint]] = {}
    for column in EXAMINERS:
        points[column] = {}
        certain = rows[rows[column] != UNCERTAIN]
        for name, answered in (("all", rows), ("without_uncertain", certain)):
            positive = answered["label"].isin(codes).to_numpy()
            if not positive.any() or positive.all():
                return {}
            called = answered[column].isin(codes).to_numpy()
            points[column][name] = {
                "images": len(answered),
                "positives": int(positive.sum()),
                **compute_operating_point(positive, called),
            }
    return points


def _count_kinds(disputed: pd.DataFrame) -> dict[str, Any]:
    """Counts the disputes by label and re-annotation, the most frequent first."""
    kinds = disputed.groupby(["label", "reannotated"]).size().reset_index(name="images")
    # A stable sort, or the order of equal counts would depend on the machine.
    kinds = kinds.sort_values("images", ascending=False, kind="stable")
    return {"images": len(disputed), "kinds": kinds.to_dict("records")}


def _compute_agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes both for tables [replicates, k, k]; kappa is NaN where chance agrees fully."""
    total = counts.sum(axis=(1, 2))
    shares = np.trace(counts, axis1=1, axis2=2) / total
    by_chance = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / total**2
    kappas = np.full(len(counts), np.nan)
    np.divide(shares - by_chance, 1 - by_chance, out=kappas, where=by_chance < 1)
    return shares, kappas


def format_summary(agreement: Agreement) -> str:
    """Formats the agreement for a terminal."""
    questions = agreement["questions"]
    lines = [f"{agreement['images']:,} re-annotated images; 95 % bootstrap intervals"]
    for group, pairs in {"15 classes": agreement["classes"], **questions}.items():
        lines += ["", f"{group:<42}images  {'agreement':<26}Cohen's kappa"]
        for one, other in PAIRS:
            both = pairs[f"{one}_{other}"]
            lines.append(_format_pair(f"{one}, {other}", both["all"]))
            lines.append(_format_pair("  without UNC", both["without_uncertain"]))
    if any(pairs["operating_points"] for pairs in questions.values()):
        lines += ["", f"{'against the label':<42}images  sensitivity  specificity  precision"]
    for group, pairs in questions.items():
        for column, ways in pairs["operating_points"].items():
            for name, point in ways.items():
                label = f"{group}, {column}" if name == "all" else "  without UNC"
                lines.append(
                    f"  {label:<40}{point['images']:>6}  {point['sensitivity']:<13.3f}"
                    f"{point['specificity']:<13.3f}{point['precision']:.3f}"
                )
    disputes = agreement["disputes"]
    lines += ["", f"both re-annotations agree against the label: {disputes['images']} images"]
    lines += [f"  {k['label']} to {k['reannotated']}: {k['images']}" for k in disputes["kinds"]]
    return "\n".join(lines)


def _format_pair(title: str, pair: PairAgreement) -> str:
    agreement = _format_figure(pair["agreement"], pair["agreement_interval"])
    kappa = _format_figure(pair["kappa"], pair["kappa_interval"])
    return f"  {title:<40}{pair['images']:>6}  {agreement:<26}{kappa}"


def _format_figure(value: float | None, interval: list[float] | None) -> str:
    text = "undefined" if value is None else f"{value:.4f}"
    return text + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def write_disputes(disputed: pd.DataFrame, path: Path) -> None:
    """Writes the disputes of `find_disputes` as CSV."""
    with write_aside(path) as aside:
        disputed.to_csv(aside, index=False, float_format="%.4f")
