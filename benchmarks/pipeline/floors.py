"""Parts of the work alone, with threads: what no pipeline that does them can be faster than."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np

from benchmarks import material
from benchmarks.worker import Work


def png_decoding(work: str, size: int, batch: int) -> Work:
    """Decoding PNG files that are in memory, at the size they have, whatever `size` says."""
    cv2.setNumThreads(1)  # the threads are ours
    files = [np.frombuffer(f.read_bytes(), np.uint8) for f in material.pngs(Path(work))]
    pool = ThreadPoolExecutor(_threads())
    turns = itertools.cycle(_batches(len(files), batch))

    def step() -> int:
        indices = next(turns)
        list(pool.map(lambda i: cv2.imdecode(files[i], cv2.IMREAD_COLOR_RGB), indices))
        return len(indices)

    return Work(step)


def copying(work: str, size: int, batch: int, dtype: str = "uint8") -> Work:
    """Copying decoded cells, drawn from all over the array, into a batch."""
    number = len(material.pngs(Path(work)))
    shape = (number, size, size, 3)
    cells = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    out = np.empty((batch, *cells.shape[1:]), dtype)
    pool = ThreadPoolExecutor(_threads())
    turns = itertools.cycle(_batches(number, batch))

    def copy(place: int, index: int) -> None:
        np.copyto(out[place], cells[index])

    def step() -> int:
        indices = next(turns)
        list(pool.map(copy, range(batch), indices))
        return len(indices)

    return Work(step)


def _batches(number: int, batch: int) -> list[np.ndarray]:
    """Whole batches of several epochs, in any order."""
    rng = np.random.default_rng(0)
    order = np.concatenate([rng.permutation(number) for _ in range(8)])
    return list(order[: len(order) // batch * batch].reshape(-1, batch))


def _threads() -> int:
    return len(os.sched_getaffinity(0))
