"""Request counts and latencies for Prometheus, under TensorFlow Serving's metric names.

The text format is written here because Prometheus' client library appends `_total` to the names of
counters.
"""

import bisect
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field

PATH = "/monitoring/prometheus/metrics"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_COUNT = ":tensorflow:serving:request_count"
_LATENCY = ":tensorflow:serving:request_latency"
# TensorFlow Serving's buckets: 10 microseconds to about 20 minutes.
_BOUNDS = [10 * 1.8**i for i in range(33)]


@dataclass
class _Histogram:
    counts: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    sum: float = 0.0


class Metrics:
    """Counts requests since the start. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._latencies: dict[tuple[str, str, str], _Histogram] = defaultdict(_Histogram)

    def record(
        self, model: str, signature: str, api: str, entrypoint: str, status: str, seconds: float
    ) -> None:
        """Counts a request.

        Args:
          model: Name of a served model. Empty for unknown names, or clients could create any
            number of time series.
          signature: Name of a signature of the model, or empty in the same way.
          api: `Predict` or `Classify`.
          entrypoint: `GRPC` or `REST`.
          status: Name of the gRPC status code, such as `OK`.
          seconds: Duration, including the time in the queue.
        """
        micros = seconds * 1e6
        with self._lock:
            self._requests[model, signature, status] += 1
            histogram = self._latencies[model, api, entrypoint]
            histogram.counts[bisect.bisect_left(_BOUNDS, micros)] += 1
            histogram.sum += micros

    def format_page(self) -> str:
        """Formats all metrics in Prometheus' text format; latencies are in microseconds."""
        with self._lock:
            lines = [f"# TYPE {_COUNT} counter"]
            for (model, signature, status), count in sorted(self._requests.items()):
                labels = _format_labels(model_name=model, signature=signature, status=status)
                lines.append(f"{_COUNT}{{{labels}}} {count}")
            lines.append(f"# TYPE {_LATENCY} histogram")
            for (model, api, entrypoint), histogram in sorted(self._latencies.items()):
                labels = _format_labels(model_name=model, API=api, entrypoint=entrypoint)
                total = 0
                bounds = [*(f"{bound:.6g}" for bound in _BOUNDS), "+Inf"]
                for bound, count in zip(bounds, histogram.counts, strict=True):
                    total += count
                    lines.append(f'{_LATENCY}_bucket{{{labels},le="{bound}"}} {total}')
                lines.append(f"{_LATENCY}_sum{{{labels}}} {histogram.sum:.0f}")
                lines.append(f"{_LATENCY}_count{{{labels}}} {total}")
        return "\n".join(lines) + "\n"


def _format_labels(**values: str) -> str:
    escaped = {
        name: value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        for name, value in values.items()
    }
    return ",".join(f'{name}="{value}"' for name, value in escaped.items())
