"""Real builds of small Barcelona downloads: what is stored, what is said, and what is refused."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_builds import build_dataset, read_back, refusal_of
from PIL import Image
from small_barcelona import drawn, names, write_barcelona

from leuko_tf.classes import CODES
from leuko_tf.classification import classify_files
from leuko_tf.cli import UserError
from leuko_tf.config import ModelConfig
from leuko_tf.data import pipeline
from leuko_tf.data.images import find_images
from leuko_tf.inference import predict_folds
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import from_config
from leuko_tf.network.view import crop_center
from leuko_tf.predictions import PROBABILITIES, read_predictions
from tfds_aml.folds import SPLIT_NAMES
from tfds_aml.pbc_barcelona.download import CODE_BY_TYPE

ROOT = Path(__file__).resolve().parents[2]
TFDS = Path(sys.executable).with_name("tfds")

NAMES = names(2, CODE_BY_TYPE)
LEFT_OUT = ["IG_1.jpg", "IG_2.jpg", "PLATELET_1.jpg"]
BAD = "basophil/BA_1.jpg"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images, two of each type; three of types without a class; one junk file."""
    folder = write_barcelona(tmp_path_factory.mktemp("small") / "download", [*NAMES, *LEFT_OUT])
    (folder / "neutrophil" / ".DS_169665.jpg").write_bytes(b"\0\0\0\1Bud1")
    return folder


@pytest.fixture
def download(whole: Path, tmp_path: Path) -> Path:
    """A copy of these, to be spoilt."""
    return shutil.copytree(whole, tmp_path / "download")


@pytest.fixture(scope="module")
def built(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> tfds.core.DatasetBuilder:
    """The builder of the small download, read anew from its files."""
    data_dir = tmp_path_factory.mktemp("built")
    build_dataset("pbc_barcelona", whole, data_dir)
    return tfds.builder("pbc_barcelona", data_dir=data_dir)


@pytest.fixture(scope="module")
def examples(built: tfds.core.DatasetBuilder) -> dict[str, dict[str, Any]]:
    return read_back(built)


def build(download: Path) -> tfds.core.DatasetBuilder:
    return build_dataset("pbc_barcelona", download, download.parent / "data")


# What is stored


def test_every_image_has_the_pixels_that_pillow_sees(whole, examples):
    assert {Path(path).name for path in examples} == {*NAMES}
    for path, example in examples.items():
        with Image.open(whole / path) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(example["image"], expected, err_msg=path)
    assert len({example["image"].shape for example in examples.values()}) == 3


def test_reading_without_tensorflow_gives_the_same_pixels(whole, built, examples):
    """TFDS' data sources decode with OpenCV."""
    for path, example in examples.items():
        pixels = built.info.features["image"].decode_example_np((whole / path).read_bytes())
        np.testing.assert_array_equal(pixels, example["image"], err_msg=path)


def test_the_files_are_stored_byte_for_byte(whole, built):
    decoders = {"image": tfds.decode.SkipDecoding()}
    for split in SPLIT_NAMES:
        for example in tfds.as_numpy(built.as_dataset(split=split, decoders=decoders)):
            assert example["image"] == (whole / example["id"].decode()).read_bytes()


def test_a_build_reads_without_the_code_that_built_it(built, examples):
    read = read_back(tfds.builder_from_directory(built.data_dir))
    assert read.keys() == examples.keys()
    for path, example in read.items():
        np.testing.assert_array_equal(example["image"], examples[path]["image"])


def test_features_and_labels_are_those_of_the_other_data_set(built, tmp_path):
    other = tfds.builder("aml_cytomorphology_lmu", data_dir=tmp_path).info
    assert {*built.info.features} == {*other.features}
    for name in ("label", "reannotation_1", "reannotation_2"):
        assert built.info.features[name].names == other.features[name].names
    assert built.info.features["image"].shape == (None, None, 3)
    assert built.info.features["image"].np_dtype == np.uint8
    assert built.info.supervised_keys == other.supervised_keys


def test_label_and_reannotations_are_right(built, examples):
    features = built.info.features
    for path, example in examples.items():
        code = CODE_BY_TYPE[Path(path).name.split("_")[0]]
        assert features["label"].int2str(example["label"]) == code
        for name in ("reannotation_1", "reannotation_2"):
            assert features[name].int2str(example[name]) == "none"


def test_the_splits_are_five_folds(built):
    sizes = {name: split.num_examples for name, split in built.info.splits.items()}
    assert sizes == dict.fromkeys(SPLIT_NAMES, 4)


def test_the_info_says_what_there_is(built):
    assert built.info.metadata == {
        "folds": "assigned by the builder, stratified by class, copies of an image in one fold",
        "synthetic": False,
        "pixel_size_um": 0.1,
        "images": 20,
        "images_by_class": {c: 2 if c in CODE_BY_TYPE.values() else 0 for c in CODES},
        "images_left_out": {"IG": 2, "PLATELET": 1},
    }


def test_description_and_citation_are_those_of_the_folder(built):
    assert "CC BY 4.0" in built.info.description
    assert "10.17632/snkd93bnjr.1" in built.info.citation
    assert "Data in Brief" in built.info.citation


def test_the_build_says_what_it_leaves_out(download, caplog):
    with caplog.at_level(logging.WARNING, logger="absl"):
        build(download)
    assert (
        "Files left out. Types without a class: 3 (IG 2, PLATELET 1). "
        "Not images: 1 (.DS_169665.jpg)." in caplog.messages
    )
    assert "Found 23 of the release's 17,092 images." in caplog.messages


# Copies


def test_a_copy_is_known_by_its_pixels_and_stays_with_its_original(download, caplog):
    for number in range(3, 9):
        original = (download / BAD).read_bytes()
        comment = b"\xff\xfe\0\x04" + bytes([65, 65 + number])  # a JPEG's comment: other bytes
        copy = original[:2] + comment + original[2:]
        (download / "basophil" / f"BA_{number}.jpg").write_bytes(copy)
    with caplog.at_level(logging.INFO, logger="absl"):
        examples = read_back(build(download))
    assert "6 images are copies of others and share their fold." in caplog.messages
    copies = [f"basophil/BA_{number}.jpg" for number in (1, *range(3, 9))]
    assert len({examples[path]["split"] for path in copies}) == 1


def test_copies_of_different_types_are_left_out_and_named(download, caplog):
    shutil.copy(download / "ig" / "MY_1.jpg", download / "ig" / "PMY_3.jpg")
    with caplog.at_level(logging.WARNING, logger="absl"):
        examples = read_back(build(download))
    assert (
        "Left out 2 images whose pixels also occur under another type: "
        "ig/MY_1.jpg, ig/PMY_3.jpg." in caplog.messages
    )
    assert {Path(path).name for path in examples} == {*NAMES} - {"MY_1.jpg"}


# What is refused


def cut_short(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def cut_to_nothing(file: Path) -> None:
    os.truncate(file, 0)


def write_text(file: Path) -> None:
    file.write_text("404: not found\n")


def write_png(file: Path) -> None:
    drawn("BA").save(file, format="PNG")


def write_grey(file: Path) -> None:
    drawn("BA").convert("L").save(file)


def write_a_slide(file: Path) -> None:
    drawn("BA").resize((5000, 363)).save(file)


def write_a_thumbnail(file: Path) -> None:
    drawn("BA").resize((28, 28)).save(file)


def link_to_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "OSError: image file is truncated"),
        (cut_to_nothing, "UnidentifiedImageError: "),
        (write_text, "UnidentifiedImageError: "),
        (write_png, "UnidentifiedImageError: "),
        (write_grey, "ValueError: pixels are L, not RGB"),
        (write_a_slide, "is 5000x363 pixels; sides must be 100 to 1000"),
        (write_a_thumbnail, "is 28x28 pixels; sides must be 100 to 1000"),
        (link_to_nowhere, "FileNotFoundError: "),
    ],
)
def test_an_image_that_is_no_whole_jpeg_of_a_cell_stops_the_build(
    download: Path, spoil: Callable[[Path], None], reason: str
):
    spoil(download / BAD)
    message = refusal_of("pbc_barcelona", download, download.parent / "data")
    assert "1 problem.\n- 1 x unreadable image: not a complete JPEG of one cell\n" in message
    assert f"    {download / BAD}: {reason}" in message


def test_problems_of_several_kinds_are_told_in_one_error(download):
    cut_short(download / BAD)
    (download / "XY_1.jpg").touch()
    message = refusal_of("pbc_barcelona", download, download.parent / "data")
    assert "cannot be built: 2 problems." in message
    assert re.findall(r"- 1 x ([a-z ]+):", message) == ["unknown type", "unreadable image"]


def test_too_few_images_for_five_folds_are_refused(tmp_path):
    folder = write_barcelona(tmp_path / "download", names(3, ["BA"]))
    message = refusal_of("pbc_barcelona", folder, tmp_path / "data")
    assert "- 2 x fold without an image" in message


# The tfds command


def tfds_build(name: str, *options: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [TFDS, "build", name, *options]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_data_set_builds_by_its_path_and_loads_by_its_name(whole, tmp_path):
    options = ("--manual_dir", whole, "--data_dir", tmp_path)
    outcome = tfds_build("tfds_aml/pbc_barcelona", *options, cwd=ROOT)
    assert outcome.returncode == 0, outcome.stderr
    assert "Files left out. Types without a class: 3 (IG 2, PLATELET 1)." in outcome.stdout
    folds = tfds.load("pbc_barcelona", data_dir=tmp_path, download=False)
    assert sorted(folds) == [*SPLIT_NAMES]


def test_a_bad_download_by_its_name_ends_in_one_message(download, tmp_path):
    cut_short(download / BAD)
    options = ("--imports", "tfds_aml", "--manual_dir", download, "--data_dir", tmp_path / "data")
    outcome = tfds_build("pbc_barcelona", *options, cwd=tmp_path)
    assert outcome.returncode == 1
    assert outcome.stderr.count(f"error: {download} cannot be built: 1 problem.\n") == 1
    assert "Traceback" not in outcome.stderr


class TestReading:
    """Images of several sizes, brought to one as `leuko_tf.classification` does."""

    def test_batches_are_the_centred_images(
        self, built: tfds.core.DatasetBuilder, whole: Path
    ) -> None:
        read = {}
        for batch in pipeline.read_folds(built, range(1, 6), field=340):
            read |= dict(zip(batch["id"], batch["image"], strict=True))
        assert len(read) == len(NAMES)
        for image_id, image in read.items():
            with Image.open(whole / image_id.decode()) as file:
                expected = crop_center(np.asarray(file)[np.newaxis], 340)[0]
                np.testing.assert_array_equal(image, expected)

    def test_a_model_is_asked_about_them(
        self, built: tfds.core.DatasetBuilder, whole: Path, tmp_path: Path
    ) -> None:
        config = ModelConfig(input_size=32, blocks=[1], stem_width=8, width=8, cardinality=2)
        from_config(config, "float32").save(tmp_path / "m.keras")
        data_dir = str(built.data_path.parent.parent)
        predicted = predict_folds(
            tmp_path / "m.keras", "pbc_barcelona", data_dir, [1, 2, 3, 4, 5], tmp_path
        )
        table = read_predictions(predicted)[0].set_index("id")
        images = find_images([whole])
        wanted = {i: file for i, file in images.items() if i in table.index}
        same, _ = classify_files(load_model(tmp_path / "m.keras"), wanted)
        np.testing.assert_allclose(
            same.set_index("id")[PROBABILITIES], table.loc[same["id"], PROBABILITIES], atol=1e-5
        )

    def test_what_is_not_built_is_told_by_a_command_that_works(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="--imports tfds_aml --manual_dir <download>"):
            pipeline.open_dataset("pbc_barcelona", str(tmp_path))
