"""The local server, asked by gRPC by many clients at once."""

import itertools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np

from benchmarks.inference import EXPORTS
from benchmarks.serve.files import checked, png_files
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from serving.answers import PREDICT, make_request
from serving.client import Client
from serving.connection import DEFAULT_MODEL, open_channel
from serving.local_server import BATCHING_FILE
from serving.server.configs import BatchingParameters, read_batching

READY = " ready on "
DEADLINE_S = 60.0
# Of a step: whole batches of any size that is tried.
REQUESTS = 64


def answers(
    work: str,
    signature: str,
    concurrency: int,
    batching: dict[str, Any] | None = None,
    images: int = 1,
    runtime: str = "tensorflow",
) -> Work:
    """Starts a server; a step is `REQUESTS` requests, so many under way at once.

    Args:
      work: folder of the preparation.
      signature: `encoded` or `explain`.
      concurrency: requests under way.
      batching: the parameters that are not those of serving/config; None for no batching.
      images: of a request; divides their number.
      runtime: of the server.
    """
    base = _without_warm_up(Path(work))
    options = ["--runtime", runtime]
    if batching is not None:
        usual: Any = read_batching(BATCHING_FILE)
        file = Path(work, f"batching_{'_'.join(batching)}_{uuid4().hex}.config")
        file.write_text(_batching_config(replace(usual, **batching)))
        options += ["--enable-batching", "--batching-parameters-file", str(file)]
    address = _started(["--model-base-path", str(base), *options])
    files = png_files(work)
    with Client(address) as client:
        told = [client.predict([file])[0] for file in files]
    found = [[dict(zip(a.classes, a.probabilities, strict=True))[c] for c in CODES] for a in told]
    error = checked(work, np.array(found))

    groups = [files[k : k + images] for k in range(0, len(files), images)]
    messages = [
        make_request(DEFAULT_MODEL, signature, group).SerializeToString() for group in groups
    ]
    turns = itertools.cycle(messages)

    def step() -> int:
        # Not a channel for all steps: between turns, client and server are paused for minutes.
        with open_channel(address) as channel, ThreadPoolExecutor(concurrency) as clients:
            # Serialised before and not parsed after: clients share the machine with the server.
            predict: Any = channel.unary_unary(PREDICT, None, None)
            number = -(-REQUESTS // images)
            asked = [clients.submit(predict, next(turns), DEADLINE_S) for _ in range(number)]
            for answer in asked:
                answer.result()
        return number * images

    return Work(step, {"error": error})


def _without_warm_up(work: Path) -> Path:
    """A copy of the export without what a new version answers first: that takes half a minute."""
    base = work / "served"
    if not base.exists():
        export = work / EXPORTS / "float32" / "1"
        shutil.copytree(export, base / "1", ignore=shutil.ignore_patterns("assets.extra"))
    return base


def _started(options: list[str]) -> str:
    """Starts a server on a free port, which ends with this process' group; gives its address."""
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


def _batching_config(parameters: BatchingParameters) -> str:
    numbers = asdict(parameters)
    sizes = numbers.pop("allowed_batch_sizes")
    lines = [f"{name} {{ value: {value} }}" for name, value in numbers.items()]
    return "\n".join(lines + [f"allowed_batch_sizes: {size}" for size in sizes]) + "\n"
