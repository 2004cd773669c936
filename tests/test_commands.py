import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from running import ROOT, check_refusal, run, run_module

from benchmarks.stages.startup import find_commands
from leuko_tf.classes import CODES
from serving.connection import RESEARCH_NOTE

COMMANDS = [command for command in find_commands() if command != "leuko_tf"]

# Runs a module as `python -m` does, then prints which heavy libraries were imported.
PROGRAM = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
status = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
libraries = {"tensorflow", "tensorflow_serving", "keras", "tensorflow_datasets", "torch"}
print("HEAVY:", *sorted(libraries & set(sys.modules)))
sys.exit(status)
"""


def run_lightly(*words: object) -> subprocess.CompletedProcess[str]:
    """Runs a command and checks that it imports no heavy library."""
    done = run([sys.executable, "-c", PROGRAM, *words])
    assert done.stdout.rpartition("HEAVY:")[2] == "\n", done.stdout + done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_no_heavy_library(command: str) -> None:
    done = run_lightly(command, "--help")
    assert done.returncode == 0, done.stderr
    assert f"usage: python -m {command} " in done.stdout
    if command in ("serving.client", "serving.loadtest", "serving.local_server"):
        assert RESEARCH_NOTE in done.stdout


def test_the_package_itself_lists_the_commands() -> None:
    listed = re.findall(r"python -m (\S+)", run_lightly("leuko_tf").stdout)
    assert "leuko_tf.train" in listed
    assert set(listed) <= set(COMMANDS)


def test_errors_of_light_commands_wait_for_no_heavy_library(tmp_path: Path) -> None:
    missing = tmp_path / "none.parquet"
    assert run_lightly("leuko_tf.evaluate", "--predictions", missing, "--out", tmp_path).returncode


def test_what_needs_no_model_waits_for_no_heavy_library(tmp_path: Path) -> None:
    table, annotations = tmp_path / "p.csv", tmp_path / "annotations.dat"
    columns = ["id", "label", "fold", *(f"p_{code}" for code in CODES)]
    scores = {label: [0.3 if c == label else 0.05 for c in CODES] for label in CODES}
    rows = [
        [f"{label}/{label}_{i}.tiff", label, i % 5 + 1, *scores[label]]
        for i, label in enumerate(CODES)
    ]
    table.write_text("\n".join(",".join(map(str, row)) for row in [columns, *rows]))
    annotations.write_text("".join(f"{row[0]} {row[1]} MYO UNC\n" for row in rows))
    beside = ("--annotations", annotations, "--compare", f"x={table}", "--bootstrap", 10)
    for command, given, out, *options in (
        ("leuko_tf.predictions", (table,), "p.parquet"),
        ("leuko_tf.examiners", (annotations,), "examiners"),
        ("leuko_tf.evaluate", ("--predictions", tmp_path / "p.parquet"), "report", *beside),
    ):
        done = run_lightly(command, *given, "--out", tmp_path / out, *options)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "report" / "report.html").is_file()


def test_demo_overwrites_no_folder_but_its_own(tmp_path: Path) -> None:
    keep = tmp_path / "thesis.txt"
    keep.write_text("years of work")
    done = run_module("leuko_tf.demo", "--workdir", tmp_path)
    check_refusal(done, "will not be overwritten")
    assert keep.read_text() == "years of work"


def test_demo_deletes_no_data_that_it_shall_read(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}")
    data = tmp_path / "download"
    data.mkdir()
    done = run_module("leuko_tf.demo", "--workdir", tmp_path, "--data", data)
    check_refusal(done, "which the demo deletes")
    assert data.is_dir()


# Stands in for Python: installs nothing, and records each installation.
QUICK_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >> installed.txt ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make setup` reads, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder


@pytest.fixture
def quick_python(clone: Path, tmp_path: Path) -> str:
    python = tmp_path / "quick-python"
    python.write_text(QUICK_PYTHON)
    python.chmod(0o755)
    return f"PYTHON={python}"


def run_make(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # The suite itself may run under make, which would hand its flags down.
    flags = [name for name in os.environ if name.startswith(("MAKE", "MFLAGS"))]
    unset = [word for name in flags for word in ("-u", name)]
    return run(["env", *unset, "make", *words], cwd=clone)


def test_setup_installs_once_and_again_when_the_lock_changes(
    clone: Path, quick_python: str
) -> None:
    installed = clone / "installed.txt"
    assert run_make(clone, "setup", quick_python).returncode == 0
    assert installed.read_text().count("requirements.lock") == 1
    again = run_make(clone, "setup", quick_python)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert installed.read_text().count("requirements.lock") == 1
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert run_make(clone, "setup", quick_python).returncode == 0
    assert installed.read_text().count("requirements.lock") == 2


def test_setup_begins_anew_after_it_was_cut_off(clone: Path, quick_python: str) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".made-from").touch()
    assert run_make(clone, "setup", quick_python).returncode == 0
    assert (clone / "installed.txt").is_file()


def test_setup_keeps_an_environment_that_it_did_not_make(clone: Path, quick_python: str) -> None:
    own = clone / ".venv" / "own"
    own.mkdir(parents=True)
    done = run_make(clone, "setup", quick_python)
    assert done.returncode
    assert "make did not make" in done.stderr
    assert own.is_dir()
