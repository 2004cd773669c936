"""What bfloat16 and int8 cost and gain: `python -m benchmarks.precision`.

  python -m benchmarks.precision --model runs/x/best.keras --images FOLDER [--out DIR]

FOLDER holds cells as TIFF, PNG or JPEG, in folders named by class if the classes are known. A part
of them calibrates int8; the others are measured. Writes DIR/precision.json and DIR/precision.md.

Each way of computing is a contender of one case: it first answers all cells, then races.
"""

import argparse
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.child import Child, FreshChild, Starter, exit_on_sigterm
from benchmarks.contenders import Case, Contender, Role, Stage
from benchmarks.page import format_number, format_remark, format_spread, format_stage
from benchmarks.race import race
from benchmarks.results import compute_spread, to_json
from benchmarks.worker import ContenderError
from leuko_tf.cli import UserError, run, write_aside, write_json

BATCH = 8  # images per step
SECONDS_A_TURN = 2.0
ROUNDS = 5
RESULTS, PAGE = "precision.json", "precision.md"
NEEDED = ("openvino", "nncf")

_BUILDERS = "benchmarks.builders.precision"

STAGE = Stage(
    title="What coarser numbers cost",
    unit="images/s",
    remarks=(
        "All ways run the same network on the same cells, as uint8 at the network's size. The "
        "reference is the Keras model in float32. Answer: the class with the highest probability. "
        "Difference: for each cell, that of the class whose probability changed most.",
        f"Images per second: {BATCH} per step, decoded before; each way runs in a process of its "
        "own, and they take turns. Speed is relative to TensorFlow's float32 in the same round.",
        "TensorFlow: the network as it is exported, batch norms folded, in one graph; bfloat16 is "
        "the policy mixed_bfloat16 with the same weights, scaling and softmax in float32.",
        "OpenVINO: the network as `leuko_tf.network.runtimes` converts it, image by image. "
        "bfloat16 is OpenVINO's hint of inference precision. int8 is NNCF's quantisation after "
        "training with its default settings, except for the preset MIXED, which it recommends for "
        "activations that take negative values.",
    ),
)


def compare_precisions(model: Path, images: Path, out: Path) -> None:
    """Measures all ways of computing on a folder of cells, and writes results and page.

    The results are those of `results.to_json` with `comparison` in each row (see
    `builders.precision.compare`; None where it did not run), and `model`, `images`, `cells`,
    `calibration`, `size`, `labelled`.

    Raises:
      UserError: if something is missing, or model or images cannot be used.
    """
    if not model.is_file():
        raise UserError(f"No model {model}. A training writes best.keras into its work folder.")
    if not images.is_dir():
        raise UserError(f"--images {images} is not a folder")
    machine.require_modules(NEEDED, "python -m benchmarks.precision")
    starter = Starter(machine.count_cores(), out / "logs")
    setting = machine.describe_setting(starter.threads, ROUNDS, short=False)
    setting["versions"]["nncf"] = version("nncf")
    comparisons: dict[str, dict[str, Any]] = {}

    def start(contender: Contender) -> Child | FreshChild:
        print(f"  {contender.name}", flush=True)
        child = starter.start(contender)
        comparisons[contender.name] = child.facts["comparison"]
        return child

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out) as folder:
        shared = {"work": str(Path(folder).absolute()), "model": str(model.absolute())}
        found = _prepare_cells(starter, {**shared, "images": str(images.absolute())})
        rows = race(_make_case(shared, found["size"]), STAGE.unit, ROUNDS, start)
    results = to_json(STAGE, rows, setting)
    for row in results["rows"]:
        row["comparison"] = comparisons[row["contender"]] if row["values"] else None
    results |= {"model": str(model), "images": str(images), **found}
    write_json(out / RESULTS, results)
    with write_aside(out / PAGE) as aside:
        aside.write_text(format_page(results))


def format_page(results: dict[str, Any]) -> str:
    """Formats the Markdown page of what precision.json holds."""
    cells = (
        f"`{results['model']}` at {results['size']} px on {results['cells']:,} cells of "
        f"`{results['images']}`; {results['calibration']:,} other cells of that folder calibrate "
        "int8."
    )
    if results["labelled"]:
        cells += " Accuracy is over these cells; the network may have been trained on some of them."
    return f"# {results['title']}\n\n{cells}\n\n{format_stage(results, COLUMNS)}\n"


def _prepare_cells(starter: Starter, settings: dict[str, str]) -> dict[str, Any]:
    print("  cells", flush=True)
    try:
        return starter.prepare(Contender("cells", "floor", f"{_BUILDERS}:make_cells", settings))
    except ContenderError as error:
        raise UserError(str(error).removeprefix("UserError: ")) from error


def _make_case(shared: dict[str, Any], size: int) -> Case:
    listed: list[tuple[str, Role, str]] = [
        ("TensorFlow", "ours", "float32"),
        ("TensorFlow", "variant", "bfloat16"),
        ("OpenVINO", "peer", "float32"),
        ("OpenVINO", "peer", "bfloat16"),
        ("OpenVINO", "peer", "int8"),
    ]
    contenders = [
        Contender(
            f"{runtime}, {precision}",
            role,
            f"{_BUILDERS}:build_{runtime.lower()}",
            {**shared, "precision": precision},
        )
        for runtime, role, precision in listed
    ]
    return Case("", contenders, size=size, batch=BATCH, seconds=SECONDS_A_TURN)


def _format_speed(row: dict[str, Any]) -> str:
    # The ratios are TensorFlow's float32 over this way.
    speeds = compute_spread([1 / ratio for ratio in row["ratios"]])
    return format_spread(speeds, lambda n: f"{n:.2f}")


def _fill(form: str, needed: str) -> Callable[[dict[str, Any]], str]:
    """Fills a form from a row's comparison; empty where the figure `needed` is not known."""

    def format_cell(row: dict[str, Any]) -> str:
        found = row["comparison"]
        return form.format(**found) if found and found[needed] is not None else ""

    return format_cell


COLUMNS = [
    ("way", lambda r: r["contender"]),
    ("images/s", lambda r: format_spread(r["value"], format_number)),
    ("speed", _format_speed),
    ("answers changed", _fill("{changed} ({changed_share:.2%})", "changed")),
    ("of them now right / now wrong", _fill("{to_right} / {to_wrong}", "to_right")),
    ("largest difference", _fill("{largest:.1e}", "largest")),
    ("mean difference", _fill("{mean:.1e}", "mean")),
    ("accuracy", _fill("{accuracy:.4f}", "accuracy")),
    ("remark", format_remark),
]


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
        "--out", type=Path, default=Path("runs/precision"), help="folder (default runs/precision)"
    )
    arguments = parser.parse_args()
    exit_on_sigterm()
    compare_precisions(arguments.model, arguments.images, arguments.out)
    print(f"page: {arguments.out / PAGE}")


if __name__ == "__main__":
    run(main)
