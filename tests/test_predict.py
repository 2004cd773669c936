"""Images of a folder to a table of answers."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image
from running import check_refusal, run_module

from leuko_tf.classes import ATYPICAL, BLAST, CODES
from leuko_tf.classification import CROP, RESIZE, View, choose_figure_name, classify_files
from leuko_tf.cli import UserError
from leuko_tf.data.images import MAX_PIXELS, find_images, read_image, resample_image
from leuko_tf.predictions import PROBABILITIES, read_predictions


@pytest.fixture(scope="module")
def folder(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cells of the usual size in each format, of other sizes, and files that are no cells."""
    folder = tmp_path_factory.mktemp("cells")
    (folder / "sub").mkdir()
    cell = smear / "EBO" / "EBO_0001.tiff"
    (folder / "a.tiff").write_bytes(cell.read_bytes())
    with Image.open(smear / "MYO" / "MYO_0001.tiff") as image:
        image.save(folder / "sub" / "b.PNG")
        image.convert("RGB").save(folder / "sub" / "c.jpg", quality=95)
        image.convert("RGB").crop((20, 20, 383, 380)).save(folder / "small.png")
        image.convert("RGB").resize((500, 450)).save(folder / "large.jpeg")
    (folder / "truncated.tiff").write_bytes(cell.read_bytes()[:100_000])
    (folder / "text.png").write_text("no image")
    Image.fromarray(np.zeros((9, 9), np.uint16)).save(folder / "deep.tif")
    Image.fromarray(np.full((9, 9), 9999, np.uint16)).save(folder / "deep.png")
    pages = [Image.new("RGB", (9, 9)) for _ in range(2)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    Image.new("1", (2049, 2048)).save(folder / "slide.png")
    (folder / "notes.txt").write_text("left alone")
    (folder / ".hidden.png").write_text("left alone")
    return folder


GOOD = ["a.tiff", "large.jpeg", "small.png", "sub/b.PNG", "sub/c.jpg"]
BAD = ["deep.png", "deep.tif", "pages.tif", "slide.png", "text.png", "truncated.tiff"]


class TestImages:
    def test_folders_give_what_lies_in_them_by_the_path_below(self, folder: Path) -> None:
        assert [*find_images([folder])] == sorted(GOOD + BAD)
        assert find_images([folder])["sub/b.PNG"] == folder / "sub" / "b.PNG"
        one = folder / "a.tiff"
        assert find_images([one]) == {one.as_posix(): one}

    def test_masks_of_a_synthetic_smear_are_no_cells(self, smear: Path, tmp_path: Path) -> None:
        assert (smear / "masks").is_dir()
        assert not [image_id for image_id in find_images([smear]) if image_id.startswith("masks")]
        (tmp_path / "masks").mkdir()
        (tmp_path / "masks" / "a.png").touch()
        assert [*find_images([tmp_path])] == ["masks/a.png"]  # another's folder of that name

    def test_nothing_found_and_doubled_names_are_refused(
        self, folder: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(UserError, match="without TIFF, PNG or JPEG"):
            find_images([tmp_path])
        with pytest.raises(UserError, match="No file or folder"):
            find_images([tmp_path / "nothing"])
        with pytest.raises(UserError, match=r"have the id a\.tiff"):
            find_images([folder, folder])

    def test_pixels_are_pillows(self, folder: Path) -> None:
        for name in GOOD:
            with Image.open(folder / name) as image:
                expected = np.asarray(image.convert("RGB"))
            np.testing.assert_array_equal(read_image(folder / name), expected)

    def test_links_are_followed_once_and_odd_names_do_not_matter(
        self, folder: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "BAS").symlink_to(folder / "sub")
        (tmp_path / "loop").symlink_to(tmp_path)
        odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Zelle_\xe4.tiff"))
        odd.write_bytes(b"")
        assert [*find_images([tmp_path])] == ["BAS/b.PNG", "BAS/c.jpg", "Zelle_\ufffd.tiff"]

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("truncated.tiff", "truncated"),
            ("text.png", "cannot identify"),
            ("deep.tif", "more than 8 bits"),
            ("deep.png", "more than 8 bits"),
            ("pages.tif", "holds 2 images"),
            ("slide.png", f"2049x2048 pixels are more than the limit of {MAX_PIXELS}"),
            ("sub", "Is a directory"),
        ],
    )
    def test_what_is_no_cell_says_why(self, folder: Path, name: str, reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            read_image(folder / name)


def test_figures_are_not_hidden_and_not_written_twice() -> None:
    taken: list[str] = []
    for image_id in ("../a/b.tiff", "a/b.tiff", "a__b.tiff", "x" * 300 + ".png"):
        taken.append(choose_figure_name(image_id, taken))
    assert taken[:3] == ["a__b.tiff.png", "a__b.tiff_2.png", "a__b.tiff_3.png"]
    assert len(taken[3]) < 255


class TestTable:
    def test_probabilities_are_the_models(self, model, folder: Path) -> None:
        images = find_images([folder])
        for fit in (CROP, RESIZE):
            table, problems = classify_files(model, images, View(fit))
            assert [*table["id"]] == GOOD
            assert len(problems) == len(BAD)
            for name, problem in zip(BAD, problems, strict=True):
                assert problem.startswith(f"{folder / name} is not an image that can be read")
            for name, row in zip(GOOD, table[PROBABILITIES].to_numpy(), strict=True):
                image = read_image(folder / name)
                if fit == RESIZE:
                    image = np.round(tf.image.resize(image, (340, 340), antialias=True))
                # The model itself looks at the middle of what it is given.
                expected = model.predict_on_batch(image[None])[0]
                np.testing.assert_allclose(row, expected, atol=1e-5)
            widths = dict(zip(table["id"], table["width"], strict=True))
            assert widths == dict(zip(GOOD, [400, 500, 363, 400, 400], strict=True))

    def test_images_of_another_magnification_are_brought_to_the_models(
        self, model, folder: Path
    ) -> None:
        images = find_images([folder / "a.tiff"])
        table, _ = classify_files(model, images, View(factor=0.8))
        image = resample_image(read_image(folder / "a.tiff"), 0.8)
        assert image.shape == (320, 320, 3)
        expected = model.predict_on_batch(image[None])
        np.testing.assert_allclose(table[PROBABILITIES], expected, atol=1e-5)

    def test_scores_follow_from_the_probabilities(self, model, folder: Path) -> None:
        table, _ = classify_files(model, find_images([folder]))
        scores = table[PROBABILITIES].to_numpy()
        assert [*table["answer"]] == [CODES[i] for i in scores.argmax(axis=1)]
        np.testing.assert_array_equal(table["confidence"], scores.max(axis=1))
        for column, group in (("blast_score", BLAST), ("atypical_score", ATYPICAL)):
            expected = sum(scores[:, CODES.index(code)].astype(float) for code in group)
            np.testing.assert_allclose(table[column], expected, atol=1e-6)

    def test_openvino_answers_the_same(self, model, folder: Path) -> None:
        pytest.importorskip("openvino")
        images = find_images([folder])
        ours, theirs = (
            classify_files(model, images, View(), r)[0] for r in ("tensorflow", "openvino")
        )
        np.testing.assert_allclose(ours[PROBABILITIES], theirs[PROBABILITIES], atol=1e-4)


def test_the_command_keeps_what_is_good_and_tells_what_is_not(
    workdir: Path, folder: Path, tmp_path: Path
) -> None:
    out, figures = tmp_path / "p.parquet", tmp_path / "figures"
    model = workdir / "best.keras"
    words = ["--abstain-below", 0.2, "--saliency", figures]
    done = run_module("leuko_tf.predict", folder, "--model", model, "--out", out, *words)
    assert done.returncode == 1
    assert f"classified 5 of 11 images: {out}" in done.stdout
    assert "warning: 1 of 5 images are larger than 400 pixels: only the 340" in done.stdout
    assert "6 of 11 could not be read:" in done.stdout
    assert all(str(folder / name) in done.stdout for name in BAD)
    assert "SYNTHETIC" in done.stdout
    assert "no class is a diagnosis" in done.stdout
    table = pd.read_parquet(out)
    assert [*table["abstains"]] == [c < 0.2 for c in table["confidence"]]
    assert b'"fit": "crop"' in pq.read_schema(out).metadata[b"leuko_tf"]
    names = sorted(name.replace("/", "__") + ".png" for name in GOOD)
    assert sorted(f.name for f in figures.iterdir()) == names
    with Image.open(figures / "sub__b.PNG.png") as picture:
        assert "SYNTHETIC" in picture.text["Title"]
    # With labels and folds it is a table to evaluate.
    labelled = tmp_path / "labelled.parquet"
    table.assign(label="MYO", fold=1).to_parquet(labelled)
    assert [*read_predictions(labelled)[0]["id"]] == GOOD


def test_csv_on_request(workdir: Path, smear: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "p.csv"
    done = run_module(
        "leuko_tf.predict", smear / "BAS", "--model", workdir / "best.keras", "--out", out
    )
    assert (done.returncode, "warning" in done.stdout) == (0, False), done.stderr
    table = pd.read_csv(out)
    assert len(table) == 10
    assert "abstains" not in table
    np.testing.assert_allclose(table[PROBABILITIES].sum(axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "p.xlsx"), "--out must end in .parquet or .csv. Received: p.xlsx"),
        (("--out", "p.csv", "--abstain-below", "2"), "--abstain-below takes a probability"),
        (("--out", "p.csv", "nowhere"), "No file or folder nowhere"),
        (("--out", "d.csv"), "--out d.csv is a folder"),
        (("--out", "p.csv", "--pixel-size-um", "0"), "--pixel-size-um takes micrometres, 0 to 10"),
        (("--out", "p.csv", "--pixel-size-um", "6.5"), "not on the camera's chip"),
        (
            ("--out", "p.csv", "--fit", "resize", "--pixel-size-um", "0.1"),
            "--fit resize ignores the pixel",
        ),
        (("--out", "p.csv", "--saliency", "a.tiff"), "File exists: 'a.tiff'"),
        (("--out", "p.csv", "text.png"), "None of 1 images could be read; the first: text.png"),
        (("--out", "p.csv", "a.tiff", "--model", "no.keras"), "No model no.keras"),
    ],
)
def test_bad_input_ends_in_one_message(
    workdir: Path, folder: Path, tmp_path: Path, monkeypatch, words: tuple[str, ...], message: str
) -> None:
    for name in ("text.png", "a.tiff"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "d.csv").mkdir()
    monkeypatch.chdir(tmp_path)
    images = () if words[-1] in ("nowhere", "text.png") or "no.keras" in words else ("a.tiff",)
    model = () if "--model" in words else ("--model", workdir / "best.keras")
    done = run_module("leuko_tf.predict", *words, *images, *model)
    check_refusal(done, message)
    assert done.stderr.count("error:") == 1
    assert not (tmp_path / "p.csv").exists()
