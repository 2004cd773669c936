"""The parts on hand-made maps, masks and networks; the command once, on a tiny network."""

import json
import subprocess
import sys
from pathlib import Path

import browser
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.methods import METHODS
from leuko_tf.focus import perturbation, sanity
from leuko_tf.focus.cells import choose, read_cells
from leuko_tf.focus.segmentation import BACKGROUND, CYTOPLASM, NUCLEUS, REGIONS
from leuko_tf.focus.shares import (
    AREAS,
    ELSEWHERE,
    SHARES,
    intervals_of_means,
    one_hot,
    share_figures,
    shares_of,
)

# A cell of 4x4 pixels: the nucleus takes 2 of 16, the cytoplasm 6, the background 8.
MASK = np.array([[0, 0, 0, 0], [1, 1, 1, 0], [1, 2, 1, 0], [1, 2, 0, 0]], np.uint8)


def test_shares_are_sums_over_the_regions() -> None:
    saliency = np.where(MASK == NUCLEUS, 3.0, np.where(MASK == CYTOPLASM, 0.5, 0.125))
    assert REGIONS == ("background", "cytoplasm", "nucleus")
    regions = one_hot(MASK)
    np.testing.assert_allclose(shares_of(saliency, regions), [0.1, 0.3, 0.6])
    np.testing.assert_allclose(shares_of(np.ones((4, 4)), regions), [8 / 16, 6 / 16, 2 / 16])
    assert np.isnan(shares_of(np.zeros((4, 4)), regions)).all()
    elsewhere = one_hot(np.zeros_like(MASK))
    np.testing.assert_allclose(shares_of(saliency, regions + elsewhere), [0.55, 0.15, 0.3])


def _rows(labels: list[str], answers: list[str], nucleus: list[float]) -> pd.DataFrame:
    values = np.array([[0.2, 0.8 - n, n, 0.8, 0.1, 0.1, 0.5, 0.3, 0.2] for n in nucleus])
    table = pd.DataFrame(values, columns=SHARES + AREAS + ELSEWHERE)
    return table.assign(label=labels, answer=answers)


def test_share_figures_by_class_and_for_right_and_wrong_answers() -> None:
    rows = _rows(["NGS", "NGS", "MYO", "MYO"], ["NGS", "MYO", "MYO", "MYO"], [0.2, 0.8, 0.3, 0.5])
    figures = share_figures(rows)
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
    figures = share_figures(rows)
    assert figures["all"]["images"] == 1
    assert figures["all"]["cytoplasm"]["ratio"] == {"value": None, "interval": None}
    assert figures["wrong"]["images"] == 0
    assert figures["wrong"]["nucleus"]["share"]["value"] is None
    json.dumps(figures, allow_nan=False)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    ends = intervals_of_means(rng.normal(5, 1, (60, 100)))
    covered = (ends[:, 0] < 5) & (ends[:, 1] > 5)
    assert 88 <= covered.sum() <= 100
    assert np.isnan(intervals_of_means(np.ones((1, 2)))).all()


def test_insertion_and_deletion_by_hand() -> None:
    """A network that answers by one pixel, which the map puts at the fourth of four places."""
    image = np.full((10, 10, 3), 250, np.uint8)
    image[0, :4] = 0  # four dark pixels; the rest is plasma

    def predict(images: np.ndarray) -> np.ndarray:
        return (images[:, 0, 3, :1] == 0).astype(np.float64)

    saliency = np.zeros((10, 10))
    saliency[0, :4] = (4, 3, 2, 1)
    rng = np.random.default_rng(0)
    order = perturbation.pixel_order(saliency, 10, rng)
    assert order[:4].tolist() == [0, 1, 2, 3]
    assert sorted(order) == [*range(100)]
    insertion, deletion = perturbation.curves(predict, image, order, 0, steps=50)
    # After k of 50 steps 2k pixels have changed: the fourth with the second step.
    assert insertion.tolist() == [0, 0] + 49 * [1]
    assert deletion.tolist() == [1, 1] + 49 * [0]
    assert perturbation.area(deletion) == pytest.approx(1.5 / 50)
    assert perturbation.area(insertion) == pytest.approx(1 - 1.5 / 50)


def test_equal_pixels_are_not_taken_row_by_row() -> None:
    order = perturbation.pixel_order(np.zeros((30, 30)), 30, np.random.default_rng(0))
    assert sorted(order) == [*range(900)]
    assert 0.4 < (order[:450] < 450).mean() < 0.6


@pytest.mark.parametrize(("side", "size"), [(40, 8), (34, 8), (8, 20)])
def test_the_network_s_own_pixels_go_one_by_one(side: int, size: int) -> None:
    order = perturbation.pixel_order(np.zeros((side, side)), size, np.random.default_rng(0))
    assert sorted(order) == [*range(side * side)]
    numbered = Image.fromarray(np.arange(size * size, dtype=np.int32).reshape(size, size))
    own = np.asarray(numbered.resize((side, side), Image.Resampling.NEAREST)).ravel()
    changes = 1 + (np.diff(own[order]) != 0).sum()
    assert changes == len(np.unique(own)) == min(side, size) ** 2


def test_the_random_order_deletes_and_does_not_fade() -> None:
    """Half deleted, the network's input holds pixels of the cell and of the empty field."""
    from leuko_tf.network.view import to_network_input

    image = np.zeros((400, 400, 3), np.uint8)
    image[:200] = 240  # the field's colour; the lower half is the cell
    inputs = []

    def predict(images: np.ndarray) -> np.ndarray:
        inputs.extend(np.asarray(to_network_input(images, 400, 96)))
        return np.zeros((len(images), 1))

    order = perturbation.pixel_order(np.zeros((400, 400)), 96, np.random.default_rng(0))
    perturbation.curves(predict, image, order, 0, steps=2)
    half = inputs[1][60:, :, 0]
    assert half.mean() == pytest.approx(120, abs=12)
    assert half.std() > 60  # of pixels taken one by one it would be below 30


def test_curves_are_compared_with_the_random_order_of_the_same_images() -> None:
    early, late = np.array([0, 1, 1.0]), np.array([0, 0, 1.0])
    both = {"insertion": np.stack([early, early]), "deletion": np.stack([late, late])}
    by_chance = {name: np.stack([late, early]) for name in perturbation.CURVES}
    figures = perturbation.curve_figures({"map": both, perturbation.RANDOM: by_chance})
    insertion = figures["methods"]["map"]["insertion"]
    assert insertion["curve"] == [0, 1, 1]
    assert insertion["area"] == pytest.approx(0.75)
    assert insertion["minus_random"] == pytest.approx(0.25)
    assert figures["methods"]["map"]["deletion"]["minus_random"] == pytest.approx(-0.25)


@pytest.fixture(scope="module")
def pictures(smear: Path) -> np.ndarray:
    files = [smear / code / f"{code}_0001.tiff" for code in CODES]
    return np.stack([np.asarray(Image.open(f).convert("RGB").resize((96, 96))) for f in files])


def test_an_edge_detector_fails_and_unlike_maps_pass(pictures: np.ndarray) -> None:
    from skimage.filters import sobel

    edges = [sobel(image.mean(axis=-1)) for image in pictures]
    posing = sanity.check(sanity.compare(edges, edges))
    assert posing["spearman"]["value"] == pytest.approx(1)
    assert posing["ssim"]["value"] == pytest.approx(1)
    assert posing["images"] == len(pictures)
    assert posing["passed"] is False
    inverted = sanity.check(sanity.compare(edges, [-e for e in edges]))
    assert inverted["spearman"]["value"] == pytest.approx(1)
    assert inverted["passed"] is False
    # Nor does one that the weights change a little.
    rng = np.random.default_rng(0)
    nearly = [e + 0.02 * e.max() * rng.random(e.shape) for e in edges]
    assert sanity.check(sanity.compare(edges, nearly))["passed"] is False
    noise = [rng.random(e.shape) for e in edges]
    unlike = sanity.check(sanity.compare(edges, noise))
    assert unlike["passed"] is True
    assert sanity.verdict(unlike) == "passed"
    assert unlike["spearman"]["value"] == pytest.approx(0, abs=0.1)


def _blobs(images: int, noise: float, seed: int) -> list[np.ndarray]:
    """Bright in the middle, whatever the image and the network."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    return [np.exp(-4 * (x**2 + y**2)) + noise * rng.random((64, 64)) for _ in range(images)]


@pytest.mark.parametrize("noise", [0, 0.01, 0.03])
def test_a_blob_in_the_middle_does_not_pass(noise: float) -> None:
    checked = sanity.check(sanity.compare(_blobs(12, noise, 0), _blobs(12, noise, 1)))
    assert checked["images"] == 12
    assert checked["spearman"]["unrelated"] > 0.95
    assert checked["spearman"]["passed"] is checked["passed"] is None
    assert sanity.verdict(checked) == "cannot tell"


def test_few_images_tell_nothing() -> None:
    rng = np.random.default_rng(0)
    trained, fresh = rng.random((2, sanity.FEWEST, 20, 20))
    assert sanity.check(sanity.compare(trained, fresh))["passed"] is True
    few = sanity.check(sanity.compare(trained[1:], fresh[1:]))
    assert few["passed"] is few["ssim"]["passed"] is None
    assert sanity.verdict(few) == "cannot tell"
    assert sanity.check(sanity.compare(trained[1:], trained[1:]))["passed"] is None


def test_maps_without_contrast_are_not_measured() -> None:
    flat = [np.zeros((20, 20))] * 12
    checked = sanity.check(sanity.compare(flat, flat))
    assert checked["images"] == 0
    assert checked["passed"] is None
    assert checked["ssim"]["value"] is None
    assert sanity.verdict(checked) == "not measured"
    noise = [*np.random.default_rng(0).random((12, 20, 20))]
    assert sanity.check(sanity.compare(noise, [*noise[:6], *flat[6:]]))["images"] == 5


def test_fresh_weights_explain_the_classes_asked_for(workdir: Path, pictures: np.ndarray) -> None:
    import keras

    from leuko_tf.network.loading import load_model

    keras.utils.set_random_seed(1)
    model = load_model(workdir / "best.keras")
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
    chosen = choose(labels, 10)
    assert chosen == choose(dict(reversed(labels.items())), 10)
    assert [labels[i] for i in chosen] == ["NGS", "KSC"] * 3 + ["NGS"] * 4
    assert len({*chosen}) == 10
    assert sorted(choose(labels, 1000)) == sorted(labels)


@pytest.fixture(scope="module")
def scored(workdir: Path, smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a scoring by the command, with exact masks."""
    out = tmp_path_factory.mktemp("scored")
    words = ["-m", "leuko_tf.saliency", "--score", "--model", workdir / "best.keras"]
    options = ["--out", out, "--masks", smear / "masks", "--images", "6"]
    done = subprocess.run(
        [sys.executable, *words, *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "6 of 30 SYNTHETIC images" in done.stdout
    assert "fresh weights give other maps (one draw of them)" in done.stdout
    assert "cannot tell (6 images)" in done.stdout
    assert "Traceback" not in done.stderr
    return out


def test_command_writes_figures_table_page_and_masks(scored: Path) -> None:
    names = ["focus.csv", "focus.html", "focus.json", "segmentation.png"]
    assert sorted(f.name for f in scored.iterdir()) == names
    written = [(scored / name).stat().st_mtime_ns for name in names]
    assert max(written[0], written[2]) <= written[1]  # figures are there if the page fails
    result = json.loads((scored / "focus.json").read_text())
    assert result["source"]["synthetic"] is True
    assert result["source"]["held_out"] is True
    assert result["images"] == {
        "in_split": 30,
        "chosen": 6,
        "scored": 6,
        "further": 6,
        "without_mask": [],
    }
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
    scored: Path, smear: Path, workdir: Path
) -> None:
    from leuko_tf.network.loading import load_model
    from leuko_tf.network.resnext import SCALING

    field = load_model(workdir / "best.keras").get_layer(SCALING).field
    to_network_input = slice((400 - field) // 2, (400 + field) // 2)
    for _, row in pd.read_csv(scored / "focus.csv").iterrows():
        with Image.open((smear / "masks" / row["id"]).with_suffix(".png")) as picture:
            exact = np.asarray(picture)[to_network_input, to_network_input]
        assert row["area_nucleus"] == pytest.approx((exact == NUCLEUS).mean(), abs=1e-5)
        assert row["area_background"] == pytest.approx((exact == BACKGROUND).mean(), abs=1e-5)


def test_page_says_that_cells_are_synthetic_and_that_it_is_for_research(scored: Path) -> None:
    page = (scored / "focus.html").read_text()
    assert "SYNTHETIC" in page
    assert "Research use only" in page
    assert "cannot tell" in page
    assert "FAILED" not in page
    assert "one draw of fresh weights" in page
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org", "")  # needs nothing from elsewhere


@pytest.mark.skipif(browser.chromium() is None, reason="no Chromium is installed")
def test_page_is_seen_whole_on_a_phone_and_on_a_desk(scored: Path) -> None:
    views = browser.look_at(scored / "focus.html")
    for view in views:
        assert view["scrollWidth"] <= view["width"]
        assert view["beyond"] == view["cut"] == []
        assert len(view["figures"]) == 3
        assert len(view["images"]) == 1
    assert views[-1]["wideTables"] == []


def test_cells_are_cut_to_what_the_network_sees_with_their_masks(data_dir: Path) -> None:
    from leuko_tf.data.pipeline import open_dataset
    from leuko_tf.focus.cells import labels_of

    builder = open_dataset("aml_cytomorphology_lmu/complete", str(data_dir))
    labels = labels_of(builder, [1])
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
    from leuko_tf.data import pipeline
    from leuko_tf.network.view import crop_center

    builder = pipeline.open_dataset("aml_cytomorphology_lmu/complete", str(data_dir))
    images = {
        name.decode(): image
        for batch in pipeline.read_folds(builder, [1], field, factor=factor)
        for name, image in zip(batch["id"], batch["image"], strict=True)
    }
    ids = sorted(images)[::10]
    for cell in read_cells(builder, [1], ids, field, factor, smear / "masks"):
        np.testing.assert_array_equal(cell.image, images[cell.id])
        with Image.open((smear / "masks" / cell.id).with_suffix(".png")) as picture:
            sides = [round(400 * factor)] * 2
            exact = np.asarray(picture.resize(sides, Image.Resampling.NEAREST))
        to_network_input = np.asarray(crop_center(exact[None, ..., None], field))[0, ..., 0]
        np.testing.assert_array_equal(cell.mask, to_network_input)


def test_a_single_cell_is_refused_before_the_work(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    from leuko_tf.focus.score import score

    with pytest.raises(UserError, match="in 1 of 1 images; a scoring needs 2"):
        score(
            workdir / "best.keras",
            "aml_cytomorphology_lmu/complete",
            str(data_dir),
            [1],
            tmp_path,
            masks=None,
            number=1,
        )
    assert not [*tmp_path.iterdir()]


def test_masks_that_are_missing_or_no_masks_are_named(data_dir: Path, tmp_path: Path) -> None:
    from leuko_tf.data.pipeline import open_dataset
    from leuko_tf.focus.cells import labels_of

    builder = open_dataset("aml_cytomorphology_lmu/complete", str(data_dir))
    first = min(labels_of(builder, [1]))
    with pytest.raises(UserError, match=f"No mask .*{Path(first).stem}.png"):
        read_cells(builder, [1], [first], 400, masks=tmp_path)
    mask = (tmp_path / first).with_suffix(".png")
    mask.parent.mkdir()
    Image.new("L", (400, 400), 255).save(mask)
    with pytest.raises(UserError, match="is no mask"):
        read_cells(builder, [1], [first], 400, masks=tmp_path)
    mask.write_bytes(b"no image")
    with pytest.raises(UserError, match="is not an image that can be read"):
        read_cells(builder, [1], [first], 400, masks=tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--score", "cell.png"], "takes its images from a data set"),
        (["--score", "--images", "1"], "--images takes 2 or more"),
        (["--score", "--masks", "nowhere"], "--masks nowhere is no folder"),
        (["--score", "--split", "fold_7"], "--split takes fold_1 to fold_5"),
        (["--score"], "give --dataset and --split"),
        (["--images", "5", "cell.png"], "belong to --score"),
        ([], "Name images to draw, or --score"),
    ],
)
def test_wrong_words_end_in_one_message(
    words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from leuko_tf.saliency import main

    model = ["--model", str(tmp_path / "best.keras"), "--out", str(tmp_path / "out")]
    if "fold_7" in words:
        model += ["--dataset", "aml_cytomorphology_lmu/complete"]
    monkeypatch.setattr(sys, "argv", ["saliency", *model, *words])
    with pytest.raises(UserError, match=message):
        main()
    assert not (tmp_path / "out").exists()
