"""Runs TFDS' own tests of the data set on dummy data."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from leuko_tf.classes import CODES
from tfds_aml.aml_cytomorphology_lmu import aml_cytomorphology_lmu_dataset_builder

IMAGES = 10


def write_dummy_download(folder: Path) -> None:
    """Writes annotations.dat and its images: random RGBA pixels."""
    noise = np.random.default_rng(0)
    lines = []
    for code in CODES[:IMAGES]:
        path = f"{code}/{code}_0001.tiff"
        lines.append(f"{path} {code} UNC nan\n")
        (folder / code).mkdir()
        pixels = noise.integers(0, 256, (400, 400, 4), np.uint8)
        Image.fromarray(pixels).save(folder / path)
    (folder / "annotations.dat").write_text("".join(lines))


class AmlCytomorphologyLmuTest(tfds.testing.DatasetBuilderTestCase):
    """Tests both configurations; they hold the same images when none is missing."""

    DATASET_CLASS = aml_cytomorphology_lmu_dataset_builder.Builder
    SPLITS = {f"fold_{k}": IMAGES // 5 for k in range(1, 6)}  # noqa: RUF012 - TFDS' convention

    @classmethod
    def setUpClass(cls):
        cls.EXAMPLE_DIR = tempfile.mkdtemp()
        write_dummy_download(Path(cls.EXAMPLE_DIR))
        super().setUpClass()

    @classmethod
    def tearDownClass(cls):
        super().tearDownClass()
        shutil.rmtree(cls.EXAMPLE_DIR)


if __name__ == "__main__":
    tfds.testing.test_main()
