"""Cells of a data set, chosen evenly by class, each with what is nucleus, cytoplasm, background."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tqdm import tqdm

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.data import pipeline
from leuko_tf.focus.segmentation import REGIONS, segment
from leuko_tf.network.view import FIELD, crop_center


@dataclass(frozen=True)
class MaskedCell:
    """A cell as far as a network looks at it.

    Attributes:
      id: str. Of the data set.
      label: str. Its code.
      image: uint8 array [side, side, 3], before the network resizes it.
      mask: uint8 array [side, side], see `leuko_tf.focus.segmentation`; None where that found
        nothing sensible.
    """

    id: str
    label: str
    image: np.ndarray
    mask: np.ndarray | None


def choose(labels: Mapping[str, str], number: int, seed: int = 0) -> list[str]:
    """Chooses images, of each class as many as of the others while it has some.

    Args:
      labels: id to code.
      number: of images, at most.
      seed: of the choice.

    Returns:
      ids, one of each class after the other: the first few are even by class, too.
    """
    rng = np.random.default_rng(seed)
    classes = [sorted(i for i, label in labels.items() if label == code) for code in CODES]
    turns = zip_longest(*(rng.permutation(ids).tolist() for ids in classes))
    return [image_id for turn in turns for image_id in turn if image_id is not None][:number]


def labels_of(builder: tfds.core.DatasetBuilder, folds: Sequence[int]) -> dict[str, str]:
    """Id to code of all images of the folds; no image is decoded."""
    labels = {}
    for fold in folds:
        rows = builder.as_dataset(
            split=f"fold_{fold}", decoders={"image": tfds.decode.SkipDecoding()}
        )
        for row in rows.as_numpy_iterator():
            labels[row["id"].decode()] = CODES[row["label"]]
    return labels


def read_cells(
    builder: tfds.core.DatasetBuilder,
    folds: Sequence[int],
    ids: Sequence[str],
    field: int,
    factor: float = 1.0,
    masks: Path | None = None,
) -> list[MaskedCell]:
    """Reads images of a data set and finds their masks, with a progress bar.

    Args:
      builder: a built data set.
      folds: where the images are.
      ids: of the images.
      field: side of the square that the network looks at, see `leuko_tf.network.view.to_network_input`.
      factor: of `leuko_tf.data.images.resample_image`.
      masks: folder with exact masks, named after the ids; None to segment the images. That is done
        on `FIELD` pixels, or the field where that is larger, so that it sees the whole cell.

    Returns:
      Cells in the order of the ids.

    Raises:
      UserError: if an exact mask is missing or is no mask.
    """
    wanted = {*ids}
    # An even number of pixels more than the field: cut twice, the middle is that of a single cut.
    side = field + 2 * max(0, -(-(FIELD - field) // 2))
    cells = {}
    with tqdm(total=len(wanted), desc="masks", unit=" images") as progress:
        for batch in pipeline.read_folds(builder, folds, side, factor=factor):
            for name, label, image in zip(batch["id"], batch["label"], batch["image"], strict=True):
                image_id = name.decode()
                if image_id in wanted:
                    exact = None if masks is None else _exact(masks, image_id, side, factor)
                    mask = segment(image) if exact is None else exact
                    cells[image_id] = MaskedCell(
                        id=image_id,
                        label=CODES[label],
                        image=_cut(image, field),
                        mask=None if mask is None else _cut(mask[..., None], field)[..., 0],
                    )
                    progress.update()
    return [cells[image_id] for image_id in ids]


def _cut(image: np.ndarray, field: int) -> np.ndarray:
    """A copy of the middle; a view would keep the whole batch of images."""
    return np.array(crop_center(image[None], field))[0]


def _exact(folder: Path, image_id: str, side: int, factor: float) -> np.ndarray:
    """uint8 array [side, side]."""
    file = (folder / image_id).with_suffix(".png")
    if not file.is_file():
        raise UserError(
            f"No mask {file} for the image {image_id}: --masks takes the folder `masks` of the "
            "smear that the data set was built from"
        )
    try:
        with Image.open(file) as picture:
            width, height = (max(1, round(length * factor)) for length in picture.size)
            mask = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
    except Exception as error:  # Pillow raises a dozen types on damaged files
        raise UserError(f"{file} is not an image that can be read: {error}") from error
    if mask.ndim != 2 or mask.max() >= len(REGIONS):
        raise UserError(
            f"{file} is no mask: it must have one channel of 0 (background), 1 (cytoplasm) and 2 "
            "(nucleus)"
        )
    return _cut(mask.astype(np.uint8)[..., None], side)[..., 0]
