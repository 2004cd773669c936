"""Segments a single-cell image: nucleus and cytoplasm of the leukocyte, and background.

Uses colour unmixing and thresholds, nothing learned, so that it can judge a network. Made for
Romanowsky stains (Pappenheim, May-Gruenwald-Giemsa) at 0.07 to 0.1 µm a pixel.

1. Optical densities are -log(pixel / plasma), after Beer and Lambert. Plasma is the colour of the
   brightest fifth.
2. Nuclei are the upper of three classes of density in red and green (multi-class Otsu 1979).
3. Red cells are the other coloured pixels, away from nuclei. Their median colour and the nuclei's
   are the image's two stain vectors (colour deconvolution; Ruifrok and Johnston 2001, Anal. Quant.
   Cytol. Histol. 23:291). The amount of the second is the dye, which cytoplasm has and red cells
   have not.
4. The cell is the dyed region around the middle of the image. If it is not convex, neighbours that
   touch it are cut off where it is narrow (watershed of the distance to its edge).

Good enough for shares of area and saliency, not for measuring cells: very pale or torn cytoplasm,
smudge cells and nuclei under dense granules are segmented roughly.
"""

import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology
from skimage.segmentation import watershed

from tfds_aml.synthetic_smear.drawing import BACKGROUND, CYTOPLASM, NUCLEUS

REGIONS = ("background", "cytoplasm", "nucleus")  # by the value in a mask

# Chosen by eye on 161 images of Munich and some 200 of Barcelona.
_BLUR = 2.0  # px; granules and chromatin are finer
_MAX_DENSITY = 2.0  # above it, black pixels differ by camera noise only
_NUCLEUS_DENSITY = 0.6  # in red and green together; red cells reach 0.5, nuclei start at 1
_COLOURED = 0.12  # length of the density vector; plasma lies below
# px from nuclei to red cells, to skip the cytoplasm; the first that leaves enough of them.
_AWAY = (90, 50, 15)
_ENOUGH = 0.02  # of the image's area
_DYED = 2.0  # times the spread of the dye over red cells
_MIN_DYED = 0.04  # of the nucleus' dye
# Eosinophil granules can be redder than red cells: their dye is below 0, chromatin's above.
_EOSIN = 4.0
_MIN_EOSIN = 0.06
_HOLES = 400  # px; larger holes do not belong to the nucleus
_GRANULES = 150  # px; smaller pieces do not belong to the nucleus
_CONVEX = 0.9  # area over that of the convex hull
_CENTRE = 0.12  # standard deviation of the weight of the middle, as a share of the side
_MIN_CELL = 0.005  # of the image's area; an erythroblast takes 2 %


def segment(image: np.ndarray) -> np.ndarray | None:
    """Finds the leukocyte in the middle of an image.

    Args:
      image: uint8 array [height, width, 3], about 400 px on a side.

    Returns:
      uint8 array [height, width] of `BACKGROUND`, `CYTOPLASM` and `NUCLEUS`; other cells are
      background. None if no nucleus is found in the middle of the image, or no cell around it.
    """
    densities = _compute_densities(image)
    dark = filters.gaussian(densities[..., 0] + densities[..., 1], _BLUR)
    try:
        _, nuclear_from = filters.threshold_multiotsu(dark, 3)
    except ValueError:  # fewer than three different values
        return None
    if nuclear_from < _NUCLEUS_DENSITY:
        return None
    nuclei = morphology.isotropic_opening(dark > nuclear_from, 4)
    if not nuclei.any():
        return None
    dyed = _find_dyed(densities, dark < nuclear_from, nuclei)
    cell = _cut_off_neighbours(_select_central(dyed), nuclei)
    nucleus = _smooth_nucleus(cell & (dark > nuclear_from))
    if cell.mean() < _MIN_CELL or not _is_in_the_middle(nucleus):
        return None
    mask = np.where(cell, CYTOPLASM, BACKGROUND).astype(np.uint8)
    mask[nucleus] = NUCLEUS
    return mask


def estimate_plasma_colour(image: np.ndarray) -> np.ndarray:
    """Estimates the colour between the cells, float [3]: the median of the brightest fifth."""
    light = image.sum(axis=-1, dtype=np.float64)
    return np.median(image[light >= np.quantile(light, 0.8)], axis=0)


def _compute_densities(image: np.ndarray) -> np.ndarray:
    """Optical densities, float array [height, width, 3]."""
    smooth = filters.gaussian(image.astype(np.float64), _BLUR, channel_axis=-1)
    densities = -np.log(np.maximum(smooth, 1) / np.maximum(estimate_plasma_colour(smooth), 1))
    return np.clip(densities, -0.1, _MAX_DENSITY)


def _find_dyed(densities: np.ndarray, pale: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Pixels with dye, not only haemoglobin: bool array [height, width]."""
    length = np.linalg.norm(densities, axis=-1)
    from_nuclei = ndimage.distance_transform_edt(~nuclei)
    coloured = pale & (length > _COLOURED)
    for away in _AWAY:
        red = coloured & (from_nuclei > away)
        if red.mean() > _ENOUGH:
            break
    dye = densities.sum(axis=-1)
    found = dye > 3 * _COLOURED
    if red.any():
        haemoglobin = np.median(densities[red] / length[red][:, None], axis=0)
        haemoglobin /= np.linalg.norm(haemoglobin)
        chromatin = np.median(densities[nuclei], axis=0)
        # The part of the nucleus' colour that red cells do not have: least squares in the plane of
        # the two colours.
        own = chromatin - (chromatin @ haemoglobin) * haemoglobin
        dye = densities @ own / max(chromatin @ own, 1e-6)
        spread = 1.4826 * np.median(np.abs(dye[red] - np.median(dye[red])))
        found = dye > max(_DYED * spread, _MIN_DYED)
        found |= -dye > max(_EOSIN * spread, _MIN_EOSIN)
    found = morphology.isotropic_closing(found | nuclei, 5)
    return morphology.isotropic_opening(ndimage.binary_fill_holes(found), 9)


def _cut_off_neighbours(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """The central cell of a region of cells that may touch."""
    if not cells.any() or measure.regionprops(cells.astype(np.uint8))[0].solidity >= _CONVEX:
        return cells
    depth = filters.gaussian(ndimage.distance_transform_edt(cells), _BLUR)
    pieces = watershed(-depth, measure.label(morphology.h_maxima(depth, 4)), mask=cells)
    nucleus = _select_central(nuclei & cells)
    shares = np.bincount(pieces[nucleus], minlength=pieces.max() + 1) / max(nucleus.sum(), 1)
    return _select_central(pieces) | (cells & np.isin(pieces, np.flatnonzero(shares > 0.25)))


def _smooth_nucleus(nucleus: np.ndarray) -> np.ndarray:
    """Removes ragged edges, gaps in the chromatin, and granules."""
    disk = morphology.disk(3)
    smooth = morphology.opening(morphology.closing(nucleus, disk), disk)
    filled = ndimage.binary_fill_holes(smooth)
    holes = morphology.remove_small_objects(filled ^ smooth, max_size=_HOLES, connectivity=2)
    return morphology.remove_small_objects(filled & ~holes, max_size=_GRANULES, connectivity=2)


def _select_central(regions: np.ndarray) -> np.ndarray:
    """The connected part, or labelled region, with the most weight around the image's middle."""
    labels = measure.label(regions) if regions.dtype == bool else regions
    height, width = labels.shape
    y, x = np.ogrid[:height, :width]
    squares = (y - height / 2) ** 2 + (x - width / 2) ** 2
    weight = np.exp(-squares / (2 * (_CENTRE * height) ** 2))
    weights = np.bincount(labels.ravel(), weight.ravel())
    weights[0] = 0
    return (labels == weights.argmax()) & (labels > 0)


def _is_in_the_middle(nucleus: np.ndarray) -> bool:
    """Whether a part of it lies in the middle ninth of the image."""
    height, width = nucleus.shape
    return bool(nucleus[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)].any())
