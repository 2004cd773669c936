"""The Markdown page of a benchmark, from what bench.json holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.contenders import IMAGES_A_SECOND, OURS
from benchmarks.results import fastest_peers, ours_of

Row = dict[str, Any]


def page(stages: Mapping[str, dict[str, Any]]) -> str:
    """The whole page.

    Args:
      stages: name to `results.as_json`.
    """
    parts = [
        "# Benchmark",
        "Every contender is a process of its own. They run in turns, one at a time; a ratio is "
        "that of two turns of one round, and above 1 this project is faster. Shown are medians "
        "over the rounds, with lowest and highest in brackets. GiB: the most that a process had "
        "held when it was ready, without its own children. Others' load: share of the machine's "
        "cores that other processes used during a turn, at most; where it is high, the figures "
        "are not worth much, and least those of programs whose threads wait for each other.",
    ]
    summary = _summary(stages)
    if summary:
        parts += ["## This project over its fastest peer", summary]
    parts += [_section(content) for content in stages.values()]
    return "\n\n".join(parts) + "\n"


def _summary(stages: Mapping[str, dict[str, Any]]) -> str:
    lines = []
    for content in stages.values():
        unit = content["unit"]
        for peer in fastest_peers(content["rows"], unit):
            ours = ours_of(content["rows"], peer)
            lines.append(
                [
                    content["title"],
                    _case(peer),
                    _number(ours["value"]["median"]) if ours["value"] else "",
                    peer["contender"],
                    _number(peer["value"]["median"]),
                    _spread(peer["ratio"], _ratio),
                ]
            )
    header = ["stage", "case", "this project", "fastest peer", "its figure", "ratio"]
    return _table(header, lines) if lines else ""


def _section(content: dict[str, Any]) -> str:
    parts = [f"## {content['title']}", _setting(content["setting"])]
    if content["remarks"]:
        parts.append("\n".join(f"- {remark}" for remark in content["remarks"]))
    parts.append(_rows(content["rows"], content["unit"]))
    return "\n\n".join(parts)


def _setting(setting: dict[str, Any]) -> str:
    machine = setting["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    flags = " ".join(machine["vector_instructions"])
    return (
        f"{machine['processor']}, {machine['cores']} cores ({flags}), {machine['memory_gib']} GiB"
        f"{gpu}; {setting['threads']} threads; {setting['rounds']} rounds. {versions}. "
        f"{setting['started']}, `{setting['command']}`"
    )


def _rows(rows: Sequence[Row], unit: str) -> str:
    """The table of a stage; columns in which no row has anything are left out."""
    columns: list[tuple[str, Callable[[Row], str]]] = [
        ("case", lambda r: r["case"]),
        ("size", lambda r: f"{r['size']} px" if r["size"] else ""),
        ("batch", lambda r: str(r["batch"] or "")),
        ("precision", lambda r: r["precision"]),
        ("contender", lambda r: f"**{r['contender']}**" if r["role"] == OURS else r["contender"]),
        (unit, lambda r: _spread(r["value"], _number)),
        ("ratio", lambda r: _spread(r["ratio"], _ratio)),
        ("TFLOP/s", lambda r: _teraflops(r, unit)),
        ("largest difference", lambda r: "" if r["error"] is None else f"{r['error']:.1e}"),
        ("ready after", lambda r: _ready_after(r, unit)),
        ("GiB", lambda r: f"{r['peak_gib']:.1f}" if r["peak_gib"] else ""),
        ("others' load", lambda r: _percent(r["others"])),
        ("remark", _remark),
    ]
    cells = [[cell(row) for _, cell in columns] for row in rows]
    kept = [k for k in range(len(columns)) if any(line[k] for line in cells)]
    return _table([columns[k][0] for k in kept], [[line[k] for k in kept] for line in cells])


def _ready_after(row: Row, unit: str) -> str:
    """Not where times are measured that begin with a process."""
    if unit != IMAGES_A_SECOND or row["ready_after"] is None:
        return ""
    return f"{row['ready_after']:.0f} s"


def _remark(row: Row) -> str:
    failure = f"did not run: {row['failure']}" if row["failure"] else ""
    if failure and row["values"]:
        failure = f"stopped after {len(row['values'])} rounds: {row['failure']}"
    return "; ".join(text for text in (row["note"], failure) if text)


def _teraflops(row: Row, unit: str) -> str:
    if unit != IMAGES_A_SECOND or not row["gflop_an_image"] or not row["value"]:
        return ""
    return _number(row["gflop_an_image"] * row["value"]["median"] / 1000)


def _case(row: Row) -> str:
    parts = [row["case"], row["group"], f"{row['size']} px" if row["size"] else ""]
    parts += [f"batch {row['batch']}" if row["batch"] else "", row["precision"]]
    return ", ".join(part for part in parts if part)


def _table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(_cell(text) for text in row) + " |" for row in rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _spread(values: dict[str, float] | None, written: Callable[[float], str]) -> str:
    if not values:
        return ""
    between = f"{written(values['low'])} to {written(values['high'])}"
    return f"{written(values['median'])} ({between})"


def _percent(shares: Sequence[float | None]) -> str:
    known = [share for share in shares if share is not None]
    return f"{max(known):.0%}" if known else ""


def _number(number: float) -> str:
    """Three digits that count."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}"
