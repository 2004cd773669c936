"""Commands asked for help, and models loaded."""

import subprocess
import sys
from pathlib import Path

from benchmarks.inference import EXPORTS, KERAS_MODEL
from benchmarks.worker import Work


def asking_for_help(command: str) -> Work:
    """One `python -m command --help` a step.

    Args:
      command: a module.
    """

    def step() -> int:
        words = [sys.executable, "-m", command, "--help"]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        return 0

    return Work(step)


def importing(work: str) -> Work:
    """Importing TensorFlow and Keras; only the first step of a process does something."""

    def step() -> int:
        import keras  # noqa: F401
        import tensorflow  # noqa: F401

        return 0

    return Work(step)


def loading_keras(work: str) -> Work:
    """Loading the `.keras` file."""
    from leuko_tf.network.loading import load_model

    def step() -> int:
        load_model(Path(work, KERAS_MODEL))
        return 0

    return Work(step)


def loading_export(work: str) -> Work:
    """Loading the SavedModel."""
    import tensorflow as tf

    def step() -> int:
        tf.saved_model.load(str(Path(work, EXPORTS, "float32", "1")))
        return 0

    return Work(step)
