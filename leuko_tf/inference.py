"""Runs a model over folds of a data set: its predictions, and pictures of some of its answers."""

import functools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tqdm import tqdm

from leuko_tf import data, gallery, mistakes
from leuko_tf.classes import CODES, REANNOTATIONS
from leuko_tf.models import describe_model, load_model, same_images
from leuko_tf.predictions import EXAMINERS, PROBABILITIES, write_predictions
from leuko_tf.resnext import SCALING
from leuko_tf.runtimes import TENSORFLOW, answering
from leuko_tf.saliency import Explainer

PREDICTIONS = "predictions.parquet"


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

    Beside it come pictures with saliency maps: in the folder `leuko_tf.mistakes.FOLDER` of the
    wrong answers that the model was surest of, in `leuko_tf.gallery.FOLDER` of typical cells.

    Args:
      model_file: a `.keras` file.
      dataset: TFDS name with configuration.
      data_dir: where it was built; None is TFDS' own default.
      folds: folds to predict, 1 to 5.
      out: folder to write to.
      runtime: what computes the probabilities, of `leuko_tf.runtimes.RUNTIMES`. The saliency maps
        are TensorFlow's.
      pixel_size_um: side of the images' pixels in micrometres; see `leuko_tf.data.factor_for`.
      symmetries: see `leuko_tf.runtimes.answering`.

    Returns:
      Path of the table.

    Raises:
      UserError: if the model cannot be loaded, the data set is not built, the runtime cannot be
        used, or a pixel size is given and that of the training is not known.
    """
    model = load_model(model_file)
    answer = answering(model, runtime, symmetries)
    builder = data.open_dataset(dataset, data_dir)
    trained = describe_model(model_file)
    scaling = model.get_layer(SCALING)
    factor = data.factor_for(scaling.pixel_size_um, trained, builder, pixel_size_um)
    read = functools.partial(data.read, builder, folds, field=scaling.field, factor=factor)
    tables = []
    with tqdm(total=data.count(builder, folds), desc="classifying", unit=" images") as progress:
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
    source = {
        "synthetic": bool(builder.info.metadata["synthetic"]),
        "dataset": builder.info.full_name,
        "folds": builder.info.metadata["folds"],
        "split": "+".join(f"fold_{k}" for k in folds),
        "model": str(model_file),
        "runtime": runtime,
        "averaged_over_symmetries": symmetries,
        "resampled_to_um": scaling.pixel_size_um if factor != 1 else None,
        "held_out": held_out(trained, builder, folds),
        "training": _training(model_file.parent),
    }
    write_predictions(table, source, out / PREDICTIONS)
    shown = {*mistakes.surest(table)["id"], *gallery.typical(table)["id"]}
    images = _images(read(), shown)
    explain = Explainer(model)
    mistakes.draw(explain, table, images, out / mistakes.FOLDER)
    gallery.draw(explain, table, images, out / gallery.FOLDER)
    return out / PREDICTIONS


def _images(batches: Iterable[dict[str, Any]], ids: set[str]) -> dict[str, np.ndarray]:
    """Some images, read again: which ones is known only when all are classified."""
    return {
        image_id.decode(): image.copy()  # a view would keep its whole batch
        for batch in batches
        for image_id, image in zip(batch["id"], batch["image"], strict=True)
        if image_id.decode() in ids
    }


def held_out(trained: dict[str, Any], builder: Any, folds: list[int]) -> bool | None:
    """Whether the model has seen none of the folds; None where that is not known.

    It is known of the data set of the training alone: another one may hold the same images under
    other folds.
    """
    if not same_images(trained, builder.info.full_name, builder.info.metadata):
        return None
    if trained["held_out_fold"] is None:  # as after an initial model of unknown training
        return None
    return folds == [trained["held_out_fold"]]


def _training(workdir: Path) -> dict[str, Any] | None:
    """Command, versions and configuration of the training; None where the folder has no record."""
    run, config = workdir / "run.json", workdir / "config.yaml"
    if not run.is_file() or not config.is_file():
        return None
    facts = json.loads(run.read_text())
    return {
        **{name: facts[name] for name in ("command", "versions", "git_revision", "parameters")},
        "configuration": yaml.safe_load(config.read_text()),
    }
