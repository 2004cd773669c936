"""Evaluates: model and split to predictions, and predictions to metrics and a report.

  python -m leuko_tf.evaluate --model runs/x/best.keras --out DIR
  python -m leuko_tf.evaluate --predictions DIR/predictions.parquet --out DIR

The second form needs no model and does not import TensorFlow. Both write into DIR
`predictions.parquet` (the first form), `metrics.json` and `report.html`.
"""

import argparse
from pathlib import Path
from typing import Any

from leuko_tf.classes import CODES, REANNOTATIONS
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_json

PREDICTIONS = "predictions.parquet"
METRICS = "metrics.json"
REPORT = "report.html"


def predict_folds(
    model_file: Path, dataset: str, data_dir: str | None, folds: list[int], out: Path
) -> Path:
    """Runs a model over folds of a data set and writes the table of predictions.

    Args:
      model_file: a `.keras` file.
      dataset: TFDS name with configuration.
      data_dir: where it was built; None is TFDS' own default.
      folds: folds to predict, 1 to 5.
      out: folder to write to.

    Returns:
      Path of the table.

    Raises:
      UserError: if the model cannot be loaded or the data set is not built.
    """
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from leuko_tf import data
    from leuko_tf.models import describe_model, load_model
    from leuko_tf.predictions import PROBABILITIES, write_predictions

    model = load_model(model_file)
    builder = data.open_dataset(dataset, data_dir)
    tables = []
    with tqdm(total=data.count(builder, folds), desc="classifying", unit=" images") as progress:
        for batch in data.read(builder, folds):
            scores = pd.DataFrame(model.predict_on_batch(batch["image"]), columns=PROBABILITIES)
            scores.insert(0, "id", [i.decode() for i in batch["id"]])
            scores.insert(1, "label", np.array(CODES)[batch["label"]])
            scores.insert(2, "fold", batch["fold"])
            for k, column in enumerate(("reannotation_1", "reannotation_2"), 3):
                scores.insert(k, column, np.array(REANNOTATIONS)[batch[column]])
            tables.append(scores)
            progress.update(len(scores))
    table = pd.concat(tables).sort_values("id")
    source = {
        "synthetic": bool(builder.info.metadata["synthetic"]),
        "dataset": builder.info.full_name,
        "folds": builder.info.metadata["folds"],
        "split": "+".join(f"fold_{k}" for k in folds),
        "model": str(model_file),
        "held_out": _held_out(describe_model(model_file)["held_out_fold"], folds),
    }
    write_predictions(table, source, out / PREDICTIONS)
    return out / PREDICTIONS


def _held_out(held_out_fold: int | None, folds: list[int]) -> bool | None:
    """Whether the model has seen none of the folds; None where its training is not known."""
    return None if held_out_fold is None else folds == [held_out_fold]


def evaluate(predictions: Path, out: Path) -> dict[str, Any]:
    """Computes `metrics.json` and `report.html` from a table of predictions alone.

    Returns:
      The metrics, with the table's `source`.
    """
    from leuko_tf.metrics import compute_metrics
    from leuko_tf.predictions import read_predictions
    from leuko_tf.report import write_report

    table, source = read_predictions(predictions)
    metrics = {"source": source, **compute_metrics(table)}
    write_json(out / METRICS, metrics)
    write_report(table, metrics, out / REPORT)
    return metrics


def summary(metrics: dict[str, Any]) -> str:
    """The headline figures, for a terminal."""

    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    source = metrics["source"]
    kind = "SYNTHETIC images" if source.get("synthetic") else "images"
    if source.get("held_out") is False:
        kind = f"{kind}, trained on"
    rows = [
        (f"{kind}", f"{metrics['images']:,}"),
        ("accuracy", shown(metrics["accuracy"])),
        ("balanced accuracy", shown(metrics["balanced_accuracy"])),
        ("macro F1", shown(metrics["macro_f1"])),
        ("Cohen's kappa", shown(metrics["cohen_kappa"])),
        ("ROC AUC, blast", shown(metrics["questions"]["blast"]["roc_auc"])),
        ("ROC AUC, atypical", shown(metrics["questions"]["atypical"]["roc_auc"])),
    ]
    return "\n".join(f"  {name:<28}{value:>10}" for name, value in rows)


def _folds(split: str) -> list[int]:
    """`fold_1` or `fold_1+fold_3` to fold numbers."""
    known = {f"fold_{k}": k for k in range(1, 6)}
    try:
        return sorted({known[name] for name in split.split("+")})
    except KeyError as error:
        raise UserError(
            f"--split takes fold_1 to fold_5, joined by +. Received: {split}"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.evaluate",
        description="Evaluate a model on held-out images, or a table of predictions.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a .keras file")
    what.add_argument("--predictions", type=Path, help="a predictions.parquet")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    beside = "default: of the training that the model lies with"
    parser.add_argument("--dataset", help=f"TFDS name/configuration; {beside}")
    parser.add_argument("--data-dir", help=f"where it was built; {beside}")
    parser.add_argument("--split", help=f"such as fold_1, or fold_1+fold_2; {beside}: held out")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work

    predictions = arguments.predictions
    if arguments.model:
        dataset, data_dir, split = arguments.dataset, arguments.data_dir, arguments.split
        config_file = arguments.model.parent / "config.yaml"
        if config_file.is_file():
            from leuko_tf.config import load_config

            trained = load_config(config_file).data
            dataset, data_dir = dataset or trained.dataset, data_dir or trained.data_dir
            split = split or f"fold_{trained.held_out_fold}"
        if not dataset or not split:
            raise UserError(f"No config.yaml beside {arguments.model}: give --dataset and --split.")
        import_tensorflow_quietly()
        predictions = predict_folds(
            arguments.model, dataset, data_dir, _folds(split), arguments.out
        )
    metrics = evaluate(predictions, arguments.out)
    print(summary(metrics))
    print(f"report: {arguments.out / REPORT}")


if __name__ == "__main__":
    run(main)
