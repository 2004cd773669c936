"""`python -m benchmarks [STAGE ...] [--peers] [--short] [--rounds N] [--out DIR]`.

Writes DIR/bench.json and DIR/bench.md. Both keep what an earlier run wrote about stages that do not
run this time, with the time and machine of that run.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from benchmarks import machine
from benchmarks.child import Starter, exit_on_sigterm, to_file_name
from benchmarks.contenders import Case, Options, Stage
from benchmarks.page import format_case, format_page, format_spread
from benchmarks.race import race
from benchmarks.results import Row, compute_spread, to_json
from benchmarks.stages import evaluation, gpu, inference, pipeline, serving, startup, training
from benchmarks.worker import ContenderError
from leuko_tf.cli import UserError, run, write_aside, write_json

STAGES = {
    "pipeline": pipeline.STAGE,
    "train": training.STAGE,
    "infer": inference.STAGE,
    "serve": serving.STAGE,
    "evaluate": evaluation.STAGE,
    "startup": startup.STAGE,
    "gpu": gpu.STAGE,
}
DEFAULT_STAGES = [name for name, stage in STAGES.items() if not stage.on_gpu]

ROUNDS, SHORT_ROUNDS = 5, 3
# The terminal shows the load of other processes from this share of the cores on.
NOTICED_LOAD = 0.1
RESULTS, PAGE = "bench.json", "bench.md"

_say = partial(print, flush=True)


def run_stages(
    names: Sequence[str], out: Path, rounds: int, threads: int, short: bool, peers: bool
) -> None:
    """Measures stages, keys of `STAGES`, and writes results and page after each case.

    Raises:
      UserError: if modules are missing that the peers need, or a GPU where one is needed.
    """
    if peers:
        needed = (module for name in names for module in STAGES[name].peers_need)
        machine.require_modules(needed, "--peers")
    results = _read_earlier(out / RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out) as work:
        options = Options(short, peers, str(Path(work).absolute()))
        for name in names:
            stage = STAGES[name]
            starter = Starter(threads, out / "logs" / name, stage.on_gpu)
            for old in starter.logs.rglob("*.log"):
                old.unlink()
            setting = machine.describe_setting(threads, rounds, short)
            if stage.on_gpu:
                setting["machine"] |= _find_gpu(starter)
            _say(stage.title)
            _prepare(stage, options, starter)
            rows: list[Row] = []
            for case in stage.cases(options):
                rows += _run_case(case, stage, rounds, starter)
                results[name] = to_json(stage, rows, setting)
                _write(results, out)
    _say(f"page: {out / PAGE}")


def _prepare(stage: Stage, options: Options, starter: Starter) -> None:
    """Makes the contenders' files. If that fails, the contenders will fail and tell why."""
    for contender in stage.preparations(options):
        _say(f"  making: {contender.name}")
        try:
            starter.prepare(contender)
        except ContenderError as error:
            _say(f"    failed: {error}")


def _run_case(case: Case, stage: Stage, rounds: int, starter: Starter) -> list[Row]:
    title = format_case(case.title, case.size, case.batch, case.precision)
    _say(f"  {title}")
    starter = replace(starter, logs=starter.logs / to_file_name(title))
    rows = race(case, stage.unit, rounds, starter.start)
    for row in rows:
        _say(f"    {row.contender:<46}{_format_row(row, stage.unit)}")
    return rows


def _format_row(row: Row, unit: str) -> str:
    """Formats a row for the terminal."""
    spreads = compute_spread(row.values), compute_spread(row.ratios)
    value, ratio = (format_spread(spread, "{:.4g}".format) for spread in spreads)
    others = max((share for share in row.others if share is not None), default=0.0)
    parts = [
        f"{value} {unit}" if value else "",
        f"ratio {ratio}" if ratio else "",
        f"others' load up to {others:.0%}" if others > NOTICED_LOAD else "",
        f"failed: {row.failure}" if row.failure else "",
    ]
    return "   ".join(part for part in parts if part)


def _write(results: dict[str, dict], out: Path) -> None:
    ordered = {name: results[name] for name in STAGES if name in results}
    write_json(out / RESULTS, {"stages": ordered})
    with write_aside(out / PAGE) as aside:
        aside.write_text(format_page(ordered))


def _read_earlier(file: Path) -> dict[str, dict]:
    if not file.is_file():
        return {}
    try:
        stages = json.loads(file.read_text())["stages"]
        return {name: stages[name] for name in STAGES if name in stages}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} holds no results of a benchmark. Move it away, or choose another --out."
        ) from error


def _find_gpu(starter: Starter) -> dict[str, str]:
    """Finds the GPU that Keras' backend sees."""
    try:
        return starter.prepare(gpu.PROBE)
    except ContenderError as error:
        raise UserError(f"the GPU stage cannot run here: {error}") from error


def main() -> None:
    cores = machine.count_cores()
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how fast each stage is, compared with the usual alternatives.",
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"{', '.join(STAGES)} (default: all but gpu)"
    )
    parser.add_argument("--peers", action="store_true", help="also PyTorch, ONNX Runtime, ...")
    parser.add_argument("--short", action="store_true", help="fewer cases, shorter turns")
    parser.add_argument(
        "--rounds",
        type=int,
        help=f"turns of each contender (default {ROUNDS}, with --short {SHORT_ROUNDS})",
    )
    parser.add_argument(
        "--threads", type=int, default=cores, help="cores of each contender (default: all)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder (default runs/bench)"
    )
    arguments = parser.parse_intermixed_args()
    names = arguments.stages or DEFAULT_STAGES
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UserError(f"no stage {' '.join(unknown)}; choose from {', '.join(STAGES)}")
    rounds, threads = arguments.rounds, arguments.threads
    if rounds is None:
        rounds = SHORT_ROUNDS if arguments.short else ROUNDS
    if rounds < 1 or not 1 <= threads <= cores:
        raise UserError(f"--rounds must be at least 1, --threads 1 to {cores} (the cores here)")
    exit_on_sigterm()
    chosen = [name for name in STAGES if name in names]
    run_stages(chosen, arguments.out, rounds, threads, arguments.short, arguments.peers)


if __name__ == "__main__":
    run(main)
