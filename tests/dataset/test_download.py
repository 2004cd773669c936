"""Reads Munich downloads: lines, places, files and folds. Opens no image."""

import os
import re
from pathlib import Path

import pytest
from small_download import make_lines, write_download, write_fold_lists

from leuko_tf.classes import CODES
from tfds_aml.aml_cytomorphology_lmu.download import (
    PUBLISHED_FOLDS,
    Download,
    read_annotations,
    read_download,
)
from tfds_aml.cells import Annotation, count_by_class
from tfds_aml.folds import ASSIGNED_FOLDS, FOLDS, assign_folds
from tfds_aml.problems import BadDownloadError, Problems

LINES = make_lines(20, CODES[:4])
IDS = [line.split(" ")[0] for line in LINES]


def read(folder: Path, *, allow_missing: bool = False) -> Download:
    """Reads the folder; raises what the builder would raise."""
    problems = Problems(folder)
    download = read_download(folder, problems, allow_missing=allow_missing)
    problems.raise_if_any()
    return download


def ids(download: Download) -> list[str]:
    return [image.annotation.path for image in download.images]


def folds(download: Download) -> dict[str, int]:
    return {image.annotation.path: image.fold for image in download.images}


def refusal(folder: Path, **options: bool) -> str:
    with pytest.raises(BadDownloadError) as caught:
        read(folder, **options)
    return str(caught.value)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    return write_download(tmp_path / "download", LINES, empty_images=True)


# Lines of annotations.dat


def parse(tmp_path: Path, text: str) -> list[Annotation]:
    file = tmp_path / "annotations.dat"
    file.write_bytes(text.encode())
    problems = Problems(tmp_path)
    annotations, _ = read_annotations(file, problems)
    problems.raise_if_any()
    return annotations


def test_a_line_gives_path_label_and_both_reannotations(tmp_path):
    text = "BAS/BAS_0021.tiff BAS UNC MYB\nMYO/MYO_0001.tiff MYO nan nan\n"
    assert parse(tmp_path, text) == [
        Annotation("BAS/BAS_0021.tiff", "BAS", "UNC", "MYB"),
        Annotation("MYO/MYO_0001.tiff", "MYO", "none", "none"),
    ]


@pytest.mark.parametrize("text_end", ["", "\n", "\n\n"])
def test_line_ends_may_be_those_of_windows_and_missing_or_doubled_at_the_end(tmp_path, text_end):
    text = "\n".join(LINES) + text_end
    annotations = parse(tmp_path, text)
    assert len(annotations) == len(LINES)
    assert parse(tmp_path, text.replace("\n", "\r\n")) == annotations


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("BAS/BAS_0002.tiff BAS nan", "malformed line"),
        ("BAS/BAS_0002.tiff BAS nan nan nan", "malformed line"),
        ("BAS/BAS_0002.tiff  BAS nan nan", "malformed line"),
        ("BAS/BAS_0002.tiff\tBAS\tnan\tnan", "malformed line"),
        ("BAS/BAS_0002.tiff BAS nan nan ", "malformed line"),
        ("BAS_0002.tiff BAS nan nan", "malformed line"),
        ("BAS/more/BAS_0002.tiff BAS nan nan", "malformed line"),
        ("BAS/BAS_0002.png BAS nan nan", "malformed line"),
        ("", "malformed line"),
        ("BAS/BAS_0002.tiff BAX nan nan", "unknown code"),
        ("BAS/BAS_0002.tiff bas nan nan", "unknown code"),
        ("BAS/BAS_0002.tiff UNC nan nan", "unknown code"),
        ("BAS/BAS_0002.tiff nan nan nan", "unknown code"),
        ("BAS/BAS_0002.tiff BAS XXX nan", "unknown code"),
        ("BAS/BAS_0002.tiff BAS nan none", "unknown code"),
        ("BAS/BAS_0002.tiff EBO nan nan", "label that contradicts the image's folder"),
    ],
)
def test_a_bad_line_is_named_with_its_number_and_what_is_wrong(tmp_path, line, problem):
    text = f"BAS/BAS_0001.tiff BAS nan nan\n{line}\nBAS/BAS_0003.tiff BAS nan nan\n"
    pattern = f"1 problem\\.\n- 1 x .*{problem}.*\n    line 2: {re.escape(repr(line))}"
    with pytest.raises(BadDownloadError, match=pattern):
        parse(tmp_path, text)


def test_an_image_listed_twice_is_named_with_both_lines(download):
    with (download / "annotations.dat").open("a") as file:
        file.write(f"{LINES[3]}\n")
    assert refusal(download).endswith(
        "1 problem.\n- 1 x image listed twice in annotations.dat\n"
        f"    line 21: '{LINES[3]}' (first in line 4)"
    )


@pytest.mark.parametrize("line", ["x" * 100_000, "\0" * 100_000, "NGS/" + "é\t" * 500])
def test_a_long_line_of_a_wrong_file_is_cut(tmp_path, line):
    with pytest.raises(BadDownloadError) as caught:
        parse(tmp_path, f"{line}\n" * 50)
    named = [text for text in str(caught.value).splitlines() if text.startswith("    line ")]
    assert len(named) == 10
    assert named[0].startswith(f"    line 1: {line[:1]!r}"[:-1])
    assert max(map(len, named)) <= len("    line 10: ") + 80


def test_both_ends_of_a_long_line_are_shown(tmp_path):
    line = f"BAS/{'x' * 100}.tiff BAS nan XXX"
    with pytest.raises(BadDownloadError, match=r"line 1: 'BAS/x+\.\.\.x+\.tiff BAS nan XXX'"):
        parse(tmp_path, line)


def test_an_annotation_file_in_another_encoding_is_a_malformed_line_not_a_crash(download):
    (download / "annotations.dat").write_bytes("BAS BAS nan nän\n".encode("latin-1"))
    assert "- 1 x malformed line" in refusal(download)


def test_an_empty_annotation_file_is_reported(download):
    (download / "annotations.dat").write_text("\n")
    message = refusal(download)
    assert "21 problems.\n- 1 x empty annotation file: it lists no image\n" in message
    assert "- 20 x unlisted image" in message


def test_the_image_of_a_bad_line_is_not_reported_as_unlisted_as_well(download):
    file = download / "annotations.dat"
    file.write_text(file.read_text().replace(LINES[0], f"{IDS[0]} BAX nan nan"))
    assert "cannot be built: 1 problem." in refusal(download)


# Where annotation file, class folders and fold lists lie


@pytest.mark.parametrize(
    ("annotations_in", "images_in"),
    [
        (".", "."),
        ("AML-Cytomorphology_LMU", "."),
        ("PKG - AML-Cytomorphology_LMU/AML-Cytomorphology_LMU", "."),
        (".", "PKG - AML-Cytomorphology_LMU/AML-Cytomorphology_LMU"),
        ("PKG - AML-Cytomorphology_LMU", "AML-Cytomorphology_LMU"),
        ("texts", "../all images/of the set"),
        ("first folder/second folder", "../.."),
    ],
)
def test_annotations_and_images_are_found_up_to_two_levels_below(
    tmp_path, annotations_in, images_in
):
    write_download(tmp_path / annotations_in, LINES, images_in=images_in, empty_images=True)
    download = read(tmp_path)
    assert ids(download) == IDS
    assert all(str(i.file).endswith(i.annotation.path) for i in download.images)


def test_three_levels_below_is_too_deep_and_the_error_says_so(tmp_path):
    write_download(tmp_path / "one" / "two" / "three", LINES, empty_images=True)
    assert refusal(tmp_path).startswith(f"No file annotations.dat in {tmp_path} or up to 2 levels")
    write_download(tmp_path, LINES, images_in="1/2/3", empty_images=True)
    (tmp_path / "one").rename(tmp_path / ".hidden")
    assert refusal(tmp_path).startswith(f"No set of class folders with TIFFs in {tmp_path} or")


def test_two_downloads_side_by_side_are_refused_with_both_places(tmp_path):
    for name in ("first", "second"):
        write_download(tmp_path / name, LINES, empty_images=True)
    message = refusal(tmp_path)
    assert message.startswith(f"2 places in {tmp_path} hold a file annotations.dat;")
    assert message.endswith(
        f"\n    {tmp_path}/first/annotations.dat\n    {tmp_path}/second/annotations.dat"
    )


def test_class_folders_in_two_places_are_refused_with_both_places(download):
    (download / "more").mkdir()
    (download / CODES[0]).rename(download / "more" / CODES[0])
    message = refusal(download)
    assert message.startswith(f"2 places in {download} hold a set of class folders with TIFFs;")
    assert message.endswith(f"\n    {download}\n    {download}/more")


def test_two_folders_of_fold_lists_are_refused(download):
    (download / "folds").mkdir()
    (download / "more" / "folds").mkdir(parents=True)
    assert f"2 places in {download} hold a folder folds" in refusal(download)


def test_class_folders_may_be_links_to_another_disk(download, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    for code in CODES[:4]:
        (download / code).rename(disk / code)
        (download / code).symlink_to(disk / code)
    assert ids(read(download)) == IDS


# Which files are images


def test_a_link_that_leads_nowhere_is_a_missing_image(download):
    (download / IDS[0]).unlink()
    (download / IDS[0]).symlink_to(download / "nowhere.tiff")
    assert "- 1 x missing image" in refusal(download)
    assert ids(read(download, allow_missing=True)) == IDS[1:]


def test_hidden_files_and_folders_and_other_files_are_ignored(download):
    for name in ("._NGS_0001.tiff", ".DS_Store", "Thumbs.db", "readme.txt"):
        (download / "NGS" / name).touch()
    (download / ".hidden").mkdir()
    (download / ".hidden" / "annotations.dat").touch()
    assert ids(read(download)) == IDS


@pytest.mark.parametrize("ending", [".tiff.tiff", ".tif", ".TIFF"])
def test_a_file_with_another_ending_is_accepted_as_the_image_it_is(download, ending):
    file = download / IDS[0]
    renamed = file.rename(file.with_name(file.stem + ending))
    image = read(download).images[0]
    assert (image.annotation.path, image.file) == (IDS[0], renamed)


def test_a_listed_tiff_tiff_keeps_its_path_as_id(download):
    file = download / "annotations.dat"
    file.write_text(file.read_text().replace(IDS[0], IDS[0] + ".tiff"))
    assert ids(read(download)) == [IDS[0] + ".tiff", *IDS[1:]]


def test_two_files_for_one_listed_image_are_refused(download):
    (download / (IDS[0] + ".tiff")).touch()
    assert "- 1 x two files for one listed image: delete one" in refusal(download)


@pytest.mark.parametrize("path", ["NGS/NGS_9999.tiff", "NGS/deeper/NGS_0001.tiff", "XYZ/X_1.tif"])
@pytest.mark.parametrize("allow_missing", [False, True])
def test_an_unlisted_image_is_refused_in_both_configurations(download, path, allow_missing):
    (download / path).parent.mkdir(exist_ok=True)
    (download / path).touch()
    message = refusal(download, allow_missing=allow_missing)
    assert "- 1 x unlisted image: in the folder, not in annotations.dat" in message
    assert message.endswith(f"\n    {download / path}")


def test_missing_images_are_refused_unless_allowed(download):
    for path in IDS[:3]:
        (download / path).unlink()
    message = refusal(download)
    assert "cannot be built: 3 problems.\n- 3 x missing image: in annotations.dat" in message
    assert message.endswith("".join(f"\n    {path}" for path in IDS[:3]))
    part = read(download, allow_missing=True)
    assert (ids(part), part.listed, part.missing) == (IDS[3:], 20, 3)


def test_images_are_counted_by_class_in_the_order_of_the_paper(download):
    assert list(count_by_class(read(download).images).items()) == [
        (code, 5 if code in CODES[:4] else 0) for code in CODES
    ]


# Published folds

NAMES_BY_FOLD = {k: [os.path.basename(i) for i in IDS[k - 1 :: 5]] for k in FOLDS}


@pytest.fixture
def with_lists(download: Path) -> Path:
    write_fold_lists(download / "folds", NAMES_BY_FOLD)
    return download


def fold_of_names(names_by_fold: dict[int, list[str]]) -> dict[str, int]:
    return {f"{n[:3]}/{n}": fold for fold, names in names_by_fold.items() for n in names}


def test_published_lists_are_the_folds(with_lists):
    download = read(with_lists)
    assert folds(download) == fold_of_names(NAMES_BY_FOLD)
    assert download.fold_source == PUBLISHED_FOLDS


@pytest.mark.parametrize(
    "write",
    [
        lambda name: f"{name}\r\n",
        lambda name: f"{name}.tiff\n",
        lambda name: f"{name.removesuffix('.tiff')}\n",
        lambda name: f"{name[:3]}/{name}\n",
        lambda name: f"{name}\n\n",
    ],
    ids=["windows line ends", "tiff.tiff", "no ending", "with folder", "empty lines"],
)
def test_fold_lists_may_write_the_names_in_other_ways(with_lists, write):
    for fold, names in NAMES_BY_FOLD.items():
        (with_lists / "folds" / f"fold{fold}.txt").write_text("".join(map(write, names)))
    assert folds(read(with_lists)) == fold_of_names(NAMES_BY_FOLD)


def test_fold_lists_are_found_beside_a_nested_download(tmp_path):
    write_download(tmp_path / "PKG - AML", LINES, images_in="AML", empty_images=True)
    write_fold_lists(tmp_path / "folds", NAMES_BY_FOLD)
    assert read(tmp_path).fold_source == PUBLISHED_FOLDS


def test_lists_of_all_images_fit_a_part_of_the_download(with_lists):
    for path in IDS[::3]:
        (with_lists / path).unlink()
    everything = fold_of_names(NAMES_BY_FOLD)
    assert folds(read(with_lists, allow_missing=True)) == {
        path: everything[path] for path in IDS if path not in IDS[::3]
    }


def test_all_five_lists_must_exist(with_lists):
    (with_lists / "folds" / "fold4.txt").unlink()
    message = refusal(with_lists)
    assert "1 problem.\n- 1 x missing fold list: provide all five, or none\n" in message
    assert message.endswith("folds/fold4.txt")


FIRST = NAMES_BY_FOLD[1][0]


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {1: NAMES_BY_FOLD[1][1:]},
            f"image missing in the fold lists\n    {FIRST[:3]}/{FIRST}",
        ),
        (
            {1: [*NAMES_BY_FOLD[1], FIRST]},
            "image listed more than once in the fold lists\n"
            f"    {FIRST[:3]}/{FIRST}, fold1.txt, fold1.txt",
        ),
        (
            {3: [*NAMES_BY_FOLD[3], FIRST]},
            "image listed more than once in the fold lists\n"
            f"    {FIRST[:3]}/{FIRST}, fold1.txt, fold3.txt",
        ),
        (
            {5: [*NAMES_BY_FOLD[5], "NGS_9999.tiff"]},
            "unknown image in a fold list: not in annotations.dat\n    NGS_9999",
        ),
    ],
    ids=["missing", "twice in a list", "in two lists", "unknown"],
)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_each_image_must_be_in_one_list(with_lists, changed, problem, allow_missing):
    write_fold_lists(with_lists / "folds", changed)
    message = refusal(with_lists, allow_missing=allow_missing)
    assert message.endswith(f"1 problem.\n- 1 x {problem}")


# Assigned folds; see also test_folds.py


def test_without_lists_the_builder_assigns_the_folds(download):
    read_back = read(download)
    assert read_back.fold_source == ASSIGNED_FOLDS
    assert folds(read_back) == assign_folds({i: i[:3] for i in IDS})


def test_the_order_of_the_lines_changes_nothing(download):
    before = folds(read(download))
    (download / "annotations.dat").write_text("".join(f"{line}\n" for line in reversed(LINES)))
    assert folds(read(download)) == before
