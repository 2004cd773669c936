"""Draws an explained image: image, saliency map and overlay, a row for each method."""

from pathlib import Path

from leuko_tf.classes import BY_CODE
from leuko_tf.cli import write_aside
from leuko_tf.explanation.methods import Explanation


def draw_figure(explanation: Explanation, title: str, path: Path) -> None:
    """Writes the figure: a row a method, columns image, map and overlay.

    Args:
      explanation: what to show.
      title: first line of the heading.
      path: PNG file to write.
    """
    from matplotlib.figure import Figure

    rows = len(explanation.maps)
    figure = Figure(figsize=(7.2, 2.4 * rows + 0.8), layout="constrained")
    name = BY_CODE[explanation.code].name
    figure.suptitle(
        f"{title}\nnetwork: {explanation.code}, {name}, {explanation.probability:.3f} "
        "(research use only)",
        fontsize=11,
    )
    for axes, (method, saliency) in zip(
        figure.subplots(rows, 3, squeeze=False), explanation.maps.items(), strict=True
    ):
        axes[0].imshow(explanation.image)
        axes[1].imshow(saliency, cmap="magma", vmin=0, vmax=1)
        axes[2].imshow(explanation.image)
        axes[2].imshow(saliency, cmap="magma", vmin=0, vmax=1, alpha=0.55)
        for panel, heading in zip(axes, ("image", method, "overlay"), strict=True):
            panel.set_title(heading, fontsize=10)
            panel.set_axis_off()
    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=110, metadata={"Title": title})
