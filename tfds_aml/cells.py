"""Records of an image, shared by all data sets: annotation, file and fold."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leuko_tf.classes import CODES, NOT_REANNOTATED


@dataclass(frozen=True)
class Annotation:
    """The labels that experts gave an image.

    Attributes:
      path: path within the download; also the image's id, such as `BAS/BAS_0021.tiff`.
      label: one of the 15 codes.
      reannotation_1: one of the 15 codes, `UNC` or `none`.
      reannotation_2: likewise.
    """

    path: str
    label: str
    reannotation_1: str = NOT_REANNOTATED
    reannotation_2: str = NOT_REANNOTATED


@dataclass(frozen=True)
class Cell:
    """An annotated image whose file exists; `fold` is 1 to 5 (0: not assigned yet)."""

    annotation: Annotation
    file: Path
    fold: int = 0


def count_by_class(cells: Iterable[Cell]) -> dict[str, int]:
    """Counts the images of each code, in the order of the paper's table, zeros included."""
    counts = Counter(cell.annotation.label for cell in cells)
    return {code: counts[code] for code in CODES}
