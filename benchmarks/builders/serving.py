"""The local server, asked by gRPC by many clients at once. The client needs no TensorFlow."""

import itertools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.builders.answers import check_probabilities, read_png_files
from benchmarks.stages.inference import EXPORTS
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from serving.answers import PREDICT, make_request
from serving.client import Client
from serving.connection import DEFAULT_MODEL, open_channel
from serving.local_server import BATCHING_FILE
from serving.server.configs import read_batching

READY = " ready on "
DEADLINE_S = 60.0
# Per step: a multiple of every batch size that is tried.
REQUESTS = 64


def build_grpc(
    work: str,
    signature: str,
    concurrency: int,
    batching: dict[str, Any] | None = None,
    images: int = 1,
    runtime: str = "tensorflow",
) -> Work:
    """Starts a server; a step asks about `REQUESTS` images.

    Args:
      signature: `encoded` or `explain`.
      concurrency: Requests under way at once.
      batching: Parameters that differ from serving/config/batching.config; None for no batching.
      images: Images per request; must divide their number.
      runtime: See `serving.local_server`.
    """
    options = ["--model-base-path", str(_copy_without_warm_up(Path(work))), "--runtime", runtime]
    if batching is not None:
        file = Path(work, f"batching_{uuid4().hex}.config")
        file.write_text(_format_batching_config(batching))
        options += ["--enable-batching", "--batching-parameters-file", str(file)]
    address = _start_server(options)
    files = read_png_files(work)
    with Client(address) as client:
        answers = [client.predict([file])[0] for file in files]
    by_class = [dict(zip(a.classes, a.probabilities, strict=True)) for a in answers]
    found = np.array([[probabilities[code] for code in CODES] for probabilities in by_class])
    error = check_probabilities(work, found)

    groups = [files[k : k + images] for k in range(0, len(files), images)]
    requests = (make_request(DEFAULT_MODEL, signature, group) for group in groups)
    turns = itertools.cycle([request.SerializeToString() for request in requests])

    def step() -> int:
        # A new channel for each step: between turns, client and server are paused for minutes.
        with open_channel(address) as channel, ThreadPoolExecutor(concurrency) as clients:
            # Requests are serialised before, and answers are not parsed: the clients share the
            # machine with the server.
            predict: Any = channel.unary_unary(PREDICT, None, None)
            number = -(-REQUESTS // images)
            sent = [clients.submit(predict, next(turns), DEADLINE_S) for _ in range(number)]
            for answer in sent:
                answer.result()
        return number * images

    return Work(step, {"error": error})


def _copy_without_warm_up(work: Path) -> Path:
    """Copies the export without its warm-up requests, which take half a minute."""
    base = work / "served"
    if not base.exists():
        export = work / EXPORTS / "float32" / "1"
        shutil.copytree(export, base / "1", ignore=shutil.ignore_patterns("assets.extra"))
    return base


def _start_server(options: list[str]) -> str:
    """Starts a server on a free port and returns its address; it ends with our process group."""
    server = subprocess.Popen(
        [sys.executable, "-m", "serving.local_server", "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    line = next((text for text in server.stdout if READY in text), "")
    if not line:
        raise RuntimeError("the local server ended before it was ready")
    return line.strip().rpartition(READY)[2]


def _format_batching_config(other: dict[str, Any]) -> str:
    numbers = asdict(read_batching(BATCHING_FILE)) | other
    sizes = numbers.pop("allowed_batch_sizes")
    lines = [f"{name} {{ value: {value} }}" for name, value in numbers.items()]
    return "\n".join(lines + [f"allowed_batch_sizes: {size}" for size in sizes]) + "\n"
