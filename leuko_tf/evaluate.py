"""Evaluates a model on held-out images, or a table of predictions.

  python -m leuko_tf.evaluate --model runs/x/best.keras --out DIR
  python -m leuko_tf.evaluate --predictions DIR/predictions.parquet --out DIR

With --model, the model first writes the table of predictions. Without it no TensorFlow is imported,
and the table may have any form of `leuko_tf.predictions`. DIR then holds:
  predictions.parquet   the table (with --model)
  mistakes/, gallery/   pictures of the surest mistakes and of typical cells (with --model)
  metrics.json          every figure; see `leuko_tf.metrics.records`
  report.html           the figures to read: one file without external resources
  model_card.md         a summary to publish together with the model
  disputes.csv          images on which both re-annotations contradict the label, if there are any
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import leuko_tf
from leuko_tf.cell_selection import (
    add_cell_arguments,
    add_inference_arguments,
    check_pixel_size,
    select_cells,
)
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_json
from leuko_tf.files import DISPUTES, GALLERY, METRICS, MISTAKES, MODEL_CARD, REPORT
from leuko_tf.network.runtimes import TENSORFLOW

if TYPE_CHECKING:
    import pandas as pd

    from leuko_tf.metrics.records import Metrics, NamedComparison
    from leuko_tf.provenance import Source

DEFAULT_REPLICATES = 2000


def evaluate(
    predictions: Path,
    out: Path,
    *,
    annotations: Path | None = None,
    others: Mapping[str, Path] | None = None,
    replicates: int = DEFAULT_REPLICATES,
) -> "Metrics":
    """Computes all figures from a table of predictions and writes them with report and model card.

    Prints a line before each step that may take seconds.

    Args:
      predictions: the table, in any form of `leuko_tf.predictions`.
      out: folder to write to.
      annotations: annotations.dat whose re-annotations are joined to the table by id.
      others: tables of other networks to compare with, by name.
      replicates: bootstrap replicates; with 0 the only intervals are DeLong's and the examiners'.

    Returns what `metrics.json` holds. Raises a `UserError` if a table or the annotations cannot be
    used.
    """
    from leuko_tf.explanation import gallery, mistakes
    from leuko_tf.metrics import agreement, compute_metrics
    from leuko_tf.metrics.published import read_examiner_points
    from leuko_tf.predictions import read_predictions
    from leuko_tf.report import write_model_card, write_report

    _report_step(f"Reading {predictions}")
    table, source = read_predictions(predictions)
    if annotations:
        annotated = agreement.read_annotation_table(annotations)
        try:
            table = agreement.join_annotations(table, annotated)
        except UserError as error:
            raise UserError(f"{predictions} and {annotations} do not match: {error}") from error
    points = agreement.measure_operating_points(table)
    points_from = "these images" if points else None
    if not points and not source.get("synthetic"):
        points, points_from = read_examiner_points(), "published figures"
    other_tables: dict[str, pd.DataFrame] = {}
    comparisons: dict[str, NamedComparison] = {}
    for name, file in (others or {}).items():
        _report_step(f"Comparing with {name}")
        pair = _compare_with(file, table, source, predictions, replicates)
        other_tables[name], comparisons[name] = pair
    bootstrap = f", {replicates:,} bootstrap replicates" if replicates else ""
    _report_step(f"Computing figures of {len(table):,} images{bootstrap}")
    metrics: Metrics = {
        "leuko_tf": leuko_tf.__version__,
        "source": source,
        **compute_metrics(table, points, replicates),
        "examiners": agreement.compare_network(table),
        "examiners_from": points_from,
        "comparisons": comparisons,
    }
    _report_step(f"Writing {out / REPORT}")
    write_json(out / METRICS, metrics)
    disputed = agreement.find_disputes(table)
    if len(disputed):
        agreement.write_disputes(disputed, out / DISPUTES)
    else:
        (out / DISPUTES).unlink(missing_ok=True)  # left by an earlier evaluation
    surest = mistakes.read_mistakes(table, predictions.parent / MISTAKES)
    typical = gallery.read_gallery(table, predictions.parent / GALLERY)
    write_model_card(metrics, out / MODEL_CARD)
    write_report(table, other_tables, metrics, disputed, surest, typical, out / REPORT)
    return metrics


def _report_step(text: str) -> None:
    print(f"{text} ...", flush=True)


def _compare_with(
    file: Path, table: "pd.DataFrame", source: "Source", predictions: Path, replicates: int
) -> "tuple[pd.DataFrame, NamedComparison]":
    """Reads another network's table and compares this one with it."""
    from leuko_tf.metrics import compare
    from leuko_tf.predictions import read_predictions

    other, other_source = read_predictions(file)
    if {source.get("synthetic"), other_source.get("synthetic")} == {True, False}:
        raise UserError(f"{predictions} and {file}: one has real cells, the other SYNTHETIC ones")
    try:
        return other, {"source": other_source, **compare(table, other, replicates)}
    except ValueError as error:
        raise UserError(f"{predictions} and {file} do not match: {error}") from error


def format_summary(metrics: "Metrics") -> str:
    """Formats the headline figures for a terminal."""
    from leuko_tf.metrics.headline import collect_headlines

    source = metrics["source"]
    kind = "SYNTHETIC images" if source.get("synthetic") else "images"
    if source.get("held_out") is False:
        kind += ", trained on"
    images = f"{metrics['pooled']['images']:,}"
    lines = [_format_line(kind, images, "95 % interval", "folds: mean", "SD")]
    for title, figure in collect_headlines(metrics).items():
        interval = " to ".join(f"{end:.4f}" for end in figure.interval or ())
        mean, sd = (f"{n:.4f}" if n is not None else "" for n in (figure.mean, figure.sd))
        value = "undefined" if figure.value is None else f"{figure.value:.4f}"
        lines.append(_format_line(title, value, interval, mean, sd))
    return "\n".join(lines)


def _format_line(title: str, value: str, interval: str, mean: str, sd: str) -> str:
    return f"  {title:<32}{value:>10}{interval:>19}{mean:>14}{sd:>9}".rstrip()


def check_options(arguments: argparse.Namespace) -> tuple[dict[str, Path], int]:
    """Checks the options of `add_evaluation_arguments` before the work starts.

    Returns the other networks' tables by name, and the number of replicates.
    """
    if arguments.bootstrap < 0:
        raise UserError(f"--bootstrap takes 0 or more replicates. Received: {arguments.bootstrap}")
    others = parse_named_tables(arguments.compare)
    for name, file in others.items():
        if not file.is_file():
            raise UserError(f"--compare {name}: no file {file}")
    return others, arguments.bootstrap


def parse_named_tables(texts: list[str]) -> dict[str, Path]:
    """Parses the `NAME=TABLE` words of `--compare` into files by name."""
    tables: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in tables:
            raise UserError(f"--compare takes NAME=TABLE, each name once. Received: {text}")
        tables[name] = Path(file)
    return tables


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options that `evaluate` and `crossval` share; see `check_options`."""
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=TABLE",
        help="another network's predictions to compare with; may be repeated",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=DEFAULT_REPLICATES,
        metavar="N",
        help=f"replicates for the 95 %% intervals, 0 for none (default {DEFAULT_REPLICATES})",
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.evaluate",
        description="Evaluate a model on held-out images, or a table of predictions.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, help="a .keras file")
    what.add_argument("--predictions", type=Path, help=".parquet, .csv or heldout_outputs.npz")
    parser.add_argument("--out", required=True, type=Path, help="folder to write to")
    add_cell_arguments(parser)
    add_inference_arguments(parser, unscaled="what the data set says")
    parser.add_argument(
        "--annotations",
        type=Path,
        help="annotations.dat whose re-annotations are joined to the table by id",
    )
    add_evaluation_arguments(parser)
    arguments = parser.parse_args()
    others, replicates = check_options(arguments)
    model_options = ("dataset", "data_dir", "split", "runtime", "pixel_size_um", "symmetries")
    if arguments.predictions and any(getattr(arguments, name) for name in model_options):
        raise UserError(
            "--dataset, --data-dir, --split, --runtime, --pixel-size-um and --symmetries belong to "
            "--model, not to --predictions"
        )
    check_pixel_size(arguments.pixel_size_um)
    if arguments.annotations and not arguments.annotations.is_file():
        raise UserError(f"--annotations {arguments.annotations} is not a file")
    out, predictions = arguments.out, arguments.predictions
    out.mkdir(parents=True, exist_ok=True)  # fails now, not after the work
    if arguments.model:
        cells = select_cells(arguments)
        import_tensorflow_quietly()
        from leuko_tf.inference import predict_folds

        way = (arguments.runtime or TENSORFLOW, arguments.pixel_size_um, arguments.symmetries)
        predictions = predict_folds(arguments.model, *cells, out, *way)
    metrics = evaluate(
        predictions, out, annotations=arguments.annotations, others=others, replicates=replicates
    )
    print(format_summary(metrics))
    print(f"report: {out / REPORT}")


if __name__ == "__main__":
    run(main)
