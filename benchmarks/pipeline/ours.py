"""Ours: `leuko_tf.data.pipeline`."""

from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.material import DATASET
from benchmarks.pipeline import BUILT
from benchmarks.worker import Work
from leuko_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from leuko_tf.data import augmentation, pipeline
from leuko_tf.network.view import FIELD, to_network_input

FOLDS = (1, 2, 3, 4, 5)
ENDLESS = 2**31


def batches(
    work: str,
    size: int,
    batch: int,
    cache: str = "memory",
    rotate: bool = True,
    flip: bool = True,
) -> Work:
    """Training batches of decoded cells, as a training takes them.

    Args:
      work: folder with the built data set.
      size: side of the images in pixels.
      batch: images a step.
      cache: `memory` or `disk`.
      rotate: whether to turn by any angle.
      flip: whether to flip.
    """
    config = _config(size, batch, rotate, flip)
    file = Path(work, f"cells_{size}.npy") if cache == "disk" else None
    cells = pipeline.decode_folds(pipeline.open_dataset(DATASET, _built(work)), FOLDS, config, file)
    members = np.arange(len(cells.labels))
    return _work(pipeline.make_training_batches(cells, members, config, first_epoch=0))


def batches_without_cache(work: str, size: int, batch: int) -> Work:
    """The same, but every image is read from its record and decoded every time it is used."""
    config = _config(size, batch)
    builder = pipeline.open_dataset(DATASET, _built(work))
    split = "+".join(f"fold_{k}" for k in FOLDS)
    number = pipeline.count_images(builder, FOLDS)
    plan = augmentation.plan_epoch(np.zeros(number, np.int64), config, epoch=0)
    transforms = tf.data.Dataset.from_tensor_slices(plan.transforms).repeat()

    def decoded(example: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.cast(to_network_input(example["image"][tf.newaxis], FIELD, size)[0], tf.uint8)

    def turned(images: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
        turned = tf.numpy_function(augmentation.rotate_batch, [images, transforms, size], tf.uint8)
        turned.set_shape(images.shape)
        return tf.cast(turned, tf.float32)

    images = builder.as_dataset(split=split, shuffle_files=True).repeat()
    images = images.map(decoded, num_parallel_calls=tf.data.AUTOTUNE)
    samples = tf.data.Dataset.zip(images, transforms).batch(batch, drop_remainder=True)
    turns = samples.map(turned, num_parallel_calls=tf.data.AUTOTUNE)
    return _work(turns.prefetch(tf.data.AUTOTUNE))


def _work(dataset: tf.data.Dataset) -> Work:
    iterator = iter(dataset)

    def step() -> int:
        element = next(iterator)
        images = element[0] if isinstance(element, tuple) else element
        return int(images.shape[0])

    return Work(step)


def _config(size: int, batch: int, rotate: bool = True, flip: bool = True) -> Config:
    return Config(
        data=DataConfig(batch_size=batch, rotate=rotate, flip=flip),
        model=ModelConfig(input_size=size),
        train=TrainConfig(epochs=ENDLESS),
    )


def _built(work: str) -> str:
    return str(Path(work, BUILT))
