from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leuko_tf.classes import CODES
from leuko_tf.focus.segmentation import estimate_plasma_colour, segment
from tfds_aml.images import read_tiff
from tfds_aml.synthetic_smear.drawing import BACKGROUND, CYTOPLASM, NUCLEUS, draw_cell

# Lower bars: an eosinophil's granules can have the red cells' colour, a smudge cell has no edge,
# and a basophil's granules hide its nucleus.
CELL_BAR = {"EOS": 0.85, "KSC": 0.88}
NUCLEUS_BAR = {"BAS": 0.70}


def _dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * (one & other).sum() / (one.sum() + other.sum())


@pytest.mark.parametrize("code", CODES)
def test_drawn_cells_agree_with_their_exact_masks(code: str) -> None:
    rng = np.random.default_rng([7, CODES.index(code)])
    cells, nuclei = [], []
    for _ in range(3):
        image, exact = draw_cell(code, rng)
        mask = segment(image)
        assert mask is not None
        assert mask.dtype == np.uint8
        assert mask.shape == exact.shape
        cells.append(_dice(mask != BACKGROUND, exact != BACKGROUND))
        nuclei.append(_dice(mask == NUCLEUS, exact == NUCLEUS))
    assert np.mean(cells) > CELL_BAR.get(code, 0.94)
    assert np.mean(nuclei) > NUCLEUS_BAR.get(code, 0.93)


def test_a_neighbour_that_does_not_touch_is_background() -> None:
    rng = np.random.default_rng(3)
    image, exact = draw_cell("LYT", rng)
    other, of_other = draw_cell("MYO", rng)
    # The neighbour's left half, at the right edge of the image.
    there = of_other[:, 150:250] != BACKGROUND
    image[:, 300:][there] = other[:, 150:250][there]
    mask = segment(image)
    assert mask is not None
    assert not (mask[:, 330:] != BACKGROUND).any()
    assert _dice(mask != BACKGROUND, exact != BACKGROUND) > 0.9


def test_images_without_a_leukocyte_in_the_middle_have_no_mask() -> None:
    image, exact = draw_cell("NGS", np.random.default_rng(1))
    plasma = estimate_plasma_colour(image)
    assert segment(np.full_like(image, 255)) is None
    assert segment(np.zeros_like(image)) is None
    only_red_cells = np.where((exact == BACKGROUND)[..., None], image, plasma.astype(np.uint8))
    assert segment(only_red_cells) is None
    at_the_edge = np.roll(image, 190, axis=1)
    assert segment(at_the_edge) is None


def test_plasma_is_the_colour_between_the_cells() -> None:
    image = np.full((20, 20, 3), (240, 235, 230), np.uint8)
    image[:12] = (90, 40, 120)
    np.testing.assert_array_equal(estimate_plasma_colour(image), (240, 235, 230))


def test_real_cells_of_munich_are_found_and_sized_as_they_are(shared: Path) -> None:
    munich = shared / "data" / "aml_lmu" / "images"
    cell_area = {}
    for code in ("NGS", "LYT", "MON", "PMO", "EBO"):
        masks = [segment(read_tiff(file)) for file in sorted((munich / code).iterdir())[:4]]
        assert all(mask is not None for mask in masks)
        cell_area[code] = np.median([(mask != BACKGROUND).mean() for mask in masks])
        assert 0.03 < cell_area[code] < 0.5
    assert cell_area["LYT"] < cell_area["MON"]
    assert cell_area["EBO"] < cell_area["PMO"]


def test_neutrophils_of_barcelona_have_pale_cytoplasm_around_a_dark_nucleus(shared: Path) -> None:
    folder = shared / "data" / "pbc_barcelona" / "PBC_dataset_normal_DIB" / "neutrophil"
    for file in sorted(folder.glob("SNE_*.jpg"))[:6]:
        image = np.asarray(Image.open(file).convert("RGB"))
        mask = segment(image)
        assert mask is not None
        light = image.sum(axis=-1)
        assert light[mask == NUCLEUS].mean() < light[mask == CYTOPLASM].mean() - 150
        assert 0.2 < (mask == NUCLEUS).sum() / (mask != BACKGROUND).sum() < 0.7
        assert 0.05 < (mask != BACKGROUND).mean() < 0.35
