"""The synthetic smear: layout, annotations, masks, determinism and error messages."""

import json
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from running import check_refusal, run, run_module

from leuko_tf.classes import CODES, UNCERTAIN
from tfds_aml.synthetic_smear import contact_sheet, smear
from tfds_aml.synthetic_smear.drawing import BACKGROUND, CYTOPLASM, NUCLEUS, draw_cell
from tfds_aml.synthetic_smear.examiners import EXAMINERS, NEIGHBOURS, REANNOTATED_SHARE
from tfds_aml.synthetic_smear.morphology import MORPHOLOGY

IMAGES = 150


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("smear") / "drawn"
    smear.write_smear(folder, IMAGES, seed=3, processes=2)
    return folder


@pytest.fixture(scope="module")
def masks() -> dict[str, list[np.ndarray]]:
    """Eight masks of every class."""
    return {
        code: [draw_cell(code, np.random.default_rng([11, i, j]))[1] for j in range(8)]
        for i, code in enumerate(CODES)
    }


def annotation_lines(folder: Path) -> list[list[str]]:
    return [line.split(" ") for line in (folder / "annotations.dat").read_text().splitlines()]


def read_files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if not p.is_dir()}


def test_a_smear_has_fifteen_class_folders_texts_and_masks(drawn: Path) -> None:
    names = {p.name for p in drawn.iterdir()}
    assert names == {*CODES, "masks", "annotations.dat", "abbreviations.txt", "SYNTHETIC.json"}
    assert {p.name for p in (drawn / "masks").iterdir()} == set(CODES)


def test_the_marker_says_that_the_smear_is_synthetic_and_how_to_draw_it_again(drawn: Path) -> None:
    assert json.loads((drawn / "SYNTHETIC.json").read_text()) == {
        "synthetic": True,
        "generator": "tfds_aml.synthetic_smear",
        "version": smear.VERSION,
        "seed": 3,
        "images": IMAGES,
    }
    abbreviations = (drawn / "abbreviations.txt").read_text()
    assert "SYNTHETIC" in abbreviations
    assert all(f"\n{code} " in abbreviations for code in (*CODES, "UNC", "nan"))


def test_images_are_opaque_uncompressed_rgba_tiffs_in_one_strip_each_with_a_mask(
    drawn: Path,
) -> None:
    paths = sorted(drawn.glob("*/*.tiff"))
    assert len(paths) == IMAGES
    for path in paths:
        with Image.open(path) as image:
            assert (image.mode, image.size) == ("RGBA", (400, 400))
            compression, offsets = image.tag_v2[259], image.tag_v2[273]  # type: ignore[attr-defined]
            assert (compression, len(offsets)) == (1, 1)
            assert (np.asarray(image)[..., 3] == 255).all()
        with Image.open(drawn / "masks" / path.parent.name / f"{path.stem}.png") as mask:
            assert (mask.mode, mask.size) == ("P", (400, 400))
            assert set(np.unique(np.asarray(mask))) <= {BACKGROUND, CYTOPLASM, NUCLEUS}


def test_annotations_name_each_image_once_sorted_by_folder_and_number(drawn: Path) -> None:
    rows = annotation_lines(drawn)
    paths = [row[0] for row in rows]
    assert paths == sorted(str(p.relative_to(drawn)) for p in drawn.glob("*/*.tiff"))
    for path, label, first, second in rows:
        number = path.removeprefix(f"{label}/{label}_").removesuffix(".tiff")
        assert len(number) == 4
        assert number.isdigit()
        assert {first, second} <= {*CODES, UNCERTAIN, "nan"}
        assert (first == "nan") == (second == "nan")
    assert {row[1] for row in rows if row[2] != "nan"} == set(CODES)  # a re-annotated one of each


def test_examiners_answer_about_as_the_tables_say() -> None:
    rows = list(smear.make_annotation_rows(smear.compute_class_counts(20_000), seed=5))
    again = [row for row in rows if row[2] != "nan"]
    assert len(again) / len(rows) == pytest.approx(REANNOTATED_SHARE, abs=0.005)
    for column, (agrees, uncertain) in enumerate(EXAMINERS, start=2):
        assert np.mean([row[column] == row[1] for row in again]) == pytest.approx(agrees, abs=0.03)
        share = np.mean([row[column] == UNCERTAIN for row in again])
        assert share == pytest.approx(uncertain, abs=0.02)
    for _, label, first, second in rows:
        assert {first, second} <= {label, UNCERTAIN, "nan", *NEIGHBOURS[label]}


@given(images=st.integers(smear.FEWEST_IMAGES, 100_000))
@settings(max_examples=200, deadline=None)
def test_class_counts_sum_to_the_images_and_leave_no_class_short(images: int) -> None:
    counts = smear.compute_class_counts(images)
    assert tuple(counts) == CODES
    assert sum(counts.values()) == images
    assert min(counts.values()) >= min(10, images // 15) >= 5


def test_the_commonest_real_class_is_the_commonest_synthetic_class() -> None:
    counts = smear.compute_class_counts(1500)
    assert max(counts, key=lambda code: counts[code]) == "NGS"
    assert counts["NGS"] > 10 * counts["LYA"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_number_of_processes(
    drawn: Path, tmp_path: Path
) -> None:
    smear.write_smear(tmp_path / "again", IMAGES, seed=3, processes=1)
    assert read_files(tmp_path / "again") == read_files(drawn)


def test_an_image_does_not_depend_on_how_many_others_there_are(drawn: Path, tmp_path: Path) -> None:
    smear.write_smear(tmp_path / "fewer", 75, seed=3)
    fewer, more = read_files(tmp_path / "fewer"), read_files(drawn)
    assert all(fewer[name] == more[name] for name in fewer if name.endswith((".tiff", ".png")))


def test_another_seed_or_number_gives_another_image() -> None:
    images = [draw_cell("NGS", np.random.default_rng(s))[0] for s in ([1, 1], [1, 2], [2, 1])]
    assert len({image.tobytes() for image in images}) == 3


def test_the_table_has_exactly_the_fifteen_classes_and_so_have_the_neighbours() -> None:
    assert set(MORPHOLOGY) == set(CODES)
    assert set(NEIGHBOURS) == set(CODES)
    for code, neighbours in NEIGHBOURS.items():
        assert set(neighbours) <= set(CODES) - {code}


def test_every_cell_lies_whole_in_the_image_is_centred_and_in_one_piece(masks: dict) -> None:
    for code, drawings in masks.items():
        for mask in drawings:
            cell = mask != BACKGROUND
            assert not cell[[0, -1]].any(), code
            assert not cell[:, [0, -1]].any(), code
            assert np.abs(np.argwhere(cell).mean(0) - 200).max() < 40, code
            if code != "KSC":
                pieces, _ = cv2.connectedComponents(cell.astype(np.uint8))
                assert pieces == 2, code  # background and the cell
                assert 0.1 < (mask == NUCLEUS).sum() / cell.sum() < 0.95, code


def test_smudge_cells_have_a_nucleus_and_no_cytoplasm(masks: dict) -> None:
    for mask in masks["KSC"]:
        assert set(np.unique(mask)) == {BACKGROUND, NUCLEUS}


def test_cell_sizes_and_nucleus_to_cytoplasm_ratios_follow_the_morphology(masks: dict) -> None:
    def area(code: str) -> float:
        return float(np.mean([(m != BACKGROUND).sum() for m in masks[code]]))

    def ratio(code: str) -> float:
        return float(np.mean([(m == NUCLEUS).sum() / (m != BACKGROUND).sum() for m in masks[code]]))

    assert area("LYT") < area("NGS") < area("MON") < area("PMO")
    assert area("EBO") < area("MYO") < area("MOB")
    assert ratio("MYO") > ratio("MOB") > ratio("NGS")
    assert ratio("MYO") > ratio("PMO") > ratio("MYB")
    assert ratio("LYT") > ratio("LYA") > ratio("EBO")


def test_the_stained_nucleus_is_darker_than_the_cytoplasm_and_that_than_the_plasma() -> None:
    for i, code in enumerate(c for c in CODES if c not in ("KSC", "BAS")):
        rgb, mask = draw_cell(code, np.random.default_rng([12, i]))
        green = rgb[..., 1].astype(float)
        plasma = np.percentile(green, 95)
        assert green[mask == NUCLEUS].mean() + 30 < green[mask == CYTOPLASM].mean() < plasma, code


def test_an_unknown_class_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="XYZ"):
        draw_cell("XYZ", np.random.default_rng(0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--images", "74"], "--images 74: must be at least 75"),
        (["--images", "75", "--seed", "-1"], "--seed -1: must be in 0.."),
    ],
)
def test_wrong_numbers_end_with_one_clear_line_and_write_nothing(
    tmp_path: Path, arguments: list[str], message: str
) -> None:
    result = run_module("tfds_aml.synthetic_smear", "--out", tmp_path / "new", *arguments)
    check_refusal(result, message, status=2)
    assert len(result.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_an_occupied_place_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text("mine")
    for place, message in ((tmp_path, "not empty"), (file, "is a file")):
        with pytest.raises(FileExistsError, match=message):
            smear.write_smear(place, 75, seed=1)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_smear_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(smear, "_write_images", fail)
    with pytest.raises(OSError, match="disk full"):
        smear.write_smear(tmp_path / "new", 75, seed=1)
    assert not list(tmp_path.iterdir())


def test_the_command_fills_an_empty_folder_and_says_that_the_images_are_synthetic(
    tmp_path: Path,
) -> None:
    result = run_module("tfds_aml.synthetic_smear", "--out", tmp_path, "--images", 75)
    assert result.returncode == 0, result.stderr
    assert "synthetic" in result.stdout
    assert Counter(row[1] for row in annotation_lines(tmp_path)) == dict.fromkeys(CODES, 5)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, tfds_aml.synthetic_smear.__main__;"
        "sys.exit(any(m in sys.modules for m in ('cv2', 'numpy', 'PIL', 'tensorflow')))"
    )
    assert run([sys.executable, "-c", code]).returncode == 0


def test_the_contact_sheet_is_a_small_png_of_the_whole_smear(drawn: Path, tmp_path: Path) -> None:
    contact_sheet.main([str(drawn), str(tmp_path / "sheet.png")])
    assert (tmp_path / "sheet.png").stat().st_size < 900_000
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > contact_sheet.PER_CLASS * contact_sheet.THUMBNAIL


def test_the_contact_sheet_refuses_images_that_are_not_marked_as_synthetic(tmp_path: Path) -> None:
    sheet = tmp_path / "sheet.png"
    result = run_module("tfds_aml.synthetic_smear.contact_sheet", tmp_path, sheet)
    check_refusal(result, "SYNTHETIC.json", status=2)
    assert len(result.stderr.splitlines()) == 1
