"""Pictures of cells and of where the network looks, in a folder beside the table of predictions.

`leuko_tf.explanation.mistakes` and `leuko_tf.explanation.gallery` choose the cells. Drawing needs a model; reading what was
drawn does not, nor does it import TensorFlow. Each file holds a note of the probabilities that it
belongs to, because the table beside it may meanwhile be another network's.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from leuko_tf.classes import CODES, INDEX
from leuko_tf.cli import write_aside
from leuko_tf.data.images import batched
from leuko_tf.explanation.explainer import BATCH, Explainer
from leuko_tf.explanation.methods import Explanation
from leuko_tf.predictions import get_probabilities

OPACITY = 0.55  # of a map over its cell
NOTE = "probabilities"  # the PNG text chunk: all 15, in the order of the classes
# Relative, so that two networks which are both sure of an answer are told apart by the rest.
SAME = 1e-3


@dataclass(frozen=True)
class Answer:
    """One answer of the network.

    Attributes:
      id: str. The image.
      label: str. Its code.
      answer: str. The network's code.
      probability: float. Of the answer.
      of_label: float. Probability of the label.
      picture: Path or None. PNG of this answer.
    """

    id: str
    label: str
    answer: str
    probability: float
    of_label: float
    picture: Path | None


def read_answers(rows: pd.DataFrame, folder: Path) -> list[Answer]:
    """The answers of a table, in its order, with their pictures where the folder has them.

    Args:
      rows: of checked predictions.
      folder: what `draw` wrote to; it need not be there.
    """
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
                picture=file if _is_of(file, scores) else None,
            )
        )
    return answers


def to_picture_name(image_id: str) -> str:
    """File name of an image's picture."""
    return image_id.replace("/", "__") + ".png"


def draw(
    explain: Explainer,
    rows: pd.DataFrame,
    images: Mapping[str, np.ndarray],
    folder: Path,
    methods: tuple[str, ...],
    compose: Callable[[Explanation], Image.Image],
) -> None:
    """Writes a picture a row.

    Args:
      explain: of the model that gave the predictions.
      rows: of the table of predictions.
      images: id to uint8 array [height, width, 3], of one size.
      folder: made if it is not there.
      methods: saliency maps to compute, of `leuko_tf.explanation.methods.METHODS`.
      compose: makes the picture.
    """
    with tqdm(total=len(rows), desc=folder.name, unit=" pictures") as progress:
        for batch in batched(zip(rows["id"], get_probabilities(rows), strict=True), BATCH):
            explanations = explain(np.stack([images[image_id] for image_id, _ in batch]), methods)
            for (image_id, scores), explanation in zip(batch, explanations, strict=True):
                # Elsewhere (another runtime) a close answer may be the other one: its map would
                # explain what the table does not say.
                if explanation.code == CODES[scores.argmax()]:
                    with write_aside(folder / to_picture_name(image_id)) as aside:
                        compose(explanation).save(
                            aside, pnginfo=make_note(scores), compress_level=1
                        )
            progress.update(len(batch))


def delete_pictures(folder: Path) -> None:
    """Deletes the pictures that an earlier run left. A person's own files would stay."""
    for picture in folder.glob("*.png"):
        picture.unlink()


def make_note(scores: np.ndarray) -> PngInfo:
    """What a picture tells of itself.

    Args:
      scores: float array [15], the probabilities of its image.
    """
    info = PngInfo()
    info.add_text(NOTE, " ".join(f"{score:.6g}" for score in scores))
    return info


def panel(image: np.ndarray, side: int) -> Image.Image:
    """The cell.

    Args:
      image: uint8 array [height, width, 3].
      side: of the panel, in pixels.
    """
    return Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC)


def heat(saliency: np.ndarray, side: int) -> Image.Image:
    """A map in colours, dark to bright.

    Args:
      saliency: float array [height, width], 0 to 1.
      side: of the panel, in pixels.
    """
    from matplotlib import colormaps

    return panel((colormaps["magma"](saliency)[..., :3] * 255).astype(np.uint8), side)


def overlay(cell: Image.Image, coloured: Image.Image) -> Image.Image:
    """The cell under a map of the same size."""
    return Image.blend(cell, coloured, OPACITY)


def strip(panels: list[Image.Image]) -> Image.Image:
    """Square panels of one size side by side."""
    side = panels[0].height
    joined = Image.new("RGB", (side * len(panels), side))
    for i, piece in enumerate(panels):
        joined.paste(piece, (i * side, 0))
    return joined


def split_panels(picture: Image.Image) -> list[Image.Image]:
    """What `strip` joined."""
    side = picture.height
    return [picture.crop((x, 0, x + side, side)) for x in range(0, picture.width, side)]


def _is_of(file: Path, scores: np.ndarray) -> bool:
    """Whether the file is there and of this answer."""
    if not file.is_file():
        return False
    with Image.open(file) as picture:
        noted = np.array(picture.info.get(NOTE, "").split(), float)
    return noted.shape == scores.shape and np.allclose(noted, scores, rtol=SAME, atol=0)
