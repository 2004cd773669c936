"""At which scale a data set's images are taken for a model, and which cells it is asked about."""

from argparse import Namespace
from pathlib import Path

import pytest

from leuko_tf.cell_selection import select_cells
from leuko_tf.cli import UserError
from leuko_tf.config import load_config, save_config
from leuko_tf.data.pipeline import match_pixel_scale
from leuko_tf.provenance import DatasetFacts, ModelFacts

OWN = "munich/complete/1.0.0"


def data_set(name: str, pixel_size_um: float | None) -> DatasetFacts:
    facts: DatasetFacts = {"name": name, "synthetic": False, "images": 9, "folds": "published"}
    return facts if pixel_size_um is None else {**facts, "pixel_size_um": pixel_size_um}


def trained_on_own(images_pixel_size_um: float | None) -> ModelFacts:
    return ModelFacts(
        "best.keras",
        synthetic=False,
        trained_on=OWN,
        trained_on_images=9,
        folds="published",
        images_pixel_size_um=images_pixel_size_um,
    )


@pytest.mark.parametrize(
    ("name", "told", "in_training", "given", "factor"),
    [
        ("barcelona/1.0.0", 0.1, 0.08, None, 1.25),  # what the other set says
        ("barcelona/1.0.0", 0.1, 0.08, 0.16, 2.0),  # what is given wins
        ("barcelona/1.0.0", None, 0.08, None, 1.0),  # not known
        (OWN, 0.1, 0.08, None, 1.0),  # the training took its own set for .08
        (OWN, None, 0.04, None, 0.5),  # and resampled it
        (OWN, 0.1, None, None, 1.25),  # a work folder from before it was written
    ],
)
def test_images_are_brought_to_the_models_scale(name, told, in_training, given, factor, capsys):
    found = match_pixel_scale(0.08, trained_on_own(in_training), data_set(name, told), given)
    assert found == pytest.approx(factor)
    assert ("are resampled from pixels of" in capsys.readouterr().out) == (factor != 1)


def test_a_model_of_unknown_scale_takes_images_as_they_are_and_says_so(capsys):
    trained = trained_on_own(None)
    assert match_pixel_scale(None, trained, data_set("barcelona/1.0.0", 0.1)) == 1
    assert "images are not resampled" in capsys.readouterr().out
    with pytest.raises(UserError, match="--pixel-size-um cannot be used"):
        match_pixel_scale(None, trained, data_set("barcelona/1.0.0", 0.1), given=0.1)


def asked(folder: Path, **given: str) -> tuple[str, str | None, list[int]]:
    words = {"dataset": None, "data_dir": None, "split": None, **given}
    return select_cells(Namespace(model=folder / "best.keras", **words))


class TestAskedCells:
    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        settings = ["data.data_dir=/somewhere", "data.held_out_fold=3"]
        save_config(load_config("demo.yaml", settings), tmp_path / "config.yaml")
        return tmp_path

    def test_by_default_they_are_those_held_out_from_the_training(self, work):
        assert asked(work) == ("aml_cytomorphology_lmu/complete", "/somewhere", [3])
        assert asked(work, split="fold_5+fold_1")[2] == [1, 5]

    def test_another_data_set_has_neither_the_trainings_folder_nor_its_fold(self, work):
        assert asked(work, dataset="pbc_barcelona", split="fold_2") == ("pbc_barcelona", None, [2])
        with pytest.raises(UserError, match=r"no fold that the training .* give --split"):
            asked(work, dataset="pbc_barcelona")

    def test_without_a_training_they_must_be_told(self, tmp_path):
        with pytest.raises(UserError, match="give --dataset and --split"):
            asked(tmp_path, dataset="pbc_barcelona")
        with pytest.raises(UserError, match="--split takes fold_1 to fold_5"):
            asked(tmp_path, dataset="pbc_barcelona", split="test")
