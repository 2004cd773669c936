"""The benchmark's side of a worker process: start, ask, pause, end."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from benchmarks.contenders import Contender, Job
from benchmarks.load import busy, others_share

# Compiling a network and one step of the slowest contender stay below.
PATIENCE_SECONDS = 900.0

# A GPU's memory is to be shared by the processes of a race; what runs on CPUs is TensorFlow.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
HIDE_GPU = {"CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}


class ContenderError(Exception):
    """A contender cannot run, or died; the message is the reason."""


@dataclass(frozen=True)
class Turn:
    """What was done in one turn.

    Attributes:
      steps: whole ones.
      images: in them.
      seconds: by the worker's clock.
      others: share of the machine's cores that other processes used meanwhile, 0 to 1; None
        where the system does not tell.
    """

    steps: int
    images: int
    seconds: float
    others: float | None = None


class Runner(Protocol):
    """What takes turns in a race."""

    facts: dict[str, Any]
    peak_gib: float
    ready_after: float

    def turn(self, seconds: float) -> Turn: ...

    def close(self) -> None: ...


class Child:
    """A worker process. It is paused, with its own children, but for its start and its turns.

    Libraries prepare their next batches, or spin, between calls: that would slow the others.

    Args:
      contender: what it builds.
      threads: cores that it may use.
      log: file for what it writes to stderr; added to.
      on_gpu: whether it may see a GPU.
      patience: seconds to wait for an answer beyond the length of a turn.

    Raises:
      ContenderError: if it does not become ready.
    """

    def __init__(
        self,
        contender: Contender,
        threads: int,
        log: Path,
        on_gpu: bool = False,
        patience: float = PATIENCE_SECONDS,
    ):
        job = Job(contender.builder, contender.settings, threads, contender.warm_up)
        self._patience = patience
        self._buffer = b""
        start = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}
        environment |= SHARE_GPU if on_gpu else HIDE_GPU
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(job))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
                # Its own group, to pause and end it with its children.
                start_new_session=True,
            )
        try:
            answer = self._answer(patience)
        except BaseException:
            self.close()
            raise
        self.facts: dict[str, Any] = answer["ready"]
        self.peak_gib: float = answer["peak_gib"]
        self.ready_after = time.monotonic() - start
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> Turn:
        """Lets it run.

        Raises:
          ContenderError: if it dies or does not answer.
        """
        assert self._process.stdin is not None
        before, start = busy(self._process.pid), time.monotonic()
        self._signal(signal.SIGCONT)
        # A broken pipe: it died; its last answer or its status tells why.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"run {seconds}\n".encode())
            self._process.stdin.flush()
        answer = self._answer(seconds + self._patience)
        self._signal(signal.SIGSTOP)
        after, passed = busy(self._process.pid), time.monotonic() - start
        return Turn(**answer, others=others_share(before, after, passed))

    def close(self) -> None:
        """Ends it and its children at once; what it holds is of no further use."""
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                with contextlib.suppress(BrokenPipeError):  # a request that it never read
                    pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _answer(self, timeout: float) -> dict[str, Any]:
        answer = json.loads(self._line(timeout))
        if "error" in answer:
            raise ContenderError(answer["error"])
        return answer

    def _line(self, timeout: float) -> bytes:
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout
        while b"\n" not in self._buffer:
            if not select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise ContenderError(f"no answer within {timeout:.0f} s")
            chunk = os.read(pipe, 65536)
            if not chunk:
                raise ContenderError(_death(self._process.wait()))
            self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


class FreshChild:
    """Stands in for a worker that is started anew for every turn.

    Args:
      as of `Child`.
    """

    def __init__(self, *arguments: Any):
        self._arguments = arguments
        self.facts: dict[str, Any] = {}
        self.peak_gib = self.ready_after = 0.0

    def turn(self, seconds: float) -> Turn:
        child = Child(*self._arguments)
        try:
            self.facts, self.peak_gib = child.facts, child.peak_gib
            self.ready_after = child.ready_after
            return child.turn(seconds)
        finally:
            child.close()

    def close(self) -> None:
        """Nothing is left to end."""


def _death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed, as by a machine out of memory"
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended, status {status}"
