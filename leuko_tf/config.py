"""The configuration of a training: typed, checked, read from YAML and the command line."""

import dataclasses
import math
from dataclasses import dataclass, is_dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from leuko_tf.cli import UserError, write_aside

# OmegaConf converts other values to these types, or refuses them without naming the key.
_KINDS = {dict: "a group of settings", bool: "true or false", list: "a list"}


@dataclass
class DataConfig:
    """Which cells to train on, and how they become batches.

    Attributes:
      dataset: TFDS name with configuration.
      data_dir: Where `tfds build` wrote it; null: TFDS' default folder.
      pixel_size_um: Side of the images' pixels, in micrometres; null: as the data set says.
      resample_to_um: Images are first resampled to pixels of this side (micrometres), by
        `leuko_tf.data.images.resample_image`; null: not resampled.
      held_out_fold: 1 to 5. Training never sees this fold; evaluation uses it.
      validation_share: Share of each class in the other four folds, 0 to 0.5, that does not train
        but chooses the best epoch. With 0 the lowest training loss chooses it.
      samples_per_class: Samples that every class gives in an epoch; rare classes repeat images with
        new augmentation. null: each image once.
      batch_size: Images per step.
      rotate: Rotates by any angle.
      flip: Flips horizontally and vertically.
      zoom: Enlarges or shrinks each sample by up to this share, 0 to 0.5.
      shift: Moves each sample by up to this share of its side, in x and y, 0 to 0.5.
      stain: Changes the amount of each stain, and the brightness and colour of the light, by up to
        this share, 0 to 0.5; see `leuko_tf.data.augmentation.compute_stain_transforms`.
      cache: `memory`; or `disk`, a file in the work folder, if the decoded cells do not fit into
        memory. A cell takes 3 x input_size x input_size bytes, and up to twice as many with a field
        below 400, which leaves a margin for rotations.
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
        for name in ("validation_share", "zoom", "shift", "stain"):
            share = getattr(self, name)
            _check(f"data.{name}", share, 0 <= share <= 0.5, "0 to 0.5")
        samples = self.samples_per_class
        _check("data.held_out_fold", self.held_out_fold, 1 <= self.held_out_fold <= 5, "1 to 5")
        _check("data.samples_per_class", samples, samples is None or samples > 0, "null or above 0")
        _check("data.batch_size", self.batch_size, self.batch_size > 0, "above 0")
        _check_one_of("data.cache", self.cache, "memory", "disk")


@dataclass
class ModelConfig:
    """The network; the defaults are the paper's. See `leuko_tf.network.resnext.build_resnext`.

    Attributes:
      input_size: Side of the network's input in pixels.
      field: Side of the centred square that is cropped from an image and resized to `input_size`,
        in the image's pixels; below 400 it is closer to the cell. See
        `leuko_tf.network.view.to_network_input`.
      blocks: Bottleneck blocks of each stage.
      stem_width: Channels of the first convolution.
      width: Inner channels of the first stage.
      cardinality: Groups of the 3x3 convolutions.
      activation: `leaky_relu` (slope 0.3) or the name of a Keras activation.
      batch_norm_momentum: Momentum of the moving averages, 0 to 1.
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
        for name, least in (("input_size", 16), ("field", 16), ("stem_width", 1), ("width", 1)):
            value = getattr(self, name)
            _check(f"model.{name}", value, value >= least, f"{least} or more")
        are_positive = bool(self.blocks) and min(self.blocks) > 0
        _check("model.blocks", self.blocks, are_positive, "one number above 0 for each stage")
        divides = self.cardinality > 0 and self.width % self.cardinality == 0
        _check("model.cardinality", self.cardinality, divides, f"a divisor of width={self.width}")
        momentum = self.batch_norm_momentum
        _check("model.batch_norm_momentum", momentum, 0 <= momentum < 1, "0 to below 1")


@dataclass
class OptimizerConfig:
    """Loss and optimizer.

    Attributes:
      name: `adam` or `adamw`.
      learning_rate: Highest rate.
      schedule: `constant`, or `cosine` down to zero over the training.
      warmup_epochs: Epochs of linear rise from zero before a cosine.
      weight_decay: Weight decay of AdamW; biases and batch norms are excluded.
      label_smoothing: 0 to below 1.
      logit_adjustment: Balances the classes in the loss instead of repeating images; see
        `leuko_tf.training.losses.AdjustedCrossentropy`. Not together with data.samples_per_class.
      ema_momentum: Momentum of a moving average of the weights over the steps; validation and the
        best model use the average. null: no average.
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
      epochs: Number of epochs.
      seed: Seeds weights, order, augmentation and the choice of validation images.
      deterministic: Makes TensorFlow's operations repeatable, too, which costs some speed. Data
        order and augmentation always are repeatable.
      precision: `float32`, `mixed_bfloat16`, `mixed_float16`, or `auto`: mixed_bfloat16 on
        a GPU, float32 on a CPU.
      initial_model: A `.keras` file of this project whose network and weights the training starts
        from. The keys of `model` must describe the same network, except `batch_norm_momentum`.
        null: random weights.
      jit_compile: true or false, or `auto`. Compiles the training step with XLA; `auto` does so on
        a GPU only, because XLA on a CPU is slower.
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
        precisions = ("auto", "float32", "mixed_bfloat16", "mixed_float16")
        _check_one_of("train.precision", self.precision, *precisions)
        _check_one_of("train.jit_compile", self.jit_compile, "auto", True, False)


@dataclass
class Config:
    """Everything that determines a training; the work folder keeps the resolved configuration."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        warmup, epochs = self.optimizer.warmup_epochs, self.train.epochs
        limit = f"at most train.epochs={epochs}"
        _check("optimizer.warmup_epochs", warmup, warmup <= epochs, limit)
        adjusts, per_class = self.optimizer.logit_adjustment, self.data.samples_per_class
        reason = f"false with data.samples_per_class={per_class}, which balances classes already"
        _check("optimizer.logit_adjustment", adjusts, not adjusts or per_class is None, reason)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Reads and checks a configuration; its `UserError` names the source and the key.

    Args:
      path: A YAML file, or the name of one of the project's own, such as `demo.yaml`.
      overrides: Settings such as `train.epochs=3`, which override the file.
    """
    file = find_config(path)
    try:
        settings = OmegaConf.load(file)
    except Exception as error:  # PyYAML's errors have several types; each has line and column
        raise UserError(f"{file} cannot be read as YAML: {error}") from error
    parts = [("command line", _parse_override(override)) for override in overrides or []]
    merged = OmegaConf.structured(Config)
    try:
        for source, part in [(str(file), settings), *parts]:
            _check_kinds(source, OmegaConf.to_container(part), Config())
            merged = OmegaConf.merge(merged, part)
        source = str(file)
        return OmegaConf.to_object(merged)  # type: ignore[return-value]  # the schema makes it a Config
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {_format_error(error)}") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{source}: {error}") from error


def save_config(config: Config, path: Path) -> None:
    """Writes the resolved configuration as YAML."""
    with write_aside(path) as aside:
        OmegaConf.save(OmegaConf.structured(config), aside)


def make_paths_absolute(config: Config) -> Config:
    """Copies a configuration with absolute paths, which a work folder keeps."""

    def make_absolute(path: str | None) -> str | None:
        return str(Path(path).expanduser().absolute()) if path else path

    data = replace(config.data, data_dir=make_absolute(config.data.data_dir))
    train = replace(config.train, initial_model=make_absolute(config.train.initial_model))
    return replace(config, data=data, train=train)


def list_differences(one: Config, other: Config) -> list[str]:
    """Lists the differences of two configurations as `key: value -> value`."""
    new = _flatten(other)
    return [f"{k}: {old} -> {new[k]}" for k, old in _flatten(one).items() if old != new[k]]


def find_config(path: str | Path) -> Path:
    """Finds the file, or the project's own configuration of that name."""
    if Path(path).is_file():
        return Path(path)
    # A wheel has the folder inside the package, a checkout beside it.
    package = Path(str(files("leuko_tf")))
    folder = next(d for d in (package / "configs", package.parent / "configs") if d.is_dir())
    own = folder / Path(path).name
    if own.is_file() and Path(path) in (Path(own.name), Path("configs") / own.name):
        return own
    names = " ".join(sorted(f.name for f in folder.glob("*.yaml")))
    raise UserError(f"There is no configuration {path}. The project's own are: {names}")


def _parse_override(override: str) -> Any:
    key, equals, _ = override.partition("=")
    if not key or not equals:
        raise UserError(f"A setting must have the form key.sub=value. Received: {override}")
    try:
        return OmegaConf.from_dotlist([override])
    except Exception as error:  # of several types, as above
        raise UserError(f"command line: {override} cannot be read: {error}") from error


def _check_kinds(source: str, given: Any, default: Any, key: str = "") -> None:
    """Raises `UserError` where a group, bool or list was expected and something else is given."""
    kind = dict if is_dataclass(default) else type(default)
    if kind in _KINDS and not isinstance(given, kind):
        name = key or "the file"
        raise UserError(f"{source}: {name} must be {_KINDS[kind]}. Received: {given}")
    if kind is dict:
        known = vars(default)
        for name, value in given.items():
            if name in known:
                _check_kinds(source, value, known[name], f"{key}.{name}" if key else name)


def _flatten(config: Config) -> dict[str, Any]:
    """Returns all settings by key, such as `data.rotate`."""
    groups = vars(config).items()
    return {f"{group}.{k}": v for group, settings in groups for k, v in vars(settings).items()}


def _format_error(error: OmegaConfBaseException) -> str:
    key = error.full_key or error.key
    message = (error.msg or str(error)).splitlines()[0]
    if type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return f"unknown key {key}. Known keys: {' '.join(_flatten(Config()))}"
    return f"{key}: {message}" if key else message


def _check(key: str, value: Any, holds: bool, allowed: str) -> None:
    if not holds:
        raise UserError(f"{key} must be {allowed}. Received: {value}")


def _check_one_of(key: str, value: Any, *allowed: Any) -> None:
    _check(key, value, value in allowed, " or ".join(str(a) for a in allowed))
