"""The real `tfds` command and fresh processes, as users meet them."""

import subprocess
import sys
from pathlib import Path

import pytest
from small_download import rows, write_download

ROOT = Path(__file__).resolve().parents[2]
TFDS = Path(sys.executable).with_name("tfds")

LOAD = """
import sys
folds = tfds.load("aml_cytomorphology_lmu", data_dir=sys.argv[1], download=False)
print(sorted(folds), sum(1 for fold in folds.values() for _ in fold))
"""


def run(command: list[str | Path], cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


def test_the_data_set_builds_by_its_path_from_the_root_of_the_repository(small_download, tmp_path):
    options = ["--manual_dir", small_download, "--data_dir", tmp_path]
    outcome = run([TFDS, "build", "tfds_aml/aml_cytomorphology_lmu", *options], cwd=ROOT)
    assert outcome.returncode == 0, outcome.stderr
    assert "full_name='aml_cytomorphology_lmu/complete/1.0.0'" in outcome.stdout
    assert (tmp_path / "aml_cytomorphology_lmu/complete/1.0.0/dataset_info.json").is_file()


@pytest.fixture(scope="module")
def built_by_name(small_download: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of a build by the data set's name, from a folder that holds nothing."""
    data_dir = tmp_path_factory.mktemp("built by name")
    options = ["--imports", "tfds_aml", "--manual_dir", small_download, "--data_dir", data_dir]
    outcome = run(
        [TFDS, "build", "aml_cytomorphology_lmu/complete", *options],
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
    download = write_download(tmp_path / "download", rows(5, ["BAS"]), empty_images=True)
    (download / "BAS" / "BAS_0001.tiff").unlink()
    options = ["--manual_dir", download, "--data_dir", tmp_path / "data"]
    outcome = run([TFDS, "build", "tfds_aml/aml_cytomorphology_lmu", *options], cwd=ROOT)
    assert outcome.returncode == 1
    assert outcome.stderr.count(f"error: {download} cannot be built: 5 problems.\n") == 1
    assert "- 1 x missing image: in annotations.dat, not in the folder" in outcome.stderr
    assert "- 4 x unreadable image: not a complete TIFF of 400x400" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not list((tmp_path / "data").rglob("dataset_info.json"))
