"""The command's side of a worker process: start, ask, pause, end."""

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import worker
from benchmarks.contenders import Contender
from benchmarks.machine import compute_share, measure_others
from benchmarks.worker import ContenderError, Turn

# Longer than compiling a network and one step of the slowest contender.
PATIENCE_SECONDS = 900.0

# The processes of a race share the GPU's memory. On the CPU Keras runs on TensorFlow.
SHARE_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
HIDE_GPU = {"CUDA_VISIBLE_DEVICES": "", "KERAS_BACKEND": "tensorflow"}


class Child:
    """A worker process. It runs during its start and its turns only; else it is paused.

    Between calls, libraries prepare their next batches or spin, which would slow the others. Its
    own children are paused, too.

    Args:
      threads: Cores that it may use.
      log: File for its output; appended to.
      on_gpu: Whether it may see a GPU.
      patience: Seconds to wait for an answer, in addition to the length of a turn.

    Attributes:
      facts: See `worker.Work`.
      peak_gib: Most memory that its process held until it was ready.
      ready_after: Seconds from its start until it was ready.

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
        self._patience = patience
        start = time.monotonic()
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {"TF_CPP_MIN_LOG_LEVEL": "2", **(SHARE_GPU if on_gpu else HIDE_GPU)}
        spawning = multiprocessing.get_context("spawn")
        self._connection, other_end = spawning.Pipe()
        arguments = (contender, threads, log, environment, other_end)
        self._process = spawning.Process(target=worker.run, args=arguments)
        self._process.start()
        other_end.close()
        try:
            self.facts, self.peak_gib = self._receive(patience)
        except BaseException:
            self.close()
            raise
        self.ready_after = time.monotonic() - start
        self._signal(signal.SIGSTOP)

    def turn(self, seconds: float) -> Turn:
        """Lets it run for at least so many seconds.

        Raises:
          ContenderError: if it dies or does not answer.
        """
        before, start = measure_others(self._pid), time.monotonic()
        self._signal(signal.SIGCONT)
        # A broken pipe means that it died; its last answer or its status tells why.
        with contextlib.suppress(BrokenPipeError):
            self._connection.send(seconds)
        turn = self._receive(seconds + self._patience)
        self._signal(signal.SIGSTOP)
        after, passed = measure_others(self._pid), time.monotonic() - start
        return replace(turn, others=compute_share(before, after, passed))

    def close(self) -> None:
        """Kills it and its children."""
        self._signal(signal.SIGKILL)
        self._process.kill()  # it may not have its own group yet
        self._process.join()
        self._connection.close()

    @property
    def _pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, number)

    def _receive(self, timeout: float) -> Any:
        if not self._connection.poll(timeout):
            raise ContenderError(f"no answer within {timeout:.0f} s")
        try:
            answer = self._connection.recv()
        except (EOFError, ConnectionResetError) as error:
            self._process.join()
            raise ContenderError(_describe_death(self._process.exitcode or 0)) from error
        if isinstance(answer, ContenderError):
            raise answer
        return answer


class FreshChild:
    """Starts a new worker for every turn. Takes the arguments of `Child`."""

    def __init__(self, *arguments: Any):
        self._arguments = arguments
        self.facts: dict[str, Any] = {}
        self.peak_gib = self.ready_after = 0.0

    def turn(self, seconds: float) -> Turn:
        with contextlib.closing(Child(*self._arguments)) as child:
            self.facts, self.peak_gib = child.facts, child.peak_gib
            self.ready_after = child.ready_after
            return child.turn(seconds)

    def close(self) -> None:
        """No process is left between turns."""


@dataclass(frozen=True)
class Starter:
    """Starts workers under the same conditions.

    Attributes:
      threads: Cores that each may use.
      logs: Folder for one file per contender with its output.
      on_gpu: Whether they may see a GPU.
    """

    threads: int
    logs: Path
    on_gpu: bool = False

    def start(self, contender: Contender) -> Child | FreshChild:
        """Starts a contender. A fresh one raises `ContenderError` at its turn instead."""
        kind = FreshChild if contender.fresh else Child
        log = self.logs / f"{to_file_name(contender.name)}.log"
        return kind(contender, self.threads, log, self.on_gpu)

    def prepare(self, contender: Contender) -> dict[str, Any]:
        """Runs a preparation and returns its facts; raises `ContenderError` if it fails."""
        child = self.start(contender)
        child.close()
        return child.facts


def to_file_name(text: str) -> str:
    """Joins the words of a text with underscores and drops everything else."""
    return "_".join("".join(c if c.isalnum() else " " for c in text).split())


def exit_on_sigterm() -> None:
    """Has SIGTERM unwind the stack as an interruption does: it ends workers, removes files."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def _describe_death(status: int) -> str:
    if status == -signal.SIGKILL:
        return "killed, perhaps because memory ran out"
    return f"died of {signal.Signals(-status).name}" if status < 0 else f"ended, status {status}"
