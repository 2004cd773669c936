"""Banks of random texture, made once per process from a fixed seed and cropped at random.

Filtering new noise for each image would take most of the drawing time; a random, randomly mirrored
crop costs nothing and looks new.

Everything is drawn at half the final resolution, `GRID_PER_UM` pixels per µm. A pixel of 0.14 µm is
below the resolution of a light microscope with an oil objective (about 0.22 µm, remembered textbook
figure), so a finer grid would show nothing more.
"""

from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_aml.synthetic_smear.morphology import PIXELS_PER_UM

Field = NDArray[np.float32]
Canvas = NDArray[np.uint8]  # masks and images
Points = NDArray[np.float64]  # (n, 2) or (2,), of x, y
Rng = np.random.Generator

GRID_PER_UM = PIXELS_PER_UM / 2
BANK_SIDE = 512  # pixels of the drawing grid
_BANK_SEED = 20190  # fixed: the banks are the same for every smear and in every process


@cache
def make_noise_bank(grain_um: float, stretch: float = 1.0) -> Field:
    """Makes smooth noise of zero mean and unit variance.

    Args:
      grain_um: SD of the Gaussian filter in µm; structures are about twice as wide.
      stretch: how many times longer the filter is along x; above 1, it gives streaks.

    Returns:
      float32 array (BANK_SIDE, BANK_SIDE). It is cached: do not write to it.
    """
    rng = np.random.default_rng([_BANK_SEED, round(grain_um * 1000), round(stretch * 1000)])
    white = rng.standard_normal((BANK_SIDE, BANK_SIDE), dtype=np.float32)
    sigma = grain_um * GRID_PER_UM
    smooth = cv2.GaussianBlur(white, (0, 0), sigmaX=sigma * stretch, sigmaY=sigma)
    smooth -= smooth.mean()
    return np.asarray(smooth / smooth.std(), dtype=np.float32)


@cache
def make_granule_bank(diameter_um: float, per_um2: float) -> Field:
    """Scatters round granules; see `Granules` for the arguments.

    Returns:
      float32 array (BANK_SIDE, BANK_SIDE) in 0..1, 1 in the middle of the strongest granules.
      It is cached: do not write to it.
    """
    rng = np.random.default_rng([_BANK_SEED, round(diameter_um * 1000), round(per_um2 * 1000), 7])
    number = int(per_um2 * (BANK_SIDE / GRID_PER_UM) ** 2)
    centres = rng.uniform(0, BANK_SIDE, (number, 2)) * 16  # cv2's sub-pixel units, shift=4
    radii = diameter_um / 2 * GRID_PER_UM * rng.uniform(0.75, 1.25, number) * 16
    strengths = rng.integers(150, 256, number)
    canvas = np.zeros((BANK_SIDE, BANK_SIDE), np.uint8)
    for (x, y), radius, strength in zip(centres, radii, strengths, strict=True):
        centre = (round(x), round(y))
        cv2.circle(canvas, centre, round(radius), int(strength), -1, cv2.LINE_AA, 4)
    soft = cv2.GaussianBlur(canvas.astype(np.float32), (0, 0), 0.7)
    return np.asarray(soft / 255, dtype=np.float32)


@cache
def make_sensor_noise_bank() -> Canvas:
    """Makes sensor noise around 128 with SD 20: uint8 array (2*BANK_SIDE, 2*BANK_SIDE, 3)."""
    rng = np.random.default_rng([_BANK_SEED, 3])
    side = 2 * BANK_SIDE
    white = rng.standard_normal((side, side, 3), dtype=np.float32)
    # Neighbouring pixels of a demosaiced image share some of their noise.
    smooth = cv2.GaussianBlur(white, (0, 0), 0.6)
    return np.asarray(np.clip(128 + 20 * smooth / smooth.std(), 0, 255), dtype=np.uint8)


def crop(bank: NDArray, side: int, rng: Rng) -> NDArray:
    """Returns a random square of a bank, randomly mirrored: a view (side, side, ...)."""
    y, x, mirror = rng.integers(0, (bank.shape[0] - side, bank.shape[1] - side, 4))
    square = bank[y : y + side, x : x + side]
    return square[:: 1 - 2 * (mirror & 1), :: 1 - (mirror & 2)]
