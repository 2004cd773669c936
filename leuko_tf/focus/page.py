"""Writes the page of the figures of `leuko_tf.focus.score`, and a picture of the masks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from leuko_tf.classes import BY_CODE, LINEAGE_ORDER
from leuko_tf.cli import write_aside
from leuko_tf.focus.cells import MaskedCell
from leuko_tf.focus.perturbation import CURVES, RANDOM
from leuko_tf.focus.sanity import MAX_BASELINE, MEASURES, MIN_IMAGES, format_verdict
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.report.page import encode_jpeg
from leuko_tf.report.plots import NETWORK, OTHERS, REFERENCE, tidy_axes, to_svg
from leuko_tf.report.text import SYNTHETIC_LIMIT, make_environment
from tfds_aml.synthetic_smear.drawing import BACKGROUND, NUCLEUS

PAGE = "focus.html"
MASKS = "segmentation.png"

SHOWN = 60  # cells on the picture of masks
SIDE = 160  # of each, in pixels
COLUMNS = 10
_LABEL, _HEADER = 16, 28  # pixels above a cell, and above all
_CELL_LINE, _NUCLEUS_LINE = (0, 150, 0), (255, 220, 0)
_REGIONS = REGIONS[::-1]  # nucleus first


def draw_masks(cells: Sequence[MaskedCell], synthetic: bool, file: Path) -> None:
    """Draws the first cells, sorted by class, with the outlines of their masks.

    In the order of `leuko_tf.focus.cells.choose_images` the first ones are even by class.
    """
    shown = sorted(cells[:SHOWN], key=lambda cell: (LINEAGE_ORDER.index(cell.label), cell.id))
    rows = -(-len(shown) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * SIDE, _HEADER + rows * (SIDE + _LABEL)), "white")
    write = ImageDraw.Draw(sheet)
    kind = "SYNTHETIC cells. " if synthetic else ""
    heading = f"{kind}Green: edge of the cell; yellow: of its nucleus. Research use only."
    write.text((6, 5), heading, fill="black", font=ImageFont.load_default(size=16))
    for i, cell in enumerate(shown):
        x, y = i % COLUMNS * SIDE, _HEADER + i // COLUMNS * (SIDE + _LABEL)
        name = f"{cell.label}  {Path(cell.id).stem}"
        write.text((x + 3, y), name, fill="black", font=ImageFont.load_default(size=12))
        sheet.paste(_outline(cell), (x, y + _LABEL))
    with write_aside(file) as aside:
        sheet.save(aside, format="PNG", optimize=True)


def _outline(cell: MaskedCell) -> Image.Image:
    size = (SIDE - 2, SIDE - 2)
    image = np.array(Image.fromarray(cell.image).resize(size, Image.Resampling.LANCZOS))
    mask = np.asarray(Image.fromarray(cell.mask).resize(size, Image.Resampling.NEAREST))
    image[find_boundaries(mask != BACKGROUND, mode="inner")] = _CELL_LINE
    image[find_boundaries(mask == NUCLEUS, mode="inner")] = _NUCLEUS_LINE
    return Image.fromarray(image)


def write_page(result: Mapping[str, Any], file: Path) -> None:
    """Writes an HTML file that needs no other. The picture of the masks must lie beside it."""
    synthetic = result["source"]["synthetic"]
    codes = [c for c in LINEAGE_ORDER if any(c in groups for groups in result["shares"].values())]
    with Image.open(file.with_name(MASKS)) as picture:
        masks = encode_jpeg(picture)
    template = make_environment(autoescape=True).get_template("focus.html.j2")
    page = template.render(
        result=result,
        source=result["source"],
        synthetic=synthetic,
        limit=SYNTHETIC_LIMIT if synthetic else None,
        regions=_REGIONS,
        measures=dict(zip(MEASURES, ("Spearman's correlation, no sign", "SSIM"), strict=True)),
        min_images=MIN_IMAGES,
        max_baseline=MAX_BASELINE,
        format_verdict=format_verdict,
        curves=CURVES,
        random=RANDOM,
        codes=codes,
        figures={
            "shares": _draw_shares(result["shares"]),
            "classes": _draw_classes(result["shares"], codes),
            "curves": _draw_curves(result["curves"]["methods"]),
        },
        masks=masks,
    )
    with write_aside(file) as aside:
        aside.write_text(page, encoding="utf-8")


def _make_share_panels(
    methods: Sequence[str], rows: Sequence[str], height: float, label: str
) -> tuple[Figure, Sequence[Axes]]:
    """A panel for each method, with a scale from 0 to 1 and a named row for each figure."""
    figure = Figure(figsize=(8.4, height), layout="constrained")
    panels = figure.subplots(1, len(methods), sharey=True, squeeze=False)[0]
    for axes, method in zip(panels, methods, strict=True):
        axes.set_title(method, fontsize=10)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(label)
        tidy_axes(axes)
    return figure, panels


def _draw_shares(shares: Mapping[str, Any]) -> str:
    """Shares of the map, of the area, and of the map under the other cells' masks."""
    figure, panels = _make_share_panels([*shares], _REGIONS, 2.6, "share")
    for axes, groups in zip(panels, shares.values(), strict=True):
        for row, region in enumerate(_REGIONS):
            figures = groups["all"][region]
            share, elsewhere = figures["share"], figures["elsewhere"]["value"]
            if share["value"] is None:
                continue
            axes.barh(row, figures["area"]["value"], 0.55, color="#d5dbe2", label="area")
            (other,) = axes.plot(elsewhere, row, "o", label="saliency, other cells' masks")
            other.set(color="white", mec=REFERENCE, mew=1.4, ms=7)
            if share["interval"]:
                axes.plot(share["interval"], [row, row], color=NETWORK, linewidth=2.4)
            axes.plot(share["value"], row, "o", color=NETWORK, ms=7, label="saliency")
    _add_legend(figure, panels[0], 3)
    return to_svg(figure, "Shares of saliency and of area in nucleus, cytoplasm and background")


def _draw_classes(shares: Mapping[str, Any], codes: Sequence[str]) -> str:
    """The share of the map in the nucleus, and that of the area, by class."""
    height = 0.9 + 0.27 * len(codes)
    figure, panels = _make_share_panels([*shares], codes, height, "share in the nucleus")
    for axes, groups in zip(panels, shares.values(), strict=True):
        for row, code in enumerate(codes):
            figures = groups.get(code, {}).get("nucleus")
            if not figures:
                continue
            share, colour = figures["share"], BY_CODE[code].colour
            axes.plot(figures["area"]["value"], row, "D", color="white", mec=REFERENCE, ms=5)
            if share["interval"]:
                axes.plot(share["interval"], [row, row], color=colour, linewidth=2.4)
            axes.plot(share["value"], row, "o", color=colour, mec="black", mew=0.6, ms=7)
    return to_svg(figure, "Share of saliency in the nucleus by class")


def _draw_curves(methods: Mapping[str, Any]) -> str:
    """Mean curves of insertion and deletion."""
    names = [method for method in methods if method != RANDOM]
    colours = dict(zip(names, (NETWORK, *OTHERS), strict=False)) | {RANDOM: REFERENCE}
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(CURVES), sharey=True)
    for axes, name, changed in zip(panels, CURVES, ("inserted", "deleted"), strict=True):
        for method, curves in methods.items():
            curve = curves[name]["curve"]
            style = "--" if method == RANDOM else "-"
            x = np.linspace(0, 1, len(curve))
            axes.plot(x, curve, style, color=colours[method], linewidth=1.8, label=method)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(f"share of pixels {changed}")
        axes.set_ylim(-0.02, 1.02)
        tidy_axes(axes)
    panels[0].set_ylabel("probability of the answered class")
    _add_legend(figure, panels[0], 4)
    return to_svg(figure, "Insertion and deletion curves")


def _add_legend(figure: Figure, axes: Axes, columns: int) -> None:
    """A legend below the panels, which names each label of one of them once."""
    handles, names = axes.get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    place = {"loc": "outside lower center", "ncols": columns}
    figure.legend(once.values(), once.keys(), fontsize=8, frameon=False, **place)
