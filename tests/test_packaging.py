import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, *command, "--wheel-dir", folder, ROOT], check=True, capture_output=True
    )
    (built,) = folder.glob("leuko_tf-*.whl")
    return built


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone, which borrows the dependencies of this one.

    Without network they cannot be installed anew. They are borrowed by a plain path, so that this
    environment's own link to the checkout does not come along.
    """
    folder = tmp_path_factory.mktemp("clean") / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def run(python: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_wheel_holds_the_files_that_are_no_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "leuko_tf/configs/demo.yaml",
        "leuko_tf/configs/modern.yaml",
        "leuko_tf/configs/paper.yaml",
        "leuko_tf/report/templates/report.html.j2",
        "serving/compose.yaml",
        "serving/config/batching.config",
        "serving/config/models.config",
        "serving/config/monitoring.config",
        "tfds_aml/aml_cytomorphology_lmu/CITATIONS.bib",
        "tfds_aml/aml_cytomorphology_lmu/README.md",
        "tfds_aml/aml_cytomorphology_lmu/TAGS.txt",
    } <= names
    assert not [n for n in names if n.startswith(("tests/", "runs/", "configs/"))]


def test_installed_packages_are_the_wheels(clean_python: Path, tmp_path: Path) -> None:
    program = "import leuko_tf, tfds_aml, serving; print(leuko_tf.__file__)"
    done = run(clean_python, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(clean_python.parent.parent)


def test_installed_configurations_are_found_from_anywhere(
    clean_python: Path, tmp_path: Path
) -> None:
    program = "from leuko_tf.config import load_config; print(load_config('paper.yaml'))"
    done = run(clean_python, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "samples_per_class=10000" in done.stdout


def test_installed_builder_reads_its_own_description(clean_python: Path, tmp_path: Path) -> None:
    program = (
        "import tensorflow_datasets as tfds, tfds_aml\n"
        f"info = tfds.builder('aml_cytomorphology_lmu', data_dir={str(tmp_path)!r}).info\n"
        "print(info.description[:30], '|', 'matek2019aml' in info.citation)"
    )
    done = run(clean_python, tmp_path, "-c", program)
    assert done.returncode == 0, done.stderr
    assert "Single leukocytes" in done.stdout
    assert "| True" in done.stdout


def test_installed_data_set_builds_by_the_tfds_command(
    clean_python: Path, smear: Path, tmp_path: Path
) -> None:
    program = "from tensorflow_datasets.scripts.cli.main import launch_cli as tfds; tfds()"
    build = ["build", "aml_cytomorphology_lmu", "--imports", "tfds_aml", "--config", "complete"]
    folders = ["--manual_dir", smear, "--data_dir", tmp_path]
    done = run(clean_python, tmp_path, "-c", program, *build, *folders)
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("aml_cytomorphology_lmu/complete/*/dataset_info.json"))


def test_installed_report_finds_its_template(
    clean_python: Path, workdir: Path, tmp_path: Path
) -> None:
    from leuko_tf.inference import predict_folds

    data_dir = next(
        line.split(": ")[1]
        for line in (workdir / "config.yaml").read_text().splitlines()
        if "data_dir" in line
    )
    dataset = "aml_cytomorphology_lmu/complete"
    table = predict_folds(workdir / "best.keras", dataset, data_dir, [1], tmp_path)
    out = tmp_path / "out"
    words = ["-m", "leuko_tf.evaluate", "--predictions", table, "--out", out]
    done = run(clean_python, tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert "Synthetic images" in (out / "report.html").read_text()


def test_no_committed_file_names_where_packages_come_from() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    for sign in ("://", "--index-url", "--extra-index-url", "--find-links"):
        assert sign not in lock
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\n")
    registries = ("py" + "pi.org", "pythonhosted" + ".org", "registry." + "npmjs")
    for name in filter(None, listed):
        text = (ROOT / name).read_text(errors="ignore")
        assert not [r for r in registries if r in text], name
