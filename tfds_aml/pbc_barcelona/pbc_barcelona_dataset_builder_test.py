"""Runs TFDS' own tests of the data set on dummy data."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from tfds_aml.pbc_barcelona import pbc_barcelona_dataset_builder
from tfds_aml.pbc_barcelona.download import CODE_BY_TYPE

SIZES = ((360, 363), (366, 369), (360, 360))  # width, height


def write_dummy_download(folder: Path) -> None:
    """Writes an image of random pixels for each type, and files to be left out."""
    noise = np.random.default_rng(0)
    (folder / "basophil").mkdir()
    for number, kind in enumerate([*CODE_BY_TYPE, "IG"]):
        width, height = SIZES[number % len(SIZES)]
        pixels = noise.integers(0, 256, (height, width, 3), np.uint8)
        place = "basophil" if kind == "BA" else "."
        Image.fromarray(pixels).save(folder / place / f"{kind}_{number}.jpg")
    (folder / "basophil" / ".DS_1.jpg").write_bytes(b"junk")


class PbcBarcelonaTest(tfds.testing.DatasetBuilderTestCase):
    """Ten images, two per fold."""

    DATASET_CLASS = pbc_barcelona_dataset_builder.Builder
    SPLITS = {f"fold_{k}": len(CODE_BY_TYPE) // 5 for k in range(1, 6)}  # noqa: RUF012 - as TFDS

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
