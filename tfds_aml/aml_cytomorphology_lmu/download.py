"""Reads the download folder of AML-Cytomorphology_LMU: what is listed, what is there, which fold.

`read_download` is the one entry. It opens no image; `tfds_aml.images` does.
"""

import json
import os
import reprlib
from dataclasses import dataclass, replace
from pathlib import Path

from leuko_tf.classes import CODES, NOT_REANNOTATED, UNCERTAIN
from tfds_aml.cells import Annotation, Cell
from tfds_aml.folders import LEVELS_BELOW, list_folders
from tfds_aml.folds import ASSIGNED_FOLDS, FOLDS, assign_folds, invert_fold_lists
from tfds_aml.problems import BadDownloadError, Problems

ANNOTATIONS = "annotations.dat"
FOLD_FOLDER = "folds"
SYNTHETIC_MARK = "SYNTHETIC.json"
SHOWN_OF_A_LINE = reprlib.Repr()
SHOWN_OF_A_LINE.maxstring = 80  # letters; of a longer line the middle is left out
NAN = "nan"  # how annotations.dat writes `not re-annotated`

PUBLISHED_FOLDS = "published lists (folds/fold1.txt ... fold5.txt)"


@dataclass(frozen=True)
class Download:
    """What a download folder holds.

    Attributes:
      images: list of Cell, in the order of annotations.dat.
      listed: int. Lines of annotations.dat.
      fold_source: str. Where the folds come from.
      synthetic: bool. Whether the images were drawn, by the mark that the drawing leaves.
    """

    images: list[Cell]
    listed: int
    fold_source: str
    synthetic: bool

    @property
    def missing(self) -> int:
        """Number of listed images that are not there."""
        return self.listed - len(self.images)


def read_download(folder: Path, problems: Problems, *, allow_missing: bool) -> Download:
    """Reads annotations, image paths and folds.

    Args:
      folder: the download, or a folder one or two levels above it.
      problems: takes what is wrong with lines, files and fold lists.
      allow_missing: whether listed images may be absent.

    Returns:
      The images without a problem of their own.

    Raises:
      BadDownloadError: if annotations.dat or the class folders are not found, or in several
        places.
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

    present = [
        Cell(a, file_by_key[_strip_endings(a.path)], fold=0)
        for a in annotations
        if _strip_endings(a.path) in file_by_key
    ]
    if not allow_missing:
        for annotation in annotations:
            if _strip_endings(annotation.path) not in file_by_key:
                problems.add(
                    f"missing image: in {ANNOTATIONS}, not in the folder (complete the download, "
                    "or build the configuration `available`)",
                    annotation.path,
                )
    images, fold_source = _put_into_folds(present, listed_keys, _find_fold_folder(folder), problems)
    mark = annotation_file.parent / SYNTHETIC_MARK
    return Download(images, len(annotations), fold_source, _is_synthetic(mark))


def read_annotations(file: Path, problems: Problems) -> tuple[list[Annotation], set[str]]:
    """Parses annotations.dat: path, label and two re-annotations, separated by one space.

    Args:
      file: annotations.dat.
      problems: takes malformed lines, unknown codes, labels that contradict the folder, images
        listed twice, and a file without a line.

    Returns:
      The lines without a problem, and the keys of the images of all lines: what is wrong with a
      line is told once, its image is not an unlisted one as well.
    """
    annotations = []
    keys = set()
    seen: dict[str, int] = {}
    lines = file.read_text(encoding="utf-8", errors="replace").rstrip("\r\n").splitlines()
    if not lines:
        problems.add("empty annotation file: it lists no image", str(file))
    for number, line in enumerate(lines, 1):
        keys.add(_strip_endings(line.split(" ")[0]))
        annotation, problem = _parse_line(line)
        where = f"line {number}: {SHOWN_OF_A_LINE.repr(line)}"
        if (
            annotation
            and (first := seen.setdefault(_strip_endings(annotation.path), number)) != number
        ):
            problem = f"image listed twice in {ANNOTATIONS}"
            where += f" (first in line {first})"
        if problem:
            problems.add(problem, where)
        elif annotation:
            annotations.append(annotation)
    return annotations, keys


def _parse_line(line: str) -> tuple[Annotation | None, str | None]:
    fields = line.split(" ")
    folder, _, name = fields[0].partition("/")
    if len(fields) != 4 or not all(fields) or not _is_tiff(name) or "/" in name:
        return None, "malformed line: not `FOLDER/FILE.tiff CODE CODE CODE`"
    path, label, *reannotations = fields
    if label not in CODES or not {*reannotations} <= {*CODES, UNCERTAIN, NAN}:
        return None, "unknown code: not one of " + " ".join(CODES) + " (or UNC or nan, behind them)"
    if label != folder:
        return None, "label that contradicts the image's folder"
    first, second = (NOT_REANNOTATED if r == NAN else r for r in reannotations)
    return Annotation(path, label, first, second), None


def _put_into_folds(
    images: list[Cell], listed_keys: set[str], fold_folder: Path | None, problems: Problems
) -> tuple[list[Cell], str]:
    """Puts each image into its fold, by the lists where there are some."""
    if fold_folder is None:
        folds = assign_folds({i.annotation.path: i.annotation.label for i in images})
        return [replace(i, fold=folds[i.annotation.path]) for i in images], ASSIGNED_FOLDS

    lists = {k: fold_folder / f"fold{k}.txt" for k in FOLDS}
    absent = [str(file) for file in lists.values() if not file.is_file()]
    for file in absent:
        problems.add("missing fold list: put all five there, or none", file)
    if absent:
        return [], PUBLISHED_FOLDS
    names = {k: f.read_text("utf-8", "replace").split() for k, f in lists.items()}
    folds_by_name = invert_fold_lists({k: [_get_stem(n) for n in names[k]] for k in FOLDS})

    for key in sorted(folds_by_name.keys() - {_get_stem(k) for k in listed_keys}):
        problems.add(f"fold list names an image that {ANNOTATIONS} does not", key)
    placed = []
    for image in images:
        found = folds_by_name.get(_get_stem(image.annotation.path), [])
        if len(found) == 1:
            placed.append(replace(image, fold=found[0]))
        else:
            times = "more than once" if found else "nowhere"
            where = "".join(f", fold{k}.txt" for k in found)
            problems.add(f"image named {times} in the fold lists", image.annotation.path + where)
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
    """(path within the download, file) of every TIFF under the image root, sorted."""
    # Not rglob: it passes by class folders that are links to another disk.
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
    """Path without its endings: some copies of the data hold files named `.tiff.tiff`."""
    while _is_tiff(path):
        path = path.rpartition(".")[0]
    return path


def _get_stem(path: str) -> str:
    return _strip_endings(path).rpartition("/")[2]


def _is_synthetic(mark: Path) -> bool:
    return mark.is_file() and bool(json.loads(mark.read_text()).get("synthetic"))
