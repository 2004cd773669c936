"""Where the network looks, in numbers: `python -m leuko_tf.saliency --score`.

For each saliency method, over cells of a data set:

- the share of the map in nucleus, cytoplasm and background, beside the shares of their areas in
  what the network sees. The ratio of the two is 1 where a map does not care. The same under the
  masks of the *other* cells shows what comes of brightness in the middle, whatever lies there;
- insertion and deletion curves, see `leuko_tf.focus.perturbation`;
- whether fresh weights give other maps, see `leuko_tf.focus.sanity`.

Intervals are of a bootstrap over images. They count images as independent.
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
from leuko_tf.data.images import batched
from leuko_tf.explanation.explainer import BATCH, Explainer
from leuko_tf.explanation.methods import METHODS
from leuko_tf.focus import page, perturbation, sanity
from leuko_tf.focus.cells import MaskedCell, choose, labels_of, read_cells
from leuko_tf.focus.perturbation import CURVES, RANDOM
from leuko_tf.focus.segmentation import REGIONS
from leuko_tf.focus.shares import AREAS, ELSEWHERE, SHARES, one_hot, share_figures, shares_of
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import SCALING
from leuko_tf.provenance import describe_dataset, describe_model, is_held_out

# Curves and fresh weights take hundreds of runs of the network an image, so that fewer are enough.
FURTHER_IMAGES = 50
SEED = 0  # of fresh weights, random orders and SmoothGrad's noise
PACKAGES = ("tensorflow", "keras", "tf-keras-vis", "scikit-image", "numpy")

FIGURES = "focus.json"
TABLE = "focus.csv"


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
    """Scores a model's saliency maps; writes the figures, a table, a page and a picture.

    Args:
      model_file: a `.keras` file.
      dataset: TFDS name with configuration.
      data_dir: where it was built; None is TFDS' own default.
      folds: folds to take cells from, 1 to 5.
      out: folder to write to.
      masks: folder with exact masks, `<CODE>/<CODE>_0001.png`; None to segment the images.
      number: of images, 2 or more.

    Returns:
      What `focus.json` holds: `leuko_tf`, `source`, `versions`, `command`, `images` (`in_split`,
      `chosen`, `scored`, `further`, `without_mask` by id), and `shares`, `curves` and `sanity` of
      `leuko_tf.focus.shares.share_figures`, `leuko_tf.focus.perturbation.curve_figures` and
      `leuko_tf.focus.sanity.check`; the first and the last by method.

    Raises:
      UserError: if model, data set or masks cannot be used, or fewer than two images have masks.
    """
    keras.utils.set_random_seed(SEED)
    model = load_model(model_file)
    builder = pipeline.open_dataset(dataset, data_dir)
    facts, dataset_facts = describe_model(model_file), describe_dataset(builder)
    scaling = model.get_layer(SCALING)
    factor = pipeline.match_pixel_scale(scaling.pixel_size_um, facts, dataset_facts)
    labels = labels_of(builder, folds)
    chosen = read_cells(builder, folds, choose(labels, number), scaling.field, factor, masks)
    cells = [cell for cell in chosen if cell.mask is not None]
    if len(cells) < 2:  # a cell's map is compared with the other cells' masks
        raise UserError(
            f"A cell could be told from its background in {len(cells)} of {len(chosen)} images; "
            "a scoring needs 2: take more with --images, or exact masks with --masks"
        )

    table, maps = _explained(model, cells)
    further = cells[:FURTHER_IMAGES]
    followed = _curves(model, further, table, maps)
    compared = _sanity(model, further, table, maps)
    synthetic = bool(dataset_facts["synthetic"])
    result = {
        "leuko_tf": leuko_tf.__version__,
        "source": {
            "synthetic": synthetic,
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
            "without_mask": [cell.id for cell in chosen if cell.mask is None],
        },
        "shares": {
            method: share_figures(rows) for method, rows in table.groupby("method", sort=False)
        },
        "curves": perturbation.curve_figures(followed),
        "sanity": compared,
    }
    write_json(out / FIGURES, result)
    _write_table(table, out / TABLE)
    page.draw_masks(cells, synthetic, out / page.MASKS)
    page.write_page(result, out / page.PAGE)
    return result


def _explained(
    model: keras.Model, cells: Sequence[MaskedCell]
) -> tuple[pd.DataFrame, dict[str, list[np.ndarray]]]:
    """The table, a row an image and method, and the maps of the first images by method."""
    explain = Explainer(model)
    rows: list[dict[str, Any]] = []
    maps: dict[str, list[np.ndarray]] = {method: [] for method in METHODS}
    counts = np.zeros((len(REGIONS), *cells[0].image.shape[:2]), np.int32)
    for cell in cells:
        assert cell.mask is not None
        counts += one_hot(cell.mask)
    with tqdm(total=len(cells), desc="saliency", unit=" images") as progress:
        for batch in batched(cells, BATCH):
            explanations = explain(np.stack([cell.image for cell in batch]))
            for cell, explanation in zip(batch, explanations, strict=True):
                assert cell.mask is not None
                own = one_hot(cell.mask)
                area = shares_of(np.ones(cell.mask.shape), own)
                for method, saliency in explanation.maps.items():
                    figures = [
                        shares_of(saliency, own),
                        area,
                        shares_of(saliency, counts - own),
                    ]
                    rows.append(
                        {
                            "id": cell.id,
                            "label": cell.label,
                            "answer": explanation.code,
                            "probability": explanation.probability,
                            "method": method,
                        }
                        | dict(
                            zip(SHARES + AREAS + ELSEWHERE, np.concatenate(figures), strict=True)
                        )
                    )
                    if len(maps[method]) < FURTHER_IMAGES:
                        maps[method].append(saliency)
            progress.update(len(batch))
    return pd.DataFrame(rows), maps


def _curves(
    model: keras.Model,
    cells: Sequence[MaskedCell],
    table: pd.DataFrame,
    maps: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, dict[str, np.ndarray]]:
    """What `leuko_tf.focus.perturbation.curve_figures` takes; the areas go into the table."""
    rng = np.random.default_rng(SEED)
    size = model.get_layer(SCALING).size
    answers = _answers(table)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {m: [] for m in (*maps, RANDOM)}
    for i, cell in enumerate(tqdm(cells, desc="insertion, deletion", unit=" images")):
        for method in found:
            none = np.zeros(cell.image.shape[:2])
            saliency = none if method == RANDOM else maps[method][i]
            order = perturbation.pixel_order(saliency, size, rng)
            both = perturbation.curves(
                model.predict_on_batch, cell.image, order, INDEX[answers[cell.id]]
            )
            found[method].append(both)
            for name, curve in zip(CURVES, both, strict=True):
                _note(table, cell.id, method, name, perturbation.area(curve))
    return {
        method: {name: np.array([both[k] for both in pairs]) for k, name in enumerate(CURVES)}
        for method, pairs in found.items()
    }


def _sanity(
    model: keras.Model,
    cells: Sequence[MaskedCell],
    table: pd.DataFrame,
    maps: Mapping[str, Sequence[np.ndarray]],
) -> dict[str, Any]:
    """`leuko_tf.focus.sanity.check` by method; what it compares goes into the table."""
    explain = Explainer(keras.models.clone_model(model))  # which does not clone weights
    answers = _answers(table)
    fresh: list[dict[str, np.ndarray]] = []
    with tqdm(total=len(cells), desc="fresh weights", unit=" images") as progress:
        for batch in batched(cells, BATCH):
            images = np.stack([cell.image for cell in batch])
            codes = [answers[cell.id] for cell in batch]
            fresh += [found.maps for found in explain(images, tuple(maps), codes)]
            progress.update(len(batch))
    compared = {}
    for method in maps:
        similar = sanity.compare(maps[method], [found[method] for found in fresh])
        for cell, values in zip(cells, similar.same, strict=True):
            for name, value in zip(sanity.MEASURES, values, strict=True):
                _note(table, cell.id, method, name, value)
        compared[method] = sanity.check(similar)
    return compared


def _answers(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["id"], table["answer"], strict=True))


def _note(table: pd.DataFrame, image_id: str, method: str, name: str, value: float) -> None:
    table.loc[(table["id"] == image_id) & (table["method"] == method), name] = value


def _write_table(table: pd.DataFrame, file: Path) -> None:
    with write_aside(file) as aside:
        table.to_csv(aside, index=False, float_format="%.6g")


def summary(result: Mapping[str, Any]) -> str:
    """The headline figures as text, for a terminal."""
    source, images = result["source"], result["images"]
    kind = "SYNTHETIC images" if source["synthetic"] else "images"
    if source["held_out"] is False:
        kind += ", trained on"
    if source["trained_on_synthetic"] and not source["synthetic"]:
        kind += ", network trained on SYNTHETIC cells"
    lines = [f"{images['scored']} of {images['in_split']} {kind}, masks {source['masks']}"]
    left_out = len(images["without_mask"])
    if left_out:
        lines.append(f"{left_out} more left out: no cell could be told from the background")
    lines.append(f"  {'saliency / area':<14}" + "".join(f"{r:>26}" for r in REGIONS[::-1]))
    for method, groups in result["shares"].items():
        cells = [_cell(groups["all"][region]) for region in REGIONS[::-1]]
        lines.append(f"  {method:<14}" + "".join(f"{text:>26}" for text in cells))
    further = images["further"]
    lines.append(f"  areas under curves ({further} images): {'insertion':>10}{'deletion':>20}")
    for method, curves in result["curves"]["methods"].items():
        figures = [curves[name] for name in CURVES]
        lines.append(f"  {method:<34}" + "".join(f"{_with_interval(f):>20}" for f in figures))
    lines.append("  fresh weights give other maps (one draw of them)")
    for method, checked in result["sanity"].items():
        words = ", ".join(f"{m} {_shown(checked[m]['value'])}" for m in sanity.MEASURES)
        found = f"{sanity.verdict(checked)} ({checked['images']} images)"
        lines.append(f"  {method:<14}{found:<26}{words}")
    return "\n".join(lines)


def _cell(figures: Mapping[str, Any]) -> str:
    share, area, ratio = (figures[name]["value"] for name in ("share", "area", "ratio"))
    return f"{_shown(share)} / {_shown(area)} = {_shown(ratio)}"


def _with_interval(figures: Mapping[str, Any]) -> str:
    ends = figures["interval"]
    between = f" ({ends[0]:.2f}-{ends[1]:.2f})" if ends else ""
    return f"{figures['area']:.3f}{between}"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
