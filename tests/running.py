"""Runs the project's commands as a user would, in processes of their own."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent


def run_module(
    module: str,
    *words: object,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    python: Path | str = sys.executable,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module words...` and captures its output.

    Args:
      module: such as `leuko_tf.predict`.
      words: arguments, each turned into text.
      cwd: folder to run in.
      env: variables set in addition to those of this process.
      python: another environment's Python.
      timeout: seconds.
    """
    return run([python, "-m", module, *words], cwd=cwd, env=env, timeout=timeout)


def run(
    command: list[object],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 300,
) -> subprocess.CompletedProcess[str]:
    """Runs any command and captures its output as text; never raises for its status."""
    return subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def check_refusal(done: subprocess.CompletedProcess[str], *parts: str, status: int = 1) -> None:
    """Asserts that a command ended with one message for people that holds these parts."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for part in parts:
        assert part in done.stderr
