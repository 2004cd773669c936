"""Builds a data set in this process, and reads a build."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

import tfds_aml  # noqa: F401 - registers the builders
from tfds_aml.folds import SPLIT_NAMES
from tfds_aml.problems import BadDownloadError

MUNICH, BARCELONA = "aml_cytomorphology_lmu", "pbc_barcelona"


def build(
    download: Path, data_dir: Path | None = None, name: str = MUNICH
) -> tfds.core.DatasetBuilder:
    """Builds into `data` beside the download, or elsewhere, as `tfds build` does."""
    builder = tfds.builder(name, data_dir=data_dir or download.parent / "data")
    config = tfds.download.DownloadConfig(manual_dir=download)
    builder.download_and_prepare(download_config=config)
    return builder


def catch_refusal(download: Path, name: str = MUNICH) -> str:
    """The message that stops the build; checks that the build left nothing that could be loaded."""
    with pytest.raises(BadDownloadError) as caught:
        build(download, name=name)
    data_dir = download.parent / "data"
    for pattern in ("dataset_info.json", "*.tfrecord*", "*1.0.0*"):
        assert not list(data_dir.rglob(pattern))
    assert not tfds.builder(name, data_dir=data_dir).is_prepared()
    return str(caught.value)


def read_back(builder: tfds.core.DatasetBuilder) -> dict[str, dict[str, Any]]:
    """Every example by its id, with its split under `split`."""
    return {
        example["id"].decode(): {**example, "split": split}
        for split in SPLIT_NAMES
        for example in tfds.as_numpy(builder.as_dataset(split=split))
    }


def decode_labels(example: dict[str, Any], info: tfds.core.DatasetInfo) -> list[str]:
    """Label and both re-annotations as codes."""
    names = ("label", "reannotation_1", "reannotation_2")
    return [info.features[name].int2str(example[name]) for name in names]
