"""How long commands and models take to start."""

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.contenders import Case, Contender, Options, Stage
from benchmarks.stages.inference import EXPORTS, KERAS_MODEL, list_own_preparations
from benchmarks.worker import Work


def find_commands() -> list[str]:
    """Finds the modules of this project that are commands, in alphabetical order."""
    root = Path(__file__).parents[2]
    commands = set()
    for package in ("benchmarks", "leuko_tf", "serving", "tfds_aml"):
        for file in (root / package).rglob("*.py"):
            is_command = '\nif __name__ == "__main__":' in file.read_text()
            if is_command and not file.stem.endswith("_test"):
                name = ".".join(file.relative_to(root).with_suffix("").parts)
                commands.add(name.removesuffix(".__main__"))
    return sorted(commands)


def build_help(command: str) -> Work:
    """One `python -m command --help` per step."""
    words = [sys.executable, "-m", command, "--help"]
    return _repeat(lambda: subprocess.run(words, check=True, stdout=subprocess.DEVNULL))


def build_import(work: str) -> Work:
    """Importing TensorFlow and Keras; only the first step of a process does something."""
    return _repeat(lambda: [importlib.import_module(name) for name in ("tensorflow", "keras")])


def build_keras_loading(work: str) -> Work:
    """Loading the `.keras` file."""
    from leuko_tf.network.loading import load_model

    return _repeat(lambda: load_model(Path(work, KERAS_MODEL)))


def build_export_loading(work: str) -> Work:
    """Loading the SavedModel."""
    import tensorflow as tf

    return _repeat(lambda: tf.saved_model.load(str(Path(work, EXPORTS, "float32", "1"))))


def _repeat(run: Callable[[], object]) -> Work:
    def step() -> int:
        run()
        return 0

    return Work(step)


def _list_cases(options: Options) -> list[Case]:
    helps = [
        Contender(f"python -m {command}", "ours", f"{__name__}:build_help", {"command": command}, 1)
        for command in find_commands()
    ]
    settings = {"work": options.work}
    loads = [
        Contender(name, "ours", f"{__name__}:{builder}", settings, warm_up=0, fresh=True)
        for name, builder in (
            ("importing TensorFlow and Keras", "build_import"),
            ("loading a .keras model, after imports", "build_keras_loading"),
            ("loading a SavedModel, after imports", "build_export_loading"),
        )
    ]
    return [Case("--help", helps), Case("first use", loads)]


STAGE = Stage(
    title="Start-up",
    unit="s",
    remarks=(
        "Wall time of the whole process for `--help`, with its files in the page cache. Models: "
        "the paper's network, 23,112,975 parameters; a new process every round.",
    ),
    preparations=list_own_preparations,
    cases=_list_cases,
)
