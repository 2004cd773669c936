"""The wrong answers that the network is surest of, as pictures with their saliency maps."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from leuko_tf.classes import CODES, INDEX
from leuko_tf.cli import written_aside
from leuko_tf.predictions import probabilities

if TYPE_CHECKING:
    import keras

FOLDER = "mistakes"  # beside the table of predictions
SHOWN = 12
SIDE = 200  # of each of the two panels, in pixels
OPACITY = 0.55  # of the map in the overlay
# The map of the picture: the plain gradient, the likeliest variant of the paper's.
METHOD = "gradient"
# What a picture tells of itself.
ANSWER, PROBABILITY = "answer", "probability"
SAME = 1e-3  # a batch of another size rounds otherwise


@dataclass(frozen=True)
class Mistake:
    """One wrong answer.

    Attributes:
      id: str. The image.
      label: str. Its code.
      answer: str. The network's code.
      probability: float. Of the answer.
      of_label: float. Probability of the label.
      picture: Path or None. PNG: the image, and beside it the image under its saliency map.
    """

    id: str
    label: str
    answer: str
    probability: float
    of_label: float
    picture: Path | None


def surest(table: pd.DataFrame, number: int = SHOWN) -> pd.DataFrame:
    """The rows of the wrong answers with the highest probability, the surest first.

    Args:
      table: checked predictions.
      number: of rows at most.
    """
    scores = probabilities(table)
    wrong = scores.argmax(axis=1) != table["label"].map(INDEX).to_numpy()
    surest_first = table.assign(_confidence=scores.max(axis=1))[wrong].sort_values(
        ["_confidence", "id"], ascending=[False, True]
    )
    return surest_first.drop(columns="_confidence").head(number)


def described(table: pd.DataFrame, folder: Path) -> list[Mistake]:
    """The surest mistakes, with their pictures where the folder has them."""
    rows = surest(table)
    mistakes = []
    for image_id, label, scores in zip(rows["id"], rows["label"], probabilities(rows), strict=True):
        answer = int(scores.argmax())
        probability = float(scores[answer])
        mistakes.append(
            Mistake(
                id=image_id,
                label=label,
                answer=CODES[answer],
                probability=probability,
                of_label=float(scores[INDEX[label]]),
                picture=_picture_of(folder / picture_name(image_id), CODES[answer], probability),
            )
        )
    return mistakes


def picture_name(image_id: str) -> str:
    """File name of an image's picture."""
    return image_id.replace("/", "__") + ".png"


def draw(
    model: "keras.Model", rows: pd.DataFrame, images: Mapping[str, np.ndarray], folder: Path
) -> None:
    """Writes a picture an image, into a folder that holds no other pictures afterwards.

    Args:
      model: a model of this project, float32.
      rows: of the table of predictions.
      images: id to uint8 array [height, width, 3], of one size.
      folder: made if it is not there.
    """
    from leuko_tf.saliency import BATCH, Explainer, batched

    clear(folder)
    if rows.empty:
        return
    explain = Explainer(model)
    for ids in batched(rows["id"], BATCH):
        explanations = explain(np.stack([images[image_id] for image_id in ids]), (METHOD,))
        for image_id, explanation in zip(ids, explanations, strict=True):
            note = PngInfo()
            note.add_text(ANSWER, explanation.code)
            note.add_text(PROBABILITY, repr(explanation.probability))
            with written_aside(folder / picture_name(image_id)) as aside:
                _panels(explanation.image, explanation.maps[METHOD]).save(aside, pnginfo=note)


def clear(folder: Path) -> None:
    """Deletes the pictures that an earlier run left. A person's own files would stay."""
    for picture in folder.glob("*.png"):
        picture.unlink()


def _picture_of(file: Path, answer: str, probability: float) -> Path | None:
    """The file, if it is there and of this answer: the table beside it may be another network's."""
    if not file.is_file():
        return None
    with Image.open(file) as picture:
        note = picture.info
    same = note.get(ANSWER) == answer
    return file if same and abs(float(note[PROBABILITY]) - probability) < SAME else None


def _panels(image, saliency):
    """PIL image: the cell, and the cell under its map."""
    from matplotlib import colormaps

    cell = Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    colours = (colormaps["magma"](saliency)[..., :3] * 255).astype(np.uint8)
    heat = Image.fromarray(colours).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    both = Image.new("RGB", (2 * SIDE, SIDE))
    both.paste(cell, (0, 0))
    both.paste(Image.blend(cell, heat, OPACITY), (SIDE, 0))
    return both
