"""Builds of the data set, made once and read by many tests."""

import os
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from small_download import rows, write_download

import tfds_aml  # noqa: F401 - registers the builder
from tfds_aml.folds import SPLIT_NAMES


def build(manual_dir: Path, data_dir: Path, config: str = "complete") -> tfds.core.DatasetBuilder:
    """Builds in this process, as `tfds build` does, and returns the builder."""
    builder = tfds.builder(f"aml_cytomorphology_lmu/{config}", data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return builder


def read_back(builder: tfds.core.DatasetBuilder) -> dict[str, dict[str, Any]]:
    """Every example by its id, with its split under `split`."""
    return {
        example["id"].decode(): {**example, "split": split}
        for split in SPLIT_NAMES
        for example in tfds.as_numpy(builder.as_dataset(split=split))
    }


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


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; the tests that need it are skipped where none is named."""
    folder = os.environ.get("LEUKO_SHARED")
    if not folder:
        pytest.skip("LEUKO_SHARED names no folder with real data (see its README.md)")
    return Path(folder)
