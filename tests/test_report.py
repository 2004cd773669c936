"""The report: one self-contained file that says what it shows and prints the metrics."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import run_module

from leuko_tf.classes import BY_CODE, CODES, LINEAGE_ORDER
from leuko_tf.evaluate import evaluate
from leuko_tf.explanation import gallery
from leuko_tf.explanation.mistakes import find_mistakes
from leuko_tf.explanation.pictures import make_note, to_picture_name
from leuko_tf.files import GALLERY, MISTAKES
from leuko_tf.metrics.published import read_published_figures
from leuko_tf.predictions import PROBABILITIES, get_probabilities, write_predictions
from leuko_tf.report.text import LIMITS

REAL = {
    "synthetic": False,
    "dataset": "aml_cytomorphology_lmu/complete:1.0.0",
    "split": "fold_2",
    "model": "runs/x/best.keras",
}
TRAINING = {
    "command": "python -m leuko_tf.train --config paper.yaml --workdir runs/x",
    "versions": {"tensorflow": "2.21.0", "keras": "3.15.1"},
    "git_revision": "0123456789abcdef",
    "parameters": 23_112_975,
    "configuration": {
        "data": {"dataset": "aml_cytomorphology_lmu/complete", "validation_share": 0.1},
        "model": {"input_size": 400},
    },
}
VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """A parsed page: its text, its tags with their attributes, and a check that tags match."""

    def __init__(self, file: Path, metrics: Any = None):
        super().__init__()
        self.file = file
        self.metrics = metrics
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

    def row(self, first: str) -> list[str]:
        """The cells of the first table row whose first cell is `first`."""
        return next(row for row in self.rows if row and row[0] == first)

    def svg(self, title: str) -> str:
        """The drawing whose title contains the words."""
        (found,) = re.findall(rf'<svg [^>]*aria-label="[^"]*{title}.*?</svg>', self.source, re.S)
        return found

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
        if tag in ("td", "th"):
            self.rows[-1][-1] = " ".join(self.rows[-1][-1].split())

    def handle_data(self, content):
        if self._open and self._open[-1] != "style":
            self._pieces.append(content)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += " " + content


def _table(labels: list[str], folds: int = 1, seed: int = 5) -> pd.DataFrame:
    """Predictions that are right mostly, and unsure of themselves."""
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.full(15, 0.3), len(labels))
    scores[np.arange(len(labels)), [CODES.index(label) for label in labels]] += 0.5
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
    table.insert(0, "id", [f"{label}/{label}_{i:04d}.tiff" for i, label in enumerate(labels)])
    table.insert(1, "label", labels)
    table.insert(2, "fold", np.arange(len(labels)) // 15 % folds + 1)
    return table.assign(reannotation_1="none", reannotation_2="none")


def _reannotate(table: pd.DataFrame) -> pd.DataFrame:
    """Every third image re-annotated; some against the label, some with UNC."""
    some = np.arange(len(table)) % 3 == 0
    one, two = table["label"].where(some, "none"), table["label"].where(some, "none")
    one[some & (np.arange(len(table)) % 21 == 0)] = "UNC"
    disputed = some & (np.arange(len(table)) % 30 == 3)
    one[disputed] = two[disputed] = "EOS"
    return table.assign(reannotation_1=one, reannotation_2=two)


def _write(folder: Path, table: pd.DataFrame, source: dict[str, Any], **options: Any) -> Page:
    predictions = folder / "in" / "predictions.parquet"
    write_predictions(table, source, predictions)
    metrics = evaluate(predictions, folder / "out", **{"replicates": 50, **options})
    return Page(folder / "out" / "report.html", metrics)


def _pictures(folder: Path, table: pd.DataFrame) -> None:
    """Stands in for `leuko_tf.explanation.drawing`, which needs a model."""
    for name, rows, size in (
        (MISTAKES, find_mistakes(table), (400, 200)),
        (GALLERY, gallery.choose_cells(table), (640, 160)),
    ):
        (folder / "in" / name).mkdir(parents=True, exist_ok=True)
        for image_id, scores in zip(rows["id"], get_probabilities(rows), strict=True):
            file = folder / "in" / name / to_picture_name(image_id)
            Image.new("RGB", size, "purple").save(file, pnginfo=make_note(scores))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    return _write(tmp_path_factory.mktemp("report"), _table([*CODES] * 80), REAL)


@pytest.fixture(scope="module")
def metrics(page) -> Any:
    return page.metrics


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory) -> Page:
    """Of synthetic images, with pictures."""
    folder, table = tmp_path_factory.mktemp("synthetic"), _table([*CODES] * 2)
    _pictures(folder, table)
    return _write(folder, table, {**REAL, "synthetic": True})


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Page:
    """Everything that a report can have: folds, examiners, pictures, another network."""
    folder = tmp_path_factory.mktemp("full")
    table = _reannotate(_table([*CODES] * 60, folds=5))
    other = folder / "other.parquet"
    write_predictions(_table([*CODES] * 60, folds=5, seed=6), REAL, other)
    _pictures(folder, table)
    source = {**REAL, "held_out": True, "training": TRAINING, "model": "runs/" + "x" * 200}
    return _write(folder, table, source, others={"a network of theirs": other})


def proportion_interval(share: float, of: int) -> tuple[float, float]:
    """Wilson's interval by its formula."""
    z = 1.959964
    middle = (share + z**2 / (2 * of)) / (1 + z**2 / of)
    half = z / (1 + z**2 / of) * np.sqrt(share * (1 - share) / of + z**2 / (4 * of**2))
    return middle - half, middle + half


def _format(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class TestSelfContained:
    @pytest.mark.parametrize("which", ["page", "full"])
    def test_nothing_is_fetched_from_anywhere(self, which, request):
        page = request.getfixturevalue(which)
        for tag, attributes in page.tags:
            assert tag not in ("script", "link", "iframe", "object", "embed", "base")
            for name, value in attributes.items():
                if name.split(":")[-1] in ("href", "src", "action", "data", "srcset"):
                    assert value.startswith(("#", "data:")), (tag, name, value)
        assert not re.search(r"@import|url\((?!#)", page.source)

    def test_no_address_stands_in_it_but_the_names_of_svg(self, page):
        """Names of XML namespaces look like addresses; no one opens them."""
        assert not re.search("https?:", re.sub(r' xmlns(:\w+)?="[^"]*"', "", page.source))

    def test_it_is_html_with_its_encoding_language_and_title(self, page):
        assert page.source.lstrip().startswith("<!DOCTYPE html>")
        assert ("html", {"lang": "en"}) in page.tags
        assert ("meta", {"charset": "utf-8"}) in page.tags
        assert "<title>leuko_tf: evaluation</title>" in page.source

    def test_ids_are_unique_and_links_within_the_page_lead_somewhere(self, full):
        ids = [attributes["id"] for _, attributes in full.tags if "id" in attributes]
        assert len(ids) == len(set(ids))
        links = {a["href"] for tag, a in full.tags if tag == "a"}
        assert links <= {f"#{i}" for i in ids}

    def test_the_same_predictions_give_the_same_file(self, page, tmp_path):
        again = _write(tmp_path, _table([*CODES] * 80), REAL)
        assert again.source == page.source


class TestSource:
    def test_synthetic_images_are_called_so_everywhere(self, synthetic):
        assert "<title>leuko_tf: evaluation on synthetic images</title>" in synthetic.source
        assert "30 synthetic images" in synthetic.text
        assert "they say nothing about real blood smears" in synthetic.text
        assert synthetic.source.count("<figcaption>SYNTHETIC images. ") == 8  # every plot
        assert "SYNTHETIC cells. " in _gallery(synthetic)
        pictures = [a for tag, a in synthetic.tags if tag == "img" and a["width"] == "160"]
        assert all(a["alt"].startswith("Synthetic cell ") for a in pictures[::4])
        card = (synthetic.file.parent / "model_card.md").read_text()
        assert "Synthetic images" in card
        assert ", SYNTHETIC" in card

    def test_synthetic_images_are_not_compared_with_the_published_network(self, synthetic):
        assert "are of real cells. Do not compare them with these" in synthetic.text
        assert not re.search("[▲▼]", synthetic.text)
        assert synthetic.metrics["examiners_from"] is None
        assert "re-annotation 1" not in synthetic.text

    def test_real_images_are_not_called_synthetic(self, page):
        text = page.text.replace("synthetic False", "")
        assert "synthetic" not in text.lower()
        assert "1,200 images, fold 2. Research use only" in text

    def test_every_fact_of_the_source_is_shown(self, page):
        for key, value in REAL.items():
            assert f"{key} {value}" in page.text

    def test_a_table_that_does_not_tell_its_source_has_a_report_that_says_so(self, tmp_path):
        page = _write(tmp_path, _table([*CODES]), {})
        assert "not stated in the table of predictions" in page.text
        assert "It is not known whether the model was trained on these images" in page.text

    def test_images_that_were_trained_on_are_not_called_held_out(self, tmp_path):
        for held_out, said, not_said in (
            (True, "held out from the training", "Not held out."),
            (False, "Not held out.", "held out from the training"),
        ):
            page = _write(tmp_path, _table([*CODES]), {**REAL, "held_out": held_out})
            assert said in page.text
            assert not_said not in page.text

    def test_the_training_is_told_with_command_versions_and_configuration(self, full):
        for words in (TRAINING["command"], "tensorflow 2.21.0", "0123456789abcdef"):
            assert words in full.text
        assert "input_size: 400" in full.text
        assert "23,112,975 parameters" in full.text

    def test_the_command_that_made_it_is_told(self, tmp_path):
        write_predictions(_table([*CODES]), REAL, tmp_path / "p.parquet")
        arguments = ["--predictions", str(tmp_path / "p.parquet"), "--out", str(tmp_path / "o")]
        done = run_module("leuko_tf.evaluate", *arguments, "--bootstrap", 0)
        assert done.returncode == 0, done.stderr
        text = Page(tmp_path / "o" / "report.html").text
        command = f"python -m leuko_tf.evaluate {' '.join(arguments)} --bootstrap 0"
        assert f"this report by {command}" in text
        assert "with leuko_tf" in text

    def test_text_of_the_source_is_escaped_in_page_and_card(self, tmp_path):
        source = {
            "synthetic": False,
            "dataset": "<script>alert(1)</script>",
            "split": "<b>fold & 'quote'</b>",
            "<i>key</i>": '"><img src=x>',
            "model": "runs/Zürich/最.keras",
        }
        page = _write(tmp_path, _table([*CODES]), source)
        assert not {"script", "img", "i"} & {tag for tag, _ in page.tags}
        for value in ("<script>alert(1)</script>", '<i>key</i> "><img src=x>', "Zürich/最"):
            assert value in page.text


class TestFigures:
    def test_headline_figures_have_their_intervals_and_the_published_ones_beside(
        self, page, metrics
    ):
        overall, intervals = metrics["pooled"]["overall"], metrics["intervals"]["overall"]
        published = read_published_figures()["network"]["overall"]
        for key, title in {
            "accuracy": "accuracy",
            "balanced_accuracy": "balanced accuracy",
            "macro_f1": "macro F1",
            "cohen_kappa": "Cohen's kappa",
        }.items():
            row = page.row(title)
            assert row[1] == _format(overall[key], 4)
            assert row[2] == " to ".join(_format(end, 4) for end in intervals[key])
            assert row[3] == _format(published[key]["pooled"], 4)
        auc = metrics["pooled"]["questions"]["blast"]
        assert page.row("ROC AUC, blast")[1] == _format(auc["roc_auc"], 4)
        assert page.row("ROC AUC, blast")[2] == " to ".join(
            _format(end, 4) for end in auc["roc_auc_interval"]
        )

    def test_several_folds_have_their_mean_and_deviation(self, full):
        metrics = full.metrics
        row = full.row("macro F1")
        mean, sd = (metrics[name]["overall"]["macro_f1"] for name in ("mean", "sd"))
        published = read_published_figures()["network"]["overall"]["macro_f1"]
        assert row[4] == f"{mean:.4f} ± {sd:.4f}"
        assert row[5] == f"{published['mean']:.4f} ± {published['sd']:.4f}"
        rows = [r for r in full.rows if len(r) == 7 and r[0] in CODES and "±" in r[3]]
        assert [row[0] for row in rows] == list(LINEAGE_ORDER)
        for code, _, _, precision, _, sensitivity, published_sensitivity in rows:
            for name, shown in (("precision", precision), ("sensitivity", sensitivity)):
                mean, sd = (metrics[k]["classes"][code][name] for k in ("mean", "sd"))
                assert shown == f"{mean:.3f} ± {sd:.3f}"
            reference = read_published_figures()["network"]["classes"][code]["sensitivity"]
            assert published_sensitivity == f"{reference['mean']:.3f} ± {reference['sd']:.3f}"

    def test_figures_beyond_their_intervals_are_marked(self, tmp_path):
        """Where the classes' shares are the published ones, and the images held out."""
        published = read_published_figures()["network"]
        images = {code: published["classes"][code]["images"] // 10 for code in CODES}
        labels = [code for code, n in images.items() for _ in range(max(n, 1))]
        page = _write(tmp_path, _table(labels), {**REAL, "held_out": True})
        metrics, marks = page.metrics, 0
        for key, title in (("accuracy", "accuracy"), ("macro_f1", "macro F1")):
            low, high = metrics["intervals"]["overall"][key]
            figure = published["overall"][key]["pooled"]
            mark = "▲" if low > figure else "▼" if high < figure else ""
            assert page.row(title)[1].partition(" ")[0] in (mark, _format(
                metrics["pooled"]["overall"][key], 4))  # fmt: skip
            marks += bool(mark)
        assert marks  # the made-up network is far off
        for code in CODES:
            low, high = metrics["intervals"]["classes"][code]["sensitivity"]
            figure = published["classes"][code]["sensitivity"]["pooled"]
            shown = next(r for r in page.rows if len(r) == 9 and r[0] == code)[5]
            expected = "▲" if low > figure else "▼" if high < figure else shown[0]
            assert shown[0] == (shown[0] if low == high else expected)
            if low == high:
                assert shown[0] not in "▲▼"

    @pytest.mark.parametrize("held_out", [None, False])
    def test_images_not_known_to_be_held_out_have_no_marks(self, held_out, tmp_path):
        page = _write(tmp_path, _table([*CODES] * 80), {**REAL, "held_out": held_out})
        assert not re.search("[▲▼]", page.text)

    def test_where_the_classes_have_other_shares_sensitivities_alone_are_marked(self, tmp_path):
        page = _write(tmp_path, _table([*CODES] * 80), {**REAL, "held_out": True})
        assert "the mix of classes is not that of its images" in page.text
        rows = [row for row in page.rows if len(row) == 9 and row[0] in CODES]
        assert not any("▲" in row[3] or "▼" in row[3] for row in rows)
        assert any("▲" in row[5] or "▼" in row[5] for row in rows)
        assert not re.search("[▲▼]", " ".join(page.row("accuracy")))

    def test_all_15_classes_have_their_figures_in_lineage_order(self, page, metrics):
        rows = [row for row in page.rows if len(row) == 9 and row[0] in CODES]
        assert [row[0] for row in rows] == list(LINEAGE_ORDER)
        published = read_published_figures()["network"]["classes"]
        for code, name, images, *cells in rows:
            figures = metrics["pooled"]["classes"][code]
            assert (name, images) == (BY_CODE[code].name, str(figures["images"]))
            for k, key in enumerate(("precision", "sensitivity")):
                own, reference = cells[2 * k : 2 * k + 2]
                assert own.split()[0] == _format(figures[key])
                assert reference == _format(published[code][key]["pooled"])
            assert cells[4:] == [_format(figures["specificity"]), _format(figures["f1"])]

    def test_every_operating_point_has_its_figures(self, page, metrics):
        for name, figures in metrics["pooled"]["questions"].items():
            for at, point in figures["operating_points"].items():
                shown = [_format(point[k]) for k in ("threshold", "sensitivity", "specificity")]
                rows = [[c.split()[0] for c in r[1:4]] for r in page.rows if r and r[0] == at]
                assert shown in rows, (name, at)

    def test_the_confusion_matrix_prints_shares_of_the_rows_in_lineage_order(self, page, metrics):
        shown = re.findall(r"<text[^>]*>([^<]*)</text>", page.svg("Confusion matrix"))
        counts = np.array(metrics["pooled"]["confusion_matrix"]["rows_are_labels"])
        assert [piece for piece in shown if piece in CODES] == list(LINEAGE_ORDER)
        order = [CODES.index(code) for code in LINEAGE_ORDER]
        ordered = counts[np.ix_(order, order)]
        images = ordered.sum(axis=1)
        labels = [f"{c} ({n})" for c, n in zip(LINEAGE_ORDER, images, strict=True)]
        assert [piece for piece in shown if piece in labels] == labels
        shares = ordered / images[:, None]
        expected = [f"{100 * share:.0f}" for share in shares[shares >= 0.005]]
        numbers = [piece for piece in shown if piece.isdigit()]
        assert numbers[: len(expected)] == expected  # the colour bar's come after

    def test_the_curves_show_the_examiners(self, page, full):
        assert "re-annotation 2, UNC left out" in page.svg("ROC curve, blast")
        assert "the re-annotations of 1,905 other images, as published" in page.text
        assert "re-annotated images" not in page.svg("ROC curve, blast")
        assert full.metrics["examiners_from"] == "these images"
        assert "re-annotation 1" in full.svg("ROC curve, atypical")
        assert "a network of theirs" in full.svg("ROC curve, blast")
        assert "re-annotated images" in full.svg("ROC curve, blast")
        assert "the dotted curve is of these only" in full.text

    def test_every_class_keeps_its_colour(self, page):
        """In tables as swatches, in the plot of the classes as points."""
        drawing = page.svg("Precision and sensitivity of the 15 classes")
        for cell_class in BY_CODE.values():
            assert f"background: {cell_class.colour}" in page.source
            assert f"fill: {cell_class.colour}" in drawing

    def test_the_limits_are_stated_in_page_and_card(self, page):
        assert len(LIMITS) == 5
        assert all(page.text.count(limit) == 2 for limit in LIMITS)
        for words in ("Research use only", "split by patient", "stain", "11 to 26 images"):
            assert words in page.text

    def test_without_bootstrap_there_are_no_intervals_but_delongs(self, tmp_path):
        page = _write(tmp_path, _table([*CODES] * 4), REAL, replicates=0)
        assert page.row("accuracy")[2] == "-"
        assert " to " in page.row("ROC AUC, blast")[2]

    @pytest.mark.parametrize(
        "labels",
        [["NGS"], ["NGS"] * 5, ["NGS", "MYO"], ["MYO", "MOB"] * 3],
        ids=["one image", "one class", "two images", "blasts alone"],
    )
    def test_undefined_figures_are_dashes_and_never_nan(self, labels, tmp_path):
        page = _write(tmp_path, _table(labels), REAL)
        assert not re.search(r"\bnan\b|\bNone\b|\binf\b", page.text, re.IGNORECASE)
        assert page.row("EOS")[3].startswith("-")


class TestExaminers:
    def test_network_and_examiners_are_compared_on_the_same_images(self, full):
        metrics = full.metrics
        examiners = metrics["examiners"]
        for title, pair in {
            "label and re-annotation 1": examiners["classes"]["label_reannotation_1"],
            "re-annotation 1 and re-annotation 2": (
                examiners["classes"]["reannotation_1_reannotation_2"]
            ),
            "label and this network": examiners["network"]["agreement"]["label_network"],
            "this network and re-annotation 2": (
                examiners["network"]["agreement"]["network_reannotation_2"]
            ),
        }.items():
            images, *cells = full.row(title)[1:]
            assert images == "300"
            shown = [
                _format(pair[way][figure])
                for way in ("all", "without_uncertain")
                for figure in ("agreement", "kappa")
            ]
            assert [cell.split()[0] for cell in cells] == shown

    def test_answers_to_the_questions_have_wilsons_intervals(self, full):
        metrics = full.metrics
        points = metrics["examiners"]["questions"]["blast"]["operating_points"]
        point = points["reannotation_1"]["all"]
        (_, images, sensitivity, specificity, _), *_ = [
            row for row in full.rows if len(row) == 5 and row[0] == "re-annotation 1"
        ]
        assert images == "300"
        for shown, name, of in (
            (sensitivity, "sensitivity", point["positives"]),
            (specificity, "specificity", point["images"] - point["positives"]),
        ):
            low, high = proportion_interval(point[name], of)
            assert shown == f"{point[name]:.3f} {low:.3f} to {high:.3f}"

    def test_disputes_are_listed_with_the_networks_answer(self, full):
        metrics = full.metrics
        disputes = metrics["examiners"]["disputes"]["images"]
        assert disputes
        assert f"On {disputes} of 300 re-annotated images" in full.text
        listed = [row for row in full.rows if len(row) == 6 and row[1] == "EOS"]
        csv = pd.read_csv(full.file.parent / "disputes.csv")
        assert len(csv) == disputes == sum(int(row[2]) for row in listed)
        assert [int(row[2]) for row in listed] == sorted(
            (int(row[2]) for row in listed), reverse=True
        )
        for label, _, images, as_label, as_reannotated, examples in listed:
            rows = csv[csv["label"] == label]
            assert [int(images), int(as_label), int(as_reannotated)] == [
                len(rows), (rows["network"] == label).sum(), (rows["network"] == "EOS").sum(),
            ]  # fmt: skip
            assert examples == ", ".join(rows["id"][:3])

    def test_without_re_annotated_images_the_published_ones_stand_there(self, page):
        assert "the published re-annotations of 1,905 images" in page.text
        row = page.row("label and re-annotation 2")
        assert row == ["label and re-annotation 2", "1,905", "0.803", "0.747", "0.901", "0.868"]
        assert page.row("this network, on its own images")[1] == "1,200"


class TestMistakes:
    def test_the_surest_come_first_with_their_pictures(self, full):
        pictures = [a for tag, a in full.tags if tag == "img" and a["width"] == "400"]
        rows = find_mistakes(_table([*CODES] * 60, folds=5))
        assert [a["alt"].split(",")[0] for a in pictures] == [f"Cell {i}" for i in rows["id"]]
        assert all(a["src"].startswith("data:image/jpeg;base64,") for a in pictures)

    def test_without_pictures_they_are_a_table(self, page):
        rows = find_mistakes(_table([*CODES] * 80))
        listed = [row[0] for row in page.rows if row and row[0] in {*rows["id"]}]
        assert listed == rows["id"].tolist()
        assert "The pictures are missing" in page.text

    def test_pictures_of_another_networks_answers_are_not_shown(self, tmp_path):
        """Its table may lie in the same folder."""
        _pictures(tmp_path, _table([*CODES] * 4, seed=6))
        page = _write(tmp_path, _table([*CODES] * 4), REAL)
        assert "img" not in {tag for tag, _ in page.tags}

    def test_a_network_that_is_always_right_has_none(self, tmp_path):
        table = _table([*CODES])
        table[PROBABILITIES] = np.eye(15)
        page = _write(tmp_path, table, REAL)
        assert "Every answer is right." in page.text


def _gallery(page: Page) -> str:
    """The text of the section."""
    return page.text.partition("Gallery: typical cells")[2].partition("Most confident mistakes")[0]


class TestGallery:
    def test_every_class_has_its_cells_with_label_answer_and_probability(self, full):
        shown = _gallery(full)
        places = [shown.index(f"{code} {BY_CODE[code].name}") for code in LINEAGE_ORDER]
        assert places == sorted(places)
        rows = gallery.choose_cells(_table([*CODES] * 60, folds=5))
        assert rows["label"].value_counts().to_dict() == dict.fromkeys(CODES, 2)
        for image_id, code, probability in zip(
            rows["id"], rows["label"], get_probabilities(rows).max(axis=1), strict=True
        ):
            assert f"label {code} , answer {code} ( {probability:.3f} )" in shown.replace(
                "(", "( "
            ).replace(")", " )"), image_id
            assert image_id in shown
        assert "Classes without images" not in shown
        assert "wrong" not in shown

    def test_each_cell_has_four_panels_with_alternative_texts(self, full):
        pictures = [a for tag, a in full.tags if tag == "img" and a["width"] == "160"]
        rows = gallery.choose_cells(_table([*CODES] * 60, folds=5))
        texts = [f"Cell {i}" for i in rows["id"]]
        assert [a["alt"] for a in pictures[::4]] == texts
        assert [a["alt"] for a in pictures[1:4]] == ["gradient", "overlay", "Grad-CAM++"]
        assert all(a["src"].startswith("data:image/jpeg;base64,") for a in pictures)

    def test_the_pictures_do_not_make_the_report_giant(self, tmp_path):
        """Noise, which JPEG packs worst, in place of the cells."""
        table = _table([*CODES] * 4)
        bare = _write(tmp_path, table, REAL, replicates=0)
        _pictures(tmp_path, table)
        rng = np.random.default_rng(0)
        rows = gallery.choose_cells(table).set_index("id", drop=False)
        for image_id, scores in zip(rows["id"], get_probabilities(rows), strict=True):
            noise = Image.fromarray(rng.integers(0, 256, (160, 640, 3), np.uint8))
            noise.save(
                tmp_path / "in" / GALLERY / to_picture_name(image_id), pnginfo=make_note(scores)
            )
        page = _write(tmp_path, table, REAL, replicates=0)
        assert 120 <= len([a for tag, a in page.tags if tag == "img"]) <= 132
        assert len(page.source) - len(bare.source) < 6e6

    def test_classes_without_images_are_named(self, tmp_path):
        table = _table(["NGS", "MYO"] * 4)
        _pictures(tmp_path, table)
        page = _write(tmp_path, table, REAL)
        missing = _gallery(page).partition("Classes without images:")[2]
        named = [code for code in CODES if f"{code} {BY_CODE[code].name}" in missing]
        assert named == [code for code in CODES if code not in ("NGS", "MYO")]

    def test_a_class_without_a_right_answer_shows_wrong_ones_and_says_so(self, tmp_path):
        table = _table(["NGS", "MYO", "EOS"] * 4)
        wrong = table["label"] == "MYO"
        table.loc[wrong, PROBABILITIES] = np.eye(15)[CODES.index("MOB")] * 0.9 + 0.1 / 15
        _pictures(tmp_path, table)
        shown = _gallery(_write(tmp_path, table, REAL))
        assert shown.count("No image of this class is answered correctly") == 1
        assert shown.count(", wrong") == 2
        myeloblasts = shown.partition("MYO Myeloblast")[2].partition("NGS Neutrophil")[0]
        assert "No image of this class is answered correctly" in myeloblasts
        assert "label MYO , answer MOB" in myeloblasts

    def test_without_pictures_the_section_says_so(self, page):
        shown = _gallery(page)
        assert "The pictures are missing. An evaluation with --model draws them" in shown
        assert "Myeloblast" not in shown

    def test_a_class_whose_pictures_are_of_another_network_shows_none(self, tmp_path):
        table = _table([*CODES] * 4)
        other = table.copy()
        changed = other["label"] == "BAS"
        # The same answer, as surely: only the other classes' probabilities differ.
        top = get_probabilities(other[changed]).max(axis=1, keepdims=True)
        scores = get_probabilities(other[changed])
        rest = np.where(scores == top, 0, scores)[:, ::-1]
        rest[np.arange(len(rest)), CODES.index("BAS")] = 0
        rest *= (1 - top) / rest.sum(axis=1, keepdims=True)
        rest[np.arange(len(rest)), CODES.index("BAS")] = top[:, 0]
        other.loc[changed, PROBABILITIES] = rest
        _pictures(tmp_path, other)
        page = _write(tmp_path, table, REAL)
        shown = _gallery(page)
        assert shown.count("The pictures are missing.") == 1
        basophils = shown.partition("BAS Basophil")[2].partition("MOB Monoblast")[0]
        assert "The pictures are missing." in basophils
        assert not re.search("Cell BAS/", page.source.partition('id="mistakes"')[0])


class TestComparisons:
    def test_paired_figures_have_differences_intervals_and_delongs_p(self, full):
        metrics = full.metrics
        paired = metrics["comparisons"]["a network of theirs"]["paired"]
        (row,) = [r for r in full.rows if len(r) == 6 and r[0] == "ROC AUC, blast"]
        test = paired["delong"]["blast"]
        assert row[3].lstrip("▲▼ ") == f"{test['difference']:+.4f}"
        assert row[4] == " to ".join(_format(end, 4) for end in test["interval"])
        assert row[5] == ("< 0.001" if test["p_value"] < 0.001 else _format(test["p_value"]))
        (row,) = [r for r in full.rows if len(r) == 6 and r[0] == "accuracy"]
        interval = paired["differences"]["overall"]["accuracy"]
        assert row[4] == " to ".join(_format(end, 4) for end in interval)


class TestModelCard:
    def test_it_has_the_sections_of_mitchell_et_al_and_figures_with_intervals(self, full):
        card = (full.file.parent / "model_card.md").read_text()
        assert re.findall(r"^## (.*)$", card, re.M) == [
            "Model details", "Intended use", "Factors", "Metrics", "Evaluation data",
            "Training data", "Quantitative analyses", "Ethical considerations",
            "Caveats and recommendations",
        ]  # fmt: skip
        metrics = full.metrics
        accuracy = metrics["pooled"]["overall"]["accuracy"]
        low, high = metrics["intervals"]["overall"]["accuracy"]
        assert f"| accuracy | {accuracy:.4f} | {low:.4f} to {high:.4f} |" in card
        for code in CODES:
            sensitivity = metrics["pooled"]["classes"][code]["sensitivity"]
            low, high = metrics["intervals"]["classes"][code]["sensitivity"]
            assert re.search(
                rf"^\| {code} \|.*\| {sensitivity:.3f} \({low:.3f} to {high:.3f}\)", card, re.M
            )


@pytest.fixture(scope="module", params=["full", "published", "demo"])
def report(request, tmp_path_factory) -> Path:
    if request.param == "full":
        return request.getfixturevalue("full").file
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "published":
        shared = request.getfixturevalue("shared")
        evaluate(shared / "data/published_network/heldout_outputs.npz", out, replicates=20)
    else:
        workdir = request.getfixturevalue("workdir")
        model = workdir / "best.keras"
        done = run_module("leuko_tf.evaluate", "--model", model, "--out", out)
        assert done.returncode == 0, done.stderr
    return out / "report.html"


@pytest.fixture(scope="module")
def views(report: Path) -> list[dict[str, Any]]:
    return browser.look_at(report)


@pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium is installed")
class TestInABrowser:
    def test_nothing_overflows_and_no_text_is_cut_off(self, views):
        assert [view["width"] for view in views] == list(browser.WIDTHS)
        for view in views:
            assert view["scrollWidth"] <= view["width"], view
            assert view["beyond"] == view["cut"] == []
        assert views[-1]["wideTables"] == []  # on a desk

    def test_every_figure_and_picture_is_drawn(self, views, report):
        pictures = report.read_text().count("<img ")
        for view in views:
            assert len(view["figures"]) == 8
            assert all(width > 250 and height > 150 for width, height in view["figures"])
            assert len(view["images"]) == pictures
            assert {*view["images"]} <= {160, 400}

    def test_it_prints_to_a_few_pages(self, report, tmp_path):
        browser.print_to_pdf(report, tmp_path / "report.pdf")
        pages = (tmp_path / "report.pdf").read_bytes().count(b"/Type /Page\n")
        assert 5 <= pages <= 20
