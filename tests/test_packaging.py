import json
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from stand_in_server import stand_in_server

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


def new_environment(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel alone; returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = ["-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    return python


def packages_folder(python: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(python.parent.parent)}))


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone, which borrows the dependencies of this one.

    Without network they cannot be installed anew. They are borrowed by a plain path, so that this
    environment's own link to the checkout does not come along.
    """
    python = new_environment(wheel, tmp_path_factory.mktemp("clean") / "env")
    borrowed = packages_folder(python) / "dependencies.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    return python


def own_requirements(wheel: Path, extra: str) -> list[Requirement]:
    """What the wheel itself requires for `leuko_tf[extra]`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    return applying(lines, extra)


def applying(lines: list[str] | None, extra: str) -> list[Requirement]:
    requirements = map(Requirement, lines or [])
    return [r for r in requirements if not r.marker or r.marker.evaluate({"extra": extra})]


def required(wheel: Path, extra: str = "") -> set[str]:
    """The packages that pip would install for `leuko_tf[extra]`, by normalised name.

    The wheel's own requirements and, in turn, those of the packages installed here.
    """
    found: set[tuple[str, str]] = set()
    waiting = own_requirements(wheel, extra)
    while waiting:
        requirement = waiting.pop()
        package = canonicalize_name(requirement.name)
        for each in {"", *requirement.extras} - {e for p, e in found if p == package}:
            found.add((package, each))
            waiting += applying(distribution(package).requires, each)
    return {package for package, _ in found}


def lend(packages: set[str], python: Path) -> None:
    """Makes these packages of the running environment, and no others, another Python's, too."""
    folder = packages_folder(python)
    for package in packages:
        for file in distribution(package).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                link = folder / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.locate())


@pytest.fixture(scope="module")
def client_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of `pip install leuko_tf[client]`."""
    python = new_environment(wheel, tmp_path_factory.mktemp("client") / "env")
    lend(required(wheel, "client"), python)
    return python


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of `pip install leuko_tf`, without extras."""
    python = new_environment(wheel, tmp_path_factory.mktemp("bare") / "env")
    lend(required(wheel), python)
    return python


def run(python: Path, folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, *map(str, words)], cwd=folder, capture_output=True, text=True, check=False
    )


def test_wheel_holds_the_files_that_are_no_python(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "leuko_tf/configs/cpu.yaml",
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
        "tfds_aml/pbc_barcelona/CITATIONS.bib",
        "tfds_aml/pbc_barcelona/README.md",
        "tfds_aml/pbc_barcelona/TAGS.txt",
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


def test_extras_install_what_they_are_for(wheel: Path) -> None:
    client = {"grpcio", "numpy", "pillow", "protobuf", "tqdm"}
    assert required(wheel) == {"wrapt"}
    # What the packages of `client` bring along themselves is small, too.
    assert required(wheel, "client") - client <= {"wrapt", "typing-extensions"}
    assert required(wheel, "client") >= client
    assert required(wheel, "full") >= client | {"tensorflow", "keras", "tensorflow-serving-api"}


def test_cuda_is_full_with_tensorflows_own_cuda_libraries(wheel: Path) -> None:
    def tensorflow(extra: str) -> list[Requirement]:
        return [r for r in own_requirements(wheel, extra) if r.name == "tensorflow"]

    full, cuda = own_requirements(wheel, "full"), own_requirements(wheel, "cuda")
    assert {r.name for r in cuda} == {r.name for r in full}
    assert {r.specifier for r in tensorflow("cuda")} == {r.specifier for r in tensorflow("full")}
    assert {"and-cuda"} in [r.extras for r in tensorflow("cuda")]


def test_the_client_extra_is_a_working_client(
    client_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    there = "import importlib.util as u; print([m for m in {} if u.find_spec(m)])"
    heavy = ["tensorflow", "keras", "tensorflow_serving", "pandas", "matplotlib"]
    assert run(client_python, tmp_path, "-c", there.format(heavy)).stdout.strip() == "[]"

    for command in ("serving.client", "serving.loadtest"):
        done = run(client_python, tmp_path, "-m", command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"usage: python -m {command}" in done.stdout

    Image.new("RGB", (8, 8)).save(tmp_path / "cell.tiff")
    with stand_in_server() as server:
        here = ("--address", server.address)
        words = ("cell.tiff", "--json", "--saliency", "maps", *here)
        done = run(client_python, tmp_path, "-m", "serving.client", *words)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["classes"] == ["MYO", "LYT", "NGS"]
        assert (tmp_path / "maps" / "cell_saliency.png").is_file()
        load = ("-m", "serving.loadtest", "--closed", 1, "--seconds", 0.1, *here)
        done = run(client_python, tmp_path, *load)
        assert done.returncode == 0, done.stderr
        # Its plot needs more, which it says before the load and not after it.
        before = len(server.requests)
        done = run(client_python, tmp_path, *load, "--out", tmp_path / "out")
        one_line_names(done, "matplotlib", "leuko_tf[full]")
        assert len(server.requests) == before


def test_commands_without_their_packages_name_the_extra(bare_python: Path, tmp_path: Path) -> None:
    for command in ("client", "loadtest"):
        done = run(bare_python, tmp_path, "-m", f"serving.{command}", "--help")
        one_line_names(done, f"serving.{command}: ", "leuko_tf[client]")
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    words = ("--model-base-path", tmp_path)
    done = run(bare_python, tmp_path, "-m", "serving.local_server", *words)
    one_line_names(done, "serving.local_server: ", "leuko_tf[full]")


def one_line_names(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    for part in parts:
        assert part in line


def test_an_import_without_its_packages_is_an_ordinary_error(
    bare_python: Path, tmp_path: Path
) -> None:
    done = run(bare_python, tmp_path, "-c", "import leuko_tf, serving; import serving.client")
    assert "Traceback" in done.stderr
    assert "ModuleNotFoundError" in done.stderr


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
