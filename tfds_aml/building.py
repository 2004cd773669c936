"""Turns annotated images into the splits of a TFDS data set: the part that all builders share."""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from absl import logging

from tfds_aml.cells import Cell
from tfds_aml.folds import FOLDS
from tfds_aml.images import read_ahead
from tfds_aml.problems import Problems


def split_by_fold(cells: list[Cell], problems: Problems) -> dict[str, list[Cell]]:
    """Sorts the images into the splits `fold_1` to `fold_5`; none may be empty."""
    splits = {f"fold_{k}": [cell for cell in cells if cell.fold == k] for k in FOLDS}
    for name, members in splits.items():
        if not members:
            problems.add("fold without an image: TFDS writes no empty split", name)
    problems.raise_if_any()
    return splits


def generate_examples(
    cells: list[Cell], encode: Callable[[Path], bytes]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields keys and examples of a split in TFDS' form, and logs the speed.

    Args:
      encode: reads an image file and returns the bytes to store. Runs in threads.
    """
    start = time.monotonic()
    for cell, image in zip(cells, read_ahead(encode, [c.file for c in cells]), strict=True):
        labels = asdict(cell.annotation)
        image_id = labels.pop("path")
        yield image_id, {"image": image, "id": image_id, **labels}
    rate = len(cells) / (time.monotonic() - start)
    logging.info("%s images read and stored: %.0f images/s.", f"{len(cells):,}", rate)
