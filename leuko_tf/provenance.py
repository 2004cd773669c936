"""What a model was trained on, and what a table of predictions was made from.

A training writes `run.json` (`Run`) into its work folder and puts `ModelFacts` into the `.keras`
file itself, so that a copied model still tells its data set, folds and class counts. All commands
read both through this module, which needs neither TensorFlow nor Keras.
"""

import json
import platform
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypedDict

import leuko_tf
from leuko_tf.cli import UserError, format_command_line, write_json
from leuko_tf.files import BEST, CONFIG, RUN

# Name of the layer whose configuration carries the facts inside a `.keras` file.
FACTS_LAYER = "scaling"
# The member of a `.keras` file, a zip archive, that holds the configuration of all layers.
KERAS_CONFIG = "config.json"


class DatasetFacts(TypedDict, total=False):
    """A built data set: its full name, and the metadata that its builder wrote."""

    name: str  # dataset/config/version
    synthetic: bool
    images: int  # all five folds
    folds: str  # where the folds come from
    pixel_size_um: float | None  # side of a pixel in micrometres; None where not known


class RunStart(TypedDict):
    """One start of a training: the first one, or a resume."""

    command: str
    started: str  # ISO 8601, UTC
    versions: dict[str, str]
    git_revision: str | None
    precision: str
    jit_compile: bool
    devices: list[str]


class Run(RunStart):
    """`run.json` of a work folder."""

    dataset: DatasetFacts
    class_counts: dict[str, int]  # images trained on, by class; validation images left out
    held_out_fold: int | None  # None where the initial model may have been trained on it
    images_pixel_size_um: float | None
    initial_model: dict[str, Any] | None
    parameters: int
    resumed: list[RunStart]


class TrainingRecord(TypedDict):
    """How a model was trained, as the source of its predictions tells it."""

    command: str
    versions: dict[str, str]
    git_revision: str | None
    parameters: int
    configuration: dict[str, Any]


class Source(TypedDict, total=False):
    """Where the rows of a table of predictions come from; a missing key means not known."""

    synthetic: bool
    dataset: str
    folds: str
    split: str  # such as fold_1+fold_2
    model: str
    runtime: str
    averaged_over_symmetries: bool
    resampled_to_um: float | None
    held_out: bool | None  # True where the model has not seen the split in training
    training: TrainingRecord | None
    ids: str
    remark: str


@dataclass(frozen=True)
class ModelFacts:
    """What is known about a model's training; None where it is not known."""

    model: str  # name of the file
    research_use_only: bool = True
    synthetic: bool | None = None  # trained on drawn cells
    trained_on: str | None = None  # full name of the data set
    trained_on_images: int | None = None  # in that data set, all five folds
    class_counts: dict[str, int] | None = None  # as in `Run`
    folds: str | None = None
    held_out_fold: int | None = None  # 1 to 5: the fold that no training has seen
    images_pixel_size_um: float | None = None  # of the data set, as the training took it
    # At the training:
    versions: dict[str, str] = field(default_factory=lambda: {"leuko_tf": leuko_tf.__version__})
    git_revision: str | None = None
    initial_model: dict[str, Any] | None = None  # facts of the model that it started from

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def describe_dataset(builder: Any) -> DatasetFacts:
    """Facts about a built data set (`tfds.core.DatasetBuilder`)."""
    return {"name": builder.info.full_name, **dict(builder.info.metadata)}


def describe_model(file: Path) -> ModelFacts:
    """Reads the facts that a `.keras` file carries, or else those of the `run.json` beside it.

    Models trained before files carried facts have only the latter. Raises a `UserError` if
    `run.json` is needed and damaged.
    """
    facts = _read_carried_facts(file)
    if facts is None:
        facts = facts_of_run(read_run(file.parent) if (file.parent / RUN).is_file() else {})
    return replace(facts, model=file.name)


def facts_of_run(run: Mapping[str, Any]) -> ModelFacts:
    """The facts that a model carries, from its training's `run.json`; that of older ones, too."""
    dataset = run.get("dataset", {})
    facts = ModelFacts(
        model=BEST,
        synthetic=dataset.get("synthetic"),
        trained_on=dataset.get("name"),
        trained_on_images=dataset.get("images"),
        class_counts=run.get("class_counts"),
        folds=dataset.get("folds"),
        held_out_fold=run.get("held_out_fold"),
        images_pixel_size_um=run.get("images_pixel_size_um", dataset.get("pixel_size_um")),
        git_revision=run.get("git_revision"),
        initial_model=run.get("initial_model"),
    )
    return replace(facts, versions=run["versions"]) if "versions" in run else facts


def has_same_images(facts: ModelFacts, dataset: DatasetFacts) -> bool:
    """Whether a model was trained on this build of a data set, with the same folds."""
    keys = ("name", "synthetic", "images", "folds")
    trained = (facts.trained_on, facts.synthetic, facts.trained_on_images, facts.folds)
    return trained == tuple(dataset.get(key) for key in keys)


def is_held_out(facts: ModelFacts, dataset: DatasetFacts, folds: Sequence[int]) -> bool | None:
    """Whether the model has seen none of the folds in training; None where that is not known.

    It is known for the data set of the training only: another one may hold the same images in
    other folds.
    """
    known = has_same_images(facts, dataset) and facts.held_out_fold is not None
    return [*folds] == [facts.held_out_fold] if known else None


def record_run(
    workdir: Path,
    start: RunStart,
    *,
    dataset: DatasetFacts,
    class_counts: dict[str, int],
    held_out_fold: int,
    images_pixel_size_um: float | None,
    initial_model: Path | None,
    parameters: int,
) -> Run:
    """Writes `run.json` when a training begins; adds a line to it when the training resumes.

    The arguments are entries of `Run`, but `held_out_fold` is the fold that this training does not
    see, and `initial_model` a `.keras` file. Raises a `UserError` if the file there is damaged.
    """
    if (workdir / RUN).exists():
        run = read_run(workdir)
        run["resumed"].append(start)
        run.setdefault("class_counts", class_counts)  # not told by older versions
    else:
        initial = describe_model(initial_model) if initial_model else None
        unseen = initial is None or is_held_out(initial, dataset, [held_out_fold])
        run = {
            **start,
            "dataset": dataset,
            "class_counts": class_counts,
            "held_out_fold": held_out_fold if unseen else None,
            "images_pixel_size_um": images_pixel_size_um,
            "initial_model": initial.to_json() if initial else None,
            "parameters": parameters,
            "resumed": [],
        }
    write_json(workdir / RUN, run)
    return run


def describe_start(precision: str, jit_compile: bool, devices: list[str]) -> RunStart:
    """Describes this start of a training: command, time, versions, revision and machine."""
    own = {"python": platform.python_version(), "leuko_tf": leuko_tf.__version__}
    packages = ("tensorflow", "keras", "tensorflow-datasets", "numpy")
    return {
        "command": format_command_line(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": own | {package: version(package) for package in packages},
        "git_revision": _find_git_revision(),
        "precision": precision,
        "jit_compile": jit_compile,
        "devices": devices,
    }


def read_run(workdir: Path) -> Run:
    """Reads `run.json` of a work folder; raises a `UserError` if it is no JSON."""
    file = workdir / RUN
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is damaged: {error}. Move it away, or repair it.") from error


def read_training(workdir: Path) -> TrainingRecord | None:
    """Reads how a work folder's model was trained; None where the folder has no record of it."""
    if not (workdir / RUN).is_file() or not (workdir / CONFIG).is_file():
        return None
    import yaml

    run = read_run(workdir)
    return {
        "command": run["command"],
        "versions": run["versions"],
        "git_revision": run["git_revision"],
        "parameters": run["parameters"],
        "configuration": yaml.safe_load((workdir / CONFIG).read_text()),
    }


def _read_carried_facts(file: Path) -> ModelFacts | None:
    """The facts inside a `.keras` file; None where it has none, or is no such file."""
    try:
        with zipfile.ZipFile(file) as archive:
            layers = json.loads(archive.read(KERAS_CONFIG))["config"]["layers"]
        (layer,) = (each["config"] for each in layers if each["config"]["name"] == FACTS_LAYER)
        facts = layer["trained"]
    except (OSError, zipfile.BadZipFile, KeyError, TypeError, ValueError):
        return None  # `load_model` tells what is wrong with a file
    if not isinstance(facts, dict):  # None in models of older versions
        return None
    known = {each.name for each in fields(ModelFacts)}
    facts = {name: value for name, value in facts.items() if name in known}
    return ModelFacts(**facts) if facts else None


def _find_git_revision() -> str | None:
    """The checkout's revision, marked `-dirty` where files are changed; None outside of one."""
    checkout = Path(__file__).parent.parent
    if not (checkout / "pyproject.toml").is_file():
        return None  # installed: a repository around it belongs to another project
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
