"""Which pixels of a single-cell image are the leukocyte's nucleus, its cytoplasm, or background.

No training and no learning, so that it can judge a network: colour unmixing and thresholds, for
Romanowsky stains (Pappenheim, May-Gruenwald-Giemsa) at 0.07 to 0.1 µm a pixel.

1. Optical densities, -log(pixel / plasma), after Beer and Lambert; plasma is the brightest fifth.
2. Nuclei are the upper of three classes of density in red and green (Otsu 1979, of many classes).
3. Red cells are what else is coloured, away from nuclei. Their median colour and the nuclei's are
   the image's two stain vectors (colour deconvolution; Ruifrok and Johnston 2001, Anal. Quant.
   Cytol. Histol. 23:291). The amount of the second is the dye: red cells have none, cytoplasm has.
4. The cell is the dyed region around the middle of the image. If it is not convex, neighbours that
   touch it are cut off where it is narrow (watershed of the distance to its edge).

Good enough for shares of areas and of saliency, not for measuring cells: very pale or torn
cytoplasm, smudge cells and nuclei under dense granules come out roughly.
"""

import numpy as np
from scipy import ndimage
from skimage import filters, measure, morphology
from skimage.segmentation import watershed

BACKGROUND, CYTOPLASM, NUCLEUS = 0, 1, 2  # values of a mask, as of the synthetic smear's
REGIONS = ("background", "cytoplasm", "nucleus")  # their names, by value

# Chosen by eye on 161 images of Munich and some 200 of Barcelona.
_BLUR = 2.0  # px; granules and chromatin are finer
_DENSEST = 2.0  # what lies above, in black pixels, is the camera's noise
_NUCLEUS_DENSITY = 0.6  # in red and green together; red cells reach 0.5, nuclei start at 1
_COLOURED = 0.12  # length of the densities; plasma lies below
# px from nuclei to red cells, which leaves out the cytoplasm; the first with enough of them.
_AWAY = (90, 50, 15)
_ENOUGH = 0.02  # of the image's area
_DYED = 2.0  # times the dye's spread over red cells
_DYED_AT_LEAST = 0.04  # of the nucleus' dye
# Eosinophil granules can be redder than red cells, on the other side of them than chromatin.
_EOSIN = 4.0
_EOSIN_AT_LEAST = 0.06
_NUCLEOLUS = 700  # px; smaller holes of a nucleus belong to it
_GRANULES = 150  # px; smaller pieces are none of it
_CONVEX = 0.9  # area over that of the convex hull
_CENTRE = 0.12  # standard deviation of the weight that tells the middle, as a share of the side
_SMALLEST = 0.005  # of the image's area; an erythroblast takes 2 %


def segment(image: np.ndarray) -> np.ndarray | None:
    """Finds the leukocyte in the middle of an image.

    Args:
      image: uint8 array [height, width, 3], some 400 px on a side.

    Returns:
      uint8 array [height, width] of `BACKGROUND`, `CYTOPLASM` and `NUCLEUS`; neighbours are
      background. None if there is no nucleus in the middle of the image, or nothing sensible.
    """
    densities = _optical_densities(image)
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
    stained = _stained(densities, dark < nuclear_from, nuclei)
    cell = _without_neighbours(_central(stained), nuclei)
    nucleus = _smoothed(cell & (dark > nuclear_from))
    if not nucleus.any() or cell.mean() < _SMALLEST or not _in_the_middle(nucleus):
        return None
    mask = np.where(cell, CYTOPLASM, BACKGROUND).astype(np.uint8)
    mask[nucleus] = NUCLEUS
    return mask


def plasma_colour(image: np.ndarray) -> np.ndarray:
    """The colour between the cells: the median of the brightest fifth of the pixels.

    Args:
      image: uint8 or float array [height, width, 3].

    Returns:
      float array [3], 0 to 255.
    """
    light = image.sum(axis=-1, dtype=np.float64)
    return np.median(image[light >= np.quantile(light, 0.8)], axis=0)


def _optical_densities(image: np.ndarray) -> np.ndarray:
    """Float array [height, width, 3]."""
    smooth = filters.gaussian(image.astype(np.float64), _BLUR, channel_axis=-1)
    densities = -np.log(np.maximum(smooth, 1) / np.maximum(plasma_colour(smooth), 1))
    return np.clip(densities, -0.1, _DENSEST)


def _stained(densities: np.ndarray, pale: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """Where there is dye, and not haemoglobin alone: bool array [height, width]."""
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
        # What of the nucleus' colour is not the red cells': least squares in the plane of the two.
        own = chromatin - (chromatin @ haemoglobin) * haemoglobin
        dye = densities @ own / max(chromatin @ own, 1e-6)
        spread = 1.4826 * np.median(np.abs(dye[red] - np.median(dye[red])))
        found = dye > max(_DYED * spread, _DYED_AT_LEAST)
        found |= -dye > max(_EOSIN * spread, _EOSIN_AT_LEAST)
    found = morphology.isotropic_closing(found | nuclei, 5)
    return morphology.isotropic_opening(ndimage.binary_fill_holes(found), 9)


def _without_neighbours(cells: np.ndarray, nuclei: np.ndarray) -> np.ndarray:
    """The central cell of a region, where several may touch."""
    if not cells.any() or measure.regionprops(cells.astype(np.uint8))[0].solidity >= _CONVEX:
        return cells
    depth = filters.gaussian(ndimage.distance_transform_edt(cells), _BLUR)
    pieces = watershed(-depth, measure.label(morphology.h_maxima(depth, 4)), mask=cells)
    nucleus = _central(nuclei & cells)
    shares = np.bincount(pieces[nucleus], minlength=pieces.max() + 1) / max(nucleus.sum(), 1)
    return _central(pieces) | (cells & np.isin(pieces, np.flatnonzero(shares > 0.25)))


def _smoothed(nucleus: np.ndarray) -> np.ndarray:
    """Without ragged edges, gaps between chromatin, and granules."""
    smooth = morphology.opening(
        morphology.closing(nucleus, morphology.disk(3)) & nucleus.any(), morphology.disk(3)
    )
    smooth = ndimage.binary_fill_holes(smooth) & ~_larger(
        ndimage.binary_fill_holes(smooth) ^ smooth, 400
    )
    return _larger(smooth, 150)


def _larger(region: np.ndarray, pixels: int) -> np.ndarray:
    """The parts of a region that have more pixels."""
    labels = measure.label(region)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return sizes[labels] > pixels


def _central(regions: np.ndarray) -> np.ndarray:
    """The part of a region, or the labelled one, with the most weight around the image's middle."""
    labels = measure.label(regions) if regions.dtype == bool else regions
    height, width = labels.shape
    y, x = np.ogrid[:height, :width]
    squares = (y - height / 2) ** 2 + (x - width / 2) ** 2
    weight = np.exp(-squares / (2 * (_CENTRE * height) ** 2))
    weights = np.bincount(labels.ravel(), weight.ravel())
    weights[0] = 0
    return (labels == weights.argmax()) & (labels > 0)


def _in_the_middle(nucleus: np.ndarray) -> bool:
    """Whether some of it lies in the middle ninth of the image."""
    height, width = nucleus.shape
    return bool(nucleus[height // 3 : -(-2 * height // 3), width // 3 : -(-2 * width // 3)].any())
