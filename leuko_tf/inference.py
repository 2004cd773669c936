"""Classifies the cells of a data set's folds, and draws pictures of some of them."""

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from leuko_tf.classes import CODES, REANNOTATIONS
from leuko_tf.data import pipeline
from leuko_tf.explanation.drawing import draw_gallery, draw_mistakes
from leuko_tf.explanation.explainer import Explainer
from leuko_tf.explanation.gallery import choose_cells
from leuko_tf.explanation.mistakes import find_mistakes
from leuko_tf.files import GALLERY, MISTAKES, PREDICTIONS
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import SCALING
from leuko_tf.network.runtimes import TENSORFLOW, Predictor, make_predictor
from leuko_tf.predictions import EXAMINERS, PROBABILITIES, write_predictions
from leuko_tf.provenance import Source, describe_dataset, describe_model, is_held_out, read_training

Batch = dict[str, Any]


def predict_folds(
    model_file: Path,
    dataset: str,
    data_dir: str | None,
    folds: list[int],
    out: Path,
    runtime: str = TENSORFLOW,
    pixel_size_um: float | None = None,
    symmetries: bool = False,
) -> Path:
    """Classifies folds of a data set, writes the table of predictions, and returns its path.

    Also draws pictures with saliency maps: the surest mistakes into `mistakes/`, typical cells into
    `gallery/`.

    Args:
      dataset: TFDS name with configuration.
      data_dir: the folder that it was built in; None is TFDS' default.
      folds: folds to classify, 1 to 5.
      runtime: one of `leuko_tf.network.runtimes.RUNTIMES`; TensorFlow always computes the saliency
        maps.
      pixel_size_um: side of the images' pixels in micrometres; see
        `leuko_tf.data.pipeline.match_pixel_scale`.
      symmetries: averages over eight turns and reflections of each image.

    Raises:
      UserError: if the model cannot be loaded, the data set is not built, the runtime cannot be
        used, or a pixel size is given and the model's is not known.
    """
    model = load_model(model_file)
    compute_probabilities = make_predictor(model, runtime, symmetries)
    builder = pipeline.open_dataset(dataset, data_dir)
    facts, cells = describe_model(model_file), describe_dataset(builder)
    scaling = model.get_layer(SCALING)
    factor = pipeline.match_pixel_scale(scaling.pixel_size_um, facts, cells, pixel_size_um)
    read_batches = functools.partial(
        pipeline.read_folds, builder, folds, field=scaling.field, factor=factor
    )
    table = _classify(compute_probabilities, read_batches(), pipeline.count_images(builder, folds))
    source: Source = {
        "synthetic": bool(cells["synthetic"]),
        "dataset": cells["name"],
        "folds": cells["folds"],
        "split": "+".join(f"fold_{k}" for k in folds),
        "model": str(model_file),
        "runtime": runtime,
        "averaged_over_symmetries": symmetries,
        "resampled_to_um": scaling.pixel_size_um if factor != 1 else None,
        "held_out": is_held_out(facts, cells, folds),
        "training": read_training(model_file.parent),
    }
    write_predictions(table, source, out / PREDICTIONS)
    shown = {*find_mistakes(table)["id"], *choose_cells(table)["id"]}
    images = _collect_images(read_batches(), shown)
    explainer = Explainer(model)
    draw_mistakes(explainer, table, images, out / MISTAKES)
    draw_gallery(explainer, table, images, out / GALLERY)
    return out / PREDICTIONS


def _classify(
    compute_probabilities: Predictor, batches: Iterable[Batch], number: int
) -> pd.DataFrame:
    """The table of predictions for batches of `number` images, in the order of their ids."""
    tables = []
    with tqdm(total=number, desc="classifying", unit=" images") as progress:
        for batch in batches:
            scores = pd.DataFrame(compute_probabilities(batch["image"]), columns=PROBABILITIES)
            described = pd.DataFrame(
                {
                    "id": [image_id.decode() for image_id in batch["id"]],
                    "label": np.array(CODES)[batch["label"]],
                    "fold": batch["fold"],
                    **{column: np.array(REANNOTATIONS)[batch[column]] for column in EXAMINERS},
                }
            )
            tables.append(pd.concat([described, scores], axis=1))
            progress.update(len(scores))
    return pd.concat(tables).sort_values("id", ignore_index=True)


def _collect_images(batches: Iterable[Batch], ids: set[str]) -> dict[str, np.ndarray]:
    """Reads the images of these ids; which ones to draw is known only after all are classified."""
    return {
        image_id.decode(): image.copy()  # a view would keep its whole batch
        for batch in batches
        for image_id, image in zip(batch["id"], batch["image"], strict=True)
        if image_id.decode() in ids
    }
