"""Real builds of small Munich downloads: stored data, messages and refusals."""

import logging
import os
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from dataset_builds import build, catch_refusal, decode_labels, read_back
from PIL import Image
from small_download import draw_munich, make_lines, write_download, write_fold_lists

from leuko_tf.classes import CODES
from tfds_aml.folds import SPLIT_NAMES, assign_folds
from tfds_aml.images import read_tiff

LINES = make_lines(10, CODES[:2])
IDS = [line.split(" ")[0] for line in LINES]
BAD = IDS[3]
MUNICH_AVAILABLE = "aml_cytomorphology_lmu/available"


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """Ten images of two classes, to be changed."""
    return write_download(tmp_path / "download", LINES)


# What is stored


def test_every_image_is_stored_pixel_for_pixel(munich_examples):
    assert len(munich_examples) == 30
    for path, example in munich_examples.items():
        assert example["image"].dtype == np.uint8
        expected = np.asarray(draw_munich(Path(path).name).convert("RGB"))
        np.testing.assert_array_equal(example["image"], expected, err_msg=path)


def test_nothing_of_annotations_dat_is_lost(small_munich, munich_build, munich_examples):
    lines = [
        " ".join([path, *decode_labels(example, munich_build.info)]).replace("none", "nan")
        for path, example in sorted(munich_examples.items())
    ]
    assert lines == (small_munich / "annotations.dat").read_text().splitlines()


def test_the_features_are_image_label_id_and_both_reannotations(munich_build):
    features = munich_build.info.features
    assert set(features) == {"image", "label", "id", "reannotation_1", "reannotation_2"}
    assert features["image"].shape == (400, 400, 3)
    assert features["image"].np_dtype == np.uint8
    # Written out: the order of the labels is the order of the model's outputs.
    codes = [
        "NGS", "NGB", "LYT", "LYA", "MON", "EOS", "BAS", "MYO",
        "PMO", "PMB", "MYB", "MMZ", "MOB", "EBO", "KSC",
    ]  # fmt: skip
    assert features["label"].names == codes
    for name in ("reannotation_1", "reannotation_2"):
        assert features[name].names == [*codes, "UNC", "none"]
    assert munich_build.info.supervised_keys == ("image", "label")


def test_the_splits_are_five_folds(munich_build, munich_examples):
    sizes = {name: split.num_examples for name, split in munich_build.info.splits.items()}
    assert sizes == dict.fromkeys(SPLIT_NAMES, 6)
    assigned = assign_folds({path: path[:3] for path in munich_examples})
    assert {path: e["split"] for path, e in munich_examples.items()} == {
        path: f"fold_{fold}" for path, fold in assigned.items()
    }


def test_the_info_has_metadata_description_citation_and_default_configuration(munich_build):
    assert munich_build.info.metadata == {
        "folds": "assigned by the builder, stratified by class",
        "synthetic": False,
        "pixel_size_um": 0.0725,
        "images_listed": 30,
        "images": 30,
        "images_by_class": {code: 2 for code in CODES},
    }
    assert "400x400 pixels" in munich_build.info.description
    assert "Human-level recognition of blast cells" in munich_build.info.citation
    assert munich_build.builder_config.name == "complete"
    assert set(munich_build.builder_configs) == {"complete", "available"}


def test_published_lists_become_the_folds_and_the_info_says_so(download):
    names = [Path(path).name for path in IDS]
    lists = {1: names[:6], **{k: names[4 + k : 5 + k] for k in range(2, 6)}}
    write_fold_lists(download / "folds", lists)
    builder = build(download)
    assert builder.info.metadata["folds"] == "published lists (folds/fold1.txt ... fold5.txt)"
    for path, example in read_back(builder).items():
        assert Path(path).name in lists[int(example["split"].removeprefix("fold_"))]


def test_available_builds_what_exists_and_reports_what_does_not(download, caplog):
    for path in IDS[:3]:
        (download / path).unlink()
    with caplog.at_level(logging.WARNING, logger="absl"):
        builder = build(download, name=MUNICH_AVAILABLE)
    assert "3 listed images are missing: building the 7 that exist." in caplog.messages
    assert sorted(read_back(builder)) == IDS[3:]
    metadata = builder.info.metadata
    assert (metadata["images_listed"], metadata["images"]) == (10, 7)


def test_drawn_images_are_marked_as_synthetic(download, caplog):
    (download / "SYNTHETIC.json").write_text('{"synthetic": true}')
    with caplog.at_level(logging.WARNING, logger="absl"):
        builder = build(download)
    assert builder.info.metadata["synthetic"] is True
    assert "These images are synthetic: drawn, not photographed." in caplog.messages


def test_a_build_opens_no_connection(download):
    """An audit hook sees every connection and name look-up of Python; it cannot be removed."""
    asked = []
    sys.addaudithook(
        lambda event, arguments: (
            asked.append(arguments) if event in ("socket.connect", "socket.getaddrinfo") else None
        )
    )
    read_back(build(download))
    assert asked == []


# Images that are read although they are unlike the others


def save_in_strips(file: Path, rows_per_strip: int = 64) -> None:
    """Saves the file's pixels as EBO_0011 of the real download is saved: seven strips."""
    draw_munich(file.name).save(file, tiffinfo={278: rows_per_strip})
    with Image.open(file) as image:
        assert len(image.tag_v2[273]) == 7  # type: ignore[attr-defined]


def save_without_alpha(file: Path) -> None:
    draw_munich(file.name).convert("RGB").save(file)


def save_compressed(file: Path) -> None:
    draw_munich(file.name).save(file, compression="tiff_lzw")


def save_with_clear_alpha(file: Path) -> None:
    image = draw_munich(file.name)
    image.putalpha(0)
    image.save(file)


@pytest.mark.parametrize(
    "save", [save_in_strips, save_without_alpha, save_compressed, save_with_clear_alpha]
)
def test_other_tiffs_read_as_any_other(tmp_path, save):
    file = tmp_path / "EBO_0011.tiff"
    save(file)
    np.testing.assert_array_equal(read_tiff(file), np.asarray(draw_munich(file.name))[..., :3])


def test_other_tiffs_build_as_any_other(download):
    save_in_strips(download / IDS[0])
    save_without_alpha(download / IDS[1])
    (download / IDS[2]).rename(download / (IDS[2] + ".tiff"))
    examples = read_back(build(download))
    for path in IDS:
        expected = np.asarray(draw_munich(Path(path).name))[..., :3]
        np.testing.assert_array_equal(examples[path]["image"], expected, err_msg=path)


# What is refused


def cut_short_in_strips(file: Path) -> None:
    save_in_strips(file)
    os.truncate(file, 300_000)


def save_cropped(width: int, height: int):
    return lambda file: draw_munich(file.name).crop((0, 0, width, height)).save(file)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda f: os.truncate(f, 300_000), "ValueError: buffer is not large enough"),
        (cut_short_in_strips, "OSError: image file is truncated"),
        (lambda f: os.truncate(f, 0), "UnidentifiedImageError: "),
        (lambda f: f.write_text("404: not found\n"), "UnidentifiedImageError: "),
        (lambda f: draw_munich("A").save(f, format="PNG"), "UnidentifiedImageError: "),
        (save_cropped(399, 400), "is 399x400 pixels, not 400x400"),
        (save_cropped(400, 399), "is 400x399 pixels, not 400x400"),
        (
            lambda f: draw_munich("A").convert("L").save(f),
            "ValueError: pixels are L, not RGB or RGBA",
        ),
        (
            lambda f: Image.fromarray(np.full((400, 400), 1000, np.uint16)).save(f),
            "ValueError: pixels are I;16, not RGB or RGBA",
        ),
        (
            lambda f: cv2.imwrite(str(f), np.full((400, 400, 3), 1000, np.uint16)),
            "ValueError: channels have 16 bits, not 8",
        ),
    ],
    ids=[
        "cut short", "cut short in strips", "empty", "text", "PNG", "399 columns", "399 rows",
        "grey", "16-bit grey", "16-bit RGB",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["aml_cytomorphology_lmu", MUNICH_AVAILABLE])
def test_an_image_that_is_no_complete_tiff_of_400x400_stops_the_build(
    download, spoil, reason, name
):
    spoil(download / BAD)
    message = catch_refusal(download, name)
    assert "1 problem.\n- 1 x unreadable image: not a complete TIFF of 400x400 pixels\n" in message
    assert f"    {download / BAD}: {reason}" in message


def test_a_folder_that_is_no_download_leaves_no_data_set(download):
    (download / "annotations.dat").unlink()
    message = catch_refusal(download)
    assert re.search(r"No file annotations.dat in .* or up to 2 levels below it\.", message)


def test_a_fold_without_an_image_is_refused(download):
    write_fold_lists(download / "folds", {1: IDS[:5], 2: IDS[5:], 3: [], 4: [], 5: []})
    assert catch_refusal(download).endswith(
        "3 problems.\n- 3 x fold without an image: TFDS writes no empty split\n"
        "    fold_3\n    fold_4\n    fold_5"
    )


def test_more_than_ten_problems_are_all_counted_and_ten_are_named(tmp_path):
    lines = make_lines(30, CODES[:2])
    download = write_download(tmp_path / "download", lines, empty_images=True)
    missing = [line.split(" ")[0] for line in lines[:12]]
    for path in missing:
        (download / path).unlink()
    message = catch_refusal(download)
    assert f"{download} cannot be built: 30 problems." in message
    named = "".join(f"    {path}\n" for path in missing[:10])
    assert "- 12 x missing image: in annotations.dat, not in the folder" in message
    assert f"\n{named}    ... and 2 more\n" in message
    assert "- 18 x unreadable image: not a complete TIFF of 400x400 pixels\n" in message
    assert message.endswith("    ... and 8 more")


def test_problems_of_several_kinds_are_reported_in_one_error(download):
    (download / BAD).unlink()
    draw_munich("more").save(download / "NGB" / "NGB_7777.tiff")
    text = (download / "annotations.dat").read_text()
    (download / "annotations.dat").write_text(text.replace(" NGB ", " XYZ ", 1))
    os.truncate(download / IDS[7], 300_000)
    message = catch_refusal(download)
    kinds = ["unknown code", "unlisted image", "missing image", "unreadable image"]
    assert "cannot be built: 4 problems." in message
    assert re.findall(r"- 1 x ([a-z ]+):", message) == kinds
