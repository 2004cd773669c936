"""Our pipeline, `leuko_tf.data.pipeline`, and the data set that the whole stage reads."""

from pathlib import Path

import numpy as np
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image

from benchmarks.stages.pipeline import BUILT, PNGS, SMEAR, find_tiffs
from benchmarks.worker import Work
from leuko_tf.config import Config, DataConfig, ModelConfig, TrainConfig
from leuko_tf.data import augmentation, pipeline
from leuko_tf.network.view import FIELD, to_network_input
from tfds_aml.synthetic_smear.smear import write_smear

DATASET = "aml_cytomorphology_lmu/complete"
FOLDS = (1, 2, 3, 4, 5)
SEED = 1
ENDLESS = 2**31


def make_smear(work: str, images: int) -> Work:
    """Draws a smear of so many cells, builds its data set and converts its TIFFs to PNGs."""
    folder = Path(work)
    write_smear(folder / SMEAR, images, SEED)
    tfds.builder(DATASET, data_dir=folder / BUILT).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(folder / SMEAR))
    )
    (folder / PNGS).mkdir()
    for tiff in find_tiffs(folder):
        with Image.open(tiff) as image:
            image.convert("RGB").save(folder / PNGS / f"{tiff.stem}.png")
    return Work()


def build_batches(
    work: str, size: int, batch: int, cache: str = "memory", rotate: bool = True, flip: bool = True
) -> Work:
    """Batches of decoded cells, as a training takes them. `cache`: `memory` or `disk`."""
    config = _make_config(size, batch, rotate, flip)
    file = Path(work, f"cells_{size}.npy") if cache == "disk" else None
    cells = pipeline.decode_folds(_open(work), FOLDS, config, file)
    members = np.arange(len(cells.labels))
    return _iterate(pipeline.make_training_batches(cells, members, config, first_epoch=0))


def build_uncached_batches(work: str, size: int, batch: int) -> Work:
    """The same, but every image is read and decoded every time it is used."""
    config = _make_config(size, batch)
    builder = _open(work)
    split = "+".join(f"fold_{k}" for k in FOLDS)
    number = pipeline.count_images(builder, FOLDS)
    plan = augmentation.plan_epoch(np.zeros(number, np.int64), config, epoch=0)
    transforms = tf.data.Dataset.from_tensor_slices(plan.transforms).repeat()

    def resize(example: dict[str, tf.Tensor]) -> tf.Tensor:
        return tf.cast(to_network_input(example["image"][tf.newaxis], FIELD, size)[0], tf.uint8)

    def rotate(images: tf.Tensor, transforms: tf.Tensor) -> tf.Tensor:
        rotated = tf.numpy_function(augmentation.rotate_batch, [images, transforms, size], tf.uint8)
        rotated.set_shape(images.shape)
        return tf.cast(rotated, tf.float32)

    images = builder.as_dataset(split=split, shuffle_files=True).repeat()
    images = images.map(resize, num_parallel_calls=tf.data.AUTOTUNE)
    samples = tf.data.Dataset.zip(images, transforms).batch(batch, drop_remainder=True)
    rotated = samples.map(rotate, num_parallel_calls=tf.data.AUTOTUNE)
    return _iterate(rotated.prefetch(tf.data.AUTOTUNE))


def _iterate(dataset: tf.data.Dataset) -> Work:
    iterator = iter(dataset)

    def step() -> int:
        element = next(iterator)
        images = element[0] if isinstance(element, tuple) else element
        return int(images.shape[0])

    return Work(step)


def _make_config(size: int, batch: int, rotate: bool = True, flip: bool = True) -> Config:
    return Config(
        data=DataConfig(batch_size=batch, rotate=rotate, flip=flip),
        model=ModelConfig(input_size=size),
        train=TrainConfig(epochs=ENDLESS),
    )


def _open(work: str) -> tfds.core.DatasetBuilder:
    return pipeline.open_dataset(DATASET, str(Path(work, BUILT)))
