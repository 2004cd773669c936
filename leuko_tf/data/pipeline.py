"""Turns a built TFDS data set into batches: decodes once, samples and augments every epoch.

The decoded cells are one uint8 array. `leuko_tf.data.augmentation` plans an epoch; tf.data carries
the plan out in parallel.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from tqdm import tqdm

import tfds_aml  # noqa: F401  # registers the data sets
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.config import Config
from leuko_tf.data.augmentation import augment_stain, compute_margin, plan_epoch, rotate_batch
from leuko_tf.data.images import compute_scale_factor, resample_image
from leuko_tf.network.view import FIELD, crop_center, to_network_input
from leuko_tf.provenance import DatasetFacts, ModelFacts, has_same_images

READ_BATCH = 32


@dataclass(frozen=True)
class Cells:
    """Decoded cells in the order of the data set.

    Attributes:
      images: uint8 array [n, side, side, 3]: the network's input, with a margin; see
        `leuko_tf.data.augmentation.compute_margin`.
      labels: int64 array [n], indices into `leuko_tf.classes.CODES`.
    """

    images: np.ndarray
    labels: np.ndarray


def open_dataset(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
    """Opens a built data set; raises `UserError` if it is unknown, or not built yet."""
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except (tfds.core.DatasetNotFoundError, ValueError) as error:
        raise UserError(f"No data set {name}: {str(error).splitlines()[0]}") from error
    if not builder.is_prepared():
        dataset, _, config = name.partition("/")
        option = f" --config {config or 'complete'}" if builder.BUILDER_CONFIGS else ""
        place = f" --data_dir {data_dir}" if data_dir else ""
        raise UserError(
            f"{name} is not built in {builder.data_dir}. Build it: tfds build {dataset} --imports "
            f"tfds_aml{option} --manual_dir <download>{place}"
        )
    return builder


def read_folds(
    builder: tfds.core.DatasetBuilder,
    folds: Sequence[int],
    field: int = FIELD,
    size: int | None = None,
    factor: float = 1.0,
) -> Iterator[dict[str, Any]]:
    """Reads folds in batches, always in the same order; decodes in parallel.

    Args:
      builder: A built data set.
      folds: 1 to 5.
      field: Side in pixels of the centred square to crop; see `leuko_tf.network.view.crop_center`.
      size: Side in pixels to resize the square to, as the model would; None: not resized.
      factor: Factor of `leuko_tf.data.images.resample_image`, which comes first.

    Yields:
      Dict of the data set's features and `fold`, as arrays of up to `READ_BATCH` images.
    """
    prepare = functools.partial(_prepare_example, field=field, size=size, factor=factor)
    for fold in folds:
        dataset = builder.as_dataset(split=f"fold_{fold}", shuffle_files=False)
        dataset = dataset.map(prepare, num_parallel_calls=tf.data.AUTOTUNE)
        for batch in dataset.batch(READ_BATCH).prefetch(tf.data.AUTOTUNE).as_numpy_iterator():
            yield {**batch, "fold": np.full(len(batch["label"]), fold, np.int8)}


def find_pixel_size(builder: tfds.core.DatasetBuilder, given: float | None) -> float | None:
    """Finds the pixels' side in micrometres: as given, or the data set's; None if unknown."""
    return builder.info.metadata.get("pixel_size_um") if given is None else given


def match_pixel_scale(
    model_um: float | None,
    facts: ModelFacts,
    dataset: DatasetFacts,
    given: float | None = None,
) -> float:
    """Computes the factor of `resample_image` from a data set's to a model's pixel size.

    Prints the two sizes unless the factor is 1.

    Args:
      model_um: Side in micrometres of the pixels that the model was trained on; None if unknown.
      facts: From `leuko_tf.provenance.describe_model`.
      dataset: From `leuko_tf.provenance.describe_dataset`.
      given: Side of the images' pixels in micrometres. None: the value that the training used, if
        it used this data set; otherwise the data set's.

    Returns:
      The factor; 1 if one of the sizes is unknown.

    Raises:
      UserError: if `given` is set and the model's pixel size is unknown.
    """
    same = has_same_images(facts, dataset)
    sizes = (given, facts.images_pixel_size_um if same else None, dataset.get("pixel_size_um"))
    images_um = next((size for size in sizes if size is not None), None)
    if model_um is None and given is not None:
        raise UserError(
            "--pixel-size-um cannot be used: the pixel size of the model's training images is not "
            "known"
        )
    if images_um is None:
        return 1.0
    if model_um is None:
        if not same:
            print(
                f"The images' pixels are {images_um} um wide. The pixel size of the model is not "
                "known, so the images are not resampled."
            )
        return 1.0
    factor = compute_scale_factor(images_um, model_um)
    if factor != 1:
        print(f"Images are resampled from pixels of {images_um} um to the model's {model_um} um.")
    return factor


def count_images(builder: tfds.core.DatasetBuilder, folds: Sequence[int]) -> int:
    """Counts the images in the folds."""
    return sum(builder.info.splits[f"fold_{k}"].num_examples for k in folds)


def decode_folds(
    builder: tfds.core.DatasetBuilder, folds: Sequence[int], config: Config, file: Path | None
) -> Cells:
    """Decodes folds, with a margin for the augmentation, into one array.

    Args:
      builder: A built data set.
      folds: 1 to 5.
      config: Field, input size, pixel sizes and augmentation.
      file: File that holds the array; None: memory.
    """
    number = count_images(builder, folds)
    size = config.model.input_size + 2 * compute_margin(config)
    field = config.model.field * size // config.model.input_size
    wanted_um, factor = config.data.resample_to_um, 1.0
    if wanted_um is not None:
        images_um = find_pixel_size(builder, config.data.pixel_size_um)
        if images_um is None:
            raise UserError(
                f"data.resample_to_um={wanted_um}: the pixel size of the data set is not known. "
                "Set data.pixel_size_um."
            )
        factor = compute_scale_factor(images_um, wanted_um)
    shape = (number, size, size, 3)
    if file is None:
        images: np.ndarray = np.empty(shape, np.uint8)
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        images = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=shape)
    labels = np.empty(number, np.int64)
    done = 0
    with tqdm(total=number, desc="decoding cells", unit=" images") as progress:
        for batch in read_folds(builder, folds, field, size, factor):
            chunk = slice(done, done + len(batch["label"]))
            images[chunk], labels[chunk] = batch["image"], batch["label"]
            done = chunk.stop
            progress.update(chunk.stop - chunk.start)
    return Cells(images, labels)


def choose_validation(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Chooses validation images from each class; at least one image of a class always trains.

    Args:
      labels: int array [n].
      share: Share of each class, 0 to 0.5, rounded to whole images.
      seed: Seed of the choice.

    Returns:
      bool array [n], true for validation.
    """
    rng = np.random.default_rng([seed, 0])
    chosen = np.zeros(len(labels), bool)
    for label in range(len(CODES)):
        members = np.flatnonzero(labels == label)
        chosen[rng.permutation(members)[: round(len(members) * share)]] = True
    return chosen


def count_steps(labels: np.ndarray, config: Config) -> int:
    """Counts the whole batches of one epoch; raises `UserError` if there is none."""
    per_class = config.data.samples_per_class
    number = len(labels) if per_class is None else per_class * len(np.unique(labels))
    steps = number // config.data.batch_size
    if not steps:
        raise UserError(
            f"data.batch_size={config.data.batch_size} is more than the {number} samples of an "
            "epoch. Lower it."
        )
    return steps


def make_training_batches(
    cells: Cells, members: np.ndarray, config: Config, first_epoch: int
) -> tf.data.Dataset:
    """Makes the augmented batches of all epochs from `first_epoch` on.

    Samples that do not fill a batch are dropped; these are different ones in each epoch.

    Args:
      cells: From `decode_folds`.
      members: int array, indices of the cells to train on.
      config: Sampling, augmentation, batch size, epochs and seed.
      first_epoch: 0 for a new training.

    Returns:
      Dataset of (float32 [batch, size, size, 3] in 0 to 255, float32 [batch, 15] one-hot).
    """
    labels, size = cells.labels[members], config.model.input_size
    used = count_steps(labels, config) * config.data.batch_size

    def plan(epoch: int) -> tuple[np.ndarray, ...]:
        indices, transforms, colours = plan_epoch(labels, config, int(epoch))
        return members[indices[:used]], transforms[:used], colours[:used]

    def make_samples(epoch: tf.Tensor) -> tf.data.Dataset:
        parts = tf.numpy_function(plan, [epoch], [tf.int64, tf.float32, tf.float32])
        for part, shape in zip(parts, ([used], [used, 2, 3], [used, 3, 4]), strict=True):
            part.set_shape(shape)
        return tf.data.Dataset.from_tensor_slices(tuple(parts))

    def augment(
        indices: np.ndarray, transforms: np.ndarray, colours: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        images = rotate_batch(cells.images[indices], transforms, size)
        if config.data.stain:
            images = augment_stain(images, colours)
        return images, cells.labels[indices]

    epochs = tf.data.Dataset.range(first_epoch, config.train.epochs)
    batches = epochs.flat_map(make_samples).batch(config.data.batch_size, drop_remainder=True)
    return _load_batches(batches, augment, size)


def make_plain_batches(cells: Cells, members: np.ndarray, config: Config) -> tf.data.Dataset:
    """Makes batches of each member once, in order and unchanged, such as for validation.

    Shapes are those of `make_training_batches`; the last batch may be shorter.
    """
    size = config.model.input_size

    def crop(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        around = (cells.images.shape[1] - size) // 2
        inner = slice(around, around + size)
        return cells.images[indices, inner, inner], cells.labels[indices]

    batches = tf.data.Dataset.from_tensor_slices(members).batch(config.data.batch_size)
    return _load_batches(batches, crop, size)


def _load_batches(
    batches: tf.data.Dataset, load: Callable[..., tuple[np.ndarray, np.ndarray]], size: int
) -> tf.data.Dataset:
    """Loads uint8 images and labels in parallel; converts to float32 images and one-hot labels."""

    def convert(*parts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        images, labels = tf.numpy_function(load, parts, [tf.uint8, tf.int64])
        number = parts[0].shape[0]
        images.set_shape([number, size, size, 3])
        labels.set_shape([number])
        return tf.cast(images, tf.float32), tf.one_hot(labels, len(CODES))

    batches = batches.map(convert, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(tf.data.AUTOTUNE)


def _prepare_example(
    example: dict[str, tf.Tensor], field: int, size: int | None, factor: float
) -> dict[str, tf.Tensor]:
    """Replaces the image by the network's input, rounded to whole grey levels."""
    image = example["image"]
    if factor != 1:
        image = tf.numpy_function(lambda image: resample_image(image, factor), [image], tf.uint8)
        image = tf.ensure_shape(image, (None, None, 3))
    image = tf.ensure_shape(crop_center(image[tf.newaxis], field), (1, field, field, 3))
    if size is not None and size != field:
        image = tf.saturate_cast(tf.round(to_network_input(image, field, size)), tf.uint8)
    return {**example, "image": image[0]}
