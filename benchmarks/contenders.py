"""The parts of a benchmark: stages, their cases, and the contenders of a case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

# The first contender of a case is `ours`; the others are compared with it. A `peer` is what a user
# would pick instead, a `variant` ours with one choice changed. A `floor` does a part of the work
# alone; nothing can be faster.
Role = Literal["ours", "peer", "variant", "floor"]
Unit = Literal["images/s", "s"]  # s: per step

# Keras' policy for each precision.
POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16"}


@dataclass(frozen=True)
class Contender:
    """One row of a table. A preparation is a contender without steps.

    Attributes:
      name: Name on the page.
      builder: `package.module:function`; called with `settings`, returns a `worker.Work`.
      settings: JSON-like keyword arguments of the builder.
      warm_up: Steps before the first round.
      group: Tells kinds of peers apart; the page shows the fastest peer of each group.
      fresh: Whether every round starts a new process, to time what happens once per process.
    """

    name: str
    role: Role
    builder: str
    settings: dict[str, Any] = field(default_factory=dict)
    warm_up: int = 3
    group: str = ""
    fresh: bool = False


@dataclass(frozen=True)
class Case:
    """Contenders that run in turns; the first is ours.

    Title, precision, size and batch tell the case from the others of its stage.

    Attributes:
      precision: Of the computation; empty where there is none to choose.
      size: Side of the images in pixels; None without images.
      batch: Images per step; None without batches.
      seconds: Length of a turn; 0 for one step.
      gflop_an_image: Multiplications and additions in 10^9; None where they mean little.
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
    """Decides which cases run.

    Attributes:
      short: Fewer cases and shorter turns.
      peers: Also run what others made.
      work: Absolute path of the folder for files that the benchmark makes for itself.
    """

    short: bool
    peers: bool
    work: str


@dataclass(frozen=True)
class Stage:
    """One table of the page.

    Attributes:
      remarks: What is timed, and what differs between contenders; sentences of Markdown.
      cases: Lists the races.
      preparations: Lists what makes the contenders' files; they run before the cases.
      peers_need: Modules that `--peers` needs.
      on_gpu: Whether it runs on the GPU; other stages do not see one.
    """

    title: str
    unit: Unit
    remarks: Sequence[str]
    cases: Callable[[Options], Sequence[Case]] = lambda options: ()
    preparations: Callable[[Options], Sequence[Contender]] = lambda options: ()
    peers_need: Sequence[str] = ()
    on_gpu: bool = False
