import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import check_refusal, run_module

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.evaluate import evaluate, parse_named_tables
from leuko_tf.explanation import gallery, mistakes
from leuko_tf.explanation.pictures import to_picture_name
from leuko_tf.metrics.agreement import find_disputes
from leuko_tf.predictions import (
    EXAMINERS,
    PROBABILITIES,
    get_probabilities,
    read_predictions,
    write_predictions,
)

REAL = {"synthetic": False, "dataset": "real", "split": "fold_1", "held_out": True}
QUICK = ("--bootstrap", 20)


def run_command(*words: object):
    return run_module("leuko_tf.evaluate", *words)


def evaluate_table(*words: object) -> str:
    """Evaluates tables by command, which must succeed quietly; returns what it prints."""
    done = run_command("--predictions", *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def metrics_in(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def evaluation(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    done = run_command("--model", workdir / "best.keras", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC images" in done.stdout
    assert f"report: {out / 'report.html'}" in done.stdout
    return out


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """150 images in five folds, every third re-annotated, of a network that is mostly right."""
    rng = np.random.default_rng(4)
    labels = np.array([*CODES] * 10)
    scores = rng.dirichlet(np.full(15, 0.3), 150)
    scores[np.arange(150), [CODES.index(label) for label in labels]] += 0.5
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
    table.insert(0, "id", [f"{label}/{label}_{i:04d}.tiff" for i, label in enumerate(labels)])
    table.insert(1, "label", labels)
    table.insert(2, "fold", np.repeat(np.arange(1, 6), 30))
    for k, (column, shift) in enumerate(zip(EXAMINERS, (0, 1), strict=True), 3):
        answers = np.where(
            rng.random(150) < 0.7, labels, np.roll(CODES, shift)[np.arange(150) % 15]
        )
        table.insert(k, column, np.where(np.arange(150) % 3 == 0, answers, "none"))
    table.loc[[0, 3], EXAMINERS] = [["MYO", "MYO"], ["UNC", "UNC"]]
    return table


@pytest.fixture(scope="module")
def predictions(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("table") / "predictions.parquet"
    write_predictions(table, REAL, file)
    return file


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluated")


@pytest.fixture(scope="module")
def metrics(predictions: Path, evaluated: Path) -> dict:
    """What the table evaluates to."""
    return evaluate(predictions, evaluated, replicates=20)


class TestModel:
    def test_the_held_out_fold_of_the_training_is_evaluated(self, evaluation):
        table, source = read_predictions(evaluation / "predictions.parquet")
        assert len(table) == 30
        assert set(table["fold"]) == {1}
        assert source["synthetic"] is True
        assert source["split"] == "fold_1"
        assert source["held_out"] is True
        assert source["training"]["configuration"]["data"]["held_out_fold"] == 1

    def test_the_folder_holds_what_the_readme_promises(self, evaluation):
        table, source = read_predictions(evaluation / "predictions.parquet")
        expected = {"predictions.parquet", "mistakes", "gallery", "metrics.json", "report.html"}
        expected |= {"model_card.md"} | ({"disputes.csv"} if len(find_disputes(table)) else set())
        assert _files(evaluation) == expected
        assert metrics_in(evaluation)["source"] == source
        assert metrics_in(evaluation)["pooled"]["images"] == 30

    def test_predictions_are_the_models_of_the_images_with_those_ids(
        self, evaluation, workdir, smear
    ):
        import keras

        table, _ = read_predictions(evaluation / "predictions.parquet")
        images = [np.asarray(Image.open(smear / i).convert("RGB")) for i in table["id"]]
        model = keras.models.load_model(workdir / "best.keras")
        expected = model.predict(np.stack(images), verbose=0)
        np.testing.assert_allclose(get_probabilities(table), expected, atol=1e-6)
        rows = [line.split() for line in (smear / "annotations.dat").read_text().splitlines()]
        annotations = {path: rest for path, *rest in rows}
        for row in table.itertuples():
            label, *reannotations = annotations[row.id]
            assert row.label == label
            assert [row.reannotation_1, row.reannotation_2] == [
                r.replace("nan", "none") for r in reannotations
            ]

    def test_figures_come_from_the_table_alone(self, evaluation, tmp_path):
        evaluate_table(evaluation / "predictions.parquet", "--out", tmp_path)
        assert (tmp_path / "metrics.json").read_text() == (
            (evaluation / "metrics.json").read_text()
        )
        assert {"report.html", "model_card.md"} <= _files(tmp_path)
        assert (evaluation / "report.html").read_text().count("<img ") == 12 + 4 * len(
            _files(evaluation / "gallery")
        )

    def test_folds_of_the_training_are_called_so(self, workdir, tmp_path):
        for name in ("mistakes/of_another_run.png", "mistakes/notes.txt", "gallery/old.png"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        model = ("--model", workdir / "best.keras")
        done = run_command(*model, "--split", "fold_2+fold_3+fold_2", "--out", tmp_path, *QUICK)
        assert done.returncode == 0, done.stderr
        assert "trained on" in done.stdout
        table, source = read_predictions(tmp_path / "predictions.parquet")
        assert source["held_out"] is False
        assert source["split"] == "fold_2+fold_3"
        assert set(table["fold"]) == {2, 3}
        assert set(table["label"]) == set(CODES)
        # The pictures are of this run; what is no picture of ours stays.
        assert _files(tmp_path / "mistakes") == {*_pictures_of(table), "notes.txt"}
        assert _files(tmp_path / "gallery") == {
            to_picture_name(i) for i in gallery.choose_cells(table)["id"]
        }


def _pictures_of(table: pd.DataFrame) -> list[str]:
    """File names of the twelve surest wrong answers."""
    wrong = []
    for image, label, scores in zip(
        table["id"], table["label"], get_probabilities(table), strict=True
    ):
        if CODES[scores.argmax()] != label:
            wrong.append((-scores.max(), image))
    return [image.replace("/", "__") + ".png" for _, image in sorted(wrong)[:12]]


def _files(folder: Path) -> set[str]:
    return {f.name for f in folder.iterdir()}


class TestMistakes:
    def test_the_surest_wrong_answers_have_pictures_and_no_others(self, evaluation):
        table, _ = read_predictions(evaluation / "predictions.parquet")
        assert len(_pictures_of(table)) == 12
        assert _files(evaluation / "mistakes") == set(_pictures_of(table))

    def test_a_picture_shows_what_the_network_sees_of_a_cell_and_the_same_under_its_map(
        self, evaluation, smear
    ):
        _, source = read_predictions(evaluation / "predictions.parquet")
        edge = (400 - source["training"]["configuration"]["model"]["field"]) // 2
        for file in (evaluation / "mistakes").iterdir():
            image_id = file.stem.replace("__", "/")
            with Image.open(file) as picture, Image.open(smear / image_id) as cell:
                assert (picture.format, picture.size) == ("PNG", (400, 200))
                left, right = (
                    np.asarray(picture.crop((x, 0, x + 200, 200)), float) for x in (0, 200)
                )
                seen = cell.convert("RGB").crop((edge, edge, 400 - edge, 400 - edge))
                expected = seen.resize((200, 200), Image.Resampling.BOX)
            assert np.abs(left - np.asarray(expected, float)).mean() < 3
            assert np.abs(right - left).mean() > 10

    def test_they_are_described_surest_first(self, evaluation):
        table, _ = read_predictions(evaluation / "predictions.parquet")
        described = mistakes.read_mistakes(table, evaluation / "mistakes")
        assert [m.picture and m.picture.name for m in described] == _pictures_of(table)
        rows = table.set_index("id")
        for mistake in described:
            row = rows.loc[mistake.id]
            assert mistake.label == row["label"] != mistake.answer
            assert mistake.probability == pytest.approx(row[PROBABILITIES].max())
            assert mistake.probability == pytest.approx(row[f"p_{mistake.answer}"])
            assert mistake.of_label == pytest.approx(row[f"p_{mistake.label}"])
        without_pictures = mistakes.read_mistakes(table, evaluation / "none")
        assert [m.id for m in without_pictures] == [m.id for m in described]
        assert {m.picture for m in without_pictures} == {None}

    def test_a_network_that_is_always_right_has_none_and_old_pictures_go(
        self, workdir, table, tmp_path
    ):
        from leuko_tf.explanation.drawing import draw_mistakes
        from leuko_tf.explanation.explainer import Explainer
        from leuko_tf.network.loading import load_model

        right = table.assign(**pd.DataFrame(np.eye(15)[[*range(15)] * 10], columns=PROBABILITIES))
        (tmp_path / "old.png").touch()
        draw_mistakes(Explainer(load_model(workdir / "best.keras")), right, {}, tmp_path)
        assert not _files(tmp_path)
        assert mistakes.read_mistakes(right, tmp_path) == []


class TestTable:
    def test_metrics_have_all_their_parts_and_are_written(self, evaluated, metrics):
        assert metrics == metrics_in(evaluated)
        parts = {"source", "pooled", "intervals", "folds", "mean", "sd", "temperature", "selective"}
        parts |= {"conformal", "examiners", "examiners_from", "comparisons"}
        assert parts <= metrics.keys()
        assert None not in [metrics[part] for part in parts]
        assert metrics["source"] == REAL
        assert list(metrics["folds"]) == ["1", "2", "3", "4", "5"]
        assert metrics["bootstrap_replicates"] == 20
        assert metrics["comparisons"] == {}

    def test_headline_figures_are_printed(self, predictions, tmp_path):
        printed = evaluate_table(predictions, "--out", tmp_path, *QUICK)
        metrics = metrics_in(tmp_path)
        for title, value in (
            ("images", f"{metrics['pooled']['images']}"),
            ("accuracy", f"{metrics['pooled']['overall']['accuracy']:.4f}"),
            ("ROC AUC, blast", f"{metrics['pooled']['questions']['blast']['roc_auc']:.4f}"),
        ):
            (line,) = (x for x in printed.splitlines() if x.startswith(f"  {title}  "))
            assert line.split(title)[1].split()[0] == value
        assert "SYNTHETIC" not in printed
        steps = [line for line in printed.splitlines() if line.endswith(" ...")]
        assert steps == [
            f"Reading {predictions} ...",
            "Computing figures of 150 images, 20 bootstrap replicates ...",
            f"Writing {tmp_path / 'report.html'} ...",
        ]

    def test_disputed_images_are_listed(self, evaluated, table):
        listed = pd.read_csv(evaluated / "disputes.csv")
        assert listed["id"].tolist() == find_disputes(table)["id"].tolist()

    @pytest.mark.parametrize("synthetic", [False, True])
    def test_without_re_annotations_only_real_images_are_compared_with_the_published_examiners(
        self, table, synthetic, tmp_path
    ):
        table = table.assign(**dict.fromkeys(EXAMINERS, "none"))
        write_predictions(table, {**REAL, "synthetic": synthetic}, tmp_path / "p.parquet")
        (tmp_path / "disputes.csv").touch()
        found = evaluate(tmp_path / "p.parquet", tmp_path, replicates=0)
        assert found["examiners"] is None
        assert found["examiners_from"] == (None if synthetic else "published figures")
        at_examiners = found["pooled"]["questions"]["blast"]["at_examiners"]
        assert {*at_examiners} == (set() if synthetic else {*EXAMINERS})
        assert not (tmp_path / "disputes.csv").exists(), "of an evaluation before"

    def test_with_no_replicates_there_are_no_intervals_but_delongs(
        self, predictions, metrics, tmp_path
    ):
        evaluate_table(predictions, "--out", tmp_path, "--bootstrap", 0)
        without = metrics_in(tmp_path)
        assert without["intervals"] is None
        assert without["pooled"] == metrics["pooled"]
        assert without["pooled"]["questions"]["blast"]["roc_auc_interval"] is not None

    def test_with_re_annotations_they_are_compared_with_their_own_examiners(self, table, metrics):
        assert metrics["examiners_from"] == "these images"
        assert metrics["examiners"]["images"] == (table[EXAMINERS[0]] != "none").sum() == 50
        assert metrics["examiners"]["network"]["figures"]["images"] == 50


class TestAnnotations:
    @pytest.fixture
    def annotations(self, table: pd.DataFrame, tmp_path: Path) -> Path:
        """annotations.dat that tells what the table tells."""
        rows = table[["id", "label", *EXAMINERS]].replace("none", "nan").to_numpy().tolist()
        file = tmp_path / "annotations.dat"
        file.write_text("".join(" ".join(row) + "\n" for row in rows))
        return file

    def test_a_csv_and_the_annotations_give_the_figures_of_the_whole_table(
        self, table, metrics, annotations, tmp_path
    ):
        table.drop(columns=EXAMINERS).to_csv(tmp_path / "p.csv", index=False)
        words = (tmp_path / "p.csv", "--annotations", annotations)
        evaluate_table(*words, "--out", tmp_path / "out", *QUICK)
        assert metrics_in(tmp_path / "out") == {**metrics, "source": {}}

    def test_of_other_images_or_labels_they_are_refused(self, predictions, annotations, tmp_path):
        lines = annotations.read_text().splitlines(keepends=True)
        renamed = lines[4].replace("_0004", "_0005")
        for content, message in (
            (lines[1:], r"do not match: 1 predicted .* the first is NGS/NGS_0000\.tiff"),
            ([*lines[:4], renamed, *lines[5:]], r"1 predicted .* the first is MON/MON_0004\.tiff"),
            (["NGS/a b.tiff NGS nan nan"], "cannot be read: 1 problem"),
        ):
            annotations.write_text("".join(content))
            with pytest.raises(UserError, match=message) as caught:
                evaluate(predictions, tmp_path / "out", annotations=annotations, replicates=0)
            assert str(annotations) in str(caught.value)
        assert not (tmp_path / "out").exists()


class TestComparison:
    def test_other_networks_are_put_beside_by_name(self, table, predictions, tmp_path):
        worse = table.iloc[30:].copy()
        worse[PROBABILITIES] = 0.5 * worse[PROBABILITIES] + 0.5 / 15
        worse.loc[worse.index[::4], PROBABILITIES] = np.eye(15)[0]
        worse.to_csv(tmp_path / "worse.csv", index=False)
        others = ("--compare", f"itself={predictions}", "--compare", f"w={tmp_path / 'worse.csv'}")
        printed = evaluate_table(predictions, *others, "--out", tmp_path / "o", *QUICK)
        assert "Comparing with itself ...\nComparing with w ...\n" in printed
        found = metrics_in(tmp_path / "o")
        assert list(found["comparisons"]) == ["itself", "w"]
        same, worse_ = found["comparisons"].values()
        assert same["source"] == REAL
        assert same["other"]["overall"] == found["pooled"]["overall"]
        assert same["common_images"] == 150
        assert same["paired"]["delong"]["blast"]["difference"] == 0
        assert same["paired"]["delong"]["blast"]["p_value"] == 1
        assert worse_["source"] == {}
        assert worse_["common_images"] == worse_["other"]["images"] == 120
        figures = worse_["paired"]
        assert figures["this"]["images"] == figures["other"]["images"] == 120
        assert figures["this"]["overall"]["accuracy"] > figures["other"]["overall"]["accuracy"]
        assert figures["differences"]["overall"]["accuracy"][0] > 0

    def test_tables_of_other_images_have_no_paired_figures(self, table, predictions, tmp_path):
        table.assign(id=[f"other {i}" for i in range(150)]).to_csv(tmp_path / "p.csv", index=False)
        others = {"x": tmp_path / "p.csv"}
        compared = evaluate(predictions, tmp_path, others=others, replicates=0)["comparisons"]["x"]
        assert compared["common_images"] == 0
        assert compared["paired"] is None
        assert compared["other"]["images"] == 150

    def test_tables_that_label_an_image_differently_are_refused(self, table, predictions, tmp_path):
        other = table.assign(label=table["label"].where(table.index != 5, "KSC"))
        other.to_csv(tmp_path / "p.csv", index=False)
        words = ("--predictions", predictions, "--compare", f"x={tmp_path / 'p.csv'}")
        done = run_command(*words, "--out", tmp_path / "out", *QUICK)
        check_refusal(
            done,
            f"error: {predictions} and {tmp_path / 'p.csv'} do not match: ",
            f"{table['id'][5]} is EOS in one table and KSC in the other",
        )
        assert done.stderr.count("\n") == 1
        assert not list((tmp_path / "out").iterdir())

    def test_real_and_drawn_cells_are_not_put_beside_each_other(self, table, predictions, tmp_path):
        write_predictions(table, {**REAL, "synthetic": True}, tmp_path / "drawn.parquet")
        with pytest.raises(UserError, match=r"drawn\.parquet: one has real cells, the other S"):
            evaluate(predictions, tmp_path / "out", others={"x": tmp_path / "drawn.parquet"})
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "texts", [["p.csv"], ["=p.csv"], ["x="], [""], ["x=p.csv", "x=q.csv"]], ids=" ".join
    )
    def test_what_is_not_a_name_and_a_table_is_refused(self, texts):
        with pytest.raises(UserError, match=r"--compare takes NAME=TABLE, .* Received: "):
            parse_named_tables(texts)

    def test_names_and_paths_may_hold_most_characters(self):
        assert parse_named_tables(["ViT, 2021=a b=c.csv", "é=/x/p.parquet"]) == {
            "ViT, 2021": Path("a b=c.csv"),
            "é": Path("/x/p.parquet"),
        }


class TestPublishedOutputs:
    def test_npz_is_evaluated_as_it_is(self, tmp_path):
        scores = np.random.default_rng(0).dirichlet(np.ones(16), 60).astype(np.float32)
        np.savez_compressed(
            tmp_path / "heldout_outputs.npz",
            label=np.arange(60, dtype=np.int8) % 15,
            probability16=scores,
            fold=(np.arange(60, dtype=np.int8) // 12) + 1,
            codes15=np.array(sorted(CODES)),
            outputs16=np.array(sorted([*CODES, "EBO2"])),
        )
        evaluate_table(tmp_path / "heldout_outputs.npz", "--out", tmp_path / "out", *QUICK)
        found = metrics_in(tmp_path / "out")
        assert found["pooled"]["images"] == 60
        assert len(found["folds"]) == 5
        assert "published network" in found["source"]["model"]
        assert found["examiners_from"] == "published figures"

    def test_the_real_outputs_have_the_figures_computed_elsewhere(self, shared, tmp_path):
        folder = shared / "data" / "published_network"
        evaluate_table(folder / "heldout_outputs.npz", "--out", tmp_path, "--bootstrap", 0)
        found = metrics_in(tmp_path)
        expected = json.loads((folder / "expected_metrics.json").read_text())
        assert (
            found["pooled"]["confusion_matrix"]["rows_are_labels"] == (expected["confusion_pooled"])
        )
        accuracies = [fold["overall"]["accuracy"] for fold in found["folds"].values()]
        assert accuracies == pytest.approx([fold["acc"] for fold in expected["summary"]])
        assert found["mean"]["overall"]["accuracy"] == pytest.approx(np.mean(accuracies))
        assert f"{found['mean']['overall']['accuracy']:.4f}" == "0.9390"
        assert f"{found['sd']['overall']['accuracy']:.4f}" == "0.0045"


class TestRefusals:
    def test_bad_input_ends_in_one_message_and_no_trace(self, workdir, predictions, tmp_path):
        model = ("--model", workdir / "best.keras")
        no_model = tmp_path / "text.keras"
        no_model.write_text("not a model")
        missing = tmp_path / "none.parquet"
        table = ("--predictions", predictions)
        for arguments, message in (
            ((*model, "--split", "fold_6"), "--split takes fold_1 to fold_5"),
            (("--model", tmp_path / "x.keras", "--split", "fold_1"), "--dataset and --split"),
            (("--model", no_model, "--split", "fold_1", "--dataset", "x"), "not a .keras model"),
            (("--predictions", missing), f"No file {missing}"),
            (("--predictions", missing, "--out", no_model), "text.keras"),
            ((*table, "--bootstrap", -1), "--bootstrap takes 0 or more replicates. Received: -1"),
            ((*table, "--compare", "x"), "--compare takes NAME=TABLE, each name once. Received: x"),
            ((*table, "--compare", f"x={missing}"), f"--compare x: no file {missing}"),
        ):
            out = () if "--out" in arguments else ("--out", tmp_path / "out")
            check_refusal(run_command(*arguments, *out), message)
            assert not list((tmp_path / "out").glob("*"))

    @pytest.mark.parametrize("words", [(), ("--predictions", "p", "--model", "m"), ("--out", "o")])
    def test_either_a_model_or_a_table_is_asked_for(self, words):
        done = run_command(*words)
        assert done.returncode == 2
        assert done.stderr.startswith("usage: python -m leuko_tf.evaluate")
