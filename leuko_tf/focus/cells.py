"""Chooses cells of a data set evenly by class, and reads them with their masks."""

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
    """An image of a data set, cropped to the field that the network looks at."""

    id: str
    label: str  # code
    image: np.ndarray  # uint8 [side, side, 3], before the network resizes it
    mask: np.ndarray  # uint8 [side, side], see `leuko_tf.focus.segmentation`


def choose_images(labels: Mapping[str, str], number: int, seed: int = 0) -> list[str]:
    """Chooses up to `number` images at random, the same number of each class if there are enough.

    Args:
      labels: Id to code.

    Returns:
      Ids that alternate between the classes, so that the first few are even by class as well.
    """
    rng = np.random.default_rng(seed)
    classes = [sorted(i for i, label in labels.items() if label == code) for code in CODES]
    turns = zip_longest(*(rng.permutation(ids).tolist() for ids in classes))
    return [image_id for turn in turns for image_id in turn if image_id is not None][:number]


def read_labels(builder: tfds.core.DatasetBuilder, folds: Sequence[int]) -> dict[str, str]:
    """Reads id and code of all images of the folds, without decoding an image."""
    rows = builder.as_dataset(
        split="+".join(f"fold_{k}" for k in folds), decoders={"image": tfds.decode.SkipDecoding()}
    )
    return {row["id"].decode(): CODES[row["label"]] for row in rows.as_numpy_iterator()}


def read_cells(
    builder: tfds.core.DatasetBuilder,
    folds: Sequence[int],
    ids: Sequence[str],
    field: int,
    factor: float = 1.0,
    masks: Path | None = None,
) -> list[MaskedCell]:
    """Reads the images of these ids, and reads or segments their masks; shows a progress bar.

    Args:
      folds: Where the images are.
      field: Side in pixels of the square that the network looks at.
      factor: Of `leuko_tf.data.images.resample_image`.
      masks: Folder with exact masks, named after the ids; None to segment the images. Segmentation
        gets at least `FIELD` pixels, so that it sees the whole cell.

    Returns:
      Cells in the order of the ids, without those whose segmentation failed.

    Raises:
      UserError: If an exact mask is missing or invalid.
    """
    wanted = {*ids}
    # Larger than the field by an even number of pixels: two crops then equal a single one.
    side = field + 2 * max(0, -(-(FIELD - field) // 2))
    cells = {}
    with tqdm(total=len(wanted), desc="masks", unit=" images") as progress:
        for batch in pipeline.read_folds(builder, folds, side, factor=factor):
            for name, label, image in zip(batch["id"], batch["label"], batch["image"], strict=True):
                image_id = name.decode()
                if image_id not in wanted:
                    continue
                mask = _read_mask(masks, image_id, side, factor) if masks else segment(image)
                if mask is not None:
                    cells[image_id] = MaskedCell(
                        id=image_id,
                        label=CODES[label],
                        image=_crop(image, field),
                        mask=_crop(mask[..., None], field)[..., 0],
                    )
                progress.update()
    return [cells[image_id] for image_id in ids if image_id in cells]


def _crop(image: np.ndarray, side: int) -> np.ndarray:
    """A copy of the middle. A view would keep the whole batch of images in memory."""
    return np.array(crop_center(image[None], side))[0]


def _read_mask(folder: Path, image_id: str, side: int, factor: float) -> np.ndarray:
    """uint8 array [side, side]."""
    file = (folder / image_id).with_suffix(".png")
    if not file.is_file():
        raise UserError(
            f"There is no mask {file} for the image {image_id}. Give --masks the folder `masks` of "
            "the smear that the data set was built from."
        )
    try:
        with Image.open(file) as picture:
            width, height = (max(1, round(length * factor)) for length in picture.size)
            mask = np.asarray(picture.resize((width, height), Image.Resampling.NEAREST))
    except Exception as error:  # Pillow raises a dozen types on damaged files
        raise UserError(f"{file} is not an image that can be read: {error}") from error
    if mask.ndim != 2 or mask.max() >= len(REGIONS):
        raise UserError(
            f"{file} is not a mask: it must have one channel of 0 (background), 1 (cytoplasm) and "
            "2 (nucleus)"
        )
    return _crop(mask.astype(np.uint8)[..., None], side)[..., 0]
