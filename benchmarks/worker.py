"""One contender, in a process of its own: builds its work, warms up, and takes turns when asked.

`child` starts it. The process ends with its connection, and dies with the process that started it.
"""

import ctypes
import importlib
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.contenders import Contender

SET_PARENT_DEATH_SIGNAL = 1  # of Linux' prctl


@dataclass
class Work:
    """What a builder returns. A preparation has done everything by then and leaves out `step`.

    Attributes:
      step: Does one step, waits for its end, and returns its number of images.
      facts: JSON-like; `error` is the largest difference of probabilities from the float32 Keras
        model, `note` a remark for the page.
    """

    step: Callable[[], int] = lambda: 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Turn:
    """What a contender did in one turn: whole steps until its seconds are over, at least one.

    Attributes:
      images: Number of images in its steps.
      seconds: By the worker's clock.
      others: Share of the machine's cores that other processes used meanwhile, 0 to 1; None
        where the system does not tell.
    """

    steps: int
    images: int
    seconds: float
    others: float | None = None


class ContenderError(Exception):
    """A contender cannot run, or died; the message is the reason."""


def run(
    contender: Contender,
    threads: int,
    log: Path,
    environment: Mapping[str, str],
    connection: Connection,
) -> None:
    """Runs a contender in this new process.

    Sends the facts of its work and the most memory that it has held in GiB, then a `Turn` for each
    length of a turn that it receives, in seconds. A failure of any library is sent as a
    `ContenderError`, with the stack trace in the log.

    Args:
      threads: Cores to use.
      log: File to append stdout and stderr to.
      environment: Variables to set before anything is imported.
    """
    os.setsid()  # a process group, to pause and end it with its children
    # Its children start a tracker of their own: the command's would warn of what a kill leaves.
    tracker: Any = resource_tracker
    tracker._resource_tracker._fd = None
    die_with_parent()
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(environment)
    limit_threads(threads)
    try:
        module, _, function = contender.builder.partition(":")
        work = getattr(importlib.import_module(module), function)(**contender.settings)
        for _ in range(contender.warm_up):
            work.step()
        peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # without children
        connection.send((work.facts, peak_gib))
        while True:
            connection.send(_run_turn(work, connection.recv()))
    except Exception as error:
        traceback.print_exc()
        first_line = next(filter(str.strip, str(error).splitlines()), "no message")
        connection.send(ContenderError(f"{type(error).__name__}: {first_line}"))


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however it ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def limit_threads(threads: int) -> None:
    """Restricts this process and its children to so many cores.

    Call it before libraries are imported: they count the cores at their start.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _run_turn(work: Work, seconds: float) -> Turn:
    steps = images = 0
    start = time.perf_counter()
    while True:
        images += work.step()
        steps += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return Turn(steps, images, passed)
