"""The real images that LEUKO_SHARED names; nothing of it is copied.

The numbers are those of the folder, counted without this project's code.
"""

import hashlib
import logging
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from dataset_builds import BARCELONA, build, decode_labels, read_back
from PIL import Image

TYPES = {
    "BAS": "BA", "EOS": "EO", "EBO": "ERB", "LYT": "LY", "MON": "MO",
    "NGB": "BNE", "NGS": "SNE", "MMZ": "MMY", "MYB": "MY", "PMO": "PMY",
}  # fmt: skip


class Listener(logging.Handler):
    """Keeps the messages of the log; `caplog` cannot be used in a fixture of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture(scope="module")
def download(shared: Path) -> Path:
    return shared / "data" / "pbc_barcelona"


@pytest.fixture(scope="module")
def built(
    download: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tfds.core.DatasetBuilder, list[str]]:
    """The builder, and the messages of the build."""
    listener = Listener()
    logging.getLogger("absl").addHandler(listener)
    try:
        data_dir = tmp_path_factory.mktemp("built from real")
        return build(download, data_dir, BARCELONA), listener.messages
    finally:
        logging.getLogger("absl").removeHandler(listener)


@pytest.fixture(scope="module")
def examples(built) -> dict[str, dict]:
    return read_back(built[0])


def test_every_fold_has_80_images_of_each_of_the_ten_types(built, examples):
    counts = Counter(
        (e["split"], decode_labels(e, built[0].info)[0], Path(path).name.split("_")[0])
        for path, e in examples.items()
    )
    assert counts == {(f"fold_{k}", *pair): 80 for k in range(1, 6) for pair in TYPES.items()}


def test_the_others_are_counted(built):
    builder, messages = built
    assert builder.info.metadata["images_left_out"] == {"IG": 5, "NEUTROPHIL": 5, "PLATELET": 5}
    assert (
        "Files left out. Types without a class: 15 (IG 5, NEUTROPHIL 5, PLATELET 5). "
        "Not images: 1 (.DS_169665.jpg)." in messages
    )


def test_every_tenth_image_has_the_pixels_that_pillow_sees(download, examples):
    shapes = set()
    for path in sorted(examples)[::10]:
        with Image.open(download / "PBC_dataset_normal_DIB" / path) as image:
            expected = np.asarray(image)
        np.testing.assert_array_equal(examples[path]["image"], expected, err_msg=path)
        shapes.add(expected.shape)
    assert {(363, 360, 3), (369, 366, 3)} <= shapes


def test_the_two_pairs_of_copies_are_not_parted(download, examples):
    files = defaultdict(list)
    for path in examples:
        data = (download / "PBC_dataset_normal_DIB" / path).read_bytes()
        files[hashlib.md5(data).hexdigest()].append(path)
    pairs = [paths for paths in files.values() if len(paths) > 1]
    assert sorted(map(sorted, pairs)) == [
        ["ig/PMY_187173.jpg", "ig/PMY_225787.jpg"],
        ["ig/PMY_497134.jpg", "ig/PMY_586364.jpg"],
    ]
    for paths in pairs:
        assert len({examples[path]["split"] for path in paths}) == 1
