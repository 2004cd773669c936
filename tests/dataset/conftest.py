"""A small download and its build, made once and read by many tests."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from dataset_builds import build, read_back
from small_download import rows, write_download


@pytest.fixture(scope="session")
def small_download(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images, two of each class. Copy it before you change it."""
    return write_download(tmp_path_factory.mktemp("small") / "the download", rows(30))


@pytest.fixture(scope="session")
def built(small_download: Path, tmp_path_factory: pytest.TempPathFactory):
    """The builder of the small download, configuration `complete`, read anew from its files."""
    data_dir = tmp_path_factory.mktemp("built")
    build(small_download, data_dir)
    return tfds.builder("aml_cytomorphology_lmu", data_dir=data_dir)


@pytest.fixture(scope="session")
def examples(built) -> dict[str, dict[str, Any]]:
    """What the small build holds, by id."""
    return read_back(built)
