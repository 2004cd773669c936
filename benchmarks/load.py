"""Who keeps the machine busy: a contender, or others beside it. Linux only."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")

# Columns of /proc/stat that are no work: idle, waiting for disks, and guests counted elsewhere.
IDLE, WAITING, GUESTS = 3, 4, 8
# Fields of /proc/<id>/stat after the command's name: group; time in user and kernel, own and of
# children that ended.
GROUP, TIMES = 2, slice(11, 15)


@dataclass(frozen=True)
class Busy:
    """Seconds of work since the start, added up over cores.

    Attributes:
      machine: of everything.
      group: of one group of processes.
    """

    machine: float
    group: float


def busy(group: int) -> Busy | None:
    """How much the machine and a group of processes have worked; None where nothing tells."""
    try:
        first = (PROC / "stat").read_text().splitlines()[0].split()[1:]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    work = [int(n) for k, n in enumerate(first) if k not in (IDLE, WAITING) and k < GUESTS]
    return Busy(sum(work) / ticks, _group_ticks(group) / ticks)


def others_share(before: Busy | None, after: Busy | None, seconds: float) -> float | None:
    """Share of the machine's cores that others used in between, 0 to 1; None if not known."""
    if before is None or after is None:
        return None
    others = after.machine - before.machine - (after.group - before.group)
    return min(1.0, max(0.0, others / seconds / (os.cpu_count() or 1)))


def _group_ticks(group: int) -> int:
    total = 0
    for folder in PROC.glob("[0-9]*"):
        try:
            # The command's name, in brackets, may hold anything.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        if int(fields[GROUP]) == group:
            total += sum(map(int, fields[TIMES]))
    return total
