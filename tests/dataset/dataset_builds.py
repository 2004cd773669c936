"""Builds a data set in this process, and reads a build."""

from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds

import tfds_aml  # noqa: F401 - registers the builders
from tfds_aml.folds import SPLIT_NAMES
from tfds_aml.problems import BadDownloadError


def build_dataset(name: str, manual_dir: Path, data_dir: Path) -> tfds.core.DatasetBuilder:
    """Builds in this process, as `tfds build` does, and returns the builder."""
    builder = tfds.builder(name, data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=manual_dir)
    )
    return builder


def build(manual_dir: Path, data_dir: Path, config: str = "complete") -> tfds.core.DatasetBuilder:
    """Builds AML-Cytomorphology_LMU."""
    return build_dataset(f"aml_cytomorphology_lmu/{config}", manual_dir, data_dir)


def refusal_of(name: str, manual_dir: Path, data_dir: Path) -> str:
    """The message that stops the build; checks that the build left nothing to be loaded."""
    with pytest.raises(BadDownloadError) as caught:
        build_dataset(name, manual_dir, data_dir)
    assert not list(data_dir.rglob("dataset_info.json"))
    assert not list(data_dir.rglob("*.tfrecord*"))
    assert not list(data_dir.rglob("*1.0.0*"))
    assert not tfds.builder(name, data_dir=data_dir).is_prepared()
    return str(caught.value)


def read_back(builder: tfds.core.DatasetBuilder) -> dict[str, dict[str, Any]]:
    """Every example by its id, with its split under `split`."""
    return {
        example["id"].decode(): {**example, "split": split}
        for split in SPLIT_NAMES
        for example in tfds.as_numpy(builder.as_dataset(split=split))
    }
