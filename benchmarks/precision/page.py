"""The Markdown page of a study of precisions."""

from typing import Any

from benchmarks.page import _number, _setting, _spread, _table
from benchmarks.results import spread


def page(results: dict[str, Any]) -> str:
    """The whole page.

    Args:
      results: what precision.json holds; see `__main__.study`.
    """
    cells = (
        f"`{results['model']}` at {results['size']} px on {results['cells']:,} cells of "
        f"`{results['images']}`; {results['calibration']:,} other cells of that folder calibrate "
        "int8."
    )
    if results["labelled"]:
        cells += " Accuracy is of these cells, whichever of them the network was trained on."
    parts = [
        f"# {results['title']}",
        cells,
        _setting(results["setting"]),
        "\n".join(f"- {remark}" for remark in results["remarks"]),
        _ways(results["rows"], results["labelled"]),
    ]
    return "\n\n".join(parts) + "\n"


def _ways(rows: list[dict[str, Any]], labelled: bool) -> str:
    header = ["way", "images/s", "speed", "answers changed"]
    header += ["of them now right / now wrong"] if labelled else []
    header += ["largest difference", "mean difference"]
    header += ["accuracy"] if labelled else []
    header += ["remark"] if any(row["failure"] for row in rows) else []
    return _table(header, [_line(row, labelled, len(header)) for row in rows])


def _line(row: dict[str, Any], labelled: bool, columns: int) -> list[str]:
    found = row["comparison"]
    if found is None:
        empty = [""] * (columns - 2)
        return [row["contender"], *empty, f"did not run: {row['failure']}"]
    # The ratios are TensorFlow's float32 over this way.
    speeds = spread([1 / ratio for ratio in row["ratios"]])
    line = [
        row["contender"],
        _spread(row["value"], _number),
        _spread(vars(speeds), lambda n: f"{n:.2f}") if speeds else "",
        f"{found['changed']} ({found['changed_share']:.2%})",
    ]
    line += [f"{found['to_right']} / {found['to_wrong']}"] if labelled else []
    line += [f"{found['largest']:.1e}", f"{found['mean']:.1e}"]
    line += [f"{found['accuracy']:.4f}"] if labelled else []
    return line + [""] * (columns - len(line))
