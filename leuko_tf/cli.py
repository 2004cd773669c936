"""What every command of the project shares: errors that speak to people, files written aside."""

import json
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Bad input. The message says what, where and what to do; commands print only that."""


def run(main: Callable[[], None]) -> None:
    """Runs a command; bad input or a file that cannot be written ends in one message, status 1."""
    # TensorFlow's own lines would bury ours; what really fails there raises an exception, too.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def format_command_line() -> str:
    """The command that runs, as one would type it again."""
    return shlex.join(["python", *sys.orig_argv[1:]])


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, and renames it to `path` at the end.

    A reader never sees a half-written file, nor does a run that was killed leave one under the
    final name. The temporary name keeps the ending, by which Keras knows its format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON. Not-a-number is refused: it is no JSON."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and looks for devices, without the lines that this prints.

    On a machine without a GPU TensorFlow 2.21 tells so six times, as an error among others, before
    its log level holds. With TF_CPP_MIN_LOG_LEVEL below 2 the lines come; so they do if the
    import fails.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "2":
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf
            from absl import logging

            tf.config.list_physical_devices()
            logging.set_verbosity(logging.ERROR)
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
