"""Real builds of small Barcelona downloads: stored data, messages and refusals."""

import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_builds import BARCELONA, build, catch_refusal, decode_labels, read_back
from PIL import Image
from small_download import draw_barcelona, make_names, write_barcelona

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

NAMES = make_names(2)
BAD = "basophil/BA_1.jpg"


# What is stored


def test_every_image_has_the_pixels_that_pillow_sees(
    small_barcelona, barcelona_build, barcelona_examples
):
    """TensorFlow decodes them here; TFDS' data sources, which need no TensorFlow, use OpenCV."""
    assert {Path(path).name for path in barcelona_examples} == {*NAMES}
    feature = barcelona_build.info.features["image"]
    for path, example in barcelona_examples.items():
        with Image.open(small_barcelona / path) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(example["image"], expected, err_msg=path)
        pixels = feature.decode_example_np((small_barcelona / path).read_bytes())
        np.testing.assert_array_equal(pixels, expected, err_msg=path)
    assert len({example["image"].shape for example in barcelona_examples.values()}) == 3


def test_the_files_are_stored_byte_for_byte(small_barcelona, barcelona_build):
    decoders = {"image": tfds.decode.SkipDecoding()}
    for split in SPLIT_NAMES:
        for example in tfds.as_numpy(barcelona_build.as_dataset(split=split, decoders=decoders)):
            assert example["image"] == (small_barcelona / example["id"].decode()).read_bytes()


def test_a_build_reads_without_the_code_that_built_it(barcelona_build, barcelona_examples):
    read = read_back(tfds.builder_from_directory(barcelona_build.data_dir))
    assert read.keys() == barcelona_examples.keys()
    for path, example in read.items():
        np.testing.assert_array_equal(example["image"], barcelona_examples[path]["image"])


def test_features_and_labels_are_those_of_the_other_data_set(barcelona_build, munich_build):
    features, others = barcelona_build.info.features, munich_build.info.features
    assert {*features} == {*others}
    for name in ("label", "reannotation_1", "reannotation_2"):
        assert features[name].names == others[name].names
    assert features["image"].shape == (None, None, 3)
    assert features["image"].np_dtype == np.uint8
    assert barcelona_build.info.supervised_keys == munich_build.info.supervised_keys


def test_label_and_reannotations_are_right(barcelona_build, barcelona_examples):
    for path, example in barcelona_examples.items():
        code = CODE_BY_TYPE[Path(path).name.split("_")[0]]
        assert decode_labels(example, barcelona_build.info) == [code, "none", "none"]


def test_the_info_has_splits_metadata_description_and_citation(barcelona_build):
    info = barcelona_build.info
    sizes = {name: split.num_examples for name, split in info.splits.items()}
    assert sizes == dict.fromkeys(SPLIT_NAMES, 4)
    assert info.metadata == {
        "folds": "assigned by the builder, stratified by class, copies of an image in one fold",
        "synthetic": False,
        "pixel_size_um": 0.1,
        "images": 20,
        "images_by_class": {c: 2 if c in CODE_BY_TYPE.values() else 0 for c in CODES},
        "images_left_out": {"IG": 2, "PLATELET": 1},
    }
    assert "CC BY 4.0" in info.description
    assert "10.17632/snkd93bnjr.1" in info.citation
    assert "Data in Brief" in info.citation


def test_copies_stay_together_or_contradict_each_other_and_the_log_says_what_is_left_out(
    barcelona, caplog
):
    original = (barcelona / BAD).read_bytes()
    for number in range(3, 9):
        comment = b"\xff\xfe\0\x04" + bytes([65, 65 + number])  # a JPEG's comment: other bytes
        copy = original[:2] + comment + original[2:]
        (barcelona / "basophil" / f"BA_{number}.jpg").write_bytes(copy)
    shutil.copy(barcelona / "ig" / "MY_1.jpg", barcelona / "ig" / "PMY_3.jpg")
    with caplog.at_level(logging.INFO, logger="absl"):
        examples = read_back(build(barcelona, name=BARCELONA))
    copies = [f"basophil/BA_{number}.jpg" for number in (1, *range(3, 9))]
    assert len({examples[path]["split"] for path in copies}) == 1
    assert "ig/MY_1.jpg" not in examples
    assert "ig/PMY_3.jpg" not in examples
    assert {
        "6 images are copies of others and share their fold.",
        "Left out 2 images whose pixels also occur under another type: ig/MY_1.jpg, ig/PMY_3.jpg.",
        "Files left out. Types without a class: 3 (IG 2, PLATELET 1). "
        "Not images: 1 (.DS_169665.jpg).",
        "Found 30 of the release's 17,092 images.",
    } <= {*caplog.messages}


# What is refused


def link_to_nowhere(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere.jpg")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: os.truncate(f, f.stat().st_size // 2), "OSError: image file is truncated"),
        (lambda f: os.truncate(f, 0), "UnidentifiedImageError: "),
        (lambda f: f.write_text("404: not found\n"), "UnidentifiedImageError: "),
        (lambda f: draw_barcelona("BA").save(f, format="PNG"), "UnidentifiedImageError: "),
        (lambda f: draw_barcelona("BA").convert("L").save(f), "ValueError: pixels are L, not RGB"),
        (
            lambda f: draw_barcelona("BA").resize((5000, 363)).save(f),
            "is 5000x363 pixels; sides must be 100 to 1000",
        ),
        (
            lambda f: draw_barcelona("BA").resize((28, 28)).save(f),
            "is 28x28 pixels; sides must be 100 to 1000",
        ),
        (link_to_nowhere, "FileNotFoundError: "),
    ],
    ids=["half", "empty", "text", "PNG", "grey", "slide", "thumbnail", "broken link"],
)
def test_an_image_that_is_no_complete_jpeg_of_a_cell_stops_the_build(
    barcelona: Path, spoil: Callable[[Path], None], reason: str
):
    spoil(barcelona / BAD)
    message = catch_refusal(barcelona, BARCELONA)
    assert "1 problem.\n- 1 x unreadable image: not a complete JPEG of one cell\n" in message
    assert f"    {barcelona / BAD}: {reason}" in message


def test_problems_of_several_kinds_are_reported_in_one_error(barcelona):
    os.truncate(barcelona / BAD, 0)
    (barcelona / "XY_1.jpg").touch()
    message = catch_refusal(barcelona, BARCELONA)
    assert "cannot be built: 2 problems." in message
    assert re.findall(r"- 1 x ([a-z ]+):", message) == ["unknown type", "unreadable image"]


def test_too_few_images_for_five_folds_are_refused(tmp_path):
    folder = write_barcelona(tmp_path / "download", make_names(3, ["BA"]))
    assert "- 2 x fold without an image" in catch_refusal(folder, BARCELONA)


# Images of several sizes, brought to one as `leuko_tf.predict` does


def test_batches_are_the_centred_images(barcelona_build, small_barcelona):
    read: dict[bytes, np.ndarray] = {}
    for batch in pipeline.read_folds(barcelona_build, range(1, 6), field=340):
        read |= dict(zip(batch["id"], batch["image"], strict=True))
    assert len(read) == len(NAMES)
    for image_id, image in read.items():
        with Image.open(small_barcelona / image_id.decode()) as file:
            expected = crop_center(np.asarray(file)[np.newaxis], 340)[0]
            np.testing.assert_array_equal(image, expected)


def test_a_model_answers_as_for_the_files(barcelona_build, small_barcelona, tmp_path):
    config = ModelConfig(input_size=32, blocks=[1], stem_width=8, width=8, cardinality=2)
    model = tmp_path / "m.keras"
    from_config(config, "float32").save(model)
    data_dir = str(barcelona_build.data_path.parent.parent)
    predicted = predict_folds(model, BARCELONA, data_dir, [1, 2, 3, 4, 5], tmp_path)
    table = read_predictions(predicted)[0].set_index("id")
    images = find_images([small_barcelona])
    files = {i: file for i, file in images.items() if i in table.index}
    answers, _ = classify_files(load_model(model), files)
    np.testing.assert_allclose(
        answers[PROBABILITIES], table.loc[answers["id"], PROBABILITIES], atol=1e-5
    )


def test_a_data_set_that_is_not_built_is_refused_with_the_command_that_builds_it(tmp_path):
    with pytest.raises(UserError, match="--imports tfds_aml --manual_dir <download>"):
        pipeline.open_dataset(BARCELONA, str(tmp_path))
