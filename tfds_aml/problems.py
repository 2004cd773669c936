"""Collects the problems of a download and reports them in one error."""

import sys
from collections import defaultdict
from pathlib import Path

NAMED_PER_KIND = 10


class BadDownloadError(ValueError):
    """The download cannot be built; the message says what is wrong, where, and what to do."""


class Problems:
    """Collects the problems of a download, then raises one error for all of them.

    Args:
      folder: the download, or a file in it.
      use: completes the sentence "... cannot be ...".
    """

    def __init__(self, folder: Path, use: str = "built"):
        self._folder = folder
        self._use = use
        self._where_by_kind: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, where: str) -> None:
        """Records a problem in a file or line.

        `kind` tells what is wrong and what to do; problems are counted under this heading.
        """
        self._where_by_kind[kind].append(where)

    def raise_if_any(self) -> None:
        """Raises a `BadDownloadError` that counts all problems and names ten of each kind."""
        count = sum(len(where) for where in self._where_by_kind.values())
        if not count:
            return
        plural = "s" if count > 1 else ""
        lines = [f"{self._folder} cannot be {self._use}: {count:,} problem{plural}."]
        for kind, where in self._where_by_kind.items():
            lines.append(f"- {len(where):,} x {kind}")
            lines.extend(f"    {w}" for w in where[:NAMED_PER_KIND])
            if len(where) > NAMED_PER_KIND:
                lines.append(f"    ... and {len(where) - NAMED_PER_KIND:,} more")
        raise BadDownloadError("\n".join(lines))


def show_message_only_in_tfds_command() -> None:
    """Under the `tfds` command, prints a `BadDownloadError` without its stack trace.

    The command does not catch exceptions, so thirty lines of TFDS' own frames would bury the
    message. Does nothing in a notebook or a script.
    """
    if Path(sys.argv[0]).name != "tfds":
        return
    previous = sys.excepthook

    def hook(kind, error, trace):
        if isinstance(error, BadDownloadError):
            print(f"error: {error}", file=sys.stderr)
        else:
            previous(kind, error, trace)

    sys.excepthook = hook
