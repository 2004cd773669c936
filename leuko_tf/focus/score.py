"""Scores where the network looks: `python -m leuko_tf.saliency --score`.

For each saliency method, over cells of a data set:

- the share of the map in nucleus, cytoplasm and background, compared with their shares of the area
  that the network sees: the ratio is 1 where a map does not depend on the region. The same under
  the masks of the *other* cells shows how much is due to maps being bright in the middle;
- insertion and deletion curves, see `leuko_tf.focus.perturbation`;
- whether fresh weights give other maps, see `leuko_tf.focus.sanity`.

Intervals come from a bootstrap over images, which treats images as independent.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from tqdm import tqdm

import leuko_tf
from leuko_tf.classes import INDEX
from leuko_tf.cli import UserError, format_command_line, write_aside, write_json
from leuko_tf.data import pipeline
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.figure import SYNTHETIC_NOTE
from leuko_tf.explanation.methods import METHODS, Explanation
from leuko_tf.focus import page, perturbation, sanity
from leuko_tf.focus.cells import MaskedCell, choose_images, read_cells, read_labels
from leuko_tf.focus.perturbation import CURVES, RANDOM
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.focus.shares import COLUMNS, compute_shares, summarize_shares, to_one_hot
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import SCALING
from leuko_tf.provenance import describe_dataset, describe_model, is_held_out

# Curves and fresh weights need hundreds of runs of the network per image, so they use fewer images.
FURTHER_IMAGES = 50
SEED = 0  # of fresh weights, random orders and SmoothGrad's noise
PACKAGES = ("tensorflow", "keras", "tf-keras-vis", "scikit-image", "numpy")

FIGURES = "focus.json"
TABLE = "focus.csv"

Rows = dict[tuple[str, str], dict[str, Any]]  # of the table, by id and method


def score(
    model_file: Path,
    dataset: str,
    data_dir: str | None,
    folds: Sequence[int],
    out: Path,
    *,
    masks: Path | None,
    number: int,
) -> dict[str, Any]:
    """Scores a model's saliency maps; writes figures, a table, a page and a picture of the masks.

    Args:
      dataset: TFDS name with configuration.
      data_dir: Where it was built; None is TFDS' own default.
      folds: 1 to 5.
      masks: Folder with exact masks, `<CODE>/<CODE>_0001.png`; None to segment the images.
      number: Of images, 2 or more.

    Returns:
      The content of `focus.json`: `leuko_tf`, `source`, `versions`, `command`; `images`, with
      `in_split`, `chosen`, `scored`, `further` and `without_mask`, by id; `shares` and `sanity`, by
      method, of `summarize_shares` and `leuko_tf.focus.sanity.check`; `curves`, of
      `summarize_curves`.

    Raises:
      UserError: If model, data set or masks cannot be used, or fewer than two images have masks.
    """
    keras.utils.set_random_seed(SEED)
    model = load_model(model_file)
    builder = pipeline.open_dataset(dataset, data_dir)
    facts, dataset_facts = describe_model(model_file), describe_dataset(builder)
    scaling = model.get_layer(SCALING)
    factor = pipeline.match_pixel_scale(scaling.pixel_size_um, facts, dataset_facts)
    labels = read_labels(builder, folds)
    chosen = choose_images(labels, number)
    cells = read_cells(builder, folds, chosen, scaling.field, factor, masks)
    if len(cells) < 2:  # a cell's map is compared with the other cells' masks
        raise UserError(
            f"Segmentation found a cell in {len(cells)} of {len(chosen)} images, but scoring needs "
            "2. Use more images (--images) or exact masks (--masks)."
        )

    rows, explanations = _explain_cells(model, cells)
    further = cells[:FURTHER_IMAGES]
    curves = _record_curves(model, further, explanations, rows)
    checked = _check_sanity(model, further, explanations, rows)
    table = pd.DataFrame(rows.values())
    result = {
        "leuko_tf": leuko_tf.__version__,
        "source": {
            "synthetic": bool(dataset_facts["synthetic"]),
            "dataset": dataset_facts["name"],
            "folds": dataset_facts["folds"],
            "split": "+".join(f"fold_{k}" for k in folds),
            "model": str(model_file),
            "trained_on": facts.trained_on,
            "trained_on_synthetic": facts.synthetic,
            "held_out": is_held_out(facts, dataset_facts, folds),
            "resampled_to_um": scaling.pixel_size_um if factor != 1 else None,
            "masks": str(masks) if masks else "segmented (leuko_tf.focus.segmentation)",
        },
        "versions": {name: version(name) for name in PACKAGES},
        "command": format_command_line(),
        "images": {
            "in_split": len(labels),
            "chosen": len(chosen),
            "scored": len(cells),
            "further": len(further),
            "without_mask": [i for i in chosen if i not in {cell.id for cell in cells}],
        },
        "shares": {
            method: summarize_shares(group) for method, group in table.groupby("method", sort=False)
        },
        "curves": perturbation.summarize_curves(curves),
        "sanity": checked,
    }
    write_json(out / FIGURES, result)
    with write_aside(out / TABLE) as aside:
        table.to_csv(aside, index=False, float_format="%.6g")
    page.draw_masks(cells, bool(dataset_facts["synthetic"]), out / page.MASKS)
    page.write_page(result, out / page.PAGE)
    return result


def _explain_cells(
    model: keras.Model, cells: Sequence[MaskedCell]
) -> tuple[Rows, list[Explanation]]:
    """Rows of the table, and the explanations of the first images."""
    rows: Rows = {}
    further: list[Explanation] = []
    counts = sum(to_one_hot(cell.mask) for cell in cells)
    explanations = Explainer(model)(cell.image for cell in cells)
    progress = tqdm(cells, "saliency", unit=" images")
    for cell, explanation in zip(progress, explanations, strict=True):
        own = to_one_hot(cell.mask)
        area = compute_shares(np.ones(cell.mask.shape), own)
        for method, saliency in explanation.maps.items():
            share = compute_shares(saliency, own)
            elsewhere = compute_shares(saliency, counts - own)
            rows[cell.id, method] = {
                "id": cell.id,
                "label": cell.label,
                "answer": explanation.code,
                "probability": explanation.probability,
                "method": method,
                **dict(zip(COLUMNS, np.concatenate([share, area, elsewhere]), strict=True)),
            }
        if len(further) < FURTHER_IMAGES:
            further.append(explanation)
    return rows, further


def _record_curves(
    model: keras.Model, cells: Sequence[MaskedCell], explanations: list[Explanation], rows: Rows
) -> dict[str, dict[str, list[np.ndarray]]]:
    """Curves for `summarize_curves`; adds the areas under them to the rows."""
    rng = np.random.default_rng(SEED)
    size = model.get_layer(SCALING).size
    found: dict[str, dict[str, list[np.ndarray]]]
    found = {method: {name: [] for name in CURVES} for method in (*METHODS, RANDOM)}
    progress = tqdm(cells, desc="insertion, deletion", unit=" images")
    for cell, explanation in zip(progress, explanations, strict=True):
        constant = np.zeros(cell.mask.shape)
        for method, saliency in {**explanation.maps, RANDOM: constant}.items():
            order = perturbation.sort_pixels(saliency, size, rng)
            curves = perturbation.compute_curves(
                model.predict_on_batch, cell.image, order, INDEX[explanation.code]
            )
            for name, curve in zip(CURVES, curves, strict=True):
                found[method][name].append(curve)
                if method != RANDOM:
                    rows[cell.id, method][name] = perturbation.compute_area(curve)
    return found


def _check_sanity(
    model: keras.Model, cells: Sequence[MaskedCell], explanations: list[Explanation], rows: Rows
) -> dict[str, Any]:
    """`leuko_tf.focus.sanity.check` by method; adds the similarities to the rows."""
    explainer = Explainer(keras.models.clone_model(model))  # which does not clone weights
    images = tqdm([cell.image for cell in cells], "fresh weights", unit=" images")
    fresh = [*explainer(images, METHODS, [found.code for found in explanations])]
    checked = {}
    for method in METHODS:
        trained_maps = [found.maps[method] for found in explanations]
        similarities = sanity.compare_maps(trained_maps, [found.maps[method] for found in fresh])
        for cell, values in zip(cells, similarities[0], strict=True):
            rows[cell.id, method] |= zip(sanity.MEASURES, values, strict=True)
        checked[method] = sanity.check(similarities)
    return checked


def format_summary(result: Mapping[str, Any]) -> str:
    """Formats the main figures for a terminal."""
    source, images = result["source"], result["images"]
    kind = "SYNTHETIC images" if source["synthetic"] else "images"
    if source["held_out"] is False:
        kind += ", trained on"
    if source["trained_on_synthetic"] and not source["synthetic"]:
        kind += SYNTHETIC_NOTE
    lines = [f"{images['scored']} of {images['in_split']} {kind}, masks {source['masks']}"]
    if images["without_mask"]:
        left_out = len(images["without_mask"])
        lines.append(f"{left_out} more left out: segmentation found no cell")
    lines.append(f"  {'saliency / area':<14}" + "".join(f"{r:>26}" for r in REGIONS[::-1]))
    for method, groups in result["shares"].items():
        cells = [_format_shares(groups["all"][region]) for region in REGIONS[::-1]]
        lines.append(f"  {method:<14}" + "".join(f"{text:>26}" for text in cells))
    further = images["further"]
    lines.append(f"  areas under curves ({further} images): {'insertion':>10}{'deletion':>20}")
    for method, curves in result["curves"]["methods"].items():
        areas = [_format_area(curves[name]) for name in CURVES]
        lines.append(f"  {method:<34}" + "".join(f"{text:>20}" for text in areas))
    lines.append("  sanity check: do fresh weights give other maps? (one draw of weights)")
    for method, checked in result["sanity"].items():
        measures = ", ".join(f"{m} {_format_value(checked[m]['value'])}" for m in sanity.MEASURES)
        verdict = f"{sanity.format_verdict(checked)} ({checked['images']} images)"
        lines.append(f"  {method:<14}{verdict:<26}{measures}")
    return "\n".join(lines)


def _format_shares(figures: Mapping[str, Any]) -> str:
    share, area, ratio = (_format_value(figures[n]["value"]) for n in ("share", "area", "ratio"))
    return f"{share} / {area} = {ratio}"


def _format_area(figures: Mapping[str, Any]) -> str:
    ends = figures["interval"]
    interval = f" ({ends[0]:.2f}-{ends[1]:.2f})" if ends else ""
    return f"{figures['area']:.3f}{interval}"


def _format_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
