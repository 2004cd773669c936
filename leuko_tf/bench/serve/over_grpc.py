"""The local server, asked by gRPC for as long as its worker lives."""

import itertools
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from leuko_tf.bench.inference import EXPORTS
from leuko_tf.bench.serve.files import checked, png_files
from leuko_tf.bench.worker import Work
from leuko_tf.classes import CODES
from serving.client import PREDICT, Client, predict_request
from serving.configs import BatchingParameters, read_batching
from serving.connection import DEFAULT_MODEL, open_channel
from serving.local_server import BATCHING_FILE

READY = " ready on "
# The worker and its server are paused between turns, and no request is to end by that.
DEADLINE_S = 3600.0


def answers(
    work: str,
    signature: str,
    concurrency: int,
    batching: dict[str, int] | None = None,
    images: int = 1,
    runtime: str = "tensorflow",
) -> Work:
    """Starts a server, and clients that always wait for an answer.

    Args:
      work: folder of the preparation.
      signature: `encoded` or `explain`.
      concurrency: requests under way.
      batching: the parameters that are not those of serving/config; None for no batching.
      images: of a request; divides their number.
      runtime: of the server.
    """
    base = Path(work, EXPORTS, "float32")
    options = ["--runtime", runtime]
    if batching is not None:
        usual: Any = read_batching(BATCHING_FILE)
        file = Path(work, f"batching{''.join(f'_{k}_{v}' for k, v in batching.items())}.config")
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
        predict_request(DEFAULT_MODEL, signature, group).SerializeToString() for group in groups
    ]
    crowd = _Crowd(address, messages, concurrency)
    # Whole batches, so that a turn ends where the next batch begins.
    waited = min(concurrency, read_batching(BATCHING_FILE).max_batch_size)

    def step() -> int:
        crowd.wait(waited)
        return waited * images

    return Work(step, {"error": error})


class _Crowd:
    """Clients that send their next request when the last one is answered.

    Args:
      address: of the server.
      messages: serialised requests, taken in turns.
      concurrency: number of clients.
    """

    def __init__(self, address: str, messages: list[bytes], concurrency: int):
        self._channel = open_channel(address)
        # Serialised before and not parsed after: clients share the machine with the server.
        self._predict: Any = self._channel.unary_unary(PREDICT, None, None)
        self._turns = itertools.cycle(messages)
        self._answered = threading.Semaphore(0)
        self._error: Exception | None = None
        for _ in range(concurrency):
            threading.Thread(target=self._ask, daemon=True).start()

    def _ask(self) -> None:
        try:
            while True:
                self._predict(next(self._turns), timeout=DEADLINE_S)
                self._answered.release()
        except Exception as error:  # told by the next step
            self._error = error
            self._answered.release()

    def wait(self, number: int) -> None:
        """Waits for so many more answers; raises what a client met."""
        for _ in range(number):
            self._answered.acquire()
            if self._error:
                raise self._error


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
    del numbers["allowed_batch_sizes"]
    sizes = [2**k for k in range(parameters.max_batch_size.bit_length())]
    lines = [f"{name} {{ value: {value} }}" for name, value in numbers.items()]
    return "\n".join(lines + [f"allowed_batch_sizes: {size}" for size in sizes]) + "\n"
