"""Write a synthetic smear to disk, laid out as the download of AML-Cytomorphology_LMU.

annotations.dat         one line an image: path, label, two re-annotations
abbreviations.txt       what the codes mean
SYNTHETIC.json          marks the folder as synthetic; readers look for this name
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

from leuko_tf.classes import CLASSES, CODES, INDEX, UNCERTAIN
from tfds_aml.synthetic_smear.drawing import SIDE, draw_cell
from tfds_aml.synthetic_smear.examiners import REANNOTATED_SHARE, reannotate

VERSION = "1"  # raise it whenever the same seed draws other images
MARKER = "SYNTHETIC.json"
FEWEST_IMAGES = 5 * len(CODES)  # one image of every class in each of five folds
MASK_COLOURS = (0, 0, 0, 120, 170, 255, 255, 80, 80)  # RGB of background, cytoplasm, nucleus
_CHUNK = 25  # images that a worker draws between two reports
_DRAWING, _CHOICE, _EXAMINATION = range(3)  # independent streams of random numbers

# Images a class has in the real download. Its imbalance is softened by a square root: at 1,500
# images the true shares would leave the rarest class without any.
REAL_COUNTS: dict[str, int] = {
    "NGS": 8484, "NGB": 109, "LYT": 3937, "LYA": 11, "MON": 1789, "EOS": 424, "BAS": 79,
    "MYO": 3268, "PMO": 70, "PMB": 18, "MYB": 42, "MMZ": 15, "MOB": 26, "EBO": 78, "KSC": 15,
}  # fmt: skip


def compute_class_counts(images: int) -> dict[str, int]:
    """How many images of each class a smear has.

    Every class gets 10 (so that each of five folds has two), or `images // 15` where that is less;
    the rest is shared out by the square roots of `REAL_COUNTS`, largest remainders first.

    Args:
      images: int, at least `FEWEST_IMAGES`.

    Returns:
      dict of code to count in the order of `CODES`; the counts sum to `images`.

    Raises:
      ValueError: fewer images than `FEWEST_IMAGES`.
    """
    if images < FEWEST_IMAGES:
        raise ValueError(
            f"--images {images}: too few; ask for at least {FEWEST_IMAGES}, "
            f"5 of each of the {len(CODES)} classes"
        )
    floor = min(10, images // len(CODES))
    weights = np.sqrt([REAL_COUNTS[code] for code in CODES])
    shares = (images - floor * len(CODES)) * weights / weights.sum()
    counts = np.floor(shares).astype(int)
    missing = images - floor * len(CODES) - int(counts.sum())
    counts[np.argsort(counts - shares, kind="stable")[:missing]] += 1
    return {code: floor + int(count) for code, count in zip(CODES, counts, strict=True)}


def write_smear(out: Path, images: int, seed: int, processes: int | None = None) -> float:
    """Draw a smear and write it; the folder appears under its name only when it is complete.

    Image i of a class depends on `seed`, the class and i alone, so the number of processes changes
    nothing. Bytes are the same on one machine with the same versions of numpy, OpenCV and Pillow.

    Args:
      out: folder to write; it must be missing or empty.
      images: int, at least `FEWEST_IMAGES`.
      seed: int in 0..2**32 - 1.
      processes: int >= 1, or None for one a core.

    Returns:
      Images a second, with the start of the processes.

    Raises:
      ValueError: too few images, a seed out of range.
      FileExistsError: `out` is not empty, or is a file.
      OSError: the disk is full or may not be written.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"--seed {seed}: must lie in 0..{2**32 - 1}")
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
        raise FileExistsError(f"--out {out}: is not empty; name a new folder or empty this one")
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"--out {out}: is a file; name a new folder")


def _write_texts(folder: Path, counts: dict[str, int], seed: int) -> None:
    """Write everything but the images."""
    lines = [" ".join(row) for row in make_annotation_rows(counts, seed)]
    (folder / "annotations.dat").write_text("\n".join(lines) + "\n")
    (folder / "abbreviations.txt").write_text(_format_abbreviations())
    marker = {
        "synthetic": True,
        "generator": "tfds_aml.synthetic_smear",
        "version": VERSION,
        "seed": seed,
        "images": sum(counts.values()),
    }
    (folder / MARKER).write_text(json.dumps(marker, indent=2) + "\n")


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
    """Rows of annotations.dat: path, label, re-annotation 1, re-annotation 2.

    Sorted by class folder, then number. In each class about `REANNOTATED_SHARE` of the images, at
    least one, were looked at again, always by both examiners; the others have "nan" twice.
    """
    for code in sorted(counts):
        number = counts[code]
        rng = np.random.default_rng([seed, _CHOICE, INDEX[code]])
        again = max(1, round(REANNOTATED_SHARE * number))
        chosen = set(rng.choice(number, again, replace=False).tolist())
        for i in range(number):
            opinions = ("nan", "nan")
            if i in chosen:
                examination = [seed, _EXAMINATION, INDEX[code], i + 1]
                opinions = reannotate(code, np.random.default_rng(examination))
            yield (f"{code}/{format_stem(code, i + 1)}.tiff", code, *opinions)


def format_stem(code: str, number: int) -> str:
    """File name of image `number` (from 1) without its ending: `BAS_0001`."""
    return f"{code}_{number:04d}"


def _write_images(folder: Path, counts: dict[str, int], seed: int, processes: int) -> None:
    """Draw all images in a pool of processes, with progress on stderr."""
    for code in counts:
        (folder / code).mkdir()
        (folder / "masks" / code).mkdir(parents=True)
    wanted = [(code, i + 1) for code, number in counts.items() for i in range(number)]
    chunks = [wanted[i : i + _CHUNK] for i in range(0, len(wanted), _CHUNK)]
    # Spawned, not forked: a fork of a process that has threads (TensorFlow's, say) may hang.
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
    """Draw and write images (code, number); returns how many."""
    cv2.setNumThreads(1)  # the processes share the cores already
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
