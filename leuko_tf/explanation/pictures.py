"""Pictures of cells with their saliency maps, in a folder beside the table of predictions.

`leuko_tf.explanation.mistakes` and `leuko_tf.explanation.gallery` choose the cells,
`leuko_tf.explanation.drawing` draws them. This module reads them again, without TensorFlow. Each
file notes the probabilities that it was drawn for, because the table beside it may have been
replaced by another network's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from leuko_tf.classes import CODES, INDEX
from leuko_tf.predictions import get_probabilities

NOTE = "probabilities"  # the PNG text chunk: all 15, in the order of the classes
# Relative, so that small probabilities tell apart two networks that are sure of the same answer.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Answer:
    """The network's answer for one image."""

    id: str
    label: str  # code
    answer: str  # the network's code
    probability: float  # of the answer
    of_label: float  # probability of the label
    picture: Path | None  # PNG file drawn for this answer


def read_answers(rows: pd.DataFrame, folder: Path) -> list[Answer]:
    """The answers in rows of checked predictions, with pictures if the folder has them."""
    answers = []
    for image_id, label, scores in zip(
        rows["id"], rows["label"], get_probabilities(rows), strict=True
    ):
        answer = int(scores.argmax())
        file = folder / to_picture_name(image_id)
        answers.append(
            Answer(
                id=image_id,
                label=label,
                answer=CODES[answer],
                probability=float(scores[answer]),
                of_label=float(scores[INDEX[label]]),
                picture=file if _is_drawn_for(file, scores) else None,
            )
        )
    return answers


def _is_drawn_for(file: Path, scores: np.ndarray) -> bool:
    """Whether the file exists and notes these probabilities."""
    if not file.is_file():
        return False
    with Image.open(file) as picture:
        noted = np.array(picture.info.get(NOTE, "").split(), float)
    return noted.shape == scores.shape and np.allclose(noted, scores, rtol=TOLERANCE, atol=0)


def to_picture_name(image_id: str) -> str:
    """File name of an image's picture."""
    return image_id.replace("/", "__") + ".png"


def make_note(scores: np.ndarray) -> PngInfo:
    """PNG text that notes an image's probabilities, float [15]."""
    info = PngInfo()
    info.add_text(NOTE, " ".join(f"{score:.6g}" for score in scores))
    return info


def delete_pictures(folder: Path) -> None:
    """Deletes an earlier run's pictures (`*.png`); keeps all other files."""
    for picture in folder.glob("*.png"):
        picture.unlink()


def split_panels(picture: Image.Image) -> list[Image.Image]:
    """The square panels of a picture of `leuko_tf.explanation.drawing`, from left to right."""
    side = picture.height
    return [picture.crop((x, 0, x + side, side)) for x in range(0, picture.width, side)]
