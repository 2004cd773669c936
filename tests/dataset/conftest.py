"""Small downloads and their builds, made once and read by many tests. Copy before you change."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import tensorflow_datasets as tfds
from dataset_builds import BARCELONA, MUNICH, build, read_back
from small_download import make_lines, make_names, write_barcelona, write_download


@pytest.fixture(scope="session")
def small_munich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images, two of each class."""
    return write_download(tmp_path_factory.mktemp("small") / "the download", make_lines(30))


@pytest.fixture(scope="session")
def small_barcelona(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images, two of each type; three of types without a class; one junk file."""
    names = [*make_names(2), "IG_1.jpg", "IG_2.jpg", "PLATELET_1.jpg"]
    folder = write_barcelona(tmp_path_factory.mktemp("small") / "download", names)
    (folder / "neutrophil" / ".DS_169665.jpg").write_bytes(b"\0\0\0\1Bud1")
    return folder


@pytest.fixture
def barcelona(small_barcelona: Path, tmp_path: Path) -> Path:
    """A copy, to be changed."""
    return shutil.copytree(small_barcelona, tmp_path / "download")


@pytest.fixture(scope="session")
def munich_build(small_munich: Path, tmp_path_factory: pytest.TempPathFactory):
    """The builder of the small download, configuration `complete`, read anew from its files."""
    build(small_munich, data_dir := tmp_path_factory.mktemp("built"))
    return tfds.builder(MUNICH, data_dir=data_dir)


@pytest.fixture(scope="session")
def barcelona_build(small_barcelona: Path, tmp_path_factory: pytest.TempPathFactory):
    """Likewise."""
    build(small_barcelona, data_dir := tmp_path_factory.mktemp("built"), BARCELONA)
    return tfds.builder(BARCELONA, data_dir=data_dir)


@pytest.fixture(scope="session")
def munich_examples(munich_build) -> dict[str, dict[str, Any]]:
    """What the build holds, by id."""
    return read_back(munich_build)


@pytest.fixture(scope="session")
def barcelona_examples(barcelona_build) -> dict[str, dict[str, Any]]:
    """Likewise."""
    return read_back(barcelona_build)
