"""Draws a synthetic cell with its surroundings, and the mask of nucleus and cytoplasm."""

import math

import cv2
import numpy as np

from tfds_aml.synthetic_smear.background import GRID, draw_background
from tfds_aml.synthetic_smear.morphology import CHROMATIN_RAMP, MORPHOLOGY, Colour, Morphology
from tfds_aml.synthetic_smear.nucleus import CENTRE, TILE, draw_nucleus, fill, make_outline, soften
from tfds_aml.synthetic_smear.textures import (
    GRID_PER_UM,
    Canvas,
    Field,
    Points,
    Rng,
    crop,
    make_granule_bank,
    make_noise_bank,
    make_sensor_noise_bank,
)

SIDE = 400  # pixels of an image, as in the download
BACKGROUND, CYTOPLASM, NUCLEUS = 0, 1, 2  # values of a mask

_PLASMA = np.array([243.0, 237.0, 237.0])  # the pale background, R, G, B
_RAMP_AT = np.linspace(0, 1, 256)
_RAMP = np.stack(
    [
        np.interp(_RAMP_AT, [p for p, _ in CHROMATIN_RAMP], [c[i] / 255 for _, c in CHROMATIN_RAMP])
        for i in range(3)
    ]
).astype(np.float32)


def draw_cell(code: str, rng: Rng) -> tuple[Canvas, Canvas]:
    """Draws a synthetic cell among red cells.

    Only the morphology depends on the class; place, red cells, tint, illumination, focus and noise
    do not.

    Args:
      code: one of `leuko_tf.classes.CODES`.
      rng: source of all randomness; its state alone determines the result.

    Returns:
      (rgb, mask): uint8 array (400, 400, 3), 14 pixels per µm; and uint8 array (400, 400) of
      `BACKGROUND`, `CYTOPLASM` and `NUCLEUS`.

    Raises:
      KeyError: if `code` is not in the table of morphology.
    """
    row = MORPHOLOGY[code]
    mean, deviation = row.cell_um
    diameter_um = mean + deviation * float(np.clip(rng.standard_normal(), -2, 2))
    radius = diameter_um / 2 * GRID_PER_UM
    corner_x, corner_y = ((GRID - TILE) // 2 + rng.integers(-5, 6, 2)).tolist()
    light = draw_background(rng, (corner_x + CENTRE, corner_y + CENTRE), radius)
    tile = light[:, corner_y : corner_y + TILE, corner_x : corner_x + TILE]
    if row.nucleus == "smudge":
        cell = nucleus = _draw_smudge(tile, row, radius, rng)
    else:
        cell, nucleus = _draw_whole_cell(tile, row, radius, rng)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    inner = mask[2 * corner_y : 2 * (corner_y + TILE), 2 * corner_x : 2 * (corner_x + TILE)]
    inner[_enlarge(cell) > 0.5] = CYTOPLASM
    inner[_enlarge(nucleus) > 0.5] = NUCLEUS
    return _photograph(light, rng), mask


def _enlarge(field: Field) -> Field:
    return cv2.resize(field, None, fx=2, fy=2, interpolation=cv2.INTER_LINEAR)


def _blend(tile: Field, colour: Colour, alpha: Field) -> None:
    """Blends a colour (0..255) into a tile (3, TILE, TILE) with opacity `alpha` (TILE, TILE)."""
    for channel, value in enumerate(colour):
        tile[channel] += alpha * (np.float32(value / 255) - tile[channel])


def _make_chromatin(row: Morphology, rng: Rng) -> Field:
    """Returns the density of the chromatin on `CHROMATIN_RAMP`: float32 (TILE, TILE)."""
    chromatin = row.chromatin
    grain = crop(make_noise_bank(chromatin.grain_um), TILE, rng)
    density = np.float32(chromatin.density + rng.normal(0, 0.04)) + chromatin.contrast * grain
    density += np.float32(0.05) * crop(make_noise_bank(1.2), TILE, rng)
    return density.astype(np.float32)


def _blend_chromatin(tile: Field, density: Field, alpha: Field) -> None:
    """Blends chromatin into a tile; the ramp gives the colour of each `density` (TILE, TILE)."""
    index = np.clip(density * 255, 0, 255).astype(np.uint8)
    for channel, ramp in enumerate(_RAMP):
        tile[channel] += alpha * (cv2.LUT(index, ramp) - tile[channel])


def _draw_whole_cell(tile: Field, row: Morphology, radius: float, rng: Rng) -> tuple[Field, Field]:
    """Draws cytoplasm, nucleus and granules; returns the masks of cell and nucleus, 0..1."""
    edge = make_outline(rng, radius, row.elongation, row.irregularity)
    cell = soften(fill(edge), rng, wobble=row.irregularity)
    nucleus, crease, offset = draw_nucleus(row, radius, rng)
    np.minimum(nucleus, cell, out=nucleus)
    _draw_cytoplasm(tile, row, cell, radius, offset, rng)
    if row.vacuoles[1]:
        _draw_vacuoles(tile, row, cell, radius, rng)
    density = _make_chromatin(row, rng)
    if row.nucleoli[1]:
        _lighten_nucleoli(density, row, radius, offset, rng)
    # Chromatin condenses along the nuclear membrane.
    density += np.float32(0.3) * (np.float32(0.85) - cv2.blur(nucleus, (9, 9)))
    if crease is not None:
        density -= crease.astype(np.float32) * np.float32(0.32 / 255)
    _blend_chromatin(tile, density, nucleus)
    if row.granules is not None:
        grains = crop(make_granule_bank(row.granules.diameter_um, row.granules.per_um2), TILE, rng)
        opacity = np.float32(row.granules.opacity * rng.uniform(0.85, 1.1))
        fade = np.float32(1 - row.granules.over_nucleus)
        alpha = np.minimum(grains * opacity, 1) * (cell - fade * nucleus)
        _blend(tile, row.granules.colour, alpha)
    return cell, nucleus


def _draw_cytoplasm(
    tile: Field, row: Morphology, cell: Field, radius: float, offset: Points, rng: Rng
) -> None:
    """Draws cytoplasm of uneven colour, deeper at the membrane, paler in the Golgi zone."""
    inside = cv2.blur(cell, (15, 15))  # falls from 1 to 0.5 over the last µm below the membrane
    depth = np.float32(1 + 0.25 * row.rim) + np.float32(0.1) * crop(make_noise_bank(0.8), TILE, rng)
    if row.rim:
        depth += np.float32(1.2 * row.rim) * (np.float32(0.85) - inside)
    else:
        depth += np.float32(0.25) * (np.float32(0.85) - inside)
    if row.hof:
        x, y = CENTRE - 0.9 * offset
        pale = np.zeros((TILE, TILE), np.float32)
        cv2.circle(pale, (round(x), round(y)), round(radius * 0.3), float(row.hof), -1)
        depth -= cv2.blur(pale, (21, 21))
    for channel, value in enumerate(row.cytoplasm):
        shade = np.float32(value / 255 - 1) * depth
        shade += np.float32(1)
        tile[channel] += cell * (shade - tile[channel])


def _draw_vacuoles(tile: Field, row: Morphology, cell: Field, radius: float, rng: Rng) -> None:
    """Draws clear, round vacuoles of 0.6 to 1.3 µm, mostly in the outer half of the cell."""
    canvas = np.zeros((TILE, TILE), np.uint8)
    for _ in range(int(rng.integers(row.vacuoles[0], row.vacuoles[1] + 1))):
        angle, distance = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.6, 0.9)
        x, y = CENTRE + distance * math.cos(angle), CENTRE + distance * math.sin(angle)
        size = rng.uniform(0.3, 0.65) * GRID_PER_UM
        centre = (round(x * 16), round(y * 16))
        cv2.circle(canvas, centre, round(size * 16), 220, -1, cv2.LINE_AA, 4)
    alpha = cv2.GaussianBlur(canvas, (0, 0), 0.8).astype(np.float32)
    alpha *= cell * np.float32(1 / 255)
    _blend(tile, (248, 242, 248), alpha)


def _lighten_nucleoli(
    density: Field, row: Morphology, radius: float, offset: Points, rng: Rng
) -> None:
    """Lowers the density in up to three round spots, each ringed by condensed chromatin."""
    number = int(rng.integers(row.nucleoli[0], row.nucleoli[1] + 1))
    canvas = np.zeros((TILE, TILE), np.uint8)
    ring = np.zeros((TILE, TILE), np.uint8)
    first = rng.uniform(0, 2 * math.pi)
    for i in range(number):
        # Around the middle of the nucleus and apart from each other.
        angle = first + i * 2 * math.pi / number
        reach = radius * row.nucleus_ratio[0] * (rng.uniform(0, 0.35) if number == 1 else 0.45)
        x, y = CENTRE + offset + reach * np.array([math.cos(angle), math.sin(angle)])
        size = row.nucleolus_um / 2 * GRID_PER_UM * rng.uniform(0.85, 1.15)
        centre = (round(x * 16), round(y * 16))
        cv2.circle(ring, centre, round((size + 3) * 16), 255, -1, cv2.LINE_AA, 4)
        cv2.circle(canvas, centre, round(size * 16), 255, -1, cv2.LINE_AA, 4)
    density += cv2.blur(ring, (5, 5)).astype(np.float32) * np.float32(0.1 / 255)
    density -= cv2.blur(canvas, (5, 5)).astype(np.float32) * np.float32(0.42 / 255)


def _draw_smudge(tile: Field, row: Morphology, radius: float, rng: Rng) -> Field:
    """Draws a burst nucleus, frayed into streaks in half of the cells; returns its mask, 0..1."""
    shape = fill(make_outline(rng, 0.85 * radius, row.elongation, row.irregularity))
    alpha = cv2.GaussianBlur(shape, (0, 0), 2.0).astype(np.float32) * np.float32(1 / 255)
    density = _make_chromatin(row, rng)
    if rng.random() < 0.5:
        _fray(alpha, density, radius, rng)
    alpha += np.float32(0.12) * crop(make_noise_bank(0.3), TILE, rng)
    alpha += np.float32(0.12) * crop(make_noise_bank(0.8), TILE, rng)
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32) - np.float32(CENTRE)
    within_tile = np.clip((0.96 * CENTRE - np.hypot(x, y)) / 6, 0, 1)
    alpha = np.clip((alpha - 0.5) * 1.8 + 0.5, 0, 1) * within_tile
    # The streaks still run along x; rotate smudge and streaks together.
    middle = (CENTRE - 0.5, CENTRE - 0.5)
    matrix = cv2.getRotationMatrix2D(middle, rng.uniform(0, 360), 1.0)
    alpha = cv2.warpAffine(alpha, matrix, (TILE, TILE))
    density = cv2.warpAffine(density, matrix, (TILE, TILE), borderMode=cv2.BORDER_REFLECT)
    _blend_chromatin(tile, density, alpha * np.float32(0.92))
    return np.asarray(alpha)


def _fray(alpha: Field, density: Field, radius: float, rng: Rng) -> None:
    """Pulls a smudge out into streaks towards +x; changes `alpha` and `density` in place."""
    y, x = np.mgrid[:TILE, :TILE].astype(np.float32) - np.float32(CENTRE)
    frayed = np.clip(x / radius + 0.35, 0, 1)
    tail = np.clip(1.1 - np.hypot(x - 0.4 * radius, 1.2 * y) / radius, 0, 1)
    tail *= np.float32(rng.uniform(1.0, 1.7))
    streaks = crop(make_noise_bank(rng.choice([0.25, 0.4]), 6.0), TILE, rng)
    np.maximum(alpha, tail * frayed, out=alpha)
    alpha += np.float32(rng.uniform(0.2, 0.45)) * streaks * frayed
    density -= np.float32(0.1) * frayed
    density += np.float32(0.06) * streaks


def _photograph(light: Field, rng: Rng) -> Canvas:
    """Applies illumination, focus, stain strength and tint, and sensor noise, whatever the class.

    Turns transmitted light in 0..1 (3, GRID, GRID) into a uint8 image (SIDE, SIDE, 3).
    """
    slope_x, slope_y = rng.uniform(-0.03, 0.03, 2)
    ramp = np.linspace(-1, 1, GRID, dtype=np.float32)
    lamp = (255 * (1 + slope_x * ramp + slope_y * ramp[:, None] - 0.03)).astype(np.float32)
    planes = [np.clip(plane * lamp, 0, 255).astype(np.uint8) for plane in light]
    image = cv2.merge(planes)
    image = cv2.GaussianBlur(image, (0, 0), _choose_defocus_um(rng) * GRID_PER_UM)
    image = cv2.resize(image, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    image = cv2.LUT(image, _make_stain_curve(rng))
    strength = rng.uniform(0.06, 0.16)  # of a bank with SD 20: noise of SD 1.2 to 3.2
    noise = np.ascontiguousarray(crop(make_sensor_noise_bank(), SIDE, rng))
    return cv2.addWeighted(image, 1, noise, strength, -128 * strength)


def _choose_defocus_um(rng: Rng) -> float:
    """Chooses the SD of the blur in µm: 80% of the images are sharp, the others visibly defocused.

    At most 0.38 µm, so that structures from about 0.5 µm, which define the classes, stay visible.
    """
    return rng.uniform(0.07, 0.13) if rng.random() < 0.8 else rng.uniform(0.15, 0.38)


def _make_stain_curve(rng: Rng) -> Canvas:
    """Makes a lookup table (1, 256, 3) with an image's stain strength, tint and plasma colour.

    Stain strength multiplies optical density, so it is an exponent of transmitted light.
    """
    strength = rng.uniform(0.85, 1.15) * np.exp(rng.normal(0, 0.05, 3))
    white = _PLASMA + rng.normal(0, 3) + rng.normal(0, 1.5, 3)
    levels = (np.arange(256) / (255 * 0.97)).clip(0, 1.03)
    curve = white * levels[:, None] ** strength
    return np.clip(curve, 0, 255).round().astype(np.uint8)[None]
