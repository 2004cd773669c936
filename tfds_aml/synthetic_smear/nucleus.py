"""Draws outlines of cells and shapes of nuclei as soft masks.

Coordinates are pixels of the drawing grid in a square tile of side `TILE` around the cell.
"""

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from tfds_aml.synthetic_smear.morphology import Morphology
from tfds_aml.synthetic_smear.textures import (
    GRID_PER_UM,
    Canvas,
    Field,
    Points,
    Rng,
    crop,
    make_noise_bank,
)

TILE = 168  # 24 µm: the largest cell and its edge
CENTRE = TILE / 2
_ANGLES = np.linspace(0, 2 * math.pi, 72, endpoint=False)


def make_outline(rng: Rng, radius: float, elongation: float, irregularity: float) -> Points:
    """Makes a closed, smooth, wavy outline (72, 2) around (0, 0).

    Args:
      radius: mean radius.
      elongation: upper limit of long axis / short axis, at least 1.
      irregularity: relative amplitude of the waves.
    """
    orders = np.arange(2, 8)
    amplitudes = irregularity * rng.standard_normal(6) / orders**0.8
    phases = rng.uniform(0, 2 * math.pi, 6)
    waves = (amplitudes[:, None] * np.cos(orders[:, None] * _ANGLES + phases[:, None])).sum(0)
    radii = radius * np.clip(1 + waves, 0.7, 1.3)
    stretch = math.sqrt(rng.uniform(1, elongation))
    points = np.stack(
        [radii * np.cos(_ANGLES) * stretch, radii * np.sin(_ANGLES) / stretch], axis=1
    )
    return rotate(points, rng.uniform(0, 2 * math.pi))


def rotate(points: Points, angle: float) -> Points:
    """Rotates points (n, 2) by `angle` radians about (0, 0)."""
    c, s = math.cos(angle), math.sin(angle)
    return points @ np.array([[c, s], [-s, c]])


def _to_fixed_point(points: Points) -> NDArray[np.int32]:
    """Converts points about (0, 0) to cv2's sub-pixel coordinates (shift=4) in the tile."""
    return np.round((points + CENTRE) * 16).astype(np.int32)


def fill(points: Points) -> Canvas:
    """Draws an anti-aliased, filled polygon: uint8 array (TILE, TILE), 0..255."""
    canvas = np.zeros((TILE, TILE), np.uint8)
    cv2.fillPoly(canvas, [_to_fixed_point(points)], 255, cv2.LINE_AA, 4)
    return canvas


def stroke(canvas: Canvas, points: Points, width: float) -> None:
    """Draws an open line with round ends, `width` pixels wide, into `canvas`."""
    thickness = max(1, round(width))
    cv2.polylines(canvas, [_to_fixed_point(points)], False, 255, thickness, cv2.LINE_AA, 4)


def soften(canvas: Canvas, rng: Rng, wobble: float = 0.12) -> Field:
    """Rounds corners and roughens the edge, which stays a few pixels wide.

    Args:
      canvas: mask (TILE, TILE), 0..255.
      wobble: strength of the roughening, 0 to 0.2.

    Returns:
      float32 array (TILE, TILE), from 0 outside to 1 inside.
    """
    smooth = cv2.GaussianBlur(canvas, (0, 0), 1.6).astype(np.float32)
    smooth *= np.float32(1 / 255)
    at_edge = smooth * (np.float32(4) - np.float32(4) * smooth)  # noise elsewhere would be specks
    smooth += np.float32(wobble) * at_edge * crop(make_noise_bank(0.5), TILE, rng)
    smooth -= np.float32(0.5)
    smooth *= np.float32(2.6)
    smooth += np.float32(0.5)
    return np.asarray(np.clip(smooth, 0, 1, out=smooth))


def draw_nucleus(
    row: Morphology, cell_radius: float, rng: Rng
) -> tuple[Field, Canvas | None, Points]:
    """Draws the nucleus of a cell with cytoplasm.

    Args:
      row: the class's row of the table; `nucleus` is not "smudge".
      cell_radius: radius of the cell in pixels of the drawing grid.

    Returns:
      mask: (TILE, TILE), 0..1.
      crease: mask (TILE, TILE) of a crease or cleft, 0..255, or None.
      offset: x, y of the nucleus from the cell's centre.
    """
    radius = cell_radius * rng.uniform(*row.nucleus_ratio)
    direction = rng.uniform(0, 2 * math.pi)
    distance = rng.uniform(*row.eccentricity) * (cell_radius - radius)
    offset = distance * np.array([math.cos(direction), math.sin(direction)])
    crease = None
    if row.nucleus == "lobed":
        canvas = _draw_lobes(row, radius, offset, rng)
    elif row.nucleus == "band":
        canvas = _draw_band(row, radius, offset, rng)
    else:
        # An indentation faces the larger part of the cytoplasm, where the Golgi zone lies.
        canvas, crease = _draw_indented(row, radius, offset, direction + math.pi, rng)
    return soften(canvas, rng), crease, offset


def _draw_lobes(row: Morphology, radius: float, offset: Points, rng: Rng) -> Canvas:
    """Draws lobes on an open ring, each joined to the next by a filament."""
    number = int(rng.integers(row.lobes[0], row.lobes[1] + 1))
    lobe = row.lobe_um / 2 * GRID_PER_UM * radius / (GRID_PER_UM * row.cell_um[0] * 0.37)
    lobe *= {2: 1.0, 3: 1.08, 4: 0.97, 5: 0.88}[number]
    gap = rng.uniform(2.4, 3.3) if number == 2 else 2 * math.pi / number * rng.uniform(0.9, 1.0)
    angles = rng.uniform(0, 2 * math.pi) + gap * np.arange(number) + rng.normal(0, 0.1, number)
    ring = (radius - lobe) * rng.uniform(0.88, 1.08, number)
    centres = offset + ring[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    canvas = np.zeros((TILE, TILE), np.uint8)
    filament = rng.uniform(0.55, 0.8) * GRID_PER_UM
    if row.lobe_um > 4:  # plump lobes have a broader bridge
        filament *= 1.5
    stroke(canvas, centres, filament)
    for centre, angle in zip(centres, angles, strict=True):
        size = lobe * rng.uniform(0.88, 1.12)
        blob = make_outline(rng, size, 1.0, 0.12)
        blob *= (1, rng.uniform(1.05, 1.35))  # longer along the ring than across it
        cv2.fillPoly(canvas, [_to_fixed_point(rotate(blob, angle) + centre)], 255, cv2.LINE_AA, 4)
    return canvas


def _draw_band(row: Morphology, radius: float, offset: Points, rng: Rng) -> Canvas:
    """Draws a ribbon of even width, bent to a C, a U or an S."""
    width = row.lobe_um * GRID_PER_UM * rng.uniform(0.88, 1.12)
    reach = radius - width / 2
    t = np.linspace(-1, 1, 24)
    shape = rng.integers(0, 3)
    if shape == 0:  # C: most of a circle
        half = rng.uniform(1.9, 2.35)
        points = reach * np.stack([np.cos(half * t), np.sin(half * t)], axis=1)
    elif shape == 1:  # U: half a circle with straight arms
        a = np.clip(t * 1.6, -1, 1) * math.pi / 2
        arm = np.maximum(np.abs(t) - 1 / 1.6, 0) * reach * rng.uniform(1.8, 2.4)
        points = np.stack(
            [reach * np.cos(a) * 0.9 - arm, reach * np.sin(a) * rng.uniform(0.75, 0.9)], axis=1
        )
        points[:, 0] -= points[:, 0].mean()
    else:  # S
        bend = rng.uniform(0.55, 0.7)
        points = reach * np.stack([1.05 * t, bend * np.sin(math.pi * t)], axis=1)
    points = points + rng.normal(0, 0.03 * reach, 2)
    canvas = np.zeros((TILE, TILE), np.uint8)
    stroke(canvas, rotate(points, rng.uniform(0, 2 * math.pi)) + offset, width)
    return canvas


def _draw_indented(
    row: Morphology, radius: float, offset: Points, facing: float, rng: Rng
) -> tuple[Canvas, Canvas | None]:
    """Draws a round nucleus with up to two indentations, and its crease, if any."""
    points = make_outline(rng, radius, 1.2, 0.05)
    depth = rng.uniform(*row.indentation)
    if depth == 0:
        return fill(points + offset), None
    side = facing + rng.normal(0, 0.4)
    width = rng.uniform(0.4, 0.55)
    if row.nucleus == "cleft":
        points = _dent(points, side, depth, 0.4)
        points = _dent(points, side + math.pi + rng.normal(0, 0.15), depth * 0.8, 0.4)
    else:
        # Enlarge the nucleus to keep its area in spite of the indentation.
        points = _dent(points * (1 + 0.15 * depth), side, depth, width)
    if row.nucleus == "folded":
        points = _dent(points, side + rng.uniform(1.6, 4.6), rng.uniform(0.1, 0.3), 0.35)
    canvas = fill(points + offset)
    if row.nucleus not in ("cleft", "folded"):
        return canvas, None
    crease = np.zeros((TILE, TILE), np.uint8)
    start, end = (-1.0, 1.0) if row.nucleus == "cleft" else (-0.45, 0.5)
    along = np.linspace(start, end, 12)
    line = radius * np.stack([along, rng.uniform(-0.12, 0.12) * np.cos(2 * along)], axis=1)
    thickness = (0.9 if row.nucleus == "cleft" else 0.5) * GRID_PER_UM
    stroke(crease, rotate(line, side) + offset, thickness)
    return canvas, cv2.GaussianBlur(crease, (0, 0), 1.4)


def _dent(points: Points, side: float, depth: float, width: float) -> Points:
    """Dents an outline at angle `side` by `depth` of its radius, over `width` radians (SD)."""
    angles = np.arctan2(points[:, 1], points[:, 0])
    away = np.angle(np.exp(1j * (angles - side)))
    return points * (1 - depth * np.exp(-0.5 * (away / width) ** 2))[:, None]
