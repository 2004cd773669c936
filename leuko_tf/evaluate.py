"""Evaluates: model and split to predictions, and predictions to metrics and a report.

  python -m leuko_tf.evaluate --model runs/x/best.keras --out DIR
  python -m leuko_tf.evaluate --predictions DIR/predictions.parquet --out DIR

The second form needs no model and does not import TensorFlow; it takes the three forms of
`leuko_tf.predictions`. DIR then holds:
  predictions.parquet   the table (first form)
  mistakes/, gallery/   pictures of the surest mistakes and of typical cells (first form)
  metrics.json          every figure; see `leuko_tf.metrics` and `leuko_tf.metrics.agreement`
  report.html           the same for reading: one file that needs nothing else
  model_card.md         the same in short, for who publishes the model
  disputes.csv          images whose re-annotations agree against the label, where there are some
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import leuko_tf
from leuko_tf.cell_selection import add_cell_arguments, select_cells
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_json
from leuko_tf.files import DISPUTES, GALLERY, METRICS, MISTAKES, MODEL_CARD, REPORT
from leuko_tf.network.runtimes import RUNTIMES, TENSORFLOW

DEFAULT_REPLICATES = 2000


def evaluate(
    predictions: Path,
    out: Path,
    *,
    annotations: Path | None = None,
    others: Mapping[str, Path] | None = None,
    replicates: int = DEFAULT_REPLICATES,
) -> dict[str, Any]:
    """Computes everything from a table of predictions alone, and writes it.

    Args:
      predictions: the table, in any form of `leuko_tf.predictions`.
      out: folder to write to.
      annotations: annotations.dat whose re-annotations join the table by id.
      others: name to table of other networks to compare with.
      replicates: of the bootstrap; 0 for no intervals but DeLong's and the examiners'.

    Returns:
      What `metrics.json` holds: the table's `source`, the figures of
      `leuko_tf.metrics.compute_metrics`, `examiners` (`leuko_tf.metrics.agreement.compare_network`; None
      without re-annotated images), `examiners_from` (`these images`, `published figures` or None:
      whose operating points the binary questions are compared with) and `comparisons`, by name
      (`leuko_tf.metrics.compare`).

    Raises:
      UserError: if a table or the annotations cannot be used.
    """
    from leuko_tf.explanation import gallery, mistakes
    from leuko_tf.metrics import agreement, compare, compute_metrics
    from leuko_tf.metrics.published import read_examiner_points
    from leuko_tf.predictions import read_predictions
    from leuko_tf.report import write_model_card, write_report

    table, source = read_predictions(predictions)
    if annotations:
        annotated = agreement.read_annotation_table(annotations)
        try:
            table = agreement.join_annotations(table, annotated)
        except UserError as error:
            raise UserError(
                f"{predictions} and {annotations} do not go together: {error}"
            ) from error
    points = agreement.measure_operating_points(table)
    points_from = "these images" if points else None
    if not points and not source.get("synthetic"):
        points, points_from = read_examiner_points(), "published figures"
    comparisons, other_tables = {}, {}
    for name, file in (others or {}).items():
        other, other_source = read_predictions(file)
        kinds = {source.get("synthetic"), other_source.get("synthetic")}
        if kinds == {True, False}:
            raise UserError(
                f"{predictions} and {file}: one is of real cells, the other of SYNTHETIC ones"
            )
        try:
            compared = compare(table, other, replicates)
        except ValueError as error:
            raise UserError(f"{predictions} and {file} do not go together: {error}") from error
        other_tables[name] = other
        comparisons[name] = {"source": other_source, **compared}
    metrics = {
        "leuko_tf": leuko_tf.__version__,
        "source": source,
        **compute_metrics(table, points, replicates),
        "examiners": agreement.compare_network(table),
        "examiners_from": points_from,
        "comparisons": comparisons,
    }
    write_json(out / METRICS, metrics)
    disputed = agreement.find_disputes(table)
    if len(disputed):
        agreement.write_disputes(disputed, out / DISPUTES)
    else:
        (out / DISPUTES).unlink(missing_ok=True)  # of another evaluation
    surest = mistakes.read_mistakes(table, predictions.parent / MISTAKES)
    typical = gallery.read_gallery(table, predictions.parent / GALLERY)
    write_model_card(metrics, out / MODEL_CARD)
    write_report(table, other_tables, metrics, disputed, surest, typical, out / REPORT)
    return metrics


def format_summary(metrics: dict[str, Any]) -> str:
    """The headline figures as text, for a terminal."""
    from leuko_tf.metrics.headline import list_headlines

    source = metrics["source"]
    kind = "SYNTHETIC images" if source.get("synthetic") else "images"
    if source.get("held_out") is False:
        kind += ", trained on"
    lines = [
        _format_line(kind, f"{metrics['pooled']['images']:,}", "95 % interval", "folds: mean", "SD")
    ]
    for headline in list_headlines(metrics):
        between = headline.interval and " to ".join(f"{end:.4f}" for end in headline.interval)
        mean, sd = (f"{n:.4f}" if n is not None else "" for n in (headline.mean, headline.sd))
        value = "undefined" if headline.value is None else f"{headline.value:.4f}"
        lines.append(_format_line(headline.title, value, between or "", mean, sd))
    return "\n".join(lines)


def _format_line(title: str, value: str, interval: str, mean: str, sd: str) -> str:
    return f"  {title:<30}{value:>10}{interval:>19}{mean:>14}{sd:>9}".rstrip()


def check_options(arguments: argparse.Namespace) -> tuple[dict[str, Path], int]:
    """The other networks' tables by name, and the number of replicates.

    Raises:
      UserError: if one cannot be used; before the work, not after it.
    """
    if arguments.bootstrap < 0:
        raise UserError(f"--bootstrap takes 0 or more replicates. Received: {arguments.bootstrap}")
    others = parse_named_tables(arguments.compare)
    for name, file in others.items():
        if not file.is_file():
            raise UserError(f"--compare {name}: no file {file}")
    return others, arguments.bootstrap


def parse_named_tables(texts: list[str]) -> dict[str, Path]:
    """`NAME=P.parquet`, as `--compare` takes it, to name and file.

    Raises:
      UserError: if one is not of this form, or a name comes twice.
    """
    tables: dict[str, Path] = {}
    for text in texts:
        name, equals, file = text.partition("=")
        if not (name and equals and file) or name in tables:
            raise UserError(f"--compare takes NAME=TABLE, each name once. Received: {text}")
        tables[name] = Path(file)
    return tables


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """What `evaluate` and `crossval` both take; see `checked_options`."""
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=TABLE",
        help="another network's predictions to put beside; may come several times",
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
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        help=f"what computes the probabilities (default {TENSORFLOW}). openvino: faster on a CPU, "
        "equal to 1e-4, takes seconds to convert; pip install leuko_tf[openvino]",
    )
    parser.add_argument(
        "--pixel-size-um",
        type=float,
        metavar="UM",
        help="side of the images' pixels in micrometres (default: what the data set says); images "
        "are brought to the pixels that the model was trained on",
    )
    parser.add_argument(
        "--symmetries",
        action="store_true",
        help="average over the eight turns and mirrorings of each image, at eight times the work",
    )
    parser.add_argument(
        "--annotations", type=Path, help="annotations.dat, for a table without re-annotations"
    )
    add_evaluation_arguments(parser)
    arguments = parser.parse_args()
    others, replicates = check_options(arguments)
    of_model = ("dataset", "data_dir", "split", "runtime", "pixel_size_um", "symmetries")
    if arguments.predictions and any(getattr(arguments, name) for name in of_model):
        raise UserError(
            "--dataset, --data-dir, --split, --runtime, --pixel-size-um and --symmetries belong to "
            "--model, not to --predictions"
        )
    side = arguments.pixel_size_um
    if side is not None and not 0 < side < 10:
        raise UserError(f"--pixel-size-um takes micrometres, 0 to 10. Received: {side}")
    if arguments.annotations and not arguments.annotations.is_file():
        raise UserError(f"--annotations {arguments.annotations} is no file")
    arguments.out.mkdir(parents=True, exist_ok=True)  # not to fail after all the work

    predictions = arguments.predictions
    if arguments.model:
        dataset, data_dir, folds = select_cells(arguments)
        import_tensorflow_quietly()
        from leuko_tf.inference import predict_folds

        predictions = predict_folds(
            arguments.model,
            dataset,
            data_dir,
            folds,
            arguments.out,
            arguments.runtime or TENSORFLOW,
            arguments.pixel_size_um,
            arguments.symmetries,
        )
    metrics = evaluate(
        predictions,
        arguments.out,
        annotations=arguments.annotations,
        others=others,
        replicates=replicates,
    )
    print(format_summary(metrics))
    print(f"report: {arguments.out / REPORT}")


if __name__ == "__main__":
    run(main)
