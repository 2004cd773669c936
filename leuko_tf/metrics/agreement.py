"""How far examiners agree with each other, and a network with them.

Intra- and inter-rater agreement: label and re-annotations come from two examiners, one of whom
looked twice; which re-annotation is whose the data set does not tell. So one of the three pairs
below is an examiner with himself, and two are one examiner with the other.

An examiner may also say that he cannot tell (UNC). Every figure comes twice: over all images, where
UNC is an answer of its own and, for a binary question, not a yes; and without the images whose UNC
is in the pair.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from leuko_tf.classes import CODES, INDEX, NOT_REANNOTATED, QUESTIONS, UNCERTAIN
from leuko_tf.cli import UserError, write_aside
from leuko_tf.metrics.bootstrap import PERCENTILES, REPLICATES, SEED
from leuko_tf.metrics.questions import compute_operating_point
from leuko_tf.metrics.summary import Points, compute_figures
from leuko_tf.predictions import EXAMINERS, get_probabilities

ANSWERS = (*CODES, UNCERTAIN)
YES_NO = ("yes", "no")
PAIRS = (("label", EXAMINERS[0]), ("label", EXAMINERS[1]), (EXAMINERS[0], EXAMINERS[1]))
NETWORK = "network"
NETWORK_PAIRS = (("label", NETWORK), (NETWORK, EXAMINERS[0]), (NETWORK, EXAMINERS[1]))

DISPUTES = "disputes.csv"


def select_reannotated(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that both re-annotations have, with columns `label` and `EXAMINERS`."""
    return table[(table[EXAMINERS] != NOT_REANNOTATED).all(axis=1)]


def measure_agreement(table: pd.DataFrame) -> dict[str, Any]:
    """Compares label and re-annotations.

    Args:
      table: columns `id`, `label` and `EXAMINERS`; images without re-annotations are left out.

    Returns:
      JSON-like dict: `images`; `classes`, for each of `PAIRS` (joined by _) its `all` and
      `without_uncertain`, see `pair_agreement`, and its `confusion_matrix`; `questions`, the same
      for each binary question, with the re-annotations' `operating_points` against the label; and
      `disputes`, their number and kinds.

    Raises:
      UserError: if no image is re-annotated.
    """
    rows = select_reannotated(table)
    if rows.empty:
        raise UserError("no image has two re-annotations: there is nothing to compare")
    return {
        "images": len(rows),
        "classes": {
            "_".join(pair): _compare_pair(rows, pair, _as_it_is, ANSWERS) for pair in PAIRS
        },
        "questions": {
            name: {
                **{"_".join(p): _compare_pair(rows, p, _yes_or_no(codes), YES_NO) for p in PAIRS},
                "operating_points": _compute_operating_points(rows, codes),
            }
            for name, codes in QUESTIONS.items()
        },
        "disputes": _count_kinds(find_disputes(table)),
    }


def measure_pair_agreement(one: pd.Series, other: pd.Series) -> dict[str, Any]:
    """Agreement of two columns of answers.

    Returns:
      `images`, `agreement` (share of equal answers) and `kappa` (Cohen's), each with a 95 %
      bootstrap interval over images. All are None without images; kappa is None where chance
      alone agrees fully, and its interval where a replicate does.
    """
    images = len(one)
    names = ("agreement", "agreement_interval", "kappa", "kappa_interval")
    if not images:
        return {"images": 0, **dict.fromkeys(names)}
    answers, index = np.unique(np.concatenate([one, other]), return_inverse=True)
    counts = np.zeros((len(answers), len(answers)), int)  # scikit-learn warns of a single answer
    np.add.at(counts, tuple(index.reshape(2, images)), 1)
    # To draw images with replacement is to draw cells of their table.
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
    """The images on which both re-annotations agree on a class that is not the label.

    Args:
      table: columns `id`, `label` and `EXAMINERS`; with probabilities the network's answer is told.

    Returns:
      Columns `id`, `label`, `reannotated` and, with probabilities, `network` and `probability`;
      sorted by label, re-annotation and id.
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
    """Question and re-annotation to sensitivity, specificity and precision against the label.

    Over all re-annotated images, UNC not being a yes; None where no image is re-annotated, and
    without a question whose images are all of one kind.
    """
    rows = select_reannotated(table)
    if rows.empty:
        return None
    points = {name: _compute_operating_points(rows, codes) for name, codes in QUESTIONS.items()}
    return {
        name: {column: both["all"] for column, both in of_question.items()}
        for name, of_question in points.items()
        if of_question
    }


def compare_network(table: pd.DataFrame) -> dict[str, Any] | None:
    """The examiners' agreement, and the network on the very images that they saw.

    Args:
      table: checked predictions.

    Returns:
      What `agreement` gives and, under `network`, its `agreement` with the label and both
      re-annotations (like the pairs of `classes`), its `figures` on the re-annotated images, and
      how it answers the disputed ones (`disputes`: with the `label`, as `reannotated`, or
      `neither`). None where no image is re-annotated.
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
            "agreement": {
                "_".join(pair): _compare_pair(rows, pair, _as_it_is, ANSWERS)
                for pair in NETWORK_PAIRS
            },
            "figures": compute_figures(rows, measure_operating_points(rows)),
            "disputes": {"label": as_label, "reannotated": as_reannotated, "neither": neither},
        },
    }


def read_annotation_table(file: Path) -> pd.DataFrame:
    """Columns `id`, `label` and `EXAMINERS` of an annotations.dat.

    Raises:
      UserError: if the file is not there, or a line of it is not as described in
        `tfds_aml.aml_cytomorphology_lmu.download`.
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
    """Predictions with the re-annotations of an annotations.dat, joined by id.

    Raises:
      UserError: if an id is not annotated, or its label is another one.
    """
    found = annotations.set_index("id").reindex(table["id"]).reset_index()
    missing = found["label"].isna().to_numpy()
    differs = ~missing & (found["label"].to_numpy() != table["label"].to_numpy())
    for bad, what in ((missing, "not in the annotations"), (differs, "labelled otherwise there")):
        if bad.any():
            first = table["id"].to_numpy()[bad][0]
            raise UserError(f"{int(bad.sum()):,} predicted images are {what}; the first is {first}")
    return table.assign(**{column: found[column].to_numpy() for column in EXAMINERS})


def _as_it_is(column: pd.Series) -> pd.Series:
    return column


def _yes_or_no(codes: tuple[str, ...]) -> Callable[[pd.Series], pd.Series]:
    """Answers to a binary question; who cannot tell does not say yes."""
    return lambda column: column.isin(codes).map({True: "yes", False: "no"})


def _compare_pair(
    rows: pd.DataFrame,
    pair: tuple[str, str],
    answer: Callable[[pd.Series], pd.Series],
    answers: tuple[str, ...],
) -> dict[str, Any]:
    one, other = (answer(rows[column]) for column in pair)
    certain = (rows[[*pair]] != UNCERTAIN).all(axis=1)
    counts = sk.confusion_matrix(one, other, labels=answers)
    return {
        "all": measure_pair_agreement(one, other),
        "without_uncertain": measure_pair_agreement(one[certain], other[certain]),
        "confusion_matrix": {"order": [*answers], f"rows_are_{pair[0]}": counts.tolist()},
    }


def _compute_operating_points(rows: pd.DataFrame, codes: tuple[str, ...]) -> dict[str, Any]:
    """Both re-annotations' points against the label.

    Empty if the labels, of all images or of those without UNC, are all of one kind.
    """
    points: dict[str, Any] = {}
    for column in EXAMINERS:
        points[column] = {}
        for name, answered in (
            ("all", rows),
            ("without_uncertain", rows[rows[column] != UNCERTAIN]),
        ):
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
    kinds = disputed.groupby(["label", "reannotated"]).size().reset_index(name="images")
    # Stable: or the order of equal numbers would be the machine's.
    kinds = kinds.sort_values("images", ascending=False, kind="stable")
    return {"images": len(disputed), "kinds": kinds.to_dict("records")}


def _compute_agreement_and_kappa(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of tables [replicates, k, k]; kappa is NaN where chance alone agrees fully."""
    total = counts.sum(axis=(1, 2))
    shares = np.trace(counts, axis1=1, axis2=2) / total
    by_chance = (counts.sum(axis=1) * counts.sum(axis=2)).sum(axis=1) / total**2
    kappas = np.full(len(counts), np.nan)
    np.divide(shares - by_chance, 1 - by_chance, out=kappas, where=by_chance < 1)
    return shares, kappas


def format_summary(figures_: dict[str, Any]) -> str:
    """The agreement as text, for a terminal."""

    def shown(pair: dict[str, Any]) -> str:
        texts = []
        for name in ("agreement", "kappa"):
            value, interval = pair[name], pair[f"{name}_interval"]
            texts.append("undefined" if value is None else f"{value:.4f}")
            if interval:
                texts[-1] += f" ({interval[0]:.3f} to {interval[1]:.3f})"
        return f"{pair['images']:>6}  {texts[0]:<26}{texts[1]:<26}"

    lines = [f"{figures_['images']:,} re-annotated images; 95 % bootstrap intervals"]
    groups = {"15 classes": figures_["classes"], **figures_["questions"]}
    for group, pairs in groups.items():
        lines += ["", f"{group:<42}images  {'agreement':<26}Cohen's kappa"]
        for one, other in PAIRS:
            both = pairs[f"{one}_{other}"]
            lines.append(f"  {one + ', ' + other:<40}{shown(both['all'])}".rstrip())
            lines.append(f"  {'  without UNC':<40}{shown(both['without_uncertain'])}".rstrip())
    if any(pairs["operating_points"] for pairs in figures_["questions"].values()):
        lines += ["", f"{'against the label':<42}images  sensitivity  specificity  precision"]
    for group, pairs in figures_["questions"].items():
        for column, ways in pairs["operating_points"].items():
            for name, at in ways.items():
                label = f"{group}, {column}" if name == "all" else "  without UNC"
                numbers = (at["sensitivity"], at["specificity"], at["precision"])
                lines.append(
                    f"  {label:<40}{at['images']:>6}  "
                    + "  ".join(f"{n:<11.3f}" for n in numbers).rstrip()
                )
    disputed = figures_["disputes"]
    lines += ["", f"both re-annotations agree against the label: {disputed['images']} images"]
    lines += [f"  {k['label']} to {k['reannotated']}: {k['images']}" for k in disputed["kinds"]]
    return "\n".join(lines)


def write_disputes(disputed: pd.DataFrame, path: Path) -> None:
    """Writes the list of disputes as CSV."""
    with write_aside(path) as aside:
        disputed.to_csv(aside, index=False, float_format="%.4f")
