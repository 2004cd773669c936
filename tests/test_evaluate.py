import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leuko_tf.classes import CODES
from leuko_tf.predictions import probabilities, read_predictions


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "leuko_tf.evaluate", *map(str, arguments)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def evaluation(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("evaluation")
    done = run_command("--model", workdir / "best.keras", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "SYNTHETIC images" in done.stdout
    return out


def test_held_out_fold_of_the_training_is_evaluated(evaluation: Path, data_dir: Path) -> None:
    table, source = read_predictions(evaluation / "predictions.parquet")
    assert len(table) == 30
    assert set(table["fold"]) == {1}
    assert source["synthetic"] is True
    assert source["split"] == "fold_1"
    assert source["held_out"] is True
    assert "held out from the training" in (evaluation / "report.html").read_text()
    assert json.loads((evaluation / "metrics.json").read_text())["images"] == 30


def test_predictions_are_the_models_of_the_images_with_those_ids(
    evaluation: Path, workdir: Path, smear: Path
) -> None:
    import keras

    table, _ = read_predictions(evaluation / "predictions.parquet")
    images = [np.asarray(Image.open(smear / i).convert("RGB")) for i in table["id"]]
    model = keras.models.load_model(workdir / "best.keras")
    expected = model.predict(np.stack(images), verbose=0)
    np.testing.assert_allclose(probabilities(table), expected, atol=1e-6)
    rows = [line.split() for line in (smear / "annotations.dat").read_text().splitlines()]
    annotations = {path: rest for path, *rest in rows}
    for row in table.itertuples():
        label, *reannotations = annotations[row.id]
        assert row.label == label
        assert [row.reannotation_1, row.reannotation_2] == [
            r.replace("nan", "none") for r in reannotations
        ]


def test_figures_come_from_the_table_alone(evaluation: Path, tmp_path: Path) -> None:
    done = run_command("--predictions", evaluation / "predictions.parquet", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "metrics.json").read_text() == (evaluation / "metrics.json").read_text()
    assert (tmp_path / "report.html").read_text() == (evaluation / "report.html").read_text()


def test_folds_of_the_training_are_called_so(workdir: Path, tmp_path: Path) -> None:
    model = ("--model", workdir / "best.keras")
    done = run_command(*model, "--split", "fold_2+fold_3+fold_2", "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "trained on" in done.stdout
    page = (tmp_path / "report.html").read_text()
    assert "Not held out." in page
    assert "held out from the training" not in page
    table, _ = read_predictions(tmp_path / "predictions.parquet")
    assert set(table["fold"]) == {2, 3}
    assert set(table["label"]) == set(CODES)


def test_bad_input_ends_in_one_message_and_no_trace(workdir: Path, tmp_path: Path) -> None:
    model = workdir / "best.keras"
    no_model = tmp_path / "text.keras"
    no_model.write_text("not a model")
    for arguments, message in (
        (("--model", model, "--split", "fold_6"), "--split takes fold_1 to fold_5"),
        (("--model", tmp_path / "none.keras", "--split", "fold_1"), "No config.yaml beside"),
        (("--model", no_model, "--split", "fold_1", "--dataset", "x"), "not a .keras model"),
        (("--predictions", tmp_path / "none.parquet"), "not a Parquet file"),
        (("--predictions", tmp_path / "none.parquet", "--out", no_model), "text.keras"),
    ):
        out = () if "--out" in arguments else ("--out", tmp_path / "out")
        done = run_command(*arguments, *out)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert not list((tmp_path / "out").glob("*"))
