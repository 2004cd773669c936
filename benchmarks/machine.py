"""The machine: what it is, which packages it has, and how busy it is."""

import contextlib
import importlib.util
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from leuko_tf.cli import UserError, format_command_line

PROC = Path("/proc")

PACKAGES = (
    *("leuko_tf", "tensorflow", "keras", "jax", "numpy", "opencv-python-headless", "pillow"),
    *("torch", "timm", "onnx", "onnxruntime", "openvino"),
)

# Instructions that decide how fast convolutions are.
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

# A further contender may need at most this share of the free memory: a worker can still grow
# after its first steps, and others use the machine.
SAFE_SHARE = 0.5

# Columns of /proc/stat that are no work: idle, waiting for disks. From the last one on: guests,
# which are counted elsewhere.
IDLE, WAITING, GUESTS = 3, 4, 8
# Fields of /proc/<id>/stat after the command's name: process group; time in user and kernel mode,
# its own and that of children that ended.
GROUP, TIMES = 2, slice(11, 15)


def describe_setting(threads: int, rounds: int, short: bool) -> dict[str, Any]:
    """Describes a run and its machine, JSON-like. `threads`: cores that each contender may use."""
    flags = _find_in("cpuinfo", r"flags\s*:\s*(.+)").split()
    memory = _find_in("meminfo", r"MemTotal:\s+(\d+) kB")
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": format_command_line(),
        "machine": {
            "processor": _find_in("cpuinfo", r"model name\s*:\s*(.+)").strip()
            or platform.processor()
            or platform.machine(),
            "cores": os.cpu_count(),
            "vector_instructions": [flag for flag in VECTOR_FLAGS if flag in flags],
            "memory_gib": round(int(memory) / 2**20, 1) if memory else None,
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), **_find_versions()},
        "threads": threads,
        "rounds": rounds,
        "short": short,
    }


def count_cores() -> int:
    """Counts the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def has_memory_for(gib: float) -> bool:
    """Whether one more process of this size fits; true where the system does not tell."""
    free = _find_in("meminfo", r"MemAvailable:\s+(\d+) kB")
    return not free or gib < SAFE_SHARE * int(free) / 2**20


def require_modules(modules: Iterable[str], purpose: str) -> None:
    """Raises UserError if modules are not installed; tells how to install them."""
    missing = sorted(m for m in {*modules} if importlib.util.find_spec(m) is None)
    if missing:
        raise UserError(
            f"{purpose} needs {', '.join(missing)}, not installed here: pip install '.[bench]'"
        )


def measure_others(group: int) -> float | None:
    """Seconds of work of all processes outside of a group, since the machine's start.

    They are added up over cores. None without Linux' /proc.
    """
    try:
        columns = (PROC / "stat").read_text().splitlines()[0].split()[1:]
        ticks = os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None
    work = [int(n) for k, n in enumerate(columns[:GUESTS]) if k not in (IDLE, WAITING)]
    return (sum(work) - _count_group_ticks(group)) / ticks


def compute_share(before: float | None, after: float | None, seconds: float) -> float | None:
    """Share of cores that others used between two `measure_others`, 0 to 1; None if not known."""
    if before is None or after is None:
        return None
    return min(1.0, max(0.0, (after - before) / seconds / (os.cpu_count() or 1)))


def _count_group_ticks(group: int) -> int:
    total = 0
    for folder in PROC.glob("[0-9]*"):
        try:
            # The command's name, in brackets, may hold any character.
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process ended meanwhile
        if int(fields[GROUP]) == group:
            total += sum(map(int, fields[TIMES]))
    return total


def _find_versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _find_in(file: str, pattern: str) -> str:
    """The pattern's first group in a file of /proc; empty if there is none."""
    try:
        found = re.search(pattern, (PROC / file).read_text())
    except OSError:
        return ""
    return found[1] if found else ""
