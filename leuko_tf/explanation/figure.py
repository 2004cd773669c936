"""Draws an explained image: image, saliency map and overlay, a row for each method."""

from pathlib import Path

from PIL import Image

from leuko_tf.classes import BY_CODE
from leuko_tf.cli import write_aside
from leuko_tf.explanation.methods import Explanation
from leuko_tf.explanation.overlay import colour_map, overlay


def draw_figure(explanation: Explanation, title: str, path: Path) -> None:
    """Writes a PNG file with a row for each method: image, map and overlay."""
    from matplotlib.figure import Figure

    rows = len(explanation.maps)
    figure = Figure(figsize=(7.2, 2.4 * rows + 0.8), layout="constrained")
    name = BY_CODE[explanation.code].name
    figure.suptitle(
        f"{title}\nnetwork: {explanation.code}, {name}, {explanation.probability:.3f} "
        "(research use only)",
        fontsize=11,
    )
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
