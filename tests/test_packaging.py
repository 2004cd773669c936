import json
import subprocess
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from running import ROOT, check_refusal, run, run_module
from stand_in_server import start_stand_in


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", folder)
    done = run_module("pip", "wheel", *options, ROOT)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("leuko_tf-*.whl")
    return built


def make_environment(wheel: Path, folder: Path) -> Path:
    """Makes an environment with the wheel alone; returns its Python."""
    python = folder / "bin" / "python"
    install = ("--python", python, "install", "--no-deps", "--no-index", wheel)
    for module, *words in (("venv", "--without-pip", folder), ("pip", *install)):
        done = run_module(str(module), *words)
        assert done.returncode == 0, done.stderr
    return python


def find_packages_folder(python: Path) -> Path:
    return Path(sysconfig.get_path("purelib", vars={"base": str(python.parent.parent)}))


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel alone, which borrows the dependencies of this one.

    Without network they cannot be installed anew. They are borrowed by a plain path, so that this
    environment's own link to the checkout does not come along.
    """
    python = make_environment(wheel, tmp_path_factory.mktemp("clean") / "env")
    borrowed = find_packages_folder(python) / "dependencies.pth"
    borrowed.write_text(sysconfig.get_path("purelib") + "\n")
    return python


def read_own_requirements(wheel: Path, extra: str) -> list[Requirement]:
    """Reads what the wheel itself requires for `leuko_tf[extra]`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist")
    return parse_applying(lines, extra)


def parse_applying(lines: list[str] | None, extra: str) -> list[Requirement]:
    requirements = map(Requirement, lines or [])
    return [r for r in requirements if not r.marker or r.marker.evaluate({"extra": extra})]


def find_required(wheel: Path, extra: str = "") -> set[str]:
    """Finds the packages that pip would install for `leuko_tf[extra]`, by normalised name.

    The wheel's own requirements and, in turn, those of the packages installed here.
    """
    found: set[tuple[str, str]] = set()
    waiting = read_own_requirements(wheel, extra)
    while waiting:
        requirement = waiting.pop()
        package = canonicalize_name(requirement.name)
        for each in {"", *requirement.extras} - {e for p, e in found if p == package}:
            found.add((package, each))
            waiting += parse_applying(distribution(package).requires, each)
    return {package for package, _ in found}


def make_environment_of_extra(wheel: Path, extra: str, folder: Path) -> Path:
    """Makes the environment of `pip install leuko_tf[extra]` with links to packages of this one."""
    python = make_environment(wheel, folder)
    for package in find_required(wheel, extra):
        for file in distribution(package).files or []:
            if ".." not in file.parts and "__pycache__" not in file.parts:
                link = find_packages_folder(python) / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.locate())
    return python


@pytest.fixture(scope="module")
def client_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment_of_extra(wheel, "client", tmp_path_factory.mktemp("client") / "env")


@pytest.fixture(scope="module")
def bare_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of `pip install leuko_tf`, without extras."""
    return make_environment_of_extra(wheel, "", tmp_path_factory.mktemp("bare") / "env")


def run_program(python: Path, folder: Path, program: str, *words: object) -> str:
    """Runs `python -c program words...` in a folder and returns its output."""
    done = run([python, "-c", program, *words], cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_wheel_holds_the_packages_and_their_files(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "leuko_tf/configs/cpu.yaml",
        "leuko_tf/configs/demo.yaml",
        "leuko_tf/configs/modern.yaml",
        "leuko_tf/configs/paper.yaml",
        "leuko_tf/metrics/published_2019.yaml",
        "leuko_tf/py.typed",
        "leuko_tf/report/templates/report.html.j2",
        "serving/compose.yaml",
        "serving/config/batching.config",
        "serving/config/models.config",
        "serving/config/monitoring.config",
        "serving/py.typed",
        "serving/server/rest.py",
        "tfds_aml/aml_cytomorphology_lmu/CITATIONS.bib",
        "tfds_aml/aml_cytomorphology_lmu/README.md",
        "tfds_aml/aml_cytomorphology_lmu/TAGS.txt",
        "tfds_aml/pbc_barcelona/CITATIONS.bib",
        "tfds_aml/pbc_barcelona/README.md",
        "tfds_aml/pbc_barcelona/TAGS.txt",
        "tfds_aml/py.typed",
    } <= names
    folders = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert folders == {"leuko_tf", "serving", "tfds_aml"}


def test_installed_packages_are_the_wheels(clean_python: Path, tmp_path: Path) -> None:
    program = "import leuko_tf, tfds_aml, serving; print(leuko_tf.__file__)"
    file = Path(run_program(clean_python, tmp_path, program).strip())
    assert file.is_relative_to(clean_python.parent.parent)


def test_installed_configurations_are_found_from_anywhere(
    clean_python: Path, tmp_path: Path
) -> None:
    program = "from leuko_tf.config import load_config; print(load_config('paper.yaml'))"
    assert "samples_per_class=10000" in run_program(clean_python, tmp_path, program)


def test_installed_builder_reads_its_own_description(clean_python: Path, tmp_path: Path) -> None:
    program = (
        "import tensorflow_datasets as tfds, tfds_aml\n"
        f"info = tfds.builder('aml_cytomorphology_lmu', data_dir={str(tmp_path)!r}).info\n"
        "print(info.description[:30], '|', 'matek2019aml' in info.citation)"
    )
    output = run_program(clean_python, tmp_path, program)
    assert "Single leukocytes" in output
    assert "| True" in output


def test_installed_data_set_builds_by_the_tfds_command(
    clean_python: Path, smear: Path, tmp_path: Path
) -> None:
    program = "from tensorflow_datasets.scripts.cli.main import launch_cli as tfds; tfds()"
    build = ["build", "aml_cytomorphology_lmu", "--imports", "tfds_aml", "--config", "complete"]
    folders = ["--manual_dir", smear, "--data_dir", tmp_path]
    run_program(clean_python, tmp_path, program, *build, *folders)
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
    options = ("--predictions", table, "--out", out)
    done = run_module("leuko_tf.evaluate", *options, cwd=tmp_path, python=clean_python)
    assert done.returncode == 0, done.stderr
    assert "Synthetic images" in (out / "report.html").read_text()


def test_extras_install_what_they_are_for(wheel: Path) -> None:
    client = {"grpcio", "numpy", "pillow", "protobuf", "tqdm"}
    assert find_required(wheel) == {"wrapt"}
    # What the packages of `client` bring along themselves is small, too.
    assert find_required(wheel, "client") - client <= {"wrapt", "typing-extensions"}
    assert find_required(wheel, "client") >= client
    full = find_required(wheel, "full")
    assert full >= client | {"tensorflow", "keras", "tensorflow-serving-api"}


def test_cuda_is_full_with_tensorflows_own_cuda_libraries(wheel: Path) -> None:
    full, cuda = read_own_requirements(wheel, "full"), read_own_requirements(wheel, "cuda")
    assert {r.name for r in cuda} == {r.name for r in full}
    of_full, of_cuda = ([r for r in some if r.name == "tensorflow"] for some in (full, cuda))
    assert {r.specifier for r in of_cuda} == {r.specifier for r in of_full}
    assert {"and-cuda"} in [r.extras for r in of_cuda]


def test_the_client_extra_is_a_working_client(
    client_python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)

    def run_here(module: str, *words: object) -> subprocess.CompletedProcess[str]:
        return run_module(module, *words, cwd=tmp_path, python=client_python)

    heavy = ["tensorflow", "keras", "tensorflow_serving", "pandas", "matplotlib"]
    program = f"import importlib.util as u; print([m for m in {heavy} if u.find_spec(m)])"
    assert run_program(client_python, tmp_path, program) == "[]\n"

    for command in ("serving.client", "serving.loadtest"):
        done = run_here(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert f"usage: python -m {command}" in done.stdout

    Image.new("RGB", (8, 8)).save(tmp_path / "cell.tiff")
    with start_stand_in() as server:
        here = ("--address", server.address)
        done = run_here("serving.client", tmp_path, "--json", "--saliency", "maps", *here)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["classes"] == ["MYO", "LYT", "NGS"]
        assert (tmp_path / "maps" / "cell_saliency.png").is_file()
        load = ("serving.loadtest", "--closed", 1, "--seconds", 0.1, *here)
        done = run_here(*load)
        assert done.returncode == 0, done.stderr
        # Its plot needs more, which it says before the load and not after it.
        before = len(server.requests)
        check_one_line(run_here(*load, "--out", tmp_path / "out"), "matplotlib", "leuko_tf[full]")
        assert len(server.requests) == before


def test_commands_without_their_packages_name_the_extra(bare_python: Path, tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").touch()
    for command, extra, *words in (
        ("serving.client", "client", "--help"),
        ("serving.loadtest", "client", "--help"),
        ("serving.local_server", "full", "--model-base-path", tmp_path),
    ):
        done = run_module(command, *words, cwd=tmp_path, python=bare_python)
        check_one_line(done, f"{command}: ", f"leuko_tf[{extra}]")


def check_one_line(done: subprocess.CompletedProcess[str], *parts: str) -> None:
    check_refusal(done, *parts)
    assert len(done.stderr.splitlines()) == 1


def test_an_import_without_its_packages_is_an_ordinary_error(
    bare_python: Path, tmp_path: Path
) -> None:
    done = run([bare_python, "-c", "import leuko_tf, serving, serving.client"], cwd=tmp_path)
    assert "Traceback" in done.stderr
    assert "ModuleNotFoundError" in done.stderr


def test_no_committed_file_names_where_packages_come_from() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    assert "--hash=sha256:" in lock
    for sign in ("://", "--index-url", "--extra-index-url", "--find-links"):
        assert sign not in lock
    listed = run(["git", "ls-files"], cwd=ROOT).stdout.split("\n")
    registries = ("py" + "pi.org", "pythonhosted" + ".org", "registry." + "npmjs")
    for name in filter(None, listed):
        text = (ROOT / name).read_text(errors="ignore")
        assert not [r for r in registries if r in text], name
