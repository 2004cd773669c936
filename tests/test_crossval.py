"""Cross-validation by the command: one fold, all folds, killed, resumed, repeated."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import check_refusal, run_module
from test_commands import run_lightly

from leuko_tf.cli import UserError
from leuko_tf.config import load_config
from leuko_tf.crossval import FOLDS, cross_validate, join_folds
from leuko_tf.explanation import gallery, mistakes
from leuko_tf.predictions import (
    PROBABILITIES,
    get_probabilities,
    read_predictions,
    write_predictions,
)
from leuko_tf.training.callbacks import read_log

# Of one block, besides what is tiny already: there are five trainings.
SMALLEST = ["model.blocks=[1]", "model.width=8", "model.cardinality=2", "train.epochs=2"]
KILLED = 2  # the fold in whose training the command is killed


@dataclass(frozen=True)
class Course:
    """A cross-validation, and what its commands said."""

    workdir: Path
    settings: list[str]
    options: tuple[str, ...]
    one_fold: subprocess.CompletedProcess[str]
    folds_after_one: set[str]
    done_at_kill: set[str]
    log_at_kill: int
    resumed: subprocess.CompletedProcess[str]


def make_words(workdir: Path, *more: object) -> list[str]:
    words = ("leuko_tf.crossval", "--config", "demo.yaml", "--workdir", workdir, *more)
    return [*map(str, words)]


def run_command(workdir: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return run_module(*make_words(workdir, *more))


def find_done_folds(workdir: Path) -> set[str]:
    return {file.parent.name for file in workdir.glob("fold_*/predictions.parquet")}


@pytest.fixture(scope="module")
def labels(smear: Path) -> dict[str, str]:
    """Id to label of every image."""
    lines = (smear / "annotations.dat").read_text().splitlines()
    return dict(line.split()[:2] for line in lines)


@pytest.fixture(scope="module")
def other_network(labels: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of another network, which guesses, on the same images."""
    scores = np.random.default_rng(0).dirichlet(np.ones(15), len(labels))
    table = pd.DataFrame(scores, columns=PROBABILITIES)
    table = table.assign(id=[*labels], label=[*labels.values()], fold=1)
    file = tmp_path_factory.mktemp("other") / "guesses.csv"
    table.to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def course(
    tiny: list[str], other_network: Path, tmp_path_factory: pytest.TempPathFactory
) -> Course:
    workdir = tmp_path_factory.mktemp("crossval") / "runs"
    settings = [*tiny, *SMALLEST]
    options = ("--bootstrap", "20", "--compare", f"guesses={other_network}")
    one_fold = run_command(workdir, "--fold", 3, *settings)
    folds_after_one = {f.name for f in workdir.iterdir()}

    killed = workdir / f"fold_{KILLED}"
    command = [sys.executable, "-m", *make_words(workdir, *options, *settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not read_log(killed) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    done_at_kill, log_at_kill = find_done_folds(workdir), len(read_log(killed))

    resumed = run_command(workdir, *options, *settings)
    assert resumed.returncode == 0, resumed.stderr
    return Course(
        workdir, settings, options, one_fold, folds_after_one, done_at_kill, log_at_kill, resumed
    )


@pytest.fixture
def copy(course: Course, tmp_path: Path) -> Path:
    """The finished work folder, to be spoilt."""
    return shutil.copytree(course.workdir, tmp_path / "runs")


def test_one_fold_is_done_alone_and_the_number_of_all_is_told(course: Course) -> None:
    assert course.one_fold.returncode == 0, course.one_fold.stderr
    assert course.folds_after_one == {"fold_3"}
    assert "fold 3 is done; 1 of 5 folds are done" in course.one_fold.stdout
    assert "report" not in course.one_fold.stdout


def test_a_kill_costs_no_fold_that_was_done(course: Course) -> None:
    assert course.done_at_kill == {"fold_1", "fold_3"}
    for k in (1, 3):
        assert f"fold {k} is done: {course.workdir / f'fold_{k}'}" in course.resumed.stdout
    for k in (2, 4, 5):
        assert f"fold {k}:\n" in course.resumed.stdout
    # Epochs that were saved are not trained twice.
    assert course.log_at_kill >= 1
    for k in FOLDS:
        assert [e["epoch"] for e in read_log(course.workdir / f"fold_{k}")] == [1, 2]


def test_every_image_is_predicted_once_as_held_out(course: Course, labels: dict[str, str]) -> None:
    table, source = read_predictions(course.workdir / "predictions.parquet")
    assert len(table) == len(labels)
    assert dict(zip(table["id"], table["label"], strict=True)) == labels
    assert set(table["fold"]) == {*FOLDS}
    assert source["held_out"] is True
    assert source["synthetic"] is True
    assert source["split"] == "fold_1+fold_2+fold_3+fold_4+fold_5"


def test_every_image_is_predicted_by_the_model_that_did_not_see_it(
    course: Course, smear: Path
) -> None:
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    table, _ = read_predictions(course.workdir / "predictions.parquet")
    few = table.groupby("fold").head(3)
    images = np.stack([np.asarray(Image.open(smear / i).convert("RGB")) for i in few["id"]])
    expected = get_probabilities(few)
    for k in FOLDS:
        file = course.workdir / f"fold_{k}" / "best.keras"
        assert describe_model(file).held_out_fold == k
        scores = load_model(file).predict(images, verbose=0)
        same = np.isclose(scores, expected, atol=1e-6).all(axis=1)
        np.testing.assert_array_equal(same, few["fold"] == k)


def test_all_folds_have_one_report_with_metrics_of_five(
    course: Course, labels: dict[str, str]
) -> None:
    metrics = json.loads((course.workdir / "metrics.json").read_text())
    assert metrics["pooled"]["images"] == len(labels)
    assert list(metrics["folds"]) == ["1", "2", "3", "4", "5"]
    assert [fold["images"] for fold in metrics["folds"].values()] == [len(labels) // 5] * 5
    assert metrics["mean"]["overall"]["accuracy"] == pytest.approx(
        np.mean([fold["overall"]["accuracy"] for fold in metrics["folds"].values()])
    )
    assert metrics["temperature"] is not None
    assert {"report.html", "model_card.md"} <= {f.name for f in course.workdir.iterdir()}
    assert "SYNTHETIC images" in course.resumed.stdout
    assert f"report: {course.workdir / 'report.html'}" in course.resumed.stdout


def test_another_network_is_put_beside(course: Course, labels: dict[str, str]) -> None:
    metrics = json.loads((course.workdir / "metrics.json").read_text())
    assert metrics["comparisons"]["guesses"]["common_images"] == len(labels)


def test_the_surest_mistakes_of_all_folds_have_their_pictures(course: Course) -> None:
    table, _ = read_predictions(course.workdir / "predictions.parquet")
    described = mistakes.read_mistakes(table, course.workdir / "mistakes")
    assert len(described) == 12
    assert None not in [mistake.picture for mistake in described]


def test_the_gallery_shows_typical_cells_of_all_folds(course: Course) -> None:
    table, _ = read_predictions(course.workdir / "predictions.parquet")
    found = gallery.read_gallery(table, course.workdir / "gallery")
    assert {*found} == {*table["label"]}
    assert all(found.values())
    assert {answer.picture.parent for cells in found.values() for answer in cells} == {
        course.workdir / "gallery"
    }


def test_the_same_command_again_trains_nothing_and_tells_the_same(course: Course) -> None:
    before = {f: f.stat().st_mtime_ns for f in course.workdir.glob("fold_*/*") if f.is_file()}
    metrics = (course.workdir / "metrics.json").read_text()
    (course.workdir / "metrics.json").unlink()
    again = make_words(course.workdir, *course.options, *course.settings)
    assert run_lightly(*again).returncode == 0  # so that it cannot have trained
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert (course.workdir / "metrics.json").read_text() == metrics


def test_a_fold_whose_table_is_gone_is_predicted_again_and_not_trained_again(
    course: Course, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, _ = read_predictions(copy / "fold_4" / "predictions.parquet")
    (copy / "fold_4" / "predictions.parquet").unlink()
    with pytest.raises(UserError, match=rf"{copy}: fold 4 is not done"):
        join_folds(copy)
    trained = (copy / "fold_4" / "best.keras").stat().st_mtime_ns
    cross_validate(load_config("demo.yaml", course.settings), copy, FOLDS, verbose=0)
    assert f"{copy / 'fold_4'} is trained" in capsys.readouterr().out
    assert (copy / "fold_4" / "best.keras").stat().st_mtime_ns == trained
    after, _ = read_predictions(join_folds(copy))
    after = after[after["fold"] == 4].reset_index(drop=True)
    pd.testing.assert_frame_equal(after, before)


def test_a_damaged_table_of_a_fold_is_named_with_what_to_do(course: Course, copy: Path) -> None:
    file = copy / "fold_2" / "predictions.parquet"
    file.write_bytes(file.read_bytes()[:-100])
    done = run_command(copy, *course.options, *course.settings)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {file} cannot be read as Parquet")
    assert done.stderr.endswith(". Delete it, and run again.\n")
    assert done.stderr.count("\n") == 1


def test_a_table_of_another_fold_or_data_set_is_refused(copy: Path) -> None:
    file = copy / "fold_2" / "predictions.parquet"
    table, source = read_predictions(file)
    shutil.copy(copy / "fold_1" / "predictions.parquet", file)
    with pytest.raises(UserError, match=f"{file} is not of fold 2, but of fold_1. Delete it"):
        join_folds(copy)
    write_predictions(table, {}, file)
    with pytest.raises(UserError, match=f"{file} is not of fold 2, but of images unknown"):
        join_folds(copy)
    write_predictions(table, {**source, "dataset": "another"}, file)
    with pytest.raises(UserError, match=r"fold 1 was predicted on dataset aml.*fold 2 on another"):
        join_folds(copy)


def test_pictures_of_before_go_and_other_files_stay(copy: Path) -> None:
    for name in ("old.png", "notes.txt"):
        for folder in ("mistakes", "gallery"):
            (copy / folder / name).touch()
    join_folds(copy)
    for folder in ("mistakes", "gallery"):
        left = {f.name for f in (copy / folder).iterdir()}
        assert "notes.txt" in left
        assert "old.png" not in left
        assert len(left) > 12


def test_bad_input_ends_in_one_message_before_any_training(course: Course) -> None:
    before = sorted(f for f in course.workdir.rglob("*"))
    for more, message in (
        (("train.epochs=3",), "fold_1 holds a training with another configuration: train.epochs"),
        (("--fold", 4, "train.seed=9"), "fold_1 holds a training with another configuration"),
        (("data.held_out_fold=2",), "The cross-validation sets data.held_out_fold; choose"),
        (("--bootstrap", -1), "--bootstrap takes 0 or more replicates"),
        (("--compare", "x=none.csv"), "--compare x: no file none.csv"),
        (("--compare", "none.csv"), "--compare takes NAME=TABLE"),
    ):
        done = run_command(course.workdir, *course.settings, *more)
        check_refusal(done, "error: ", message)
        assert (done.stdout, done.stderr.count("\n")) == ("", 1)
    assert sorted(f for f in course.workdir.rglob("*")) == before


@pytest.mark.parametrize("fold", [0, 6, "x"])
def test_there_are_five_folds(fold: object, tmp_path: Path) -> None:
    done = run_command(tmp_path, "--fold", fold)
    check_refusal(done, "argument --fold: invalid", status=2)
