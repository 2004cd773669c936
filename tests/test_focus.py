"""The parts on hand-made maps, masks and networks; the command once, on a tiny network."""

import json
import sys
from pathlib import Path

import browser
import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from running import run_module

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.data import pipeline
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.methods import METHODS
from leuko_tf.focus import perturbation, sanity
from leuko_tf.focus.cells import choose_images, read_cells, read_labels
from leuko_tf.focus.score import score
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.focus.shares import (
    AREAS,
    ELSEWHERE,
    SHARES,
    compute_mean_intervals,
    compute_shares,
    summarize_shares,
    to_one_hot,
)
from leuko_tf.network.resnext import SCALING
from leuko_tf.network.view import crop_center, to_network_input
from leuko_tf.saliency import main
from tfds_aml.synthetic_smear.drawing import BACKGROUND, CYTOPLASM, NUCLEUS

# A cell of 4x4 pixels: the nucleus takes 2 of 16, the cytoplasm 6, the background 8.
MASK = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [1, 2, 1, 0], [1, 2, 0, 0]], np.uint8)
DATASET = "aml_cytomorphology_lmu/complete"


def test_shares_are_sums_over_the_regions() -> None:
    saliency = np.where(MASK == NUCLEUS, 3.0, np.where(MASK == CYTOPLASM, 0.5, 0.125))
    assert REGIONS == ("background", "cytoplasm", "nucleus")
    regions = to_one_hot(MASK)
    np.testing.assert_allclose(compute_shares(saliency, regions), [0.1, 0.3, 0.6])
    np.testing.assert_allclose(compute_shares(np.ones((4, 4)), regions), [8 / 16, 6 / 16, 2 / 16])
    assert np.isnan(compute_shares(np.zeros((4, 4)), regions)).all()
    elsewhere = to_one_hot(np.zeros_like(MASK))
    np.testing.assert_allclose(compute_shares(saliency, regions + elsewhere), [0.55, 0.15, 0.3])


def _rows(labels: list[str], answers: list[str], nucleus: list[float]) -> pd.DataFrame:
    values = np.array([[0.2, 0.8 - n, n, 0.8, 0.1, 0.1, 0.5, 0.3, 0.2] for n in nucleus])
    table = pd.DataFrame(values, columns=SHARES + AREAS + ELSEWHERE)
    return table.assign(label=labels, answer=answers)


def test_share_figures_by_class_and_for_right_and_wrong_answers() -> None:
    rows = _rows(["NGS", "NGS", "MYO", "MYO"], ["NGS", "MYO", "MYO", "MYO"], [0.2, 0.8, 0.3, 0.5])
    figures = summarize_shares(rows)
    assert [*figures] == ["all", "right", "wrong", "MYO", "NGS"]
    assert [figures[g]["images"] for g in figures] == [4, 3, 1, 2, 2]
    nucleus = figures["all"]["nucleus"]
    assert nucleus["share"]["value"] == pytest.approx(0.45)
    assert nucleus["area"]["value"] == pytest.approx(0.1)
    assert nucleus["ratio"]["value"] == pytest.approx(4.5)
    assert nucleus["elsewhere"]["value"] == pytest.approx(0.2)
    assert nucleus["excess"]["value"] == pytest.approx(0.25)
    lower, upper = nucleus["ratio"]["interval"]
    assert 2 <= lower < 4.5 < upper <= 8
    assert figures["wrong"]["nucleus"]["share"] == {"value": pytest.approx(0.8), "interval": None}
    assert figures["MYO"]["nucleus"]["share"]["value"] == pytest.approx(0.4)


def test_regions_without_area_and_dark_maps_have_no_figures() -> None:
    rows = _rows(["KSC", "KSC"], ["KSC", "KSC"], [0.8, 0.8])
    rows["area_cytoplasm"] = 0.0
    rows.loc[1, SHARES] = np.nan
    figures = summarize_shares(rows)
    assert figures["all"]["images"] == 1
    assert figures["all"]["cytoplasm"]["ratio"] == {"value": None, "interval": None}
    assert figures["wrong"]["images"] == 0
    assert figures["wrong"]["nucleus"]["share"]["value"] is None
    json.dumps(figures, allow_nan=False)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    ends = compute_mean_intervals(rng.normal(5, 1, (60, 100)))
    covered = (ends[:, 0] < 5) & (ends[:, 1] > 5)
    assert 88 <= covered.sum() <= 100
    assert np.isnan(compute_mean_intervals(np.ones((1, 2)))).all()


def test_insertion_and_deletion_by_hand() -> None:
    """A network that answers by one pixel, which the map puts at the fourth of four places."""
    image = np.full((10, 10, 3), 250, np.uint8)
    image[0, :4] = 0  # four dark pixels; the rest is plasma

    def predict(images: np.ndarray) -> np.ndarray:
        return (images[:, 0, 3, :1] == 0).astype(np.float64)

    saliency = np.zeros((10, 10))
    saliency[0, :4] = (4, 3, 2, 1)
    rng = np.random.default_rng(0)
    order = perturbation.sort_pixels(saliency, 10, rng)
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert sorted(order) == [*range(100)]
    insertion, deletion = perturbation.compute_curves(predict, image, order, 0, steps=50)
    # After k of 50 steps 2k pixels have changed: the fourth with the second step.
    assert insertion.tolist() == [0, 0] + 49 * [1]
    assert deletion.tolist() == [1, 1] + 49 * [0]
    assert perturbation.compute_area(deletion) == pytest.approx(1.5 / 50)
    assert perturbation.compute_area(insertion) == pytest.approx(1 - 1.5 / 50)


@pytest.mark.parametrize(("side", "size"), [(30, 30), (40, 8), (34, 8), (8, 20)])
def test_the_network_s_own_pixels_go_one_by_one_and_not_row_by_row(side: int, size: int) -> None:
    order = perturbation.sort_pixels(np.zeros((side, side)), size, np.random.default_rng(0))
    assert sorted(order) == [*range(side * side)]
    half = side * side // 2
    assert 0.35 < (order[:half] < half).mean() < 0.65
    numbered = Image.fromarray(np.arange(size * size, dtype=np.int32).reshape(size, size))
    own = np.asarray(numbered.resize((side, side), Image.Resampling.NEAREST)).ravel()
    changes = 1 + (np.diff(own[order]) != 0).sum()
    assert changes == len(np.unique(own)) == min(side, size) ** 2


def test_the_random_order_deletes_and_does_not_fade() -> None:
    """Half deleted, the network's input holds pixels of the cell and of the empty field."""
    image = np.zeros((400, 400, 3), np.uint8)
    image[:200] = 240  # the field's colour; the lower half is the cell
    inputs = []

    def predict(images: np.ndarray) -> np.ndarray:
        inputs.extend(np.asarray(to_network_input(images, 400, 96)))
        return np.zeros((len(images), 1))

    order = perturbation.sort_pixels(np.zeros((400, 400)), 96, np.random.default_rng(0))
    perturbation.compute_curves(predict, image, order, 0, steps=2)
    half = inputs[1][60:, :, 0]
    assert half.mean() == pytest.approx(120, abs=12)
    assert half.std() > 60  # of pixels taken one by one it would be below 30


def test_curves_are_compared_with_the_random_order_of_the_same_images() -> None:
    early, late = np.array([0, 1, 1.0]), np.array([0, 0, 1.0])
    both = {"insertion": np.stack([early, early]), "deletion": np.stack([late, late])}
    by_chance = {name: np.stack([late, early]) for name in perturbation.CURVES}
    figures = perturbation.summarize_curves({"map": both, perturbation.RANDOM: by_chance})
    insertion = figures["methods"]["map"]["insertion"]
    assert insertion["curve"] == [0, 1, 1]
    assert insertion["area"] == pytest.approx(0.75)
    assert insertion["minus_random"] == pytest.approx(0.25)
    assert figures["methods"]["map"]["deletion"]["minus_random"] == pytest.approx(-0.25)


@pytest.fixture(scope="module")
def pictures(images: np.ndarray) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(image).resize((96, 96))) for image in images])


def _check(trained: list[np.ndarray], fresh: list[np.ndarray]) -> dict:
    return sanity.check(sanity.compare_maps(trained, fresh))


def test_an_edge_detector_fails_and_unlike_maps_pass(pictures: np.ndarray) -> None:
    from skimage.filters import sobel

    rng = np.random.default_rng(0)
    edges = [sobel(image.mean(axis=-1)) for image in pictures]
    same = _check(edges, edges)
    assert same["ssim"]["value"] == pytest.approx(1)
    assert same["images"] == len(pictures)
    inverted = _check(edges, [-e for e in edges])
    nearly = _check(edges, [e + 0.02 * e.max() * rng.random(e.shape) for e in edges])
    for posing in (same, inverted, nearly):
        assert posing["passed"] is False
    for posing in (same, inverted):
        assert posing["spearman"]["value"] == pytest.approx(1)
    unlike = _check(edges, [rng.random(e.shape) for e in edges])
    assert unlike["passed"] is True
    assert sanity.format_verdict(unlike) == "passed"
    assert unlike["spearman"]["value"] == pytest.approx(0, abs=0.1)


def _blobs(images: int, noise: float, seed: int) -> list[np.ndarray]:
    """Bright in the middle, whatever the image and the network."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return [np.exp(-4 * (x**2 + y**2)) + noise * rng.random((64, 64)) for _ in range(images)]


@pytest.mark.parametrize("noise", [0, 0.01, 0.03])
def test_a_blob_in_the_middle_does_not_pass(noise: float) -> None:
    checked = _check(_blobs(12, noise, 0), _blobs(12, noise, 1))
    assert checked["images"] == 12
    assert checked["spearman"]["unrelated"] > 0.95
    assert checked["spearman"]["passed"] is checked["passed"] is None
    assert sanity.format_verdict(checked) == "no verdict"


def test_few_images_and_maps_without_contrast_give_no_verdict() -> None:
    trained, fresh = np.random.default_rng(0).random((2, sanity.MIN_IMAGES, 20, 20))
    assert _check(trained, fresh)["passed"] is True
    few = _check(trained[1:], fresh[1:])
    assert few["passed"] is few["ssim"]["passed"] is None
    assert sanity.format_verdict(few) == "no verdict"
    assert _check(trained[1:], trained[1:])["passed"] is None

    flat = np.zeros_like(trained)
    checked = _check(flat, flat)
    assert checked["images"] == 0
    assert checked["passed"] is checked["ssim"]["value"] is None
    assert sanity.format_verdict(checked) == "not measured"
    assert _check(trained, np.concatenate([trained[:6], flat[6:]]))["images"] == 5


def test_fresh_weights_explain_the_classes_asked_for(model, pictures: np.ndarray) -> None:
    keras.utils.set_random_seed(1)
    explain = Explainer(keras.models.clone_model(model))
    as_neutrophils, as_blasts, again = (
        [e.maps["gradient"] for e in explain(pictures[:5], ("gradient",), [code] * 5)]
        for code in ("NGS", "MYO", "NGS")
    )
    trained = [e.maps["gradient"] for e in Explainer(model)(pictures[:5], ("gradient",))]
    for one, other, own in zip(as_neutrophils, as_blasts, trained, strict=True):
        assert one.shape == own.shape
        assert not np.allclose(one, other)
        assert not np.allclose(one, own)
    np.testing.assert_allclose(again, as_neutrophils, atol=1e-5)


def test_images_are_chosen_evenly_by_class_and_the_same_every_time() -> None:
    labels = {f"NGS/{i}": "NGS" for i in range(50)} | {f"KSC/{i}": "KSC" for i in range(3)}
    chosen = choose_images(labels, 10)
    assert chosen == choose_images(dict(reversed(labels.items())), 10)
    assert [labels[i] for i in chosen] == ["NGS", "KSC"] * 3 + ["NGS"] * 4
    assert len({*chosen}) == 10
    assert sorted(choose_images(labels, 1000)) == sorted(labels)


@pytest.fixture(scope="module")
def scored(workdir: Path, smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scoring by the command, with exact masks."""
    out = tmp_path_factory.mktemp("scored")
    words = ("--score", "--model", workdir / "best.keras", "--out", out)
    done = run_module("leuko_tf.saliency", *words, "--masks", smear / "masks", "--images", 6)
    assert done.returncode == 0, done.stderr
    assert "6 of 30 SYNTHETIC images" in done.stdout
    assert "one draw of weights" in done.stdout
    assert "no verdict (6 images)" in done.stdout
    return out


def test_command_writes_figures_table_page_and_masks(scored: Path) -> None:
    names = ["focus.csv", "focus.html", "focus.json", "segmentation.png"]
    assert sorted(f.name for f in scored.iterdir()) == names
    written = [(scored / name).stat().st_mtime_ns for name in names]
    assert max(written[0], written[2]) <= written[1]  # figures are there if the page fails
    result = json.loads((scored / "focus.json").read_text())
    assert result["source"]["synthetic"] is True
    assert result["source"]["held_out"] is True
    counts = {"in_split": 30, "chosen": 6, "scored": 6, "further": 6}
    assert result["images"] == counts | {"without_mask": []}
    assert [*result["shares"]] == [*result["sanity"]] == [*METHODS]
    assert [result["sanity"][method]["passed"] for method in METHODS] == [None] * 3
    assert [*result["curves"]["methods"]] == [*METHODS, "random order"]
    table = pd.read_csv(scored / "focus.csv")
    assert len(table) == 6 * len(METHODS)
    np.testing.assert_allclose(table[SHARES].sum(axis=1).dropna(), 1, atol=1e-5)
    np.testing.assert_allclose(table[AREAS].sum(axis=1), 1, atol=1e-5)
    for method, rows in table.groupby("method"):
        share = result["shares"][method]["all"]["nucleus"]["share"]["value"]
        assert share == pytest.approx(rows["share_nucleus"].mean(), abs=1e-5)
        area = result["curves"]["methods"][method]["deletion"]["area"]
        assert area == pytest.approx(rows["deletion"].mean(), abs=1e-5)


def test_area_shares_are_those_of_the_exact_masks_as_far_as_the_network_sees(
    scored: Path, smear: Path, model
) -> None:
    field = model.get_layer(SCALING).field
    middle = slice((400 - field) // 2, (400 + field) // 2)
    for _, row in pd.read_csv(scored / "focus.csv").iterrows():
        with Image.open((smear / "masks" / row["id"]).with_suffix(".png")) as picture:
            exact = np.asarray(picture)[middle, middle]
        assert row["area_nucleus"] == pytest.approx((exact == NUCLEUS).mean(), abs=1e-5)
        assert row["area_background"] == pytest.approx((exact == BACKGROUND).mean(), abs=1e-5)


def test_page_says_that_cells_are_synthetic_and_that_it_is_for_research(scored: Path) -> None:
    page = (scored / "focus.html").read_text()
    for text in ("SYNTHETIC", "Research use only", "no verdict", "one draw of fresh weights"):
        assert text in page
    assert "FAILED" not in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "")  # needs nothing from elsewhere


@pytest.mark.skipif(browser.find_browser() is None, reason="no Chromium is installed")
def test_page_is_seen_whole_on_a_phone_and_on_a_desk(scored: Path) -> None:
    views = browser.look_at(scored / "focus.html")
    for view in views:
        assert view["scrollWidth"] <= view["width"]
        assert view["beyond"] == view["cut"] == []
        assert len(view["figures"]) == 3
        assert len(view["images"]) == 1
    assert views[-1]["wideTables"] == []


def test_cells_are_cut_to_what_the_network_sees_with_their_masks(data_dir: Path) -> None:
    builder = pipeline.open_dataset(DATASET, str(data_dir))
    labels = read_labels(builder, [1])
    ids = sorted(labels)[:3]
    whole = read_cells(builder, [1], ids, field=400)
    middle = read_cells(builder, [1], ids, field=200)
    assert [cell.id for cell in whole] == [cell.id for cell in middle] == ids
    for one, other in zip(whole, middle, strict=True):
        assert one.label == other.label == labels[one.id]
        assert other.label in CODES
        np.testing.assert_array_equal(other.image, one.image[100:300, 100:300])
        np.testing.assert_array_equal(other.mask, one.mask[100:300, 100:300])


@pytest.mark.parametrize(
    ("field", "factor"), [(400, 1.0), (399, 1.0), (399, 1.0025), (440, 1.1025), (401, 0.9)]
)
def test_cells_are_what_data_read_gives_also_of_odd_sides_and_above_400(
    field: int, factor: float, data_dir: Path, smear: Path
) -> None:
    builder = pipeline.open_dataset(DATASET, str(data_dir))
    images = {
        name.decode(): image
        for batch in pipeline.read_folds(builder, [1], field, factor=factor)
        for name, image in zip(batch["id"], batch["image"], strict=True)
    }
    ids = sorted(images)[::10]
    cells = read_cells(builder, [1], ids, field, factor, smear / "masks")
    assert len(cells) == len(ids)
    for cell in cells:
        np.testing.assert_array_equal(cell.image, images[cell.id])
        with Image.open((smear / "masks" / cell.id).with_suffix(".png")) as picture:
            sides = [round(400 * factor)] * 2
            exact = np.asarray(picture.resize(sides, Image.Resampling.NEAREST))
        middle = np.asarray(crop_center(exact[None, ..., None], field))[0, ..., 0]
        np.testing.assert_array_equal(cell.mask, middle)


def test_a_single_cell_is_refused_before_the_work(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    model = workdir / "best.keras"
    with pytest.raises(UserError, match=r"in 1 of 1 images, but scoring needs 2"):
        score(model, DATASET, str(data_dir), [1], tmp_path, masks=None, number=1)
    assert not [*tmp_path.iterdir()]


def test_masks_that_are_missing_or_no_masks_are_named(data_dir: Path, tmp_path: Path) -> None:
    builder = pipeline.open_dataset(DATASET, str(data_dir))
    first = min(read_labels(builder, [1]))
    mask = (tmp_path / first).with_suffix(".png")
    mask.parent.mkdir()

    def check_refusal(message: str) -> None:
        with pytest.raises(UserError, match=message):
            read_cells(builder, [1], [first], 400, masks=tmp_path)

    check_refusal(f"no mask .*{Path(first).stem}.png")
    Image.new("L", (400, 400), 255).save(mask)
    check_refusal("is not a mask")
    mask.write_bytes(b"no image")
    check_refusal("is not an image that can be read")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "cell.png"], "takes its images from a data set"),
        (["--score", "--images", "1"], "--images takes 2 or more"),
        (["--score", "--masks", "nowhere"], "--masks nowhere is not a folder"),
        (["--score", "--split", "fold_7"], "--split takes fold_1 to fold_5"),
        (["--score"], "give --dataset and --split"),
        (["--images", "5", "cell.png"], "belong to --score"),
        ([], "Name images to draw, or give --score"),
    ],
)
def test_wrong_words_end_in_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ["--model", str(tmp_path / "best.keras"), "--out", str(tmp_path / "out")]
    if "fold_7" in words:
        model += ["--dataset", DATASET]
    monkeypatch.setattr(sys, "argv", ["saliency", *model, *words])
    with pytest.raises(UserError, match=message):
        main()
    assert not (tmp_path / "out").exists()
