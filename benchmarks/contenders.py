"""What a stage of the benchmark consists of."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = "ours"  # the first of a case is compared with the others
PEER = "peer"  # what a user would pick instead
VARIANT = "variant"  # ours with one choice made otherwise
FLOOR = "floor"  # a part of the work alone, which nothing can be faster than

IMAGES_A_SECOND = "images/s"
SECONDS = "s"


@dataclass(frozen=True)
class Job:
    """What a worker process is to build.

    Attributes:
      builder: `package.module:function`; called with `settings`, returns a `worker.Work`.
      settings: JSON-like keyword arguments of the builder.
      threads: cores to use.
      warm_up: steps before it counts as ready.
    """

    builder: str
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    warm_up: int = 0


@dataclass(frozen=True)
class Contender:
    """One row of a table.

    Attributes:
      name: as the page shows it.
      role: `OURS`, `PEER`, `VARIANT` or `FLOOR`.
      builder: see `Job`.
      settings: see `Job`.
      warm_up: steps before the first round.
      group: what it competes with us in, where a case has several kinds of peers.
      fresh: whether every round starts a new process, to time what happens once in one.
    """

    name: str
    role: str
    builder: str
    settings: dict[str, Any] = field(default_factory=dict)
    warm_up: int = 3
    group: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Case:
    """Contenders that run in turns. The first, ours, is what the others are compared with.

    Attributes:
      title: what tells the case from others of its stage, beside the next three.
      contenders: in the order of their turns.
      precision: of the computation; empty where the question does not arise.
      size: side of the images in pixels; None without images.
      batch: images a step; None without batches.
      seconds: length of a turn; 0 for one step.
      gflop_an_image: multiplications and additions; None where they do not tell.
    """

    title: str
    contenders: Sequence[Contender]
    precision: str = ""
    size: int | None = None
    batch: int | None = None
    seconds: float = 0.0
    gflop_an_image: float | None = None


@dataclass(frozen=True)
class Options:
    """What decides which cases run, and where they find things.

    Attributes:
      short: fewer cases and shorter turns.
      peers: also what others made.
      work: folder for what the benchmark makes for itself.
    """

    short: bool
    peers: bool
    work: Path


@dataclass(frozen=True)
class Stage:
    """One table of the page.

    Attributes:
      title: of the page's section.
      unit: `IMAGES_A_SECOND`, or `SECONDS` a step.
      remarks: what is timed, and what is not equal; sentences of Markdown.
      preparations: makes, by builder and settings, what the contenders read; run before them.
      cases: the races.
      peers_need: modules without which `--peers` cannot be.
      on_gpu: whether it runs on the GPU; other stages do not see one.
    """

    title: str
    unit: str
    remarks: Sequence[str]
    preparations: Callable[[Options], Sequence[Contender]]
    cases: Callable[[Options], Sequence[Case]]
    peers_need: Sequence[str] = ()
    on_gpu: bool = False
