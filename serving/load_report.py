"""Results of a load test: summary figures, a table for the terminal, and a plot."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leuko_tf.cli import write_aside

OK = "OK"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
      due_s: When it was sent (closed loop) or scheduled (open loop), in seconds from the start.
      latency_s: From then until it was answered, refused or given up, in seconds.
      code: `OK`, or the name of gRPC's status code.
    """

    due_s: float
    latency_s: float
    code: str


def compute_summary(samples: Sequence[Sample], batch: int) -> dict[str, Any]:
    """Computes the figures of a load test.

    Args:
      samples: In any order.
      batch: Images in each request.

    Returns:
      Ready for JSON: `seconds` from the start to the last end, `requests`, `ok`, `errors` (number
      by code); of the successful requests `requests_per_s`, `images_per_s` and `latency_ms`
      (mean, p50, p95, p99 and max; null if there are none).
    """
    latencies_ms = np.array([1000 * s.latency_s for s in samples if s.code == OK])
    seconds = max((s.due_s + s.latency_s for s in samples), default=0.0)
    per_s = len(latencies_ms) / seconds if seconds else 0.0
    latency = None
    if latencies_ms.size:
        percentiles = np.percentile(latencies_ms, PERCENTILES)
        latency = {
            "mean": round(float(latencies_ms.mean()), 3),
            **{f"p{p}": round(float(v), 3) for p, v in zip(PERCENTILES, percentiles, strict=True)},
            "max": round(float(latencies_ms.max()), 3),
        }
    errors = Counter(s.code for s in samples if s.code != OK)
    return {
        "seconds": round(seconds, 3),
        "requests": len(samples),
        "ok": len(latencies_ms),
        "errors": dict(errors.most_common()),
        "requests_per_s": round(per_s, 3),
        "images_per_s": round(per_s * batch, 3),
        "latency_ms": latency,
    }


def format_table(result: dict[str, Any]) -> str:
    """Formats the content of loadtest.json for the terminal."""
    latency = result["latency_ms"]
    errors = ", ".join(f"{code} {number:,}" for code, number in result["errors"].items())
    latencies = "none" if latency is None else "  ".join(f"{k} {v:.1f}" for k, v in latency.items())
    lines = [
        format_title(result),
        f"  answered      {result['ok']:,} of {result['requests']:,} requests in"
        f" {result['seconds']:.1f} s",
        f"  throughput    {result['requests_per_s']:.1f} requests/s,"
        f" {result['images_per_s']:.1f} images/s",
        f"  errors        {errors or 'none'}",
        f"  latency (ms)  {latencies}",
    ]
    if result["loop"] == "open":
        lines.append(f"  sent late by  at most {result['sent_late_ms']:.1f} ms")
    return "\n".join(lines)


def format_title(result: dict[str, Any]) -> str:
    """Formats load, requests, model and server as one line."""
    load = (
        f"closed loop, {result['concurrency']} at once"
        if result["loop"] == "closed"
        else f"open loop, {result['rate_per_s']:g} per second"
    )
    return (
        f"{load}; {result['signature']}, images in a request: {result['batch']};"
        f" {result['model']} version {result['model_version']} at {result['address']}"
    )


def plot(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Plots latency over time, with failures, and the latencies' distribution to a PNG file."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title, fontsize=10)
    over_time, distribution = figure.subplots(1, 2, width_ratios=(3, 2))

    codes = sorted({s.code for s in samples}, key=lambda code: (code != OK, code))
    for code in codes:
        chosen = [s for s in samples if s.code == code]
        style = {"s": 6, "color": "#1f77b4"} if code == OK else {"s": 18, "marker": "x"}
        due, latency = zip(*((s.due_s, 1000 * s.latency_s) for s in chosen), strict=True)
        over_time.scatter(due, latency, label=f"{code} ({len(chosen):,})", linewidths=1, **style)
    over_time.set(xlabel="time (s)", ylabel="latency (ms)", ylim=(0, None))
    if codes:
        over_time.legend(loc="upper left", fontsize=8)

    latencies = np.array([1000 * s.latency_s for s in samples if s.code == OK])
    if latencies.size:
        distribution.ecdf(latencies, color="#1f77b4")
        for p, value in zip(PERCENTILES, np.percentile(latencies, PERCENTILES), strict=True):
            distribution.plot(value, p / 100, "o", color="black", markersize=4)
            offset = {"xytext": (6, -10), "textcoords": "offset points"}
            label = f"p{p} {value:.3g} ms"
            distribution.annotate(label, (value, p / 100), fontsize=8, **offset)
    distribution.set(xlabel="latency (ms)", ylabel="share of answered requests", ylim=(0, 1.02))
    distribution.margins(x=0.2)
    distribution.set_xlim(left=0)

    with write_aside(path) as aside:
        figure.savefig(aside, format="png", dpi=120)
