"""Parts of the pipeline's work alone, with threads: no pipeline that does them can be faster."""

import itertools
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
    pool = ThreadPoolExecutor(count_cores())
    turns = itertools.cycle(_draw_batches(len(files), batch))

    def step() -> int:
        indices = next(turns)
        list(pool.map(lambda i: cv2.imdecode(files[i], cv2.IMREAD_COLOR_RGB), indices))
        return len(indices)

    return Work(step)


def build_copying(work: str, size: int, batch: int, dtype: str = "uint8") -> Work:
    """Copying decoded cells from all over an array into a batch of type `dtype`."""
    number = len(find_pngs(Path(work)))
    shape = (number, size, size, 3)
    cells = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    out = np.empty((batch, *cells.shape[1:]), dtype)
    pool = ThreadPoolExecutor(count_cores())
    turns = itertools.cycle(_draw_batches(number, batch))

    def copy(place: int, index: int) -> None:
        np.copyto(out[place], cells[index])

    def step() -> int:
        indices = next(turns)
        list(pool.map(copy, range(batch), indices))
        return len(indices)

    return Work(step)


def _draw_batches(number: int, batch: int) -> list[np.ndarray]:
    """Indices of the whole batches of several epochs, in random order."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(number) for _ in range(8)])
    return list(order[: len(order) // batch * batch].reshape(-1, batch))
