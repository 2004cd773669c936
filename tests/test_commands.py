import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = [
    "leuko_tf.demo",
    "leuko_tf.evaluate",
    "leuko_tf.export",
    "leuko_tf.saliency",
    "leuko_tf.train",
    "serving.client",
    "serving.local_server",
    "tfds_aml.synthetic_smear",
    "tfds_aml.synthetic_smear.contact_sheet",
]

# Runs a module as `python -m` does, then tells which heavy libraries were imported.
PROGRAM = """
import runpy, sys
module, *sys.argv[1:] = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as end:
    status = end.code
heavy = {"tensorflow", "keras", "tensorflow_datasets"} & set(sys.modules)
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
    for package in ("leuko_tf", "serving", "tfds_aml"):
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
