"""The numbers of a benchmark, as bench.json holds them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contenders import IMAGES_A_SECOND, OURS, PEER, Case, Stage
from benchmarks.worker import Turn


@dataclass
class Row:
    """One contender's results.

    Attributes:
      contender: Its name.
      role: See `contenders.Contender`, also for `group`.
      case: Title of its case; see `contenders.Case`, also for the next three and `gflop_an_image`.
      values: One per round, in the stage's unit.
      ratios: Speed of ours over this one in the same round; none for ours.
      others: Share of the cores that other processes used, one per round; None where the system
        does not tell.
      failure: Why it has no values, or not all; None if it ran.
      error: Largest difference of its probabilities from the float32 Keras model's; None where
        they are not compared.
      peak_gib: Most memory that it had held when it was ready, without its children.
      ready_after: Seconds from its start to its first turn, with compiling and warming up.
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


def make_rows(case: Case) -> list[Row]:
    """Makes the rows to fill, in the order of the turns."""
    return [
        Row(
            *(contender.name, contender.role, case.title, case.precision, case.size, case.batch),
            group=contender.group,
            gflop_an_image=case.gflop_an_image,
        )
        for contender in case.contenders
    ]


def compute_value(turn: Turn, unit: str) -> float:
    """Computes images per second, or seconds per step."""
    if unit == IMAGES_A_SECOND:
        return turn.images / turn.seconds
    return turn.seconds / turn.steps


def compute_speed_ratio(ours: float, other: float, unit: str) -> float:
    """Computes how many times as fast ours is; above 1 ours is faster."""
    return ours / other if unit == IMAGES_A_SECOND else other / ours


def compute_spread(values: Sequence[float]) -> dict[str, float] | None:
    """Computes `median`, `low` and `high`; None without values."""
    if not values:
        return None
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def find_fastest_peers(rows: Sequence[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Finds the row of the fastest peer by median, for each case and group of peers."""

    def is_faster(row: dict[str, Any], other: dict[str, Any]) -> bool:
        return compute_speed_ratio(row["value"]["median"], other["value"]["median"], unit) > 1

    best: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        if row["role"] != PEER or not row["values"] or not row["ratios"]:
            continue
        key = (_get_case_key(row), row["group"])
        if key not in best or is_faster(row, best[key]):
            best[key] = row
    return list(best.values())


def find_ours(rows: Sequence[dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any]:
    """Finds our row of a peer's case."""
    return next(r for r in rows if r["role"] == OURS and _get_case_key(r) == _get_case_key(peer))


def to_json(stage: Stage, rows: Sequence[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """Makes what bench.json holds of a stage.

    Args:
      rows: Of all its cases so far.
      setting: Where and how it was measured, see `machine.describe_setting`.
    """
    return {
        "title": stage.title,
        "unit": stage.unit,
        "remarks": list(stage.remarks),
        "setting": setting,
        "rows": [
            {
                **asdict(row),
                "value": compute_spread(row.values),
                "ratio": compute_spread(row.ratios),
            }
            for row in rows
        ],
    }


def _get_case_key(row: dict[str, Any]) -> tuple:
    return row["case"], row["precision"], row["size"], row["batch"]
