"""Reads Barcelona downloads: names, places, types, folds. Opens no image."""

import random
from collections import Counter
from pathlib import Path

import pytest
from small_download import FOLDER_BY_TYPE, make_names, write_barcelona

from tfds_aml.folds import FOLDS
from tfds_aml.pbc_barcelona.download import (
    Download,
    format_left_out,
    put_into_folds,
    read_download,
)
from tfds_aml.problems import BadDownloadError, Problems

NAMES = make_names(2)


def read(folder: Path) -> Download:
    """Reads the folder; raises what the builder would raise."""
    problems = Problems(folder)
    download = read_download(folder, problems)
    problems.raise_if_any()
    return download


def refusal(folder: Path) -> str:
    with pytest.raises(BadDownloadError) as caught:
        read(folder)
    return str(caught.value)


def labels(download: Download) -> dict[str, str]:
    return {cell.file.name: cell.annotation.label for cell in download.images}


def ids(download: Download) -> list[str]:
    return [cell.annotation.path for cell in download.images]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_barcelona(tmp_path / "download", NAMES, empty_images=True)


def test_the_type_is_what_the_name_begins_with(folder):
    # Written out: MY is the myelocyte, BNE the band and SNE the segmented neutrophil.
    codes = {
        "BA": "BAS", "EO": "EOS", "ERB": "EBO", "LY": "LYT", "MO": "MON",
        "BNE": "NGB", "SNE": "NGS", "MMY": "MMZ", "MY": "MYB", "PMY": "PMO",
    }  # fmt: skip
    assert labels(read(folder)) == {name: codes[name.split("_")[0]] for name in NAMES}


@pytest.mark.parametrize("place", [".", "PBC_dataset_normal_DIB", "zip/PBC_dataset_normal_DIB"])
@pytest.mark.parametrize("flat", [False, True])
def test_images_are_found_up_to_two_levels_below(tmp_path, place, flat):
    write_barcelona(tmp_path / place, NAMES, flat=flat, empty_images=True)
    download = read(tmp_path)
    prefix = {name: "" if flat else FOLDER_BY_TYPE[name.split("_")[0]] + "/" for name in NAMES}
    assert ids(download) == sorted(prefix[name] + name for name in NAMES)
    assert all(cell.file.is_relative_to(tmp_path / place) for cell in download.images)


def test_one_class_folder_alone_gives_the_same_ids(folder):
    assert ids(read(folder / "basophil")) == ["basophil/BA_1.jpg", "basophil/BA_2.jpg"]


def test_class_folders_and_images_may_be_links_to_another_disk(folder, tmp_path):
    (tmp_path / "links" / "eosinophil").mkdir(parents=True)
    (tmp_path / "links" / "basophil").symlink_to(folder / "basophil")
    (tmp_path / "links" / "eosinophil" / "EO_1.jpg").symlink_to(folder / "eosinophil" / "EO_1.jpg")
    found = ["basophil/BA_1.jpg", "basophil/BA_2.jpg", "eosinophil/EO_1.jpg"]
    assert ids(read(tmp_path / "links")) == found


def test_a_folder_without_images_is_refused(tmp_path):
    write_barcelona(tmp_path / "one" / "two" / "three" / "four", NAMES, empty_images=True)
    expected = f"No image named like BA_....jpg or EO_....jpg in {tmp_path} or up to 2 levels"
    assert refusal(tmp_path).startswith(expected)


def test_other_types_and_junk_are_counted_and_left_out(folder):
    assert format_left_out(read(folder)) == ""
    others = [*make_names(3, ["IG"]), "NEUTROPHIL_1.jpg", "PLATELET_1.jpg"]
    write_barcelona(folder, others, empty_images=True)
    for junk in (".DS_169665.jpg", "._BA_1.jpg", "Thumbs.db", ".DS_Store", "notes.txt"):
        (folder / "basophil" / junk).touch()
    download = read(folder)
    assert labels(download).keys() == {*NAMES}
    assert download.left_out == {"IG": 3, "NEUTROPHIL": 1, "PLATELET": 1}
    assert format_left_out(download) == (
        "Files left out. Types without a class: 5 (IG 3, NEUTROPHIL 1, PLATELET 1). "
        "Not images: 5 (.DS_169665.jpg, .DS_Store, ._BA_1.jpg, ...)."
    )


@pytest.mark.parametrize("ending", [".JPG", ".jpeg"])
def test_other_endings_of_a_jpeg_are_accepted(folder, ending):
    file = folder / "basophil" / "BA_1.jpg"
    file.rename(file.with_suffix(ending))
    assert f"BA_1{ending}" in labels(read(folder))


@pytest.mark.parametrize("name", ["XY_1.jpg", "BA1.jpg", "ba_1.jpg", "LYT_1.jpg", "_1.jpg"])
def test_an_unknown_type_is_refused_with_the_file(folder, name):
    (folder / "basophil" / name).touch()
    message = refusal(folder)
    assert "1 problem.\n- 1 x unknown type: the name must begin with one of BA EO " in message
    assert message.endswith(f"\n    {folder}/basophil/{name}")


def test_images_of_unknown_types_alone_are_named_too(tmp_path):
    (tmp_path / "photo.jpg").touch()
    assert "- 1 x unknown type" in refusal(tmp_path)


def test_two_files_of_one_name_are_refused_with_both_places(folder):
    (folder / "more").mkdir()
    (folder / "more" / "BA_1.jpg").touch()
    message = refusal(folder)
    assert "- 1 x two files with the same name: delete one" in message
    assert message.endswith(f"{folder}/more/BA_1.jpg (and {folder}/basophil/BA_1.jpg)")


# Folds


def place(folder: Path, **copies: str) -> tuple[dict[str, int], list[str]]:
    """Folds by file name, and names left out; `copies` has the pixels of some files."""
    images = read(folder).images
    pixels = {cell.file: copies.get(cell.file.stem, cell.file.stem) for cell in images}
    cells, contradictory = put_into_folds(images, pixels)
    return {c.file.name: c.fold for c in cells}, [c.file.name for c in contradictory]


def test_folds_are_stratified_by_class(tmp_path):
    write_barcelona(tmp_path, make_names(12, ["BA", "MY"]), empty_images=True)
    folds, _ = place(tmp_path)
    for kind in ("BA", "MY"):
        sizes = Counter(fold for name, fold in folds.items() if name.startswith(kind))
        assert sorted(sizes[k] for k in FOLDS) == [2, 2, 2, 3, 3]


def test_folds_are_the_same_in_class_folders_and_in_one(tmp_path, folder):
    flat = write_barcelona(tmp_path / "flat", NAMES, flat=True, empty_images=True)
    assert place(flat) == place(folder)


def test_copies_stay_in_one_fold_whatever_their_names(tmp_path):
    names = make_names(30, ["BA"])
    folder = write_barcelona(tmp_path, names, empty_images=True)
    for seed in range(20):
        copies = random.Random(seed).sample(names, 3)
        folds, contradictory = place(folder, **{Path(n).stem: "the same" for n in copies})
        assert len({folds[name] for name in copies}) == 1
        assert contradictory == []


def test_copies_of_different_types_are_all_left_out(folder):
    folds, contradictory = place(folder, MY_1="the same", MY_2="the same", PMY_1="the same")
    assert contradictory == ["MY_1.jpg", "MY_2.jpg", "PMY_1.jpg"]
    assert folds.keys() == {*NAMES} - {*contradictory}


def test_the_assignment_is_pinned(folder):
    """Changing it changes every cross-validation made with it: raise VERSION as well."""
    folds, _ = place(folder, LY_1="the same", LY_2="the same")
    assert {k: sorted(n[:-4] for n in folds if folds[n] == k) for k in FOLDS} == {
        1: ["BA_2", "BNE_1", "EO_1", "MO_1"],
        2: ["BA_1", "LY_1", "LY_2", "SNE_1"],
        3: ["ERB_1", "MMY_1", "MY_1", "SNE_2"],
        4: ["ERB_2", "MMY_2", "MY_2", "PMY_1"],
        5: ["BNE_2", "EO_2", "MO_2", "PMY_2"],
    }
