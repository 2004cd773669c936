"""What a load test measured: figures from its requests, and a plot of them."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OK = "OK"
PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Sample:
    """One request.

    Attributes:
      due_s: float. When it was due, in seconds from the start: sent then (closed loop), or to be
        sent by the schedule of arrivals (open loop).
      latency_s: float. From then until it was answered, refused or given up.
      code: str. `OK`, or the name of gRPC's status code.
    """

    due_s: float
    latency_s: float
    code: str


def summary(samples: Sequence[Sample], batch: int) -> dict[str, Any]:
    """Sums up the requests.

    Args:
      samples: sequence of Sample, in any order.
      batch: int. Images in each request.

    Returns:
      dict, ready for JSON: `seconds` from the start to the last end, `requests`, `ok`, `errors`
      (number by code), `requests_per_s` and `images_per_s` of those that succeeded, and
      `latency_ms` of those: mean, p50, p95, p99 and max; null if there are none.
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


def plot(samples: Sequence[Sample], title: str, path: Path) -> None:
    """Draws latency over time, failures marked, and the distribution of the latencies.

    Args:
      samples: sequence of Sample.
      title: str. Heading of the figure.
      path: Path. PNG file to write, whole or not at all.

    Raises:
      OSError: the file cannot be written.
    """
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
            distribution.annotate(
                f"p{p} {value:.3g} ms",
                (value, p / 100),
                xytext=(6, -10),
                textcoords="offset points",
                fontsize=8,
            )
    distribution.set(xlabel="latency (ms)", ylabel="share of answered requests", ylim=(0, 1.02))
    distribution.margins(x=0.2)
    distribution.set_xlim(left=0)

    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        figure.savefig(aside, format="png", dpi=120)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
