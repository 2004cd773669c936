"""The numbers of a benchmark, as bench.json holds them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.child import Turn
from benchmarks.contenders import IMAGES_A_SECOND, OURS, PEER, Case, Stage


@dataclass
class Row:
    """One contender's results.

    Attributes:
      contender: its name.
      role: see `contenders.Contender`, as for `group`.
      precision: of its case, as the next three.
      values: a round each, in the stage's unit.
      ratios: ours over this one, of the same rounds; none for ours.
      others: share of the cores that other processes used, a round each; None where the system
        does not tell.
      failure: why it has no values, or not all; None if it ran.
      error: largest difference of its probabilities from the float32 Keras model's; None where
        that is not asked.
      peak_gib: most memory that it had held when it was ready, without its children.
      ready_after: seconds from its start to the first turn, compiling and warming up included.
      note: a remark.
    """

    contender: str
    role: str
    case: str
    precision: str
    size: int | None
    batch: int | None
    group: str = ""
    values: list[float] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    others: list[float | None] = field(default_factory=list)
    failure: str | None = None
    error: float | None = None
    peak_gib: float | None = None
    ready_after: float | None = None
    gflop_an_image: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Spread:
    """Median and range over the rounds."""

    median: float
    low: float
    high: float


def new_rows(case: Case) -> list[Row]:
    """Rows to fill, in the order of the turns."""
    return [
        Row(
            contender.name,
            contender.role,
            case.title,
            case.precision,
            case.size,
            case.batch,
            contender.group,
            gflop_an_image=case.gflop_an_image,
        )
        for contender in case.contenders
    ]


def value(turn: Turn, unit: str) -> float:
    """Images a second, or seconds a step."""
    if unit == IMAGES_A_SECOND:
        return turn.images / turn.seconds
    return turn.seconds / turn.steps


def speed_ratio(ours: float, other: float, unit: str) -> float:
    """How many times as fast ours is; above 1 ours is faster."""
    return ours / other if unit == IMAGES_A_SECOND else other / ours


def spread(values: Sequence[float]) -> Spread | None:
    """Of the rounds; None without any."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values))


def fastest_peers(rows: Sequence[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Of each case and group of peers the row of the one that was fastest by its median."""
    best: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if row["role"] != PEER or not row["values"] or not row["ratios"]:
            continue
        key = (case_key(row), row["group"])
        if key not in best or speed_ratio(_median(row), _median(best[key]), unit) > 1:
            best[key] = row
    return list(best.values())


def ours_of(rows: Sequence[dict[str, Any]], of: dict[str, Any]) -> dict[str, Any]:
    """Our row of the same case."""
    return next(r for r in rows if r["role"] == OURS and case_key(r) == case_key(of))


def case_key(row: dict[str, Any]) -> tuple:
    """What tells a case from the others of its stage."""
    return row["case"], row["precision"], row["size"], row["batch"]


def as_json(stage: Stage, rows: Sequence[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """What bench.json holds of a stage.

    Args:
      stage: its title, unit and remarks are kept.
      rows: of all its cases so far.
      setting: where and how it was measured; see `machine.setting`.
    """
    filled = []
    for row in rows:
        rates, ratios = spread(row.values), spread(row.ratios)
        filled.append(
            {
                **asdict(row),
                "value": asdict(rates) if rates else None,
                "ratio": asdict(ratios) if ratios else None,
            }
        )
    return {
        "title": stage.title,
        "unit": stage.unit,
        "remarks": list(stage.remarks),
        "setting": setting,
        "rows": filled,
    }


def _median(row: dict[str, Any]) -> float:
    return row["value"]["median"]
