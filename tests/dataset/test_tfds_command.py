"""The real `tfds` command and fresh processes, as users run them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow_datasets as tfds
from dataset_builds import BARCELONA, MUNICH
from running import ROOT, check_refusal, run
from small_download import make_lines, write_download

from tfds_aml.folds import SPLIT_NAMES

LOAD = """
import sys
folds = tfds.load("aml_cytomorphology_lmu", data_dir=sys.argv[1], download=False)
print(sorted(folds), sum(1 for fold in folds.values() for _ in fold))
"""


def run_build(
    name: str, *options: str, download: Path, data_dir: Path, cwd: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("tfds"), "build", name, *options]
    return run([*command, "--manual_dir", download, "--data_dir", data_dir], cwd=cwd)


@pytest.mark.parametrize(
    ("name", "download", "message"),
    [
        (MUNICH, "small_munich", "full_name='aml_cytomorphology_lmu/complete/1.0.0'"),
        (BARCELONA, "small_barcelona", "Types without a class: 3 (IG 2, PLATELET 1)."),
    ],
)
def test_a_data_set_builds_by_its_path_and_loads_by_its_name(
    name, download, message, tmp_path, request
):
    download = request.getfixturevalue(download)
    outcome = run_build(f"tfds_aml/{name}", download=download, data_dir=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert message in outcome.stdout
    assert sorted(tfds.load(name, data_dir=tmp_path, download=False)) == [*SPLIT_NAMES]


@pytest.fixture(scope="module")
def built_by_name(small_munich: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of a build by the data set's name, run in an empty folder."""
    outcome = run_build(
        f"{MUNICH}/complete",
        *("--imports", "tfds_aml"),
        download=small_munich,
        data_dir=(data_dir := tmp_path_factory.mktemp("built by name")),
        cwd=tmp_path_factory.mktemp("empty"),
    )
    assert outcome.returncode == 0, outcome.stderr
    return data_dir


@pytest.mark.parametrize(
    "imports",
    [
        "import tfds_aml, tensorflow_datasets as tfds",
        "import tensorflow_datasets as tfds, tfds_aml",
    ],
)
def test_what_is_built_by_name_loads_after_the_import_in_either_order(
    built_by_name, tmp_path, imports
):
    outcome = run([sys.executable, "-c", imports + LOAD, built_by_name], cwd=tmp_path)
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout == "['fold_1', 'fold_2', 'fold_3', 'fold_4', 'fold_5'] 30\n"


def test_a_bad_download_ends_in_one_message_without_a_stack_trace(tmp_path):
    lines = make_lines(5, ["BAS"])
    download = write_download(tmp_path / "download", lines, empty_images=True)
    (download / "BAS" / "BAS_0001.tiff").unlink()
    data_dir = tmp_path / "data"
    outcome = run_build(f"tfds_aml/{MUNICH}", download=download, data_dir=data_dir)
    check_refusal(
        outcome,
        "- 1 x missing image: in annotations.dat, not in the folder",
        "- 4 x unreadable image: not a complete TIFF of 400x400",
    )
    assert outcome.stderr.count(f"error: {download} cannot be built: 5 problems.\n") == 1
    assert not list(data_dir.rglob("dataset_info.json"))


def test_a_bad_download_built_by_name_ends_in_one_message(barcelona, tmp_path):
    os.truncate(barcelona / "basophil" / "BA_1.jpg", 1000)
    options = ("--imports", "tfds_aml")
    outcome = run_build(
        BARCELONA, *options, download=barcelona, data_dir=tmp_path / "data", cwd=tmp_path
    )
    check_refusal(outcome, f"error: {barcelona} cannot be built: 1 problem.\n")
