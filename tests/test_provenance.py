"""What a model's file tells of its training, also where it was copied away."""

import json
import shutil
import zipfile
from argparse import Namespace
from pathlib import Path

import pytest
from running import run_module

from leuko_tf.cell_selection import select_cells
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.config import load_config, save_config
from leuko_tf.files import BEST, CONFIG, LAST, METRICS, RUN
from leuko_tf.provenance import KERAS_CONFIG, describe_model, facts_of_run, read_run


@pytest.fixture
def copied(workdir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(workdir / BEST, tmp_path / "copied.keras"))


def rewrite_layers(file: Path, change) -> None:
    """Changes the configuration of the scaling layer in a `.keras` file."""
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members[KERAS_CONFIG])
    for layer in config["config"]["layers"]:
        if layer["config"]["name"] == "scaling":
            change(layer["config"])
    members[KERAS_CONFIG] = json.dumps(config).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def test_a_copied_model_knows_its_training(workdir: Path, copied: Path) -> None:
    facts = describe_model(copied)
    assert facts.model == "copied.keras"
    assert facts.synthetic is True
    assert facts.trained_on == "aml_cytomorphology_lmu/complete/1.0.0"
    assert facts.trained_on_images == 150
    assert facts.held_out_fold == 1
    assert facts.images_pixel_size_um == pytest.approx(0.0725)
    assert facts.folds
    # 120 images in the four folds, less those that choose the best epoch.
    assert facts.class_counts is not None
    assert [*facts.class_counts] == [*CODES]
    assert {*facts.class_counts.values()} == {7}
    for other in (workdir / BEST, workdir / LAST):
        assert describe_model(other).to_json() == {**facts.to_json(), "model": other.name}
    assert facts_of_run(read_run(workdir)).class_counts == facts.class_counts


def test_a_model_saved_again_in_a_notebook_still_knows(copied: Path, tmp_path: Path) -> None:
    import keras

    keras.models.load_model(copied).save(tmp_path / "again.keras")
    assert describe_model(tmp_path / "again.keras").class_counts


def test_a_copied_model_is_evaluated_on_the_cells_that_it_has_not_seen(
    copied: Path, data_dir: Path, tmp_path: Path
) -> None:
    words = ("--model", copied, "--data-dir", data_dir, "--out", tmp_path, "--bootstrap", 0)
    done = run_module("leuko_tf.evaluate", *words)
    assert done.returncode == 0, done.stderr
    source = json.loads((tmp_path / METRICS).read_text())["source"]
    assert (source["split"], source["held_out"]) == ("fold_1", True)


def test_its_cells_are_those_that_it_has_not_seen(copied: Path) -> None:
    asked = Namespace(model=copied, dataset=None, data_dir="/d", split=None)
    assert select_cells(asked) == ("aml_cytomorphology_lmu/complete", "/d", [1])
    asked.dataset = "aml_cytomorphology_lmu/complete"
    assert select_cells(asked)[2] == [1]
    asked.dataset = "pbc_barcelona"
    with pytest.raises(UserError, match="give --split"):
        select_cells(asked)


def test_a_model_in_another_trainings_folder_is_asked_about_its_own_fold(copied: Path) -> None:
    for settings, expected in (
        (["data.held_out_fold=3"], ("aml_cytomorphology_lmu/complete", None, [1])),
        (["data.dataset=pbc_barcelona"], ("aml_cytomorphology_lmu/complete", None, [1])),
    ):
        save_config(load_config("demo.yaml", settings), copied.parent / CONFIG)
        asked = Namespace(model=copied, dataset=None, data_dir=None, split=None)
        assert select_cells(asked) == expected


def test_models_of_older_versions_are_told_by_their_work_folder(
    workdir: Path, copied: Path, tmp_path: Path
) -> None:
    rewrite_layers(copied, lambda config: config.pop("trained"))
    assert describe_model(copied).trained_on is None
    run = {k: v for k, v in read_run(workdir).items() if k != "class_counts"}
    (tmp_path / RUN).write_text(json.dumps(run))
    facts = describe_model(copied)
    assert (facts.held_out_fold, facts.class_counts) == (1, None)
    assert facts.trained_on == "aml_cytomorphology_lmu/complete/1.0.0"


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    (tmp_path / RUN).write_text('{"command": ')
    with pytest.raises(UserError, match=r"run\.json is damaged"):
        describe_model(tmp_path / BEST)


def test_facts_of_newer_versions_are_no_obstacle(copied: Path) -> None:
    rewrite_layers(copied, lambda config: config["trained"].update(new_fact=1))
    assert describe_model(copied).held_out_fold == 1
