"""Real builds of small downloads: what is stored, what is said, and what is refused."""

import logging
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_builds import build, read_back, refusal_of
from PIL import Image
from small_download import pixels, rows, write_download, write_fold_lists

from leuko_tf.classes import CODES
from tfds_aml.folds import SPLIT_NAMES, assign_folds
from tfds_aml.images import read_tiff

LINES = rows(10, CODES[:2])
IDS = [line.split(" ")[0] for line in LINES]
BAD = IDS[3]


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Ten images of two classes, to be spoilt."""
    return write_download(tmp_path / "download", LINES)


def refusal(download: Path, config: str = "complete") -> str:
    """The message that stops the build; checks that the build left nothing to be loaded."""
    return refusal_of(f"aml_cytomorphology_lmu/{config}", download, download.parent / "data")


def annotation_line(example: dict, info: tfds.core.DatasetInfo) -> str:
    """The line of annotations.dat that an example was built from."""
    values = [example["id"].decode(), info.features["label"].int2str(example["label"])]
    for name in ("reannotation_1", "reannotation_2"):
        value = info.features[name].int2str(example[name])
        values.append("nan" if value == "none" else value)
    return " ".join(values)


# What is stored


def test_every_image_is_stored_pixel_for_pixel(examples):
    assert len(examples) == 30
    for path, example in examples.items():
        assert example["image"].dtype == np.uint8
        expected = np.asarray(pixels(Path(path).name).convert("RGB"))
        np.testing.assert_array_equal(example["image"], expected, err_msg=path)


def test_nothing_of_annotations_dat_is_lost(small_download, built, examples):
    lines = sorted(annotation_line(example, built.info) for example in examples.values())
    text = "".join(f"{line}\n" for line in lines)
    assert text == (small_download / "annotations.dat").read_text()


def test_the_features_are_image_label_id_and_both_reannotations(built):
    features = built.info.features
    assert set(features) == {"image", "label", "id", "reannotation_1", "reannotation_2"}
    assert features["image"].shape == (400, 400, 3)
    assert features["image"].np_dtype == np.uint8
    # Spelt out: the order of the labels is the order of the model's outputs.
    codes = [
        "NGS", "NGB", "LYT", "LYA", "MON", "EOS", "BAS", "MYO",
        "PMO", "PMB", "MYB", "MMZ", "MOB", "EBO", "KSC",
    ]  # fmt: skip
    assert features["label"].names == codes
    for name in ("reannotation_1", "reannotation_2"):
        assert features[name].names == [*codes, "UNC", "none"]
    assert built.info.supervised_keys == ("image", "label")


def test_the_splits_are_five_folds(built, examples):
    assert {name: split.num_examples for name, split in built.info.splits.items()} == {
        name: 6 for name in SPLIT_NAMES
    }
    assigned = assign_folds({path: path[:3] for path in examples})
    assert {path: e["split"] for path, e in examples.items()} == {
        path: f"fold_{fold}" for path, fold in assigned.items()
    }


def test_the_info_says_whence_the_folds_came_and_how_much_there_is(built):
    assert built.info.metadata == {
        "folds": "assigned by the builder, stratified by class",
        "synthetic": False,
        "pixel_size_um": 0.0725,
        "images_listed": 30,
        "images": 30,
        "images_by_class": {code: 2 for code in CODES},
    }


def test_description_citation_and_default_configuration_are_those_of_the_folder(built):
    assert "400x400 pixels" in built.info.description
    assert "Human-level recognition of blast cells" in built.info.citation
    assert (built.builder_config.name, set(built.builder_configs)) == (
        "complete",
        {"complete", "available"},
    )


def test_published_lists_become_the_folds_and_the_info_says_so(download, tmp_path):
    names = [Path(path).name for path in IDS]
    lists = {1: names[:6], **{k: names[4 + k : 5 + k] for k in range(2, 6)}}
    write_fold_lists(download / "folds", lists)
    builder = build(download, tmp_path / "data")
    assert builder.info.metadata["folds"] == "published lists (folds/fold1.txt ... fold5.txt)"
    for path, example in read_back(builder).items():
        assert Path(path).name in lists[int(example["split"].removeprefix("fold_"))]


def test_available_builds_what_is_there_and_says_what_is_not(download, tmp_path, caplog):
    for path in IDS[:3]:
        (download / path).unlink()
    with caplog.at_level(logging.WARNING, logger="absl"):
        builder = build(download, tmp_path / "data", "available")
    assert "3 listed images are missing: building the 7 that exist." in caplog.messages
    assert sorted(read_back(builder)) == IDS[3:]
    metadata = builder.info.metadata
    assert (metadata["images_listed"], metadata["images"]) == (10, 7)


def test_drawn_images_are_marked_as_synthetic(download, tmp_path, caplog):
    (download / "SYNTHETIC.json").write_text('{"synthetic": true}')
    with caplog.at_level(logging.WARNING, logger="absl"):
        builder = build(download, tmp_path / "data")
    assert builder.info.metadata["synthetic"] is True
    assert "These images are synthetic: drawn, not photographed." in caplog.messages


def test_a_build_opens_no_connection(download, tmp_path):
    """An audit hook sees every connection and name look-up of Python; it cannot be taken off."""
    asked = []
    sys.addaudithook(
        lambda event, arguments: (
            asked.append(arguments) if event in ("socket.connect", "socket.getaddrinfo") else None
        )
    )
    read_back(build(download, tmp_path / "data"))
    assert asked == []


# Images that are read although they are unlike the others


def save_in_strips(file: Path, rows_per_strip: int = 64) -> None:
    """Saves the file's pixels as EBO_0011 of the real download is saved: seven strips."""
    pixels(file.name).save(file, tiffinfo={278: rows_per_strip})
    with Image.open(file) as image:
        assert len(image.tag_v2[273]) == 7


def save_without_alpha(file: Path) -> None:
    pixels(file.name).convert("RGB").save(file)


def save_compressed(file: Path) -> None:
    pixels(file.name).save(file, compression="tiff_lzw")


def save_with_clear_alpha(file: Path) -> None:
    image = pixels(file.name)
    image.putalpha(0)
    image.save(file)


@pytest.mark.parametrize(
    "save", [save_in_strips, save_without_alpha, save_compressed, save_with_clear_alpha]
)
def test_other_tiffs_read_as_any_other(tmp_path, save):
    file = tmp_path / "EBO_0011.tiff"
    save(file)
    np.testing.assert_array_equal(read_tiff(file), np.asarray(pixels(file.name))[..., :3])


def test_other_tiffs_build_as_any_other(download, tmp_path):
    save_in_strips(download / IDS[0])
    save_without_alpha(download / IDS[1])
    (download / IDS[2]).rename(download / (IDS[2] + ".tiff"))
    examples = read_back(build(download, tmp_path / "data"))
    for path in IDS:
        expected = np.asarray(pixels(Path(path).name))[..., :3]
        np.testing.assert_array_equal(examples[path]["image"], expected, err_msg=path)


# Images that are refused


def cut_short(file: Path) -> None:
    os.truncate(file, 300_000)


def cut_short_in_strips(file: Path) -> None:
    save_in_strips(file)
    cut_short(file)


def cut_to_nothing(file: Path) -> None:
    os.truncate(file, 0)


def write_text(file: Path) -> None:
    file.write_text("404: not found\n")


def write_png(file: Path) -> None:
    pixels(file.name).save(file, format="PNG")


def write_399_columns(file: Path) -> None:
    pixels(file.name).crop((0, 0, 399, 400)).save(file)


def write_399_rows(file: Path) -> None:
    pixels(file.name).crop((0, 0, 400, 399)).save(file)


def write_grey(file: Path) -> None:
    pixels(file.name).convert("L").save(file)


def write_16_bit_grey(file: Path) -> None:
    Image.fromarray(np.full((400, 400), 1000, np.uint16)).save(file)


def write_16_bit_rgb(file: Path) -> None:
    assert cv2.imwrite(str(file), np.full((400, 400, 3), 1000, np.uint16))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "ValueError: buffer is not large enough"),
        (cut_short_in_strips, "OSError: image file is truncated"),
        (cut_to_nothing, "UnidentifiedImageError: "),
        (write_text, "UnidentifiedImageError: "),
        (write_png, "UnidentifiedImageError: "),
        (write_399_columns, "is 399x400 pixels, not 400x400"),
        (write_399_rows, "is 400x399 pixels, not 400x400"),
        (write_grey, "ValueError: pixels are L, not RGB or RGBA"),
        (write_16_bit_grey, "ValueError: pixels are I;16, not RGB or RGBA"),
        (write_16_bit_rgb, "ValueError: channels have 16 bits, not 8"),
    ],
)
@pytest.mark.parametrize("config", ["complete", "available"])
def test_an_image_that_is_no_whole_tiff_of_400x400_stops_the_build(download, spoil, reason, config):
    spoil(download / BAD)
    message = refusal(download, config)
    assert "1 problem.\n- 1 x unreadable image: not a complete TIFF of 400x400 pixels\n" in message
    assert f"    {download / BAD}: {reason}" in message


# Everything else that is refused


def edit(download: Path, old: str, new: str) -> None:
    """Replaces text of annotations.dat."""
    file = download / "annotations.dat"
    text = file.read_text()
    assert text.count(old) == 1
    file.write_text(text.replace(old, new))


def remove_image(download: Path) -> None:
    (download / BAD).unlink()


def add_image(download: Path) -> None:
    pixels("more").save(download / "NGB" / "NGB_7777.tiff")


def contradict_folder(download: Path) -> None:
    edit(download, f"{BAD} NGB", f"{BAD} NGS")


def write_unknown_code(download: Path) -> None:
    edit(download, f"{BAD} NGB", f"{BAD} NGX")


def write_unknown_reannotation(download: Path) -> None:
    edit(download, LINES[3], f"{BAD} NGB UNC ???")


def drop_a_field(download: Path) -> None:
    edit(download, LINES[3], f"{BAD} NGB nan")


def list_twice(download: Path) -> None:
    edit(download, LINES[9], f"{LINES[9]}\n{LINES[3]}")


def empty_annotations(download: Path) -> None:
    (download / "annotations.dat").write_text("")


def lose_annotations(download: Path) -> None:
    (download / "annotations.dat").unlink()


def lose_a_fold_list(download: Path) -> None:
    write_fold_lists(download / "folds", {k: IDS[k * 2 - 2 : k * 2] for k in range(1, 5)})


def list_in_two_folds(download: Path) -> None:
    lists = {k: IDS[k * 2 - 2 : k * 2] for k in range(1, 6)}
    write_fold_lists(download / "folds", {**lists, 5: [*lists[5], BAD]})


def leave_a_fold_empty(download: Path) -> None:
    write_fold_lists(download / "folds", {1: IDS[:5], 2: IDS[5:], 3: [], 4: [], 5: []})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            remove_image,
            r"1 problem\.\n- 1 x missing image: in annotations.dat, not in the folder \(complete "
            rf"the download, or build the configuration `available`\)\n    {BAD}$",
        ),
        (
            add_image,
            r"1 problem\.\n- 1 x unlisted image: in the folder, not in annotations.dat\n"
            r"    .*/NGB/NGB_7777.tiff$",
        ),
        (
            contradict_folder,
            r"1 problem\.\n- 1 x label that contradicts the image's folder\n"
            rf"    line 4: '{BAD} NGS NGB NGB'$",
        ),
        (
            write_unknown_code,
            r"1 problem\.\n- 1 x unknown code: not one of NGS NGB .* KSC \(in re-annotations, "
            rf"also UNC or nan\)\n    line 4: '{BAD} NGX NGB NGB'$",
        ),
        (
            write_unknown_reannotation,
            rf"1 problem\.\n- 1 x unknown code: not one of .*\n    line 4: '{BAD} NGB UNC \?\?\?'$",
        ),
        (
            drop_a_field,
            r"1 problem\.\n- 1 x malformed line: not `FOLDER/FILE.tiff CODE CODE CODE`\n"
            rf"    line 4: '{BAD} NGB nan'$",
        ),
        (
            list_twice,
            r"1 problem\.\n- 1 x image listed twice in annotations.dat\n"
            rf"    line 11: '{BAD} NGB NGB NGB' \(first in line 4\)$",
        ),
        (
            empty_annotations,
            r"11 problems\.\n- 1 x empty annotation file: it lists no image\n    .*\n"
            r"- 10 x unlisted image",
        ),
        (lose_annotations, r"No file annotations.dat in .* or up to 2 levels below it\."),
        (
            lose_a_fold_list,
            r"1 problem\.\n- 1 x missing fold list: provide all five, or none\n"
            r"    .*/folds/fold5.txt$",
        ),
        (
            list_in_two_folds,
            r"1 problem\.\n- 1 x image listed more than once in the fold lists\n"
            rf"    {BAD}, fold2.txt, fold5.txt$",
        ),
        (
            leave_a_fold_empty,
            r"3 problems\.\n- 3 x fold without an image: TFDS writes no empty split\n"
            r"    fold_3\n    fold_4\n    fold_5$",
        ),
    ],
)
def test_a_bad_download_stops_the_build_and_leaves_no_data_set(download, spoil, message):
    spoil(download)
    assert re.search(message, refusal(download))


def test_more_than_ten_problems_are_all_counted_and_ten_are_named(tmp_path):
    lines = rows(30, CODES[:2])
    download = write_download(tmp_path / "download", lines, empty_images=True)
    missing = [line.split(" ")[0] for line in lines[:12]]
    for path in missing:
        (download / path).unlink()
    message = refusal(download)
    assert f"{download} cannot be built: 30 problems." in message
    named = "".join(f"    {path}\n" for path in missing[:10])
    assert "- 12 x missing image: in annotations.dat, not in the folder" in message
    assert f"\n{named}    ... and 2 more\n" in message
    assert "- 18 x unreadable image: not a complete TIFF of 400x400 pixels\n" in message
    assert message.endswith("    ... and 8 more")


def test_problems_of_several_kinds_are_told_in_one_error(download):
    remove_image(download)
    add_image(download)
    edit(download, LINES[0], LINES[0].replace(" NGB ", " XYZ "))
    cut_short(download / IDS[7])
    message = refusal(download)
    kinds = ["unknown code", "unlisted image", "missing image", "unreadable image"]
    assert "cannot be built: 4 problems." in message
    assert re.findall(r"- 1 x ([a-z ]+):", message) == kinds
