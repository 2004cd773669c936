"""What bfloat16 and int8 cost and gain: `python -m benchmarks.precision`.

  python -m benchmarks.precision --model runs/x/best.keras --images FOLDER [--out DIR]

FOLDER holds cells as TIFF, PNG or JPEG, in folders named by class where the classes are known. A
part of them calibrates int8; the others are measured. Writes DIR/precision.json and
DIR/precision.md.
"""

import argparse
import importlib.util
import signal
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import machine, race
from benchmarks.child import Child, ContenderError, Runner
from benchmarks.contenders import Contender
from benchmarks.precision import (
    LABELS,
    PEERS_NEED,
    REFERENCE,
    STAGE,
    answers_file,
    case,
    preparation,
)
from benchmarks.results import Row, as_json
from leuko_tf.cli import UserError, run, write_aside, write_json

ROUNDS = 5
RESULTS, PAGE = "precision.json", "precision.md"


def study(model: Path, images: Path, out: Path) -> dict[str, Any]:
    """Measures all ways, and writes results and page.

    Args:
      model: a `.keras` file.
      images: folder of cells.
      out: folder to write to.

    Returns:
      What the results file holds: `results.as_json` with `comparison` in each row (see
      `comparison.Comparison`; None where it did not run), and `model`, `images`, `cells`,
      `calibration`, `size`, `labelled`.

    Raises:
      UserError: if something is missing, or model or images cannot be used.
    """
    _refuse_what_cannot_be(model, images)
    threads = race.cores()
    setting = machine.setting(threads, ROUNDS, short=False)
    setting["versions"]["nncf"] = version("nncf")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out) as folder:
        work = Path(folder).absolute()

        def start(contender: Contender) -> Runner:
            print(f"  {contender.name}", flush=True)
            log = out / "logs" / Path(answers_file(contender.name)).with_suffix(".log")
            return race.start_child(contender, threads, log, on_gpu=False)

        found = _prepared(preparation(work, model.absolute(), images.absolute()), start)
        rows = race.race(
            case(work, model.absolute(), found["size"]),
            STAGE.unit,
            ROUNDS,
            start,
            race.has_memory_for,
        )
        comparisons = [_comparison(work, row) for row in rows]
    results = as_json(STAGE, rows, setting)
    for row, comparison in zip(results["rows"], comparisons, strict=True):
        row["comparison"] = comparison
    results |= {"model": str(model), "images": str(images), **found}
    write_json(out / RESULTS, results)

    from benchmarks.precision.page import page

    with write_aside(out / PAGE) as aside:
        aside.write_text(page(results))
    return results


def _refuse_what_cannot_be(model: Path, images: Path) -> None:
    if not model.is_file():
        raise UserError(f"No model {model}. A training writes best.keras into its work folder.")
    if not images.is_dir():
        raise UserError(f"--images {images} is no folder")
    missing = [module for module in PEERS_NEED if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"{' and '.join(missing)} not installed here: pip install .[bench]")


def _prepared(contender: Contender, start: Any) -> dict[str, Any]:
    """Runs the preparation; returns its facts."""
    try:
        child: Child = start(contender)
    except ContenderError as error:
        raise UserError(str(error).removeprefix("UserError: ")) from error
    child.close()
    return child.facts


def _comparison(work: Path, row: Row) -> dict[str, Any] | None:
    """Beside the float32 model; None, and a reason in the row, where there is nothing usable."""
    import numpy as np

    from benchmarks.precision.comparison import compare

    if not row.values:
        return None
    labels = np.load(work / LABELS) if (work / LABELS).is_file() else None
    found = np.load(work / answers_file(row.contender))
    try:
        compared = compare(found, np.load(work / REFERENCE), labels)
    except ValueError as error:
        row.failure = str(error)
        return None
    return asdict(compared)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.precision",
        description="Measure what bfloat16 and int8 change in a model's answers, and their speed.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument(
        "--images", required=True, type=Path, help="folder of cells, in class folders if known"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs/precision"),
        help="folder to write to (default runs/precision)",
    )
    arguments = parser.parse_args()
    # As an interruption does: workers are ended, and the folder that they read is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    study(arguments.model, arguments.images, arguments.out)
    print(f"page: {arguments.out / PAGE}")


if __name__ == "__main__":
    run(main)
