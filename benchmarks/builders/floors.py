"""Parts of the pipeline's work alone, with threads: no pipeline that does them can be faster."""

import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from benchmarks.machine import count_cores
from benchmarks.stages.pipeline import find_pngs
from benchmarks.worker import Work


def build_png_decoding(work: str, size: int, batch: int) -> Work:
    """Decoding PNG files that are in memory, at their own size; `size` is not used."""
    cv2.setNumThreads(1)  # the pool has the threads
    files = [np.frombuffer(f.read_bytes(), np.uint8) for f in find_pngs(Path(work))]

    def decode(place: int, index: int) -> None:
        cv2.imdecode(files[index], cv2.IMREAD_COLOR_RGB)

    return _fill_batches(decode, len(files), batch)


def build_copying(work: str, size: int, batch: int, dtype: str = "uint8") -> Work:
    """Copying decoded cells from all over an array into a batch of type `dtype`."""
    number = len(find_pngs(Path(work)))
    cells = np.random.default_rng(0).integers(0, 256, (number, size, size, 3), np.uint8)
    out = np.empty((batch, size, size, 3), dtype)

    def copy(place: int, index: int) -> None:
        np.copyto(out[place], cells[index])

    return _fill_batches(copy, number, batch)


def _fill_batches(fill: Callable[[int, int], None], number: int, batch: int) -> Work:
    """Calls `fill` for each place in a batch and the cell there, epoch after shuffled epoch."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(number) for _ in range(8)])
    turns = itertools.cycle(order[: len(order) // batch * batch].reshape(-1, batch))
    pool = ThreadPoolExecutor(count_cores())

    def step() -> int:
        list(pool.map(fill, range(batch), next(turns)))
        return batch

    return Work(step)
