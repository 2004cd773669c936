"""Runs the contenders of a case in turns."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.child import Child, ContenderError, FreshChild, Runner
from benchmarks.contenders import OURS, Case, Contender
from benchmarks.results import Row, new_rows, speed_ratio, value

# Of the memory that is free, a further contender may need this share and no more: a worker can
# still grow after its first steps, and others use the machine.
SAFE_SHARE = 0.5


def race(
    case: Case,
    unit: str,
    rounds: int,
    start: Callable[[Contender], Runner],
    has_room: Callable[[float], bool],
) -> list[Row]:
    """Measures a case.

    All contenders run in turns, one at a time, `rounds` times. Where memory does not hold them all
    at once, they race in several heats; ours takes part in each. A contender that fails is out,
    and its row tells why.

    Args:
      case: whom to run, and for how long a turn.
      unit: of the values, see `contenders.Stage`.
      rounds: turns of each.
      start: gives a contender that is ready, or raises `ContenderError`.
      has_room: whether one more of so many GiB may be started.

    Returns:
      A row for each contender, in their order.
    """
    rows = new_rows(case)
    contenders = list(zip(case.contenders, rows, strict=True))
    waiting = contenders[1:]
    runners: dict[int, Runner] = {}
    try:
        _enter(runners, 0, contenders[0], start)
        while True:
            heat = [0] if 0 in runners else []
            while waiting and (len(runners) < 2 or has_room(_largest(runners))):
                position = len(contenders) - len(waiting)
                if _enter(runners, position, waiting.pop(0), start):
                    heat.append(position)
            _run_heat(case, unit, rounds, heat, runners, rows)
            for position in heat:
                if position != 0 and position in runners:
                    runners.pop(position).close()
            if not waiting:
                return rows
    finally:
        for runner in runners.values():
            runner.close()


def start_child(contender: Contender, threads: int, log: Path, on_gpu: bool) -> Child | FreshChild:
    """Starts a contender's process, or what starts one for every turn."""
    kind = FreshChild if contender.fresh else Child
    return kind(contender, threads, log, on_gpu)


def has_memory_for(gib: float) -> bool:
    """Whether the machine has room for one more such process; true where it does not tell."""
    try:
        text = Path("/proc/meminfo").read_text()
    except OSError:
        return True
    free = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return free is None or gib < SAFE_SHARE * int(free[1]) / 2**20


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _enter(
    runners: dict[int, Runner],
    position: int,
    entry: tuple[Contender, Row],
    start: Callable[[Contender], Runner],
) -> bool:
    contender, row = entry
    try:
        runner = start(contender)
    except ContenderError as error:
        row.failure = str(error)
        return False
    _describe(row, runner)
    runners[position] = runner
    return True


def _run_heat(
    case: Case,
    unit: str,
    rounds: int,
    heat: Sequence[int],
    runners: dict[int, Runner],
    rows: Sequence[Row],
) -> None:
    for _ in range(rounds):
        ours = None
        for position in heat:
            if position not in runners:
                continue
            row = rows[position]
            try:
                turn = runners[position].turn(case.seconds)
            except ContenderError as error:
                row.failure = str(error)
                runners.pop(position).close()
                continue
            _describe(row, runners[position])
            measured = value(turn, unit)
            row.values.append(measured)
            row.others.append(turn.others)
            if position == 0:
                ours = measured
            elif ours is not None and row.role != OURS:
                row.ratios.append(speed_ratio(ours, measured, unit))


def _describe(row: Row, runner: Runner) -> None:
    row.peak_gib = round(runner.peak_gib, 2)
    row.ready_after = round(runner.ready_after, 1)
    row.error = runner.facts.get("error")
    row.note = runner.facts.get("note", "")


def _largest(runners: dict[int, Runner]) -> float:
    return max((r.peak_gib for r in runners.values()), default=0.0)
