"""Where a benchmark ran, and with what."""

import os
import platform
import re
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from leuko_tf.cli import format_command_line

PACKAGES = (
    *("leuko_tf", "tensorflow", "keras", "jax", "numpy", "opencv-python-headless", "pillow"),
    *("torch", "timm", "onnx", "onnxruntime", "openvino"),
)

# Instructions that decide how fast convolutions are.
VECTOR_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def setting(threads: int, rounds: int, short: bool) -> dict[str, Any]:
    """Facts of the run, JSON-like.

    Args:
      threads: cores that each contender may use.
      rounds: turns of each contender.
      short: whether it is the short form.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": format_command_line(),
        "machine": {
            "processor": _processor(),
            "cores": os.cpu_count(),
            "vector_instructions": [flag for flag in VECTOR_FLAGS if flag in _flags()],
            "memory_gib": _memory_gib(),
            "system": platform.system(),
        },
        "versions": {"python": platform.python_version(), **_versions()},
        "threads": threads,
        "rounds": rounds,
        "short": short,
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    found = re.search(r"model name\s*:\s*(.+)", _text("/proc/cpuinfo"))
    return found[1].strip() if found else platform.processor() or platform.machine()


def _flags() -> set[str]:
    found = re.search(r"flags\s*:\s*(.+)", _text("/proc/cpuinfo"))
    return set(found[1].split()) if found else set()


def _memory_gib() -> float | None:
    found = re.search(r"MemTotal:\s+(\d+) kB", _text("/proc/meminfo"))
    return round(int(found[1]) / 2**20, 1) if found else None


def _text(file: str) -> str:
    try:
        return Path(file).read_text()
    except OSError:
        return ""
