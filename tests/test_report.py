"""The report: one file that needs nothing else, says what it shows, and prints the metrics."""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from leuko_tf.classes import BY_CODE, CODES, LINEAGE_ORDER
from leuko_tf.metrics import compute_metrics
from leuko_tf.predictions import PROBABILITIES
from leuko_tf.report import write_report
from leuko_tf.report.page import LIMITS

REAL = {
    "synthetic": False,
    "dataset": "aml_cytomorphology_lmu/complete:1.0.0",
    "split": "fold_2",
    "model": "runs/x/best.keras",
}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its text, its tags with their attributes, and a check that tags match."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._pieces: list[str] = []
        self.feed(self.source)
        self.close()
        assert self._open == []

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self._pieces))

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, content):
        if self._open and self._open[-1] != "style":
            self._pieces.append(content)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += content


def _table(labels: list[str]) -> pd.DataFrame:
    """Predictions that are right mostly, and unsure of themselves."""
    rng = np.random.default_rng(5)
    scores = rng.dirichlet(np.full(15, 0.3), len(labels))
    scores[np.arange(len(labels)), [CODES.index(label) for label in labels]] += 0.5
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
    table.insert(0, "label", labels)
    return table


def _write(folder: Path, labels: list[str], source: dict) -> tuple[Page, dict]:
    table = _table(labels)
    metrics = {"source": source, **compute_metrics(table)}
    write_report(table, metrics, folder / "report.html")
    return Page(folder / "report.html"), metrics


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Page, dict]:
    return _write(tmp_path_factory.mktemp("report"), [*CODES] * 80, REAL)


@pytest.fixture(scope="module")
def page(written) -> Page:
    return written[0]


@pytest.fixture(scope="module")
def metrics(written) -> dict:
    return written[1]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


class TestSelfContained:
    def test_nothing_is_fetched_from_anywhere(self, page):
        for tag, attributes in page.tags:
            assert tag not in ("script", "link", "img", "iframe", "object", "embed", "base")
            for name, value in attributes.items():
                if name.split(":")[-1] in ("href", "src", "action", "data", "srcset"):
                    assert value.startswith(("#", "data:")), (tag, name, value)
        assert not re.search(r"@import|url\((?!#)", page.source)

    def test_no_address_stands_in_it_but_the_names_of_svg(self, page):
        """Names of XML namespaces look like addresses; no one opens them."""
        assert not re.search("https?:", re.sub(r' xmlns(:\w+)?="[^"]*"', "", page.source))

    def test_it_is_one_file(self, page, tmp_path):
        _write(tmp_path, [*CODES], REAL)
        assert [file.name for file in tmp_path.iterdir()] == ["report.html"]

    def test_it_is_html_with_its_encoding_language_and_title(self, page):
        assert page.source.startswith("<!DOCTYPE html>")
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"charset": "utf-8"}) in page.tags
        assert "<title>leuko_tf: evaluation</title>" in page.source

    def test_the_same_predictions_give_the_same_file(self, page, tmp_path):
        again, _ = _write(tmp_path, [*CODES] * 80, REAL)
        assert again.source == page.source


class TestSource:
    def test_synthetic_images_are_called_so_in_title_headline_banner_and_figures(self, tmp_path):
        page, _ = _write(tmp_path, [*CODES] * 2, {**REAL, "synthetic": True})
        assert "<title>leuko_tf: evaluation on synthetic images</title>" in page.source
        assert "30 synthetic images" in page.text
        assert "they say nothing about real blood smears" in page.text
        assert page.text.count("(synthetic images)") == 2

    def test_real_images_are_not_called_synthetic(self, page):
        text = page.text.replace("synthetic False", "")
        assert "synthetic" not in text.lower()
        assert "1,200 images, fold_2. Research use only" in text

    def test_every_fact_of_the_source_is_shown(self, page):
        for key, value in REAL.items():
            assert f"{key} {value}" in page.text

    def test_a_table_that_does_not_tell_its_source_has_a_report_that_says_so(self, tmp_path):
        page, _ = _write(tmp_path, [*CODES], {})
        assert "the table of predictions does not tell" in page.text
        assert "held out" not in page.text.lower()

    def test_images_that_were_trained_on_are_not_called_held_out(self, tmp_path):
        for held_out, said, not_said in (
            (True, "held out from the training", "Not held out."),
            (False, "Not held out.", "held out from the training"),
        ):
            page, _ = _write(tmp_path, [*CODES], {**REAL, "held_out": held_out})
            assert said in page.text
            assert not_said not in page.text

    def test_text_of_the_source_is_escaped(self, tmp_path):
        source = {
            "synthetic": False,
            "dataset": "<script>alert(1)</script>",
            "split": "<b>fold & 'quote'</b>",
            "<i>key</i>": '"><img src=x>',
            "model": "runs/Zürich/最.keras",
        }
        page, _ = _write(tmp_path, [*CODES], source)
        assert not {"script", "img", "i"} & {tag for tag, _ in page.tags}
        for value in ("<script>alert(1)</script>", '<i>key</i> "><img src=x>', "Zürich/最"):
            assert value in page.text


class TestFigures:
    def test_headline_figures_are_those_of_the_metrics(self, page, metrics):
        for key, name in {
            "accuracy": "accuracy",
            "balanced_accuracy": "balanced accuracy",
            "macro_f1": "macro F1",
            "weighted_f1": "weighted F1",
            "cohen_kappa": "Cohen's kappa",
        }.items():
            assert f" {_shown(metrics[key])} {name} " in page.text

    def test_all_15_classes_have_their_figures_in_lineage_order(self, page, metrics):
        rows = [row for row in page.rows if row[0] in CODES]
        assert [row[0] for row in rows] == list(LINEAGE_ORDER)
        for code, *cells in rows:
            figures = metrics["classes"][code]
            shown = [_shown(figures[name]) for name in ("precision", "sensitivity", "f1")]
            assert cells == [BY_CODE[code].name, str(figures["images"]), *shown]

    def test_every_operating_point_has_its_figures(self, page, metrics):
        points = [at for q in metrics["questions"].values() for at in q["operating_points"]]
        names = {at["at"] for at in points}
        rows = [row for row in page.rows if len(row) == 9 and row[4] in names]
        names = ("threshold", "sensitivity", "specificity", "precision")
        expected = [[at["at"], *(_shown(at[name]) for name in names)] for at in points]
        assert [row[4:] for row in rows] == expected
        first = [row[:4] for row in rows if row[0]]
        for row, question in zip(first, metrics["questions"].values(), strict=True):
            counts = [str(question["positives"]), str(question["negatives"])]
            assert row[1:] == [*counts, _shown(question["roc_auc"])]

    def test_the_confusion_matrix_names_every_class_and_prints_its_counts(self, page, metrics):
        svg = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)[0]
        shown = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        counts = np.array(metrics["confusion_matrix"]["rows_are_labels"])
        for code, images in zip(CODES, counts.sum(axis=1), strict=True):
            assert {code, f"{code} ({images})"} <= set(shown)
        order = [CODES.index(code) for code in LINEAGE_ORDER]
        assert [piece for piece in shown if piece in CODES] == list(LINEAGE_ORDER)
        # Drawn row by row.
        ordered = counts[np.ix_(order, order)]
        assert [int(piece) for piece in shown if piece.isdigit()] == ordered[ordered > 0].tolist()

    def test_the_curves_print_their_areas(self, page, metrics):
        svg = re.findall(r"<svg.*?</svg>", page.source, re.DOTALL)[1]
        for question in metrics["questions"].values():
            assert f"AUC {question['roc_auc']:.4f}" in svg

    def test_the_limits_are_stated(self, page):
        assert len(LIMITS) == 5
        assert all(limit in page.text for limit in LIMITS)
        for words in ("Research use only", "split by patient", "stain", "11 to 26 images"):
            assert words in page.text

    def test_undefined_figures_are_dashes_and_never_nan(self, tmp_path):
        page, _ = _write(tmp_path, ["MYO"] * 3, REAL)
        (absent,) = [row for row in page.rows if row[0] == "LYT"]
        assert absent == ["LYT", "Lymphocyte (typical)", "0", "-", "-", "-"]
        assert page.text.count("not defined: the images are all of one kind") == 3
        assert not re.search(r"\b(nan|None)\b", page.text, re.IGNORECASE)
