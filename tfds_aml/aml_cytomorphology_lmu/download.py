"""Reads the download of AML-Cytomorphology_LMU: annotations, image files and folds.

The entry point is `read_download`. It opens no image; `tfds_aml.images` does.
"""

import json
import os
import reprlib
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from leuko_tf.classes import CODES, NOT_REANNOTATED, SYNTHETIC_MARK, UNCERTAIN
from tfds_aml.cells import Annotation, Cell
from tfds_aml.folders import LEVELS_BELOW, list_folders
from tfds_aml.folds import ASSIGNED_FOLDS, FOLDS, assign_folds
from tfds_aml.problems import BadDownloadError, Problems

ANNOTATIONS = "annotations.dat"
FOLD_FOLDER = "folds"

LINE_FORMAT = reprlib.Repr()
LINE_FORMAT.maxstring = 80  # characters; the middle of a longer line is omitted
NAN = "nan"  # in annotations.dat: not re-annotated

PUBLISHED_FOLDS = "published lists (folds/fold1.txt ... fold5.txt)"


@dataclass(frozen=True)
class Download:
    """Contents of a download folder.

    Attributes:
      images: images that exist, in the order of annotations.dat.
      listed: number of lines of annotations.dat.
      fold_source: where the folds come from.
      synthetic: whether the folder is marked as holding drawn images.
    """

    images: list[Cell]
    listed: int
    fold_source: str
    synthetic: bool

    @property
    def missing(self) -> int:
        """Number of listed images that do not exist."""
        return self.listed - len(self.images)


def read_download(folder: Path, problems: Problems, *, allow_missing: bool) -> Download:
    """Reads annotations, image paths and folds.

    Args:
      folder: the download, or a folder one or two levels above it.
      problems: records problems with lines, files and fold lists.
      allow_missing: whether listed images may be missing.

    Returns:
      The images without a problem of their own.

    Raises:
      BadDownloadError: if annotations.dat or the class folders are not found, or are found in
        several places.
    """
    annotation_file = _require_one(_find_annotation_files(folder), f"file {ANNOTATIONS}", folder)
    annotations, listed_keys = read_annotations(annotation_file, problems)
    files = _list_images(
        _require_one(_find_image_roots(folder), "set of class folders with TIFFs", folder)
    )

    file_by_key: dict[str, Path] = {}
    for path, file in files:
        key = _strip_endings(path)
        if key not in listed_keys:
            problems.add(f"unlisted image: in the folder, not in {ANNOTATIONS}", str(file))
        elif key in file_by_key:
            problems.add("two files for one listed image: delete one", str(file))
        file_by_key.setdefault(key, file)

    existing = []
    for annotation in annotations:
        if existing_file := file_by_key.get(_strip_endings(annotation.path)):
            existing.append(Cell(annotation, existing_file))
        elif not allow_missing:
            problems.add(
                f"missing image: in {ANNOTATIONS}, not in the folder (complete the download, "
                "or build the configuration `available`)",
                annotation.path,
            )
    fold_folder = _find_fold_folder(folder)
    images, fold_source = _put_into_folds(existing, listed_keys, fold_folder, problems)
    mark = annotation_file.parent / SYNTHETIC_MARK
    return Download(images, len(annotations), fold_source, _is_synthetic(mark))


def read_annotations(file: Path, problems: Problems) -> tuple[list[Annotation], set[str]]:
    """Parses annotations.dat: path, label and two re-annotations, separated by single spaces.

    Args:
      file: annotations.dat.
      problems: records malformed lines, unknown codes, labels that contradict the folder, images
        listed twice, and an empty file.

    Returns:
      The lines without a problem, and the keys of the images of all lines. The image of a bad line
      thus counts as listed and causes no second problem.
    """
    annotations = []
    keys = set()
    first_line: dict[str, int] = {}
    lines = file.read_text(encoding="utf-8", errors="replace").rstrip("\r\n").splitlines()
    if not lines:
        problems.add("empty annotation file: it lists no image", str(file))
    for number, line in enumerate(lines, 1):
        keys.add(_strip_endings(line.split(" ")[0]))
        annotation, problem = _parse_line(line)
        where = f"line {number}: {LINE_FORMAT.repr(line)}"
        if annotation:
            first = first_line.setdefault(_strip_endings(annotation.path), number)
            if first != number:
                problem = f"image listed twice in {ANNOTATIONS}"
                where += f" (first in line {first})"
        if problem:
            problems.add(problem, where)
        elif annotation:
            annotations.append(annotation)
    return annotations, keys


def _parse_line(line: str) -> tuple[Annotation | None, str | None]:
    """Returns the annotation, or None and the problem."""
    fields = line.split(" ")
    folder, _, name = fields[0].partition("/")
    if len(fields) != 4 or not all(fields) or not _is_tiff(name) or "/" in name:
        return None, "malformed line: not `FOLDER/FILE.tiff CODE CODE CODE`"
    path, label, *reannotations = fields
    if label not in CODES or not {*reannotations} <= {*CODES, UNCERTAIN, NAN}:
        codes = " ".join(CODES)
        return None, f"unknown code: not one of {codes} (in re-annotations, also UNC or nan)"
    if label != folder:
        return None, "label that contradicts the image's folder"
    first, second = (NOT_REANNOTATED if r == NAN else r for r in reannotations)
    return Annotation(path, label, first, second), None


def _put_into_folds(
    images: list[Cell], listed_keys: set[str], fold_folder: Path | None, problems: Problems
) -> tuple[list[Cell], str]:
    """Assigns each image's fold, from the published lists if they exist; returns their source."""
    if fold_folder is None:
        folds = assign_folds({i.annotation.path: i.annotation.label for i in images})
        return [replace(i, fold=folds[i.annotation.path]) for i in images], ASSIGNED_FOLDS

    lists = {k: fold_folder / f"fold{k}.txt" for k in FOLDS}
    absent = [file for file in lists.values() if not file.is_file()]
    for file in absent:
        problems.add("missing fold list: provide all five, or none", str(file))
    if absent:
        return [], PUBLISHED_FOLDS
    folds_by_name: dict[str, list[int]] = defaultdict(list)
    for k, file in lists.items():
        for name in file.read_text("utf-8", "replace").split():
            folds_by_name[_get_stem(name)].append(k)

    for key in sorted(folds_by_name.keys() - {_get_stem(k) for k in listed_keys}):
        problems.add(f"unknown image in a fold list: not in {ANNOTATIONS}", key)
    placed = []
    for image in images:
        found = folds_by_name.get(_get_stem(image.annotation.path), [])
        if len(found) == 1:
            placed.append(replace(image, fold=found[0]))
        else:
            kind = "image listed more than once" if found else "image missing"
            where = "".join(f", fold{k}.txt" for k in found)
            problems.add(f"{kind} in the fold lists", image.annotation.path + where)
    return placed, PUBLISHED_FOLDS


def _find_annotation_files(folder: Path) -> list[Path]:
    return [f / ANNOTATIONS for f in list_folders(folder) if (f / ANNOTATIONS).is_file()]


def _find_fold_folder(folder: Path) -> Path | None:
    found = [f / FOLD_FOLDER for f in list_folders(folder) if (f / FOLD_FOLDER).is_dir()]
    return _require_one(found, f"folder {FOLD_FOLDER}", folder) if found else None


def _find_image_roots(folder: Path) -> list[Path]:
    def has_images(class_folder: Path) -> bool:
        return class_folder.is_dir() and any(_is_tiff(f.name) for f in class_folder.iterdir())

    return [f for f in list_folders(folder) if any(has_images(f / code) for code in CODES)]


def _list_images(root: Path) -> list[tuple[str, Path]]:
    """Returns (path below the root, file) of every TIFF, sorted."""
    # rglob would not follow class folders that are links to another disk.
    walk = os.walk(root, followlinks=True)
    files = sorted(Path(folder, name) for folder, _, names in walk for name in names)
    return [(str(f.relative_to(root)), f) for f in files if _is_tiff(f.name) and f.is_file()]


def _require_one(found: list[Path], what: str, folder: Path) -> Path:
    if len(found) == 1:
        return found[0]
    if not found:
        raise BadDownloadError(
            f"No {what} in {folder} or up to {LEVELS_BELOW} levels below it. Name the folder "
            "of the TCIA download (--manual_dir)."
        )
    places = "".join(f"\n    {f}" for f in found)
    raise BadDownloadError(
        f"{len(found)} places in {folder} hold a {what}; name the folder of one download:{places}"
    )


def _is_tiff(name: str) -> bool:
    return name.lower().endswith((".tiff", ".tif")) and not name.startswith(".")


def _strip_endings(path: str) -> str:
    """Removes all endings; some copies of the data have files named `.tiff.tiff`."""
    while _is_tiff(path):
        path = path.rpartition(".")[0]
    return path


def _get_stem(path: str) -> str:
    return _strip_endings(path).rpartition("/")[2]


def _is_synthetic(mark: Path) -> bool:
    return mark.is_file() and bool(json.loads(mark.read_text()).get("synthetic"))
