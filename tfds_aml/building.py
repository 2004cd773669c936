"""Turns annotated images into the splits of a TFDS data set: the part that all builders share."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from tfds_aml.cells import Cell, count_by_class
from tfds_aml.folds import FOLDS
from tfds_aml.images import read_ahead
from tfds_aml.problems import Problems


def split_by_fold(cells: list[Cell], problems: Problems) -> dict[str, list[Cell]]:
    """Sorts the images into the splits `fold_1` to `fold_5`.

    Raises:
      BadDownloadError: if a fold has no image.
    """
    splits = {f"fold_{k}": [cell for cell in cells if cell.fold == k] for k in FOLDS}
    for name, members in splits.items():
        if not members:
            problems.add("fold without an image: TFDS writes no empty split", name)
    problems.raise_if_any()
    return splits


def make_metadata(
    cells: list[Cell], *, folds: str, synthetic: bool, pixel_size_um: float | None
) -> dict[str, Any]:
    """Returns the part of `info.metadata` that all data sets share.

    Args:
      cells: all images.
      folds: where the folds come from.
      synthetic: whether the images were drawn.
      pixel_size_um: width of a pixel on the slide in µm; None if unknown.
    """
    return {
        "folds": folds,
        "synthetic": synthetic,
        "pixel_size_um": pixel_size_um,
        "images": len(cells),
        "images_by_class": count_by_class(cells),
    }


def generate_examples(
    cells: list[Cell], encode: Callable[[Path], bytes]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields keys and examples in TFDS' form, and logs the speed.

    Args:
      cells: images of one split.
      encode: reads an image file and returns the bytes to store. Runs in threads.
    """
    start = time.monotonic()
    for cell, image in zip(cells, read_ahead(encode, [c.file for c in cells]), strict=True):
        annotation = cell.annotation
        yield (
            annotation.path,
            {
                "image": image,
                "label": annotation.label,
                "id": annotation.path,
                "reannotation_1": annotation.reannotation_1,
                "reannotation_2": annotation.reannotation_2,
            },
        )
    rate = len(cells) / (time.monotonic() - start)
    logging.info("%s images read and stored: %.0f images/s.", f"{len(cells):,}", rate)
