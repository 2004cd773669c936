"""Finds image files in folders. Imports no other package: the serving client uses it."""

import os
from collections.abc import Iterator
from pathlib import Path

from leuko_tf.classes import SYNTHETIC_MARK

SUFFIXES = (".jpeg", ".jpg", ".png", ".tif", ".tiff")


def walk_images(folder: Path, *, follow_links: bool) -> Iterator[Path]:
    """Yields the image files below a folder, in no particular order.

    Skips hidden files and folders, and the masks of a synthetic smear, which are no cells.

    Args:
      folder: searched with its subfolders.
      follow_links: whether to search linked subfolders, too. Each folder is searched once.
    """
    visited = set()
    for place, folders, names in os.walk(folder, followlinks=follow_links):
        skipped = ("masks",) if SYNTHETIC_MARK in names else ()
        folders[:] = [name for name in folders if not name.startswith(".") and name not in skipped]
        if os.path.realpath(place) in visited:
            folders.clear()  # a link to a folder above
            continue
        visited.add(os.path.realpath(place))
        for file in (Path(place, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES and file.is_file():
                yield file
