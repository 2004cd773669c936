"""Page and pictures of where the network looks; the figures are of `leuko_tf.focus.score`."""

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont
from skimage.segmentation import find_boundaries

from leuko_tf.classes import BY_CODE, LINEAGE_ORDER
from leuko_tf.cli import write_aside
from leuko_tf.focus.cells import MaskedCell
from leuko_tf.focus.perturbation import CURVES, RANDOM
from leuko_tf.focus.sanity import FEWEST, MEASURES, NO_ROOM, format_verdict
from leuko_tf.focus.segmentation import BACKGROUND, NUCLEUS, REGIONS
from leuko_tf.report.plots import NETWORK, OTHERS, REFERENCE, tidy_axes, to_svg
from leuko_tf.report.text import SYNTHETIC_LIMIT, make_environment

PAGE = "focus.html"
MASKS = "segmentation.png"

SHOWN = 60  # cells on the picture of masks
SIDE = 160  # of each, in pixels
COLUMNS = 10
_LABEL, _HEADER = 16, 28  # pixels above a cell, and above all
_CELL_LINE, _NUCLEUS_LINE = (0, 150, 0), (255, 220, 0)
_INWARDS = REGIONS[::-1]  # nucleus first


def draw_masks(cells: Sequence[MaskedCell], synthetic: bool, file: Path) -> None:
    """Writes a picture of the first cells, by class, with the outlines of their masks.

    Args:
      cells: with masks; even by class, as `leuko_tf.focus.cells.choose_images` orders them.
      synthetic: whether they are drawn.
      file: PNG to write.
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
        sheet.paste(_outlined(cell), (x, y + _LABEL))
    with write_aside(file) as aside:
        sheet.save(aside, format="PNG", optimize=True)


def _outlined(cell: MaskedCell) -> Image.Image:
    assert cell.mask is not None
    size = (SIDE - 2, SIDE - 2)
    image = np.array(Image.fromarray(cell.image).resize(size, Image.Resampling.LANCZOS))
    mask = np.asarray(Image.fromarray(cell.mask).resize(size, Image.Resampling.NEAREST))
    image[find_boundaries(mask != BACKGROUND, mode="inner")] = _CELL_LINE
    image[find_boundaries(mask == NUCLEUS, mode="inner")] = _NUCLEUS_LINE
    return Image.fromarray(image)


def write_page(result: Mapping[str, Any], file: Path) -> None:
    """Writes one HTML file that needs no other; the picture of masks lies beside it already.

    Args:
      result: what `leuko_tf.focus.score` computed.
      file: to write.
    """
    source = result["source"]
    template = make_environment(autoescape=True).get_template("focus.html.j2")
    page = template.render(
        result=result,
        source=source,
        synthetic=source["synthetic"],
        limit=SYNTHETIC_LIMIT if source["synthetic"] else None,
        regions=_INWARDS,
        measures=dict(zip(MEASURES, ("Spearman's correlation, no sign", "SSIM"), strict=True)),
        fewest=FEWEST,
        no_room=NO_ROOM,
        format_verdict=format_verdict,
        curves=CURVES,
        random=RANDOM,
        codes=[code for code in LINEAGE_ORDER if _has(result, code)],
        by_code=BY_CODE,
        figures={
            "shares": _shares(result),
            "classes": _classes(result),
            "curves": _perturbed(result),
        },
        masks=_jpeg(file.with_name(MASKS)),
    )
    with write_aside(file) as aside:
        aside.write_text(page, encoding="utf-8")


def _has(result: Mapping[str, Any], code: str) -> bool:
    return any(code in groups for groups in result["shares"].values())


def _shares(result: Mapping[str, Any]) -> str:
    """Shares of the map, of the area, and of the map under the other cells' masks."""
    figure = Figure(figsize=(8.4, 2.6), layout="constrained")
    panels = figure.subplots(1, len(result["shares"]), sharey=True, squeeze=False)[0]
    for axes, (method, groups) in zip(panels, result["shares"].items(), strict=True):
        for row, region in enumerate(_INWARDS):
            figures = groups["all"][region]
            if figures["share"]["value"] is None:
                continue
            axes.barh(row, figures["area"]["value"], 0.55, color="#d5dbe2", label="area")
            axes.plot(
                figures["elsewhere"]["value"],
                row,
                "o",
                color="white",
                mec=REFERENCE,
                mew=1.4,
                ms=7,
                label="saliency, other cells' masks",
            )
            if figures["share"]["interval"]:
                axes.plot(figures["share"]["interval"], [row, row], color=NETWORK, linewidth=2.4)
            axes.plot(figures["share"]["value"], row, "o", color=NETWORK, ms=7, label="saliency")
        axes.set_title(method, fontsize=10)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(len(REGIONS) - 0.5, -0.5)
        axes.set_yticks(range(len(REGIONS)), _INWARDS)
        axes.set_xlabel("share")
        tidy_axes(axes)
    handles, names = panels[0].get_legend_handles_labels()
    once = dict(zip(names, handles, strict=True))
    figure.legend(
        once.values(), once.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return to_svg(figure, "Shares of saliency and of area in nucleus, cytoplasm and background")


def _classes(result: Mapping[str, Any]) -> str:
    """The share of the map in the nucleus, and that of its area, by class."""
    codes = [code for code in LINEAGE_ORDER if _has(result, code)]
    figure = Figure(figsize=(8.4, 0.9 + 0.27 * len(codes)), layout="constrained")
    panels = figure.subplots(1, len(result["shares"]), sharey=True, squeeze=False)[0]
    for axes, (method, groups) in zip(panels, result["shares"].items(), strict=True):
        for row, code in enumerate(codes):
            figures = groups.get(code, {}).get("nucleus")
            if not figures:
                continue
            area, share = figures["area"]["value"], figures["share"]
            axes.plot(area, row, "D", color="white", mec=REFERENCE, ms=5)
            if share["interval"]:
                colour = BY_CODE[code].colour
                axes.plot(share["interval"], [row, row], color=colour, linewidth=2.4)
            axes.plot(
                share["value"], row, "o", color=BY_CODE[code].colour, mec="black", mew=0.6, ms=7
            )
        axes.set_title(method, fontsize=10)
        axes.set_xlim(-0.03, 1.03)
        axes.set_ylim(len(codes) - 0.5, -0.5)
        axes.set_yticks(range(len(codes)), codes)
        axes.set_xlabel("share in the nucleus")
        tidy_axes(axes)
    return to_svg(figure, "Share of saliency in the nucleus by class")


def _perturbed(result: Mapping[str, Any]) -> str:
    """Mean curves of insertion and deletion."""
    colours = dict(zip(result["shares"], (NETWORK, *OTHERS), strict=False)) | {RANDOM: REFERENCE}
    figure = Figure(figsize=(8.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(CURVES), sharey=True)
    for axes, name in zip(panels, CURVES, strict=True):
        for method, curves in result["curves"]["methods"].items():
            curve = curves[name]["curve"]
            style = "--" if method == RANDOM else "-"
            place = np.linspace(0, 1, len(curve))
            axes.plot(place, curve, style, color=colours[method], linewidth=1.8, label=method)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("share of pixels " + {"insertion": "inserted", "deletion": "deleted"}[name])
        axes.set_ylim(-0.02, 1.02)
        tidy_axes(axes)
    panels[0].set_ylabel("probability of the answered class")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return to_svg(figure, "Insertion and deletion curves")


def _jpeg(picture: Path) -> str:
    """The picture as a data URI, small enough for a page."""
    buffer = io.BytesIO()
    with Image.open(picture) as image:
        image.save(buffer, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
