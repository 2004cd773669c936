import os
import subprocess
import sys
from pathlib import Path

import pytest

from leuko_tf.classes import CODES

COMMANDS = [
    "benchmarks",
    "benchmarks.precision",
    "benchmarks.worker",
    "leuko_tf.crossval",
    "leuko_tf.demo",
    "leuko_tf.evaluate",
    "leuko_tf.examiners",
    "leuko_tf.export",
    "leuko_tf.import_2019",
    "leuko_tf.predict",
    "leuko_tf.predictions",
    "leuko_tf.saliency",
    "leuko_tf.train",
    "serving.client",
    "serving.loadtest",
    "serving.local_server",
    "serving.ssl_config",
    "tfds_aml.synthetic_smear",
    "tfds_aml.synthetic_smear.contact_sheet",
]

# Runs a module as `python -m` does, then tells which heavy libraries were imported.
PROGRAM = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
status = 0
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
heavy = {"tensorflow", "keras", "tensorflow_datasets", "torch"} & set(sys.modules)
print("HEAVY:", *sorted(heavy))
sys.exit(status)
"""


def heavy_imports(*words: object) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.rpartition("HEAVY:")[2].strip()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_waits_for_no_heavy_library(command: str) -> None:
    assert heavy_imports(command, "--help") == (0, "")


def test_every_command_is_in_the_list() -> None:
    root = Path(__file__).parent.parent
    modules = set()
    for package in ("benchmarks", "leuko_tf", "serving", "tfds_aml"):
        for file in (root / package).rglob("*.py"):
            if '__name__ == "__main__"' in file.read_text() and not file.stem.endswith("_test"):
                name = ".".join(file.relative_to(root).with_suffix("").parts)
                modules.add(name.removesuffix(".__main__"))
    assert modules == set(COMMANDS)


def test_errors_of_light_commands_wait_for_no_heavy_library(tmp_path: Path) -> None:
    missing = tmp_path / "none.parquet"
    arguments = ("--predictions", missing, "--out", tmp_path)
    status, heavy = heavy_imports("leuko_tf.evaluate", *arguments)
    assert status
    assert not heavy


def test_what_needs_no_model_waits_for_no_heavy_library(tmp_path: Path) -> None:
    table, annotations = tmp_path / "p.csv", tmp_path / "annotations.dat"
    columns = ["id", "label", "fold", *(f"p_{code}" for code in CODES)]
    rows = [
        [
            f"{label}/{label}_{i}.tiff",
            label,
            i % 5 + 1,
            *(0.3 if c == label else 0.05 for c in CODES),
        ]
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
        assert heavy_imports(command, *given, "--out", tmp_path / out, *options) == (0, "")
    assert (tmp_path / "report" / "report.html").is_file()


def test_demo_overwrites_no_folder_but_its_own(tmp_path: Path) -> None:
    keep = tmp_path / "thesis.txt"
    keep.write_text("years of work")
    done = subprocess.run(
        [sys.executable, "-m", "leuko_tf.demo", "--workdir", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "will not be overwritten" in done.stderr
    assert keep.read_text() == "years of work"


def test_demo_deletes_no_data_that_it_shall_read(tmp_path: Path) -> None:
    (tmp_path / "demo.json").write_text("{}")
    data = tmp_path / "download"
    data.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "leuko_tf.demo", "--workdir", tmp_path, "--data", data],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "which the demo deletes" in done.stderr
    assert data.is_dir()


# Stands in for a Python whose installing takes no time and no network, and counts it.
QUICK_PYTHON = """#!/bin/sh
case "$1 $2" in
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip") echo "$@" >> installed.txt ;;
esac
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What `make setup` looks at, in a folder with a space in its name."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    root = Path(__file__).parent.parent
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        (folder / name).write_text((root / name).read_text())
    return folder


@pytest.fixture
def quick_python(clone: Path, tmp_path: Path) -> str:
    python = tmp_path / "quick-python"
    python.write_text(QUICK_PYTHON)
    python.chmod(0o755)
    return f"PYTHON={python}"


def make(clone: Path, *words: str) -> subprocess.CompletedProcess[str]:
    # The suite itself may run under make, which would hand its flags down.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *words],
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_setup_installs_once_and_again_when_the_lock_changes(
    clone: Path, quick_python: str
) -> None:
    installed = clone / "installed.txt"
    assert make(clone, "setup", quick_python).returncode == 0
    assert installed.read_text().count("requirements.lock") == 1
    again = make(clone, "setup", quick_python)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    assert installed.read_text().count("requirements.lock") == 1
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert make(clone, "setup", quick_python).returncode == 0
    assert installed.read_text().count("requirements.lock") == 2


def test_setup_begins_anew_after_it_was_cut_off(clone: Path, quick_python: str) -> None:
    (clone / ".venv").mkdir()
    (clone / ".venv" / ".made-from").touch()
    assert make(clone, "setup", quick_python).returncode == 0
    assert (clone / "installed.txt").is_file()


def test_setup_keeps_an_environment_that_it_did_not_make(clone: Path, quick_python: str) -> None:
    own = clone / ".venv" / "own"
    own.mkdir(parents=True)
    done = make(clone, "setup", quick_python)
    assert done.returncode
    assert "make did not make" in done.stderr
    assert own.is_dir()
