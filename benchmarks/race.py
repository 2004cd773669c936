"""Runs the contenders of a case in turns."""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.child import Child, FreshChild
from benchmarks.contenders import Case, Contender, Unit
from benchmarks.machine import has_memory_for
from benchmarks.results import Row, compute_speed_ratio, compute_value, make_rows
from benchmarks.worker import ContenderError

Runner = Child | FreshChild


@dataclass
class _Entrant:
    """A contender with its row, and its runner while it takes part."""

    contender: Contender
    row: Row
    runner: Runner | None = None

    def enter(self, start: Callable[[Contender], Runner]) -> None:
        try:
            self.runner = start(self.contender)
        except ContenderError as error:
            self.row.failure = str(error)
        else:
            self._note_facts(self.runner)

    def turn(self, seconds: float, unit: Unit) -> float | None:
        """Takes a turn and returns its value; None if the contender is out."""
        if self.runner is None:
            return None
        try:
            turn = self.runner.turn(seconds)
        except ContenderError as error:
            self.row.failure = str(error)
            self.leave()
            return None
        self._note_facts(self.runner)  # a fresh one has them only now
        measured = compute_value(turn, unit)
        self.row.values.append(measured)
        self.row.others.append(turn.others)
        return measured

    def leave(self) -> None:
        if self.runner is not None:
            self.runner.close()
            self.runner = None

    def _note_facts(self, runner: Runner) -> None:
        self.row.peak_gib = round(runner.peak_gib, 2)
        self.row.ready_after = round(runner.ready_after, 1)
        self.row.error = runner.facts.get("error")
        self.row.note = runner.facts.get("note", "")


def race(
    case: Case,
    unit: Unit,
    rounds: int,
    start: Callable[[Contender], Runner],
    has_room: Callable[[float], bool] = has_memory_for,
) -> list[Row]:
    """Measures a case.

    All contenders run in turns, one at a time, `rounds` times. If memory does not hold all of them
    at once, they race in several heats; ours takes part in each. A contender that fails is out,
    and its row tells why.

    Args:
      unit: Of the values, see `contenders.Stage`.
      start: Returns a contender that is ready, or raises `ContenderError`.
      has_room: Whether one more process of so many GiB may be started.

    Returns:
      A row for each contender, in their order.
    """
    rows = make_rows(case)
    ours, *others = (_Entrant(*pair) for pair in zip(case.contenders, rows, strict=True))
    waiting = deque(others)
    try:
        ours.enter(start)
        while True:
            heat = [ours]
            while waiting and _fits_another(heat, has_room):
                heat.append(waiting.popleft())
                heat[-1].enter(start)
            _run_heat(heat, case.seconds, unit, rounds)
            for entrant in heat[1:]:
                entrant.leave()
            if not waiting:
                return rows
    finally:
        for entrant in (ours, *others):
            entrant.leave()


def _fits_another(heat: Sequence[_Entrant], has_room: Callable[[float], bool]) -> bool:
    """Whether one more contender may start; two always may."""
    sizes = [entrant.runner.peak_gib for entrant in heat if entrant.runner is not None]
    return len(sizes) < 2 or has_room(max(sizes))


def _run_heat(heat: Sequence[_Entrant], seconds: float, unit: Unit, rounds: int) -> None:
    first, *others = heat
    for _ in range(rounds):
        ours = first.turn(seconds, unit)
        for entrant in others:
            measured = entrant.turn(seconds, unit)
            if ours is not None and measured is not None and entrant.row.role != "ours":
                entrant.row.ratios.append(compute_speed_ratio(ours, measured, unit))
