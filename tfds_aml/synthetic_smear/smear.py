"""Writes a synthetic smear to disk in the layout of the AML-Cytomorphology_LMU download.

annotations.dat         one line per image: path, label, two re-annotations
abbreviations.txt       meanings of the codes
SYNTHETIC.json          marks the folder as synthetic; readers look for it
<CODE>/<CODE>_0001.tiff 400x400 RGBA, alpha 255, uncompressed, one strip
masks/<CODE>/<CODE>_0001.png  palette PNG, 0 background, 1 cytoplasm, 2 nucleus
"""

import json
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from tqdm import tqdm

from leuko_tf.classes import CLASSES, CODES, INDEX, SYNTHETIC_MARK, UNCERTAIN
from tfds_aml.aml_cytomorphology_lmu.download import ANNOTATIONS, NAN
from tfds_aml.synthetic_smear.drawing import SIDE, draw_cell
from tfds_aml.synthetic_smear.examiners import REANNOTATED_SHARE, reannotate

VERSION = "1"  # increase it when the same seed draws different images
FEWEST_IMAGES = 5 * len(CODES)  # one image of every class in each of five folds
MASK_COLOURS = (0, 0, 0, 120, 170, 255, 255, 80, 80)  # RGB of background, cytoplasm, nucleus
_CHUNK = 25  # images per job; progress is reported after each job
_DRAWING, _CHOICE, _EXAMINATION = range(3)  # independent streams of random numbers

# Images of each class in the real download. `compute_class_counts` takes square roots: with 1,500
# images, the true proportions would leave the rarest class without any.
REAL_COUNTS: dict[str, int] = {
    "NGS": 8484, "NGB": 109, "LYT": 3937, "LYA": 11, "MON": 1789, "EOS": 424, "BAS": 79,
    "MYO": 3268, "PMO": 70, "PMB": 18, "MYB": 42, "MMZ": 15, "MOB": 26, "EBO": 78, "KSC": 15,
}  # fmt: skip


def compute_class_counts(images: int) -> dict[str, int]:
    """Distributes images over the classes.

    Every class gets 10 (two for each of five folds), or `images // 15` if that is less. The rest is
    distributed by the square roots of `REAL_COUNTS`, largest remainders first.

    Args:
      images: at least `FEWEST_IMAGES`.

    Returns:
      Count of each code, in the order of `CODES`; the counts sum to `images`.

    Raises:
      ValueError: if there are fewer images than `FEWEST_IMAGES`.
    """
    if images < FEWEST_IMAGES:
        raise ValueError(
            f"--images {images}: must be at least {FEWEST_IMAGES}, "
            f"5 for each of the {len(CODES)} classes"
        )
    floor = min(10, images // len(CODES))
    weights = np.sqrt([REAL_COUNTS[code] for code in CODES])
    shares = (images - floor * len(CODES)) * weights / weights.sum()
    counts = np.floor(shares).astype(int)
    missing = images - floor * len(CODES) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    return {code: floor + int(count) for code, count in zip(CODES, counts, strict=True)}


def write_smear(out: Path, images: int, seed: int, processes: int | None = None) -> float:
    """Draws and writes a smear; the folder gets its final name once it is complete.

    Image i of a class depends only on `seed`, the class and i, not on the number of processes. The
    bytes are the same on one machine with the same versions of numpy, OpenCV and Pillow.

    Args:
      out: folder to write; must be missing or empty.
      images: at least `FEWEST_IMAGES`.
      seed: 0 to 2**32 - 1.
      processes: number of worker processes; None for one per core.

    Returns:
      Images per second, including the start of the processes.

    Raises:
      ValueError: if there are too few images or the seed is out of range.
      FileExistsError: if `out` is not empty, or is a file.
      OSError: if the disk is full or not writable.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: must be in 0..{2**32 - 1}")
    counts = compute_class_counts(images)
    _refuse_occupied(out)
    out = out.resolve()
    started = time.perf_counter()
    unfinished = out.with_name(f".{out.name}-unfinished-{os.getpid()}")
    unfinished.mkdir(parents=True)
    try:
        _write_texts(unfinished, counts, seed)
        _write_images(unfinished, counts, seed, processes or os.cpu_count() or 1)
        unfinished.replace(out)  # replaces an empty folder, fails on any other
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return images / (time.perf_counter() - started)


def _refuse_occupied(out: Path) -> None:
    if out.is_dir() and any(out.iterdir()):
        raise FileExistsError(f"--out {out}: not empty; choose a new or empty folder")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out}: is a file; choose a new folder")


def _write_texts(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Writes everything except the images."""
    lines = [" ".join(row) for row in make_annotation_rows(counts, seed)]
    (folder / ANNOTATIONS).write_text("\n".join(lines) + "\n")
    (folder / "abbreviations.txt").write_text(_format_abbreviations())
    mark = {
        "synthetic": True,
        "generator": "tfds_aml.synthetic_smear",
        "version": VERSION,
        "seed": seed,
        "images": sum(counts.values()),
    }
    (folder / SYNTHETIC_MARK).write_text(json.dumps(mark, indent=2) + "\n")


def _format_abbreviations() -> str:
    names = sorted((c.code, c.name) for c in CLASSES)
    return "\n".join(
        [
            "SYNTHETIC images, drawn by leuko_tf. Codes of the classes, used as folder names, in",
            "file names and in annotations.dat:",
            "",
            *(f"{code} {name}" for code, name in names),
            "",
            f"{UNCERTAIN} the simulated examiner could not assign a class",
            "nan not re-annotated",
            "",
        ]
    )


def make_annotation_rows(counts: dict[str, int], seed: int) -> Iterator[tuple[str, str, str, str]]:
    """Yields rows of annotations.dat: path, label, re-annotation 1, re-annotation 2.

    Rows are sorted by class folder, then number. About `REANNOTATED_SHARE` of each class, at least
    one image, is re-annotated by both examiners; the others have "nan" twice.
    """
    for code in sorted(counts):
        number = counts[code]
        rng = np.random.default_rng([seed, _CHOICE, INDEX[code]])
        count = max(1, round(REANNOTATED_SHARE * number))
        reannotated = set(rng.choice(number, count, replace=False).tolist())
        for i in range(number):
            answers = (NAN, NAN)
            if i in reannotated:
                examination = [seed, _EXAMINATION, INDEX[code], i + 1]
                answers = reannotate(code, np.random.default_rng(examination))
            yield (f"{code}/{format_stem(code, i + 1)}.tiff", code, *answers)


def format_stem(code: str, number: int) -> str:
    """Formats the file name of image `number` (from 1) without its ending: `BAS_0001`."""
    return f"{code}_{number:04d}"


def _write_images(folder: Path, counts: dict[str, int], seed: int, processes: int) -> None:
    """Draws all images in a pool of processes; shows progress on stderr."""
    for code in counts:
        (folder / code).mkdir()
        (folder / "masks" / code).mkdir(parents=True)
    wanted = [(code, i + 1) for code, number in counts.items() for i in range(number)]
    chunks = [wanted[i : i + _CHUNK] for i in range(0, len(wanted), _CHUNK)]
    # Spawn: forking a process with threads, such as TensorFlow's, may hang.
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(min(processes, len(chunks)), mp_context=context) as pool,
        tqdm(total=len(wanted), unit="image", desc="synthetic smear", file=sys.stderr) as bar,
    ):
        jobs: list[Future[int]] = [pool.submit(_write_chunk, folder, seed, c) for c in chunks]
        try:
            for job in as_completed(jobs):
                bar.update(job.result())
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_chunk(folder: Path, seed: int, wanted: list[tuple[str, int]]) -> int:
    """Draws and writes images (code, number); returns how many."""
    cv2.setNumThreads(1)  # the processes already share the cores
    for code, number in wanted:
        rng = np.random.default_rng([seed, _DRAWING, INDEX[code], number])
        rgb, mask = draw_cell(code, rng)
        stem = format_stem(code, number)
        rgba = cv2.cvtColor(rgb, cv2.COLOR_RGB2RGBA)
        image = Image.fromarray(rgba)
        image.save(folder / code / f"{stem}.tiff", compression="raw", strip_size=4 * SIDE * SIDE)
        palette = Image.fromarray(mask)
        palette.putpalette(MASK_COLOURS)
        palette.save(folder / "masks" / code / f"{stem}.png", compress_level=1)
    return len(wanted)
