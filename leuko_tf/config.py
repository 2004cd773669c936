"""The configuration of a training: typed, documented, read from YAML and the command line."""

import dataclasses
import math
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leuko_tf.cli import UserError, write_aside

# What OmegaConf would take other things for, or refuses without telling the key.
_KINDS = {dict: "a group of settings", bool: "true or false", list: "a list"}


@dataclass
class DataConfig:
    """Which cells, and how they become batches.

    Attributes:
      dataset: str. TFDS name with configuration.
      data_dir: str or null. Where `tfds build` wrote it; null is TFDS' own default.
      pixel_size_um: float or null. Side of the images' pixels, in micrometres; null is what the
        data set says.
      resample_to_um: float or null. Images are brought to pixels of this side first, by
        `leuko_tf.data.images.resample_image`; null leaves them.
      held_out_fold: int. 1 to 5; training never sees it, evaluation uses it.
      validation_share: float. Share of the other four folds, by class, that chooses the best
        epoch and trains nothing; 0 to 0.5. With 0 the lowest training loss chooses.
      samples_per_class: int or null. Every class gives this many images an epoch, rare ones
        repeated under new augmentation; null takes each image once.
      batch_size: int. Images a step.
      rotate: bool. Rotation by any angle.
      flip: bool. Horizontal and vertical flips.
      zoom: float. Each sample is enlarged or shrunk by up to this share, 0 to 0.5.
      shift: float. Each sample is moved by up to this share of its side, both ways, 0 to 0.5.
      stain: float. The amount of each stain, and the light's brightness and colour, are changed by
        up to this share, 0 to 0.5; see `leuko_tf.data.augmentation.draw_stain_transforms`.
      cache: str. `memory`, or `disk` (a file in the work folder) where the decoded cells do not fit
        into memory: 3 x input_size x input_size bytes each, up to twice as much where a field below
        400 leaves room for turns.
    """

    dataset: str = "aml_cytomorphology_lmu/complete"
    data_dir: str | None = None
    pixel_size_um: float | None = None
    resample_to_um: float | None = None
    held_out_fold: int = 1
    validation_share: float = 0.1
    samples_per_class: int | None = None
    batch_size: int = 32
    rotate: bool = True
    flip: bool = True
    zoom: float = 0.0
    shift: float = 0.0
    stain: float = 0.0
    cache: str = "memory"

    def __post_init__(self) -> None:
        for name in ("pixel_size_um", "resample_to_um"):
            side = getattr(self, name)
            _check(f"data.{name}", side, side is None or 0 < side < 10, "null or between 0 and 10")
        _check("data.held_out_fold", self.held_out_fold, 1 <= self.held_out_fold <= 5, "1 to 5")
        share = self.validation_share
        _check("data.validation_share", share, 0 <= share <= 0.5, "0 to 0.5")
        samples = self.samples_per_class
        _check("data.samples_per_class", samples, samples is None or samples > 0, "null or above 0")
        _check("data.batch_size", self.batch_size, self.batch_size > 0, "above 0")
        for name in ("zoom", "shift", "stain"):
            share = getattr(self, name)
            _check(f"data.{name}", share, 0 <= share <= 0.5, "0 to 0.5")
        _check_one_of("data.cache", self.cache, "memory", "disk")


@dataclass
class ModelConfig:
    """The network; the defaults are the paper's. See `leuko_tf.network.resnext.build_resnext`.

    Attributes:
      input_size: int. Side in pixels at which the network looks at a cell.
      field: int. Side of the square in the middle of an image that the network looks at, in the
        image's pixels; less than 400 comes closer to the cell. See `leuko_tf.network.view.to_network_input`.
      blocks: list of int. Bottleneck blocks of each stage.
      stem_width: int. Channels of the first convolution.
      width: int. Inner channels of the first stage.
      cardinality: int. Groups of the 3x3 convolutions.
      activation: str. `leaky_relu` (slope 0.3) or the name of a Keras activation.
      batch_norm_momentum: float. Of the moving averages, 0 to 1.
    """

    input_size: int = 400
    field: int = 400
    blocks: list[int] = dataclasses.field(default_factory=lambda: [3, 4, 6, 3])
    stem_width: int = 64
    width: int = 128
    cardinality: int = 32
    activation: str = "leaky_relu"
    batch_norm_momentum: float = 0.99

    def __post_init__(self) -> None:
        _check("model.input_size", self.input_size, self.input_size >= 16, "16 or more")
        _check("model.field", self.field, self.field >= 16, "16 or more")
        enough = bool(self.blocks) and min(self.blocks) > 0
        _check("model.blocks", self.blocks, enough, "one number above 0 for each stage")
        _check("model.stem_width", self.stem_width, self.stem_width > 0, "above 0")
        _check("model.width", self.width, self.width > 0, "above 0")
        divides = self.cardinality > 0 and self.width % self.cardinality == 0
        _check("model.cardinality", self.cardinality, divides, f"a divisor of width={self.width}")
        momentum = self.batch_norm_momentum
        _check("model.batch_norm_momentum", momentum, 0 <= momentum < 1, "0 to below 1")


@dataclass
class OptimizerConfig:
    """Loss and optimizer.

    Attributes:
      name: str. `adam` or `adamw`.
      learning_rate: float. Highest rate.
      schedule: str. `constant`, or `cosine` down to zero over the training.
      warmup_epochs: float. Linear rise from zero before a cosine.
      weight_decay: float. Of AdamW; biases and batch norms are spared.
      label_smoothing: float. 0 to below 1.
      logit_adjustment: bool. Evens out classes in the loss rather than by repeating images; see
        `leuko_tf.training.losses.AdjustedCrossentropy`. Not together with data.samples_per_class.
      ema_momentum: float or null. Averages the weights over the steps; validation and the best
        model use the average. null: none.
    """

    name: str = "adam"
    learning_rate: float = 1e-3
    schedule: str = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    logit_adjustment: bool = False
    ema_momentum: float | None = None

    def __post_init__(self) -> None:
        _check_one_of("optimizer.name", self.name, "adam", "adamw")
        rate = self.learning_rate
        _check("optimizer.learning_rate", rate, 0 < rate < math.inf, "above 0 and finite")
        _check_one_of("optimizer.schedule", self.schedule, "constant", "cosine")
        warmup = self.warmup_epochs
        possible = warmup == 0 or (0 < warmup < math.inf and self.schedule == "cosine")
        _check("optimizer.warmup_epochs", warmup, possible, "0, or more with schedule cosine")
        decay = self.weight_decay
        possible = decay == 0 or (0 < decay < math.inf and self.name == "adamw")
        _check("optimizer.weight_decay", decay, possible, "0, or more with name adamw")
        smoothing = self.label_smoothing
        _check("optimizer.label_smoothing", smoothing, 0 <= smoothing < 1, "0 to below 1")
        ema = self.ema_momentum
        _check("optimizer.ema_momentum", ema, ema is None or 0 < ema < 1, "null or between 0 and 1")


@dataclass
class TrainConfig:
    """How the training runs.

    Attributes:
      epochs: int. Passes over the epoch's samples.
      seed: int. Of weights, order, augmentation and the choice of validation images.
      deterministic: bool. Also makes TensorFlow's own operations repeatable, at some cost of
        speed; data order and augmentation always are.
      precision: str. `float32`, `mixed_bfloat16`, `mixed_float16`, or `auto`: mixed_bfloat16 on
        a GPU, float32 on a CPU.
      initial_model: str or null. A `.keras` file of this project to start from: its network and
        weights. The keys of `model` must tell the same network; `batch_norm_momentum` is free.
        null: random weights.
      jit_compile: bool or `auto`. XLA for the training step; auto is true on a GPU only, since
        XLA on a CPU is slower.
    """

    epochs: int = 20
    seed: int = 1
    deterministic: bool = False
    precision: str = "auto"
    initial_model: str | None = None
    jit_compile: bool | str = "auto"

    def __post_init__(self) -> None:
        _check("train.epochs", self.epochs, self.epochs > 0, "above 0")
        _check("train.seed", self.seed, 0 <= self.seed < 2**32, "0 to 2**32 - 1")
        _check_one_of(
            "train.precision",
            self.precision,
            "auto",
            "float32",
            "mixed_bfloat16",
            "mixed_float16",
        )
        _check_one_of("train.jit_compile", self.jit_compile, "auto", True, False)


@dataclass
class Config:
    """Everything that decides a training; written to the work folder as it was resolved."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        warmup, epochs = self.optimizer.warmup_epochs, self.train.epochs
        _check(
            "optimizer.warmup_epochs", warmup, warmup <= epochs, f"at most train.epochs={epochs}"
        )
        adjusts, per_class = self.optimizer.logit_adjustment, self.data.samples_per_class
        _check(
            "optimizer.logit_adjustment",
            adjusts,
            not adjusts or per_class is None,
            f"false with data.samples_per_class={per_class}, which evens out the classes already",
        )


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads a configuration.

    Args:
      path: a YAML file; or the name of one that comes with the project, such as `demo.yaml`.
      overrides: settings such as `train.epochs=3`, which win over the file.

    Returns:
      The configuration, checked.

    Raises:
      UserError: for a file that is not there or not YAML, an unknown key, a wrong type, or a
        value out of range; the message names the key.
    """
    file = find_config(path)
    try:
        settings = OmegaConf.load(file)
    except Exception as error:  # PyYAML's errors are several types; each tells line and column
        raise UserError(f"{file} is not a YAML file that can be read: {error}") from error
    parts = [(str(file), settings)]
    parts += [("command line", _parse_override(override)) for override in overrides or []]
    merged = OmegaConf.structured(Config)
    for source, part in parts:
        _check_kinds(source, OmegaConf.to_container(part), Config())
        try:
            merged = OmegaConf.merge(merged, part)
        except OmegaConfBaseException as error:
            raise UserError(f"{source}: {_explain(error)}") from error
        except (TypeError, ValueError) as error:
            raise UserError(f"{source}: {error}") from error
    try:
        return OmegaConf.to_object(merged)  # type: ignore[return-value]  # is a Config by its schema
    except OmegaConfBaseException as error:
        raise UserError(f"{file}: {_explain(error)}") from error


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as YAML."""
    with write_aside(path) as aside:
        OmegaConf.save(OmegaConf.structured(config), aside)


def make_paths_absolute(config: Config) -> Config:
    """The same with paths that hold from any folder, for the record in a work folder."""

    def absolute(path: str | None) -> str | None:
        return str(Path(path).expanduser().absolute()) if path else path

    return replace(
        config,
        data=replace(config.data, data_dir=absolute(config.data.data_dir)),
        train=replace(config.train, initial_model=absolute(config.train.initial_model)),
    )


def list_differences(one: Config, other: Config) -> list[str]:
    """Lists the keys in which two configurations differ, as `key: value -> value`."""
    flat_one, flat_other = _flatten(one), _flatten(other)
    return [
        f"{k}: {flat_one[k]} -> {flat_other[k]}" for k in flat_one if flat_one[k] != flat_other[k]
    ]


def find_config(path: str | Path) -> Path:
    """The file itself, or the project's own configuration of that name."""
    if Path(path).is_file():
        return Path(path)
    # In a wheel the folder lies inside the package, in a checkout beside it.
    package = Path(str(files("leuko_tf")))
    folder = next(d for d in (package / "configs", package.parent / "configs") if d.is_dir())
    own = folder / Path(path).name
    if own.is_file() and Path(path) in (Path(own.name), Path("configs") / own.name):
        return own
    names = " ".join(sorted(f.name for f in folder.glob("*.yaml")))
    raise UserError(f"No configuration {path}. The project's own: {names}")


def _parse_override(override: str) -> Any:
    key, equals, _ = override.partition("=")
    if not key or not equals:
        raise UserError(f"Settings have the form key.sub=value. Received: {override}")
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # as for the file
        raise UserError(f"command line: {override} cannot be read: {error}") from error


def _check_kinds(source: str, given: Any, default: Any, key: str = "") -> None:
    """Refuses a part whose groups, bools or lists are something else."""
    kind = dict if is_dataclass(default) else type(default)
    if kind in _KINDS and not isinstance(given, kind):
        what = key or "the file"
        raise UserError(f"{source}: {what} must be {_KINDS[kind]}. Received: {given}")
    if kind is dict:
        known = vars(default)
        for name, value in given.items():
            if name in known:
                _check_kinds(source, value, known[name], f"{key}.{name}" if key else name)


def _flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for item in fields(config):
        value = getattr(config, item.name)
        if is_dataclass(value):
            flat.update(_flatten(value, f"{prefix}{item.name}."))
        else:
            flat[prefix + item.name] = value
    return flat


def _format_error(error: OmegaConfBaseException) -> str:
    key = error.full_key or error.key
    what = (error.msg or str(error)).splitlines()[0]
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        known = " ".join(_flatten(Config()))
        return f"unknown key {key}. Known keys: {known}"
    return f"{key}: {what}" if key else what


def _check(key: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"{key} must be {allowed}. Received: {value}")


def _check_one_of(key: str, value: Any, *allowed: Any) -> None:
    _check(key, value, value in allowed, " or ".join(str(a) for a in allowed))
