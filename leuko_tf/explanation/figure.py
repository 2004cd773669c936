"""Draws saliency maps in colour, and figures of explained images."""

from pathlib import Path

import numpy as np
from PIL import Image

from leuko_tf.classes import BY_CODE
from leuko_tf.cli import write_aside
from leuko_tf.explanation.methods import Explanation

OPACITY = 0.55  # of a map over its image
SYNTHETIC_NOTE = ", network trained on SYNTHETIC cells"  # after what a figure or result is of


def colour_map(saliency: np.ndarray) -> Image.Image:
    """Draws a map, float [height, width] in 0 to 1, in matplotlib's magma: dark to bright."""
    from matplotlib import colormaps

    return Image.fromarray((colormaps["magma"](saliency)[..., :3] * 255).astype(np.uint8))


def overlay(image: Image.Image, coloured_map: Image.Image) -> Image.Image:
    """Lays a coloured map over an image of the same size."""
    return Image.blend(image, coloured_map, OPACITY)


def draw_figure(explanation: Explanation, name: str, synthetic: bool, path: Path) -> None:
    """Writes a PNG file with a row for each method: image, map and overlay.

    Args:
      name: of the image, for the title.
      synthetic: whether the network was trained on synthetic cells; the title then says so.
    """
    from matplotlib.figure import Figure

    rows = len(explanation.maps)
    figure = Figure(figsize=(7.2, 2.4 * rows + 0.8), layout="constrained")
    title = name + SYNTHETIC_NOTE * synthetic
    answer = f"{explanation.code}, {BY_CODE[explanation.code].name}, {explanation.probability:.3f}"
    figure.suptitle(f"{title}\nnetwork: {answer} (research use only)", fontsize=11)
    image = Image.fromarray(explanation.image)
    for axes, (method, saliency) in zip(
        figure.subplots(rows, 3, squeeze=False), explanation.maps.items(), strict=True
    ):
        coloured = colour_map(saliency)
        panels = {"image": image, method: coloured, "overlay": overlay(image, coloured)}
        for panel, (heading, picture) in zip(axes, panels.items(), strict=True):
            panel.imshow(picture)
            panel.set_title(heading, fontsize=10)
            panel.set_axis_off()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110, metadata={"Title": title})
