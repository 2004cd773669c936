"""The Markdown page of a benchmark, from what bench.json holds."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.contenders import Unit
from benchmarks.results import find_fastest_peers, find_ours

Row = dict[str, Any]
Columns = Sequence[tuple[str, Callable[[Row], str]]]

INTRODUCTION = (
    "Every contender runs in a process of its own. They take turns, one at a time. A ratio "
    "compares two turns of the same round; above 1 this project is faster. Figures are medians "
    "over the rounds, with the lowest and highest in brackets. GiB: the most memory that a process "
    "had held when it was ready, without its own children. Others' load: the largest share of the "
    "machine's cores that other processes used during a turn. Where it is high, do not rely on the "
    "figures, least of all on those of programs whose threads wait for each other."
)


def format_page(stages: Mapping[str, dict[str, Any]]) -> str:
    """Formats the whole page; `stages`: name to `results.to_json`."""
    parts = ["# Benchmark", INTRODUCTION]
    summary = _list_fastest_peers(stages)
    if summary:
        header = ["stage", "case", "this project", "fastest peer", "its figure", "ratio"]
        parts += ["## This project over its fastest peer", _format_table(header, summary)]
    for content in stages.values():
        parts += [f"## {content['title']}", format_stage(content, _make_columns(content["unit"]))]
    return "\n\n".join(parts) + "\n"


def format_stage(content: dict[str, Any], columns: Columns) -> str:
    """Formats setting, remarks and rows of what `results.to_json` made.

    Columns that are empty in every row are left out.

    Args:
      columns: Title, and what formats a row's cell.
    """
    cells = [[format_cell(row) for _, format_cell in columns] for row in content["rows"]]
    kept = [k for k in range(len(columns)) if any(line[k] for line in cells)]
    header, lines = [columns[k][0] for k in kept], [[line[k] for k in kept] for line in cells]
    remarks = "\n".join(f"- {remark}" for remark in content["remarks"])
    parts = (_format_setting(content["setting"]), remarks, _format_table(header, lines))
    return "\n\n".join(filter(None, parts))


def _format_setting(setting: dict[str, Any]) -> str:
    machine = setting["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in setting["versions"].items())
    gpu = f", {machine['gpu']}" if machine.get("gpu") else ""
    flags = " ".join(machine["vector_instructions"])
    return (
        f"{machine['processor']}, {machine['cores']} cores ({flags}), {machine['memory_gib']} GiB"
        f"{gpu}; {setting['threads']} threads; {setting['rounds']} rounds. {versions}. "
        f"{setting['started']}, `{setting['command']}`"
    )


def format_case(title: str, size: int | None, batch: int | None, *more: str) -> str:
    """Formats what tells a case from the others of its stage, leaving out what is empty."""
    parts = [title, f"{size} px" if size else "", f"batch {batch}" if batch else "", *more]
    return ", ".join(part for part in parts if part)


def format_spread(values: Mapping[str, float] | None, form: Callable[[float], str]) -> str:
    """Formats median and range; empty for None."""
    if not values:
        return ""
    return f"{form(values['median'])} ({form(values['low'])} to {form(values['high'])})"


def format_number(number: float) -> str:
    """Formats a number to three significant digits."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def format_remark(row: Row) -> str:
    """Formats a row's note, and why it did not run or stopped."""
    failure = f"did not run: {row['failure']}" if row["failure"] else ""
    if failure and row["values"]:
        failure = f"stopped after {len(row['values'])} rounds: {row['failure']}"
    return "; ".join(text for text in (row["note"], failure) if text)


def _list_fastest_peers(stages: Mapping[str, dict[str, Any]]) -> list[list[str]]:
    lines = []
    for content in stages.values():
        for peer in find_fastest_peers(content["rows"], content["unit"]):
            ours = find_ours(content["rows"], peer)
            title = ", ".join(filter(None, (peer["case"], peer["group"])))
            lines.append(
                [
                    content["title"],
                    format_case(title, peer["size"], peer["batch"], peer["precision"]),
                    format_number(ours["value"]["median"]) if ours["value"] else "",
                    peer["contender"],
                    format_number(peer["value"]["median"]),
                    format_spread(peer["ratio"], _format_ratio),
                ]
            )
    return lines


def _make_columns(unit: Unit) -> Columns:
    columns: Columns = [
        ("case", lambda r: r["case"]),
        ("size", lambda r: f"{r['size']} px" if r["size"] else ""),
        ("batch", lambda r: str(r["batch"] or "")),
        ("precision", lambda r: r["precision"]),
        ("contender", lambda r: f"**{r['contender']}**" if r["role"] == "ours" else r["contender"]),
        (unit, lambda r: format_spread(r["value"], format_number)),
        ("ratio", lambda r: format_spread(r["ratio"], _format_ratio)),
        ("TFLOP/s", _format_teraflops),
        ("largest difference", lambda r: "" if r["error"] is None else f"{r['error']:.1e}"),
        ("ready after", lambda r: "" if r["ready_after"] is None else f"{r['ready_after']:.0f} s"),
        ("GiB", lambda r: f"{r['peak_gib']:.1f}" if r["peak_gib"] else ""),
        ("others' load", _format_load),
        ("remark", format_remark),
    ]
    # Where times are measured, a process may begin with each of them: these two mean nothing.
    left_out = () if unit == "images/s" else ("TFLOP/s", "ready after")
    return [(title, format_cell) for title, format_cell in columns if title not in left_out]


def _format_teraflops(row: Row) -> str:
    if not row["gflop_an_image"] or not row["value"]:
        return ""
    return format_number(row["gflop_an_image"] * row["value"]["median"] / 1000)


def _format_load(row: Row) -> str:
    known = [share for share in row["others"] if share is not None]
    return f"{max(known):.0%}" if known else ""


def _format_ratio(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.2f}"


def _format_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(map(_escape_cell, row)) + " |" for row in rows)


def _escape_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
