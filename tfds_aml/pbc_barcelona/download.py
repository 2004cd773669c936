"""Reads the download of the Barcelona data set: image files, types and folds.

It opens no image; `tfds_aml.images` does.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tfds_aml.cells import Annotation, Cell
from tfds_aml.folders import LEVELS_BELOW, list_folders
from tfds_aml.folds import ASSIGNED_FOLDS, assign_folds
from tfds_aml.problems import BadDownloadError, Problems

# By the first letters of the file name, as in BA_100102.jpg.
CODE_BY_TYPE = {
    "BA": "BAS",
    "EO": "EOS",
    "ERB": "EBO",
    "LY": "LYT",
    "MO": "MON",
    "BNE": "NGB",  # band neutrophil
    "SNE": "NGS",  # segmented neutrophil
    "MMY": "MMZ",
    "MY": "MYB",
    "PMY": "PMO",
}
# Immature granulocytes and neutrophils without a finer label; platelets.
TYPES_WITHOUT_CLASS = ("IG", "NEUTROPHIL", "PLATELET")

# Class folders of the release. Other folder names do not become part of an image's id.
TYPE_FOLDERS = (
    "basophil", "eosinophil", "erythroblast", "ig", "lymphocyte", "monocyte", "neutrophil",
    "platelet",
)  # fmt: skip
IMAGES_OF_RELEASE = 17_092  # Acevedo et al. 2020

NAMED = 3  # files named in a message; the others are only counted

FOLDS_TOGETHER = f"{ASSIGNED_FOLDS}, copies of an image in one fold"


@dataclass(frozen=True)
class Download:
    """Contents of a download folder.

    Attributes:
      images: images of types that have a class, sorted by path; folds not assigned yet.
      left_out: number of images of each type without a class.
      other_files: files that are not images: hidden, or not named .jpg.
    """

    images: list[Cell]
    left_out: dict[str, int]
    other_files: list[Path]


def read_download(folder: Path, problems: Problems) -> Download:
    """Finds the images and reads their types from their names.

    Args:
      folder: the unpacked download. Images, or class folders with images, may lie in it or up to
        two levels below.
      problems: records unknown types and duplicate file names.

    Raises:
      BadDownloadError: if there is no image of a type that has a class.
    """
    images: dict[str, Cell] = {}
    left_out: Counter[str] = Counter()
    other_files = []
    for file in _list_files(folder):
        kind = file.name.partition("_")[0]
        if file.name.startswith(".") or file.suffix.lower() not in (".jpg", ".jpeg"):
            other_files.append(file)
        elif kind in TYPES_WITHOUT_CLASS:
            left_out[kind] += 1
        elif kind not in CODE_BY_TYPE:
            known = " ".join((*CODE_BY_TYPE, *TYPES_WITHOUT_CLASS))
            problems.add(f"unknown type: the name must begin with one of {known} and _", str(file))
        elif file.name in images:
            where = f"{file} (and {images[file.name].file})"
            problems.add("two files with the same name: delete one", where)
        else:
            annotation = Annotation(_make_id(file), CODE_BY_TYPE[kind])
            images[file.name] = Cell(annotation, file)
    if not images:
        problems.raise_if_any()
        raise BadDownloadError(
            f"No image named like BA_....jpg or EO_....jpg in {folder} or up to {LEVELS_BELOW} "
            "levels below it. Unpack the download and name its folder (--manual_dir)."
        )
    return Download(
        sorted(images.values(), key=lambda cell: cell.annotation.path),
        dict(sorted(left_out.items())),
        other_files,
    )


def put_into_folds(
    images: list[Cell], digest_by_file: Mapping[Path, str]
) -> tuple[list[Cell], list[Cell]]:
    """Assigns each image's fold, keeping copies of an image together.

    Leaves out copies with different types, since nobody can tell which label is right. The release
    has some (one pair lies in two class folders), so they are no reason to refuse the download.

    Folds depend on file names, not on folders: they are the same for images in class folders and
    in one folder.

    Args:
      images: all images.
      digest_by_file: hash of each image's pixels, equal for copies.

    Returns:
      The images with their folds, and those left out.
    """
    digests = {cell.file.name: digest_by_file[cell.file] for cell in images}
    labels: dict[str, set[str]] = defaultdict(set)
    for cell in images:
        labels[digests[cell.file.name]].add(cell.annotation.label)

    kept: list[Cell] = []
    contradictory: list[Cell] = []
    for cell in images:
        (kept if len(labels[digests[cell.file.name]]) == 1 else contradictory).append(cell)
    folds = assign_folds({cell.file.name: cell.annotation.label for cell in kept}, digests)
    return [replace(cell, fold=folds[cell.file.name]) for cell in kept], contradictory


def format_left_out(download: Download) -> str:
    """Formats one line about the files that are left out; empty if there are none."""
    parts = []
    if number := sum(download.left_out.values()):
        types = ", ".join(f"{kind} {n:,}" for kind, n in download.left_out.items())
        parts.append(f" Types without a class: {number:,} ({types}).")
    if number := len(download.other_files):
        names = ", ".join(file.name for file in download.other_files[:NAMED])
        more = ", ..." if number > NAMED else ""
        parts.append(f" Not images: {number:,} ({names}{more}).")
    return f"Files left out.{''.join(parts)}" if parts else ""


def _list_files(folder: Path) -> list[Path]:
    """Lists every file in the folder and up to two levels below it, or in class folders there."""
    places = list_folders(folder, LEVELS_BELOW + 1)
    return [file for place in places for file in sorted(place.iterdir()) if not file.is_dir()]


def _make_id(file: Path) -> str:
    return f"{file.parent.name}/{file.name}" if file.parent.name in TYPE_FOLDERS else file.name
