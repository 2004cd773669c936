"""One contender, in a process of its own: `python -m benchmarks.worker JOB`.

It builds what the job (JSON, see `contenders.Job`) says, warms up, and then answers lines:

  out  {"ready": {facts of the work}, "peak_gib": 1.2}
  in   run 3.0
  out  {"steps": 17, "images": 136, "seconds": 3.1}

A turn is whole steps until its seconds are over, at least one. What fails is answered as
{"error": "..."}, with the traceback on stderr. The process ends when its input does, and dies with
the process that started it.
"""

import argparse
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TextIO

from benchmarks.contenders import Job

SET_PARENT_DEATH_SIGNAL = 1  # of Linux' prctl


@dataclass
class Work:
    """What a builder returns.

    Attributes:
      step: does one step, waits for its end, and returns how many images it was.
      facts: JSON-like; `error` is the largest difference of probabilities from the float32 Keras
        model, `note` a remark for the page.
    """

    step: Callable[[], int]
    facts: dict[str, Any] = field(default_factory=dict)


def prepared(facts: dict[str, Any] | None = None) -> Work:
    """What a builder returns that is a preparation: all is done, there are no steps."""
    return Work(step=lambda: 0, facts=facts or {})


def serve(job: Job, requests: Iterable[str], answers: TextIO) -> int:
    """Builds the work and obeys; returns the exit status."""

    def answer(content: dict[str, Any]) -> None:
        answers.write(json.dumps(content) + "\n")
        answers.flush()

    try:
        work = _built(job)
        for _ in range(job.warm_up):
            work.step()
        answer({"ready": work.facts, "peak_gib": _peak_gib()})
        for request in requests:
            answer(_turn(work, float(request.split()[1])))
    except Exception as error:  # any library's: the table shows it
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {_first_line(error)}"})
        return 1
    return 0


def die_with_parent() -> None:
    """Has the kernel kill this process when its parent ends, however that ends. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def limit_threads(threads: int) -> None:
    """Keeps this process and its children to so many cores; libraries count the cores they have.

    To be called before they are imported.
    """
    if sys.platform == "linux":
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    os.environ["OMP_NUM_THREADS"] = str(threads)


def _built(job: Job) -> Work:
    module, _, function = job.builder.partition(":")
    return getattr(importlib.import_module(module), function)(**job.settings)


def _turn(work: Work, seconds: float) -> dict[str, Any]:
    steps = images = 0
    start = time.perf_counter()
    while True:
        images += work.step()
        steps += 1
        passed = time.perf_counter() - start
        if passed >= seconds:
            return {"steps": steps, "images": images, "seconds": passed}


def _peak_gib() -> float:
    """Most memory this process has held, without its children."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else "no message"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.worker",
        description="One contender of the benchmark, which starts it: not for use by hand.",
    )
    parser.add_argument("job", help="JSON, see benchmarks.contenders.Job")
    job = Job(**json.loads(parser.parse_args().job))
    die_with_parent()
    limit_threads(job.threads)
    # Libraries print to stdout; they may, but not between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    sys.exit(serve(job, sys.stdin, answers))


if __name__ == "__main__":
    main()
