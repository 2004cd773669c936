"""Draws the surroundings of a cell, whatever its class: plasma, red cells and platelets."""

import math
from functools import cache

import cv2
import numpy as np

from tfds_aml.synthetic_smear.morphology import RED_CELL_DIAMETER_SD_UM, RED_CELL_DIAMETER_UM
from tfds_aml.synthetic_smear.textures import GRID_PER_UM, Field, Rng, crop, make_noise_bank

GRID = 200  # side of the drawing grid: half of the 400 pixels of an image
# Optical density (natural logarithm) per unit of thickness in R, G, B: -ln(colour / plasma), for
# red cells of about (204, 170, 192), platelets of about (155, 102, 191) and plasma of
# (243, 237, 237). The colours are chosen by eye.
_RED_CELL_DENSITY = np.array([0.18, 0.34, 0.215], np.float32)
_PLATELET_DENSITY = np.array([0.45, 0.85, 0.22], np.float32)
_BANK_SIZE = 96
_BANK_SEED = 7200
_MAX_RED_CELLS = 24


@cache
def _make_red_cell_bank() -> list[Field]:
    """Returns thickness maps of red cells, 0 to slightly above 1: square arrays of odd side."""
    rng = np.random.default_rng(_BANK_SEED)
    return [_draw_red_cell(rng) for _ in range(_BANK_SIZE)]


def _draw_red_cell(rng: Rng) -> Field:
    """Draws a red cell: a disc, often oval, pale in its middle, rarely crenated."""
    diameter = RED_CELL_DIAMETER_UM + RED_CELL_DIAMETER_SD_UM * rng.standard_normal()
    radius = diameter / 2 * GRID_PER_UM
    half = math.ceil(radius * 1.3) + 3
    y, x = np.mgrid[-half : half + 1, -half : half + 1].astype(np.float32)
    turn = rng.uniform(0, math.pi)
    u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    stretch = math.sqrt(rng.uniform(1, 1.25))
    u, v = u / stretch, v * stretch
    angle, distance = np.arctan2(v, u), np.hypot(u, v)
    waves = sum(
        rng.normal(0, 0.03 / k) * np.cos(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4)
    )
    if rng.random() < 0.06:
        waves = waves + 0.05 * np.cos(int(rng.integers(11, 16)) * angle)
    edge = np.clip(radius * (1 + waves) - distance + 0.5, 0, 1)
    pallor = rng.choice([0.12, 0.5, 0.85], p=[0.3, 0.4, 0.3]) * rng.uniform(0.7, 1.2)
    middle = np.exp(-((distance / (radius * rng.uniform(0.35, 0.55))) ** 3))
    rim = 0.9 + 0.25 * np.clip(distance / radius, 0, 1) ** 4
    shade = 1 + rng.uniform(0, 0.08) * v / radius  # no red cell lies perfectly flat
    thickness = edge * rim * shade * (1 - pallor * middle)
    return cv2.GaussianBlur(thickness.astype(np.float32), (0, 0), 0.6)


def _add_stamp(field: Field, stamp: Field, x: float, y: float, strength: float) -> None:
    """Adds a stamp centred at pixel (x, y), clipped at the field's edge."""
    top, left = round(y) - stamp.shape[0] // 2, round(x) - stamp.shape[1] // 2
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + stamp.shape[0], GRID), min(left + stamp.shape[1], GRID)
    if y1 > y0 and x1 > x0:
        field[y0:y1, x0:x1] += strength * stamp[y0 - top : y1 - top, x0 - left : x1 - left]


def _choose_places(
    rng: Rng, centre: tuple[float, float], cell_radius: float, number: int
) -> list[tuple[float, float]]:
    """Chooses places for red cells, which may touch the leukocyte and overlap each other."""
    radius = RED_CELL_DIAMETER_UM / 2 * GRID_PER_UM
    candidates = rng.uniform(-radius, GRID + radius, (4 * number, 2)).tolist()
    spacings = (radius * rng.choice([1.2, 1.9], size=4 * number, p=[0.25, 0.75])).tolist()
    clear = cell_radius + 0.85 * radius
    places: list[tuple[float, float]] = []
    for (x, y), spacing in zip(candidates, spacings, strict=True):
        if math.hypot(x - centre[0], y - centre[1]) < clear:
            continue
        if all(math.hypot(x - a, y - b) >= spacing for a, b in places):
            places.append((x, y))
            if len(places) == number:
                break
    return places


def draw_background(rng: Rng, centre: tuple[float, float], cell_radius: float) -> Field:
    """Draws red cells and platelets around the place of the cell.

    Args:
      centre: x, y of the cell in pixels of the drawing grid.
      cell_radius: radius of the cell in these pixels, mostly kept free of red cells.

    Returns:
      float32 array (3, GRID, GRID): transmitted light in R, G, B; plasma alone is 1.
    """
    red = np.zeros((GRID, GRID), np.float32)
    bank = _make_red_cell_bank()
    places = _choose_places(rng, centre, cell_radius, int(rng.integers(5, _MAX_RED_CELLS + 1)))
    kinds = rng.integers(0, _BANK_SIZE, len(places)).tolist()
    mirrors = rng.integers(0, 4, len(places)).tolist()
    strengths = rng.uniform(0.85, 1.15, len(places)).tolist()
    for (x, y), kind, mirror, strength in zip(places, kinds, mirrors, strengths, strict=True):
        stamp = bank[kind][:: 1 - 2 * (mirror & 1), :: 1 - (mirror & 2)]
        _add_stamp(red, stamp, x, y, strength)
    red += 0.012 * crop(make_noise_bank(1.2), GRID, rng)
    platelets = np.zeros((GRID, GRID), np.float32)
    for _ in range(int(rng.poisson(0.7))):
        _draw_platelet(platelets, rng)
    light = np.empty((3, GRID, GRID), np.float32)
    for channel in range(3):
        density = red * -_RED_CELL_DENSITY[channel] - platelets * _PLATELET_DENSITY[channel]
        cv2.exp(density, light[channel])
    return light


def _draw_platelet(field: Field, rng: Rng) -> None:
    """Adds a platelet of 1.5 to 3 µm: a granular blob without a sharp edge."""
    radius = rng.uniform(0.75, 1.5) * GRID_PER_UM
    side = 2 * math.ceil(radius * 1.4) + 1
    y, x = np.mgrid[:side, :side].astype(np.float32) - side // 2
    grain = crop(make_noise_bank(0.25), side, rng)
    blob = np.clip(radius - np.hypot(x, y) + 1.5 * grain, 0, 1) * np.clip(0.7 + 0.3 * grain, 0, 2)
    px, py = rng.uniform(0, GRID, 2)
    _add_stamp(field, blob.astype(np.float32), px, py, rng.uniform(0.6, 1.0))
