"""Runs a model over folds of a data set: its predictions, and pictures of some of its answers."""

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
from leuko_tf.network.runtimes import TENSORFLOW, make_predictor
from leuko_tf.predictions import EXAMINERS, PROBABILITIES, write_predictions
from leuko_tf.provenance import Source, describe_dataset, describe_model, is_held_out, read_training


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
    """Runs a model over folds of a data set; writes the table of predictions.

    Beside it come pictures with saliency maps: of the wrong answers that the
    model was surest of in `mistakes/`, of typical cells in `gallery/`.

    Args:
      model_file: a `.keras` file.
      dataset: TFDS name with configuration.
      data_dir: where it was built; None is TFDS' own default.
      folds: folds to predict, 1 to 5.
      out: folder to write to.
      runtime: what computes the probabilities, of `leuko_tf.network.runtimes.RUNTIMES`. The saliency maps
        are TensorFlow's.
      pixel_size_um: side of the images' pixels in micrometres; see `leuko_tf.data.pipeline.match_pixel_scale`.
      symmetries: see `leuko_tf.network.runtimes.make_predictor`.

    Returns:
      Path of the table.

    Raises:
      UserError: if the model cannot be loaded, the data set is not built, the runtime cannot be
        used, or a pixel size is given and that of the training is not known.
    """
    model = load_model(model_file)
    answer = make_predictor(model, runtime, symmetries)
    builder = pipeline.open_dataset(dataset, data_dir)
    facts, cells = describe_model(model_file), describe_dataset(builder)
    scaling = model.get_layer(SCALING)
    factor = pipeline.match_pixel_scale(scaling.pixel_size_um, facts, cells, pixel_size_um)
    read = functools.partial(
        pipeline.read_folds, builder, folds, field=scaling.field, factor=factor
    )
    tables = []
    with tqdm(
        total=pipeline.count_images(builder, folds), desc="classifying", unit=" images"
    ) as progress:
        for batch in read():
            scores = pd.DataFrame(answer(batch["image"]), columns=PROBABILITIES)
            scores.insert(0, "id", [i.decode() for i in batch["id"]])
            scores.insert(1, "label", np.array(CODES)[batch["label"]])
            scores.insert(2, "fold", batch["fold"])
            for k, column in enumerate(EXAMINERS, 3):
                scores.insert(k, column, np.array(REANNOTATIONS)[batch[column]])
            tables.append(scores)
            progress.update(len(scores))
    table = pd.concat(tables).sort_values("id", ignore_index=True)
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
    images = _images(read(), shown)
    explain = Explainer(model)
    draw_mistakes(explain, table, images, out / MISTAKES)
    draw_gallery(explain, table, images, out / GALLERY)
    return out / PREDICTIONS


def _images(batches: Iterable[dict[str, Any]], ids: set[str]) -> dict[str, np.ndarray]:
    """Some images, read again: which ones is known only when all are classified."""
    return {
        image_id.decode(): image.copy()  # a view would keep its whole batch
        for batch in batches
        for image_id, image in zip(batch["id"], batch["image"], strict=True)
        if image_id.decode() in ids
    }
