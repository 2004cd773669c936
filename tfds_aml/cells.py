"""What every data set here knows of an image: its annotation, its file, its fold."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from leuko_tf.classes import CODES, NOT_REANNOTATED


@dataclass(frozen=True)
class Annotation:
    """What people say of an image.

    Attributes:
      path: str. Path within the download, the image's id, such as `BAS/BAS_0021.tiff`.
      label: str. One of the 15 codes.
      reannotation_1: str. One of the 15 codes, `UNC` or `none`.
      reannotation_2: str. Likewise.
    """

    path: str
    label: str
    reannotation_1: str = NOT_REANNOTATED
    reannotation_2: str = NOT_REANNOTATED


@dataclass(frozen=True)
class Cell:
    """An annotated image that is there.

    Attributes:
      annotation: Annotation.
      file: Path. Where it lies.
      fold: int. 1 to 5.
    """

    annotation: Annotation
    file: Path
    fold: int


def count_by_class(cells: Iterable[Cell]) -> dict[str, int]:
    """Number of images of each code, in the order of the paper's table; zero where none."""
    counts = Counter(cell.annotation.label for cell in cells)
    return {code: counts[code] for code in CODES}
