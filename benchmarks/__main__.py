"""`python -m benchmarks [STAGE ...] [--peers] [--short] [--rounds N] [--out DIR]`.

Writes DIR/bench.json and DIR/bench.md. Stages that do not run this time keep what an earlier run
wrote about them; each tells when and where it was measured.
"""

import argparse
import importlib.util
import json
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import evaluation, gpu, inference, machine, pipeline, race, serve, startup, training
from benchmarks.child import Child, ContenderError, Runner
from benchmarks.contenders import Case, Contender, Options, Stage
from benchmarks.page import page
from benchmarks.results import Row, as_json, spread
from leuko_tf.cli import UserError, run, write_aside, write_json

STAGES = {
    "pipeline": pipeline.STAGE,
    "train": training.STAGE,
    "infer": inference.STAGE,
    "serve": serve.STAGE,
    "evaluate": evaluation.STAGE,
    "startup": startup.STAGE,
    "gpu": gpu.STAGE,
}
WITHOUT_NAMES = [name for name, stage in STAGES.items() if not stage.on_gpu]

ROUNDS, SHORT_ROUNDS = 5, 3
# Share of the cores that others may use before the terminal tells of it.
NOTICED_LOAD = 0.1
RESULTS, PAGE = "bench.json", "bench.md"


def bench(
    names: Sequence[str], out: Path, rounds: int, threads: int, short: bool, peers: bool
) -> None:
    """Measures stages, and writes what is known after each case.

    Args:
      names: keys of `STAGES`.
      out: folder to write to.
      rounds: turns of each contender.
      threads: cores that each may use.
      short: fewer cases and shorter turns.
      peers: also what others made.

    Raises:
      UserError: if modules are missing that the peers need, or there is no GPU where one is
        needed.
    """
    if peers:
        _refuse_missing_peers(names)
    results = _earlier(out / RESULTS)
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="work-", dir=out) as work:
        options = Options(short, peers, Path(work).absolute())
        for name in names:
            stage = STAGES[name]
            logs = out / "logs" / name
            for old in logs.rglob("*.log"):
                old.unlink()
            setting = machine.setting(threads, rounds, short)
            if stage.on_gpu:
                setting["machine"] |= _gpu(threads, logs)
            _say(f"{stage.title}")
            _prepare(stage, options, threads, logs)
            rows: list[Row] = []
            for case in stage.cases(options):
                rows += _raced(case, stage, rounds, threads, logs)
                results[name] = as_json(stage, rows, setting)
                _publish(results, out)
    _say(f"page: {out / PAGE}")


def _prepare(stage: Stage, options: Options, threads: int, logs: Path) -> None:
    """Makes what contenders read. What fails here, they will tell themselves."""
    for contender in stage.preparations(options):
        _say(f"  making: {contender.name}")
        try:
            Child(contender, threads, _log(logs, contender), stage.on_gpu).close()
        except ContenderError as error:
            _say(f"    failed: {error}")


def _raced(case: Case, stage: Stage, rounds: int, threads: int, logs: Path) -> list[Row]:
    described = [case.title, f"{case.size} px" if case.size else "", case.precision]
    described += [f"batch {case.batch}" if case.batch else ""]
    title = ", ".join(part for part in described if part)
    _say(f"  {title}")

    def start(contender: Contender) -> Runner:
        log = _log(logs / _file_name(title), contender)
        return race.start_child(contender, threads, log, stage.on_gpu)

    rows = race.race(case, stage.unit, rounds, start, race.has_memory_for)
    for row in rows:
        _say(f"    {row.contender:<46}{_told(row, stage.unit)}")
    return rows


def _told(row: Row, unit: str) -> str:
    """A row for who waits at the terminal."""
    measured, ratio = spread(row.values), spread(row.ratios)
    others = max((share for share in row.others if share is not None), default=0.0)
    parts = [
        f"{measured.median:8.4g} {unit}" if measured else "",
        f"ratio {ratio.median:.3g} ({ratio.low:.3g} to {ratio.high:.3g})" if ratio else "",
        f"others' load up to {others:.0%}" if others > NOTICED_LOAD else "",
        f"failed: {row.failure}" if row.failure else "",
    ]
    return "   ".join(part for part in parts if part)


def _publish(results: dict[str, dict], out: Path) -> None:
    ordered = {name: results[name] for name in STAGES if name in results}
    write_json(out / RESULTS, {"stages": ordered})
    with write_aside(out / PAGE) as aside:
        aside.write_text(page(ordered))


def _earlier(file: Path) -> dict[str, dict]:
    if not file.is_file():
        return {}
    try:
        stages = json.loads(file.read_text())["stages"]
        return {name: stages[name] for name in STAGES if name in stages}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is no benchmark's. Move it away, or name another --out."
        ) from error


def _refuse_missing_peers(names: Sequence[str]) -> None:
    needed = {module for name in names for module in STAGES[name].peers_need}
    missing = sorted(m for m in needed if importlib.util.find_spec(m) is None)
    if missing:
        raise UserError(
            f"--peers needs {', '.join(missing)}, not installed here: pip install .[bench]"
        )


def _gpu(threads: int, logs: Path) -> dict[str, str]:
    """Name of the GPU that Keras' backend sees.

    Raises:
      UserError: if there is none.
    """
    try:
        child = Child(gpu.PROBE, threads, _log(logs, gpu.PROBE), on_gpu=True)
    except ContenderError as error:
        raise UserError(f"the GPU stage cannot run here: {error}") from error
    child.close()
    return child.facts


def _log(folder: Path, contender: Contender) -> Path:
    return folder / f"{_file_name(contender.name)}.log"


def _file_name(text: str) -> str:
    return "_".join("".join(c if c.isalnum() else " " for c in text).split())


def _say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure how fast each stage is, beside what one would use instead.",
    )
    parser.add_argument(
        "stages",
        nargs="*",
        metavar="STAGE",
        help=f"{', '.join(STAGES)} (default: all but gpu)",
    )
    parser.add_argument("--peers", action="store_true", help="also PyTorch, ONNX Runtime, ...")
    parser.add_argument("--short", action="store_true", help="fewer cases, shorter turns")
    parser.add_argument(
        "--rounds", type=int, help=f"turns of each (default {ROUNDS}, {SHORT_ROUNDS} if short)"
    )
    parser.add_argument("--threads", type=int, help="cores of each contender (default: all)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench"), help="folder (default runs/bench)"
    )
    arguments = parser.parse_intermixed_args()
    names = arguments.stages or WITHOUT_NAMES
    unknown = [name for name in names if name not in STAGES]
    if unknown:
        raise UserError(f"no stage {' '.join(unknown)}. There are {', '.join(STAGES)}")
    usual = SHORT_ROUNDS if arguments.short else ROUNDS
    rounds = usual if arguments.rounds is None else arguments.rounds
    threads = race.cores() if arguments.threads is None else arguments.threads
    if rounds < 1 or not 1 <= threads <= race.cores():
        raise UserError(f"--rounds from 1, --threads from 1 to the {race.cores()} cores there are")
    # As an interruption does: workers are ended, and the folder that they read is removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench(
        [name for name in STAGES if name in names],
        arguments.out,
        rounds,
        threads,
        arguments.short,
        arguments.peers,
    )


if __name__ == "__main__":
    run(main)
