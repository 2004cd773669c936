"""Builds the data set in this process, and reads a build."""

from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

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
