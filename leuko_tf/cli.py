"""What commands share: user errors, arguments, atomic writes, a quiet import of TensorFlow."""

import argparse
import json
import logging
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do; commands print only it."""


def run(main: Callable[[], None]) -> None:
    """Runs a command. A `UserError` or `OSError` ends it with one message and status 1."""
    # TensorFlow's log lines would bury our message; its real failures raise exceptions as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def format_command_line() -> str:
    """Formats the running command as the user would type it again."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def parse_positive_int(text: str) -> int:
    """Parses an argument that must be a whole number of at least 1."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def parse_positive_number(text: str) -> float:
    """Parses an argument that must be a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, not {text!r}")
    return number


@contextmanager
def write_aside(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path` to write to, then renames it to `path`.

    So nobody reads a half-written file, and a killed run leaves none under the final name. The
    temporary name has the same ending, because Keras chooses the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield aside
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes `content` as indented JSON; raises ValueError for NaN, which JSON does not have."""
    with write_aside(path) as aside:
        aside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def import_tensorflow_quietly() -> None:
    """Imports TensorFlow and lists its devices, without the lines that this prints.

    Without a GPU, TensorFlow 2.21 prints six lines about it as errors, before its log level takes
    effect. They are shown if the import fails, or if TF_CPP_MIN_LOG_LEVEL is set below 2.
    """
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") < "2":
        return
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            import tensorflow as tf
            from absl import logging as absl_logging

            tf.config.list_physical_devices()
            tf.get_logger().setLevel(logging.ERROR)
            absl_logging.set_verbosity(absl_logging.ERROR)
        except BaseException:
            held_back.seek(0)
            os.write(stderr, held_back.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
