"""The numbers of a benchmark, as bench.json holds them."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contenders import Case, Role, Stage, Unit
from benchmarks.worker import Turn


@dataclass
class Row:
    """One contender's results.

    Attributes:
      case: Title of its case. The other fields that a `contenders.Contender` or a
        `contenders.Case` has, too, are theirs.
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
    role: Role
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


def compute_value(turn: Turn, unit: Unit) -> float:
    """Computes images per second, or seconds per step."""
    if unit == "images/s":
        return turn.images / turn.seconds
    return turn.seconds / turn.steps


def compute_speed_ratio(ours: float, other: float, unit: Unit) -> float:
    """Computes how many times as fast ours is; above 1 ours is faster."""
    return ours / other if unit == "images/s" else other / ours


def compute_spread(values: Sequence[float]) -> dict[str, float] | None:
    """Computes `median`, `low` and `high`; None without values."""
    if not values:
        return None
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def find_fastest_peers(rows: Sequence[dict[str, Any]], unit: Unit) -> list[dict[str, Any]]:
    """Finds the row of the fastest peer by median, for each case and group of peers."""
    peers: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        if row["role"] == "peer" and row["value"] and row["ratios"]:
            peers.setdefault((_get_case_key(row), row["group"]), []).append(row)
    choose = max if unit == "images/s" else min
    return [choose(group, key=lambda row: row["value"]["median"]) for group in peers.values()]


def find_ours(rows: Sequence[dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any]:
    """Finds our row of a peer's case."""
    return next(r for r in rows if r["role"] == "ours" and _get_case_key(r) == _get_case_key(peer))


def to_json(stage: Stage, rows: Sequence[Row], setting: dict[str, Any]) -> dict[str, Any]:
    """Makes what bench.json holds of a stage; `setting`: see `machine.describe_setting`."""
    return {
        "title": stage.title,
        "unit": stage.unit,
        "remarks": list(stage.remarks),
        "setting": setting,
        "rows": [
            asdict(row) | {"value": compute_spread(row.values), "ratio": compute_spread(row.ratios)}
            for row in rows
        ],
    }


def _get_case_key(row: dict[str, Any]) -> tuple:
    return row["case"], row["precision"], row["size"], row["batch"]
