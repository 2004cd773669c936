"""Saliency maps in colour, by themselves and over their images."""

import numpy as np
from PIL import Image

OPACITY = 0.55  # of a map over its image


def colour_map(saliency: np.ndarray) -> Image.Image:
    """Draws a map, float [height, width] in 0 to 1, in matplotlib's magma: dark to bright."""
    from matplotlib import colormaps

    return Image.fromarray((colormaps["magma"](saliency)[..., :3] * 255).astype(np.uint8))


def overlay(image: Image.Image, coloured_map: Image.Image) -> Image.Image:
    """Lays a coloured map over an image of the same size."""
    return Image.blend(image, coloured_map, OPACITY)
