"""Configurations: three files that load, mistakes named by their key, and round trips."""

import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leuko_tf.cli import UserError
from leuko_tf.config import (
    Config,
    DataConfig,
    find_config,
    list_differences,
    load_config,
    save_config,
)

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
OWN = sorted(file.name for file in CONFIGS.glob("*.yaml"))


@pytest.fixture
def written(tmp_path):
    """Writes settings such as `{"data.rotate": 7}` as a YAML file."""

    def write(settings: dict) -> Path:
        nested: dict = {}
        for key, value in settings.items():
            *groups, name = key.split(".")
            inner = nested
            for group in groups:
                inner = inner.setdefault(group, {})
            inner[name] = value
        file = tmp_path / "given.yaml"
        file.write_text(yaml.safe_dump(nested))
        return file

    return write


class TestTheProjectsOwn:
    def test_there_are_three(self):
        assert OWN == ["cpu.yaml", "demo.yaml", "modern.yaml", "paper.yaml"]

    @pytest.mark.parametrize("name", OWN)
    def test_each_loads_and_survives_saving(self, name, tmp_path):
        config = load_config(CONFIGS / name)
        assert isinstance(config, Config)
        save_config(config, tmp_path / "saved.yaml")
        assert load_config(tmp_path / "saved.yaml") == config

    @pytest.mark.parametrize("name", OWN)
    def test_each_opens_with_the_command_that_runs_it(self, name):
        opening = (CONFIGS / name).read_text().split("\n\n", maxsplit=1)[0]
        assert all(line.startswith("#") for line in opening.splitlines())
        command = f"#   python -m leuko_tf.train --config configs/{name} --workdir runs/"
        assert command in opening

    @pytest.mark.parametrize("name", OWN)
    def test_each_is_found_by_its_name_alone_from_any_folder(self, name, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert find_config(name) == CONFIGS / name
        assert find_config(f"configs/{name}") == CONFIGS / name
        assert load_config(name) == load_config(CONFIGS / name)

    def test_a_file_of_that_name_in_the_current_folder_goes_first(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("demo.yaml").write_text("train: {epochs: 77}\n")
        assert load_config("demo.yaml").train.epochs == 77

    @pytest.mark.parametrize(
        "path", ["nowhere.yaml", "elsewhere/demo.yaml", "/tmp/none/demo.yaml", "configs", ""]
    )
    def test_an_unknown_name_is_refused_with_the_known_ones(self, path, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match=r"cpu\.yaml demo\.yaml modern\.yaml paper\.yaml"):
            load_config(path)

    def test_the_papers_is_the_protocol_as_far_as_it_is_known(self):
        config = load_config("paper.yaml")
        model, data = config.model, config.data
        assert (model.input_size, model.blocks, model.cardinality) == (400, [3, 4, 6, 3], 32)
        assert (model.stem_width, model.width) == (64, 128)
        assert (model.activation, model.batch_norm_momentum) == ("leaky_relu", 0.99)
        optimizer = config.optimizer
        assert (optimizer.name, optimizer.learning_rate) == ("adam", 0.001)
        assert (optimizer.schedule, optimizer.weight_decay) == ("constant", 0)
        assert (optimizer.label_smoothing, optimizer.ema_momentum) == (0, None)
        assert (data.rotate, data.flip, data.samples_per_class) == (True, True, 10_000)
        assert (config.train.epochs, config.train.precision) == (20, "float32")

    def test_the_papers_says_behind_each_value_how_sure_it_is(self):
        """Values that steer how it runs, not what is computed, need no mark."""
        lines = (CONFIGS / "paper.yaml").read_text().splitlines()
        values = [line for line in lines if re.match(r"  \w+:", line)]
        unmarked = [line.split(":")[0].strip() for line in values if not re.search("# [VMU]", line)]
        assert unmarked == ["dataset", "cache", "jit_compile"]


# Every key with a wrong type, and every range with a value outside of it.
WRONG_TYPES = [
    ("data.dataset", None),
    ("data.held_out_fold", 1.5),
    ("data.held_out_fold", True),
    ("data.held_out_fold", None),
    ("data.held_out_fold", "one"),
    ("data.validation_share", "much"),
    ("data.samples_per_class", 10.0),
    ("data.batch_size", [32]),
    ("data.rotate", 7),
    ("data.rotate", 1),
    ("data.rotate", "always"),
    ("data.rotate", None),
    ("data.flip", 0.5),
    ("data.flip", [True]),
    ("model.input_size", 96.0),
    ("model.blocks", 3),
    ("model.blocks", None),
    ("model.blocks", [3, "four"]),
    ("model.blocks", [3, 4.5]),
    ("model.blocks", {"first": 3}),
    ("model.width", "wide"),
    ("optimizer.learning_rate", "fast"),
    ("optimizer.learning_rate", None),
    ("optimizer.ema_momentum", [0.9]),
    ("train.epochs", 1.5),
    ("train.seed", "random"),
    ("optimizer.logit_adjustment", 1),
    ("train.deterministic", 2),
    ("train.jit_compile", 1),
    ("data", 3),
    ("train", [1, 2]),
    ("optimizer", None),
]
OUT_OF_RANGE = [
    ("data.held_out_fold", 0),
    ("data.held_out_fold", 6),
    ("data.validation_share", -0.1),
    ("data.validation_share", 0.51),
    ("data.validation_share", float("nan")),
    ("data.samples_per_class", 0),
    ("data.batch_size", 0),
    ("data.stain", 0.6),
    ("data.cache", "tape"),
    ("model.input_size", 15),
    ("model.blocks", []),
    ("model.blocks", [3, 0]),
    ("model.stem_width", 0),
    ("model.width", 0),
    ("model.width", -32),
    ("model.cardinality", 0),
    ("model.cardinality", 5),
    ("model.batch_norm_momentum", 1.0),
    ("model.batch_norm_momentum", -0.1),
    ("optimizer.name", "sgd"),
    ("optimizer.learning_rate", 0),
    ("optimizer.learning_rate", float("nan")),
    ("optimizer.learning_rate", float("inf")),
    ("optimizer.schedule", "linear"),
    ("optimizer.warmup_epochs", -1),
    ("optimizer.warmup_epochs", 2),  # without a cosine
    ("optimizer.weight_decay", 0.1),  # without AdamW
    ("optimizer.weight_decay", -0.1),
    ("optimizer.label_smoothing", 1.0),
    ("optimizer.label_smoothing", -0.1),
    ("optimizer.ema_momentum", 0.0),
    ("optimizer.ema_momentum", 1.0),
    ("train.epochs", 0),
    ("train.seed", -1),
    ("train.seed", 2**32),
    ("train.precision", "float8"),
    ("train.jit_compile", "maybe"),
]
UNKNOWN = [("date.rotate", True), ("data.rotat", True), ("rotate", True), ("data.3", 1)]


def _as_setting(key: str, value: object) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


def _mistakes(mistakes):
    return pytest.mark.parametrize(
        ("key", "value"), mistakes, ids=[_as_setting(*mistake) for mistake in mistakes]
    )


class TestMistakes:
    @_mistakes(WRONG_TYPES + OUT_OF_RANGE)
    def test_a_wrong_value_in_a_file_is_refused_by_its_key(self, key, value, written):
        with pytest.raises(UserError, match=rf"(^|\s){re.escape(key)}\b"):
            load_config(written({key: value}))

    @_mistakes(WRONG_TYPES + OUT_OF_RANGE)
    def test_a_wrong_value_on_the_command_line_is_refused_by_its_key(self, key, value, written):
        with pytest.raises(UserError, match=rf"(^|\s){re.escape(key)}\b"):
            load_config(written({}), [_as_setting(key, value)])

    @_mistakes(UNKNOWN)
    def test_an_unknown_key_is_named_with_the_known_ones_and_its_source(self, key, value, written):
        # Where a whole group is unknown, the group is what is named.
        named = key if key.startswith("data.") else key.split(".")[0]
        file = written({key: value})
        for source, load in {
            str(file): lambda: load_config(file),
            "command line": lambda: load_config("demo.yaml", [_as_setting(key, value)]),
        }.items():
            with pytest.raises(UserError) as caught:
                load()
            text = str(caught.value)
            assert text.startswith(f"{source}: unknown key {named}. Known keys: data.dataset ")
            assert text.endswith(" train.jit_compile")

    @pytest.mark.parametrize("setting", ["train.epochs", "", "=3", "--epochs"])
    def test_a_setting_that_is_no_key_and_value_is_refused(self, setting):
        with pytest.raises(UserError, match=rf"key\.sub=value\. Received: {setting}$"):
            load_config("demo.yaml", [setting])

    @pytest.mark.parametrize("setting", ["model.blocks=[1, 2", "data.data_dir='x", "data.flip={"])
    def test_a_setting_that_is_not_yaml_is_refused_by_its_text(self, setting):
        with pytest.raises(UserError, match=re.escape(f"command line: {setting} cannot be read")):
            load_config("demo.yaml", [setting])

    @pytest.mark.parametrize(
        "text", ["data: [1", "\tdata: 1", "- a\n- b", "data: {flip: ", "a: *b"]
    )
    def test_a_file_that_is_no_mapping_in_yaml_is_refused_by_its_name(self, text, tmp_path):
        file = tmp_path / "broken.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=re.escape(str(file))):
            load_config(file)

    def test_a_key_given_twice_in_a_file_is_refused(self, tmp_path):
        file = tmp_path / "twice.yaml"
        file.write_text("train:\n  epochs: 1\n  epochs: 2\n")
        with pytest.raises(UserError, match="duplicate key epochs"):
            load_config(file)

    def test_a_binary_file_is_refused(self, tmp_path):
        file = tmp_path / "binary.yaml"
        file.write_bytes(bytes(range(256)))
        with pytest.raises(UserError, match="cannot be read as YAML"):
            load_config(file)

    def test_an_unresolved_reference_is_refused_by_its_key(self, written):
        with pytest.raises(UserError, match=r"data\.data_dir.*nowhere"):
            load_config(written({"data.data_dir": "${nowhere}"}))

    def test_logit_adjustment_beside_samples_per_class_is_refused(self, written):
        file = written({"data.samples_per_class": 9})
        with pytest.raises(UserError, match=r"optimizer\.logit_adjustment must be false with"):
            load_config(file, ["optimizer.logit_adjustment=true"])

    def test_a_wrong_value_is_refused_also_where_a_config_is_made_in_python(self):
        with pytest.raises(UserError, match=r"data\.held_out_fold must be 1 to 5\. Received: 9"):
            DataConfig(held_out_fold=9)


class TestOverrides:
    def test_the_command_line_wins_over_the_file(self, written):
        file = written({"train.epochs": 5, "train.seed": 4})
        train = load_config(file, ["train.epochs=9"]).train
        assert (train.epochs, train.seed) == (9, 4)

    def test_the_last_of_two_settings_wins(self):
        assert load_config("demo.yaml", ["train.seed=3", "train.seed=4"]).train.seed == 4

    def test_a_list_is_replaced_as_a_whole(self):
        assert load_config("paper.yaml", ["model.blocks=[2, 2]"]).model.blocks == [2, 2]

    def test_a_setting_may_repair_what_the_file_alone_would_get_wrong(self, written):
        """A range is checked of the result: a width of 30 fits 5 groups, not the default's 32."""
        config = load_config(written({"model.width": 30}), ["model.cardinality=5"])
        assert (config.model.width, config.model.cardinality) == (30, 5)

    @pytest.mark.parametrize(
        ("setting", "group", "name", "value"),
        [
            ("data.samples_per_class=null", "data", "samples_per_class", None),
            ("data.rotate=false", "data", "rotate", False),
            ("data.data_dir=/a=b", "data", "data_dir", "/a=b"),
            ("data.data_dir=2024", "data", "data_dir", "2024"),
            ("optimizer.learning_rate=1e-4", "optimizer", "learning_rate", 1e-4),
            ("optimizer.learning_rate=1", "optimizer", "learning_rate", 1.0),
            ("train.jit_compile=true", "train", "jit_compile", True),
            ("train.jit_compile=auto", "train", "jit_compile", "auto"),
        ],
    )
    def test_values_keep_their_types(self, setting, group, name, value):
        received = getattr(getattr(load_config("demo.yaml", [setting]), group), name)
        assert received == value
        assert type(received) is type(value)

    def test_an_empty_file_gives_the_defaults(self, written):
        assert load_config(written({})) == Config()


class TestRoundTripAndDifferences:
    @settings(deadline=None)
    @given(
        st.integers(1, 5),
        st.floats(0, 0.5),
        st.one_of(st.none(), st.integers(1, 10**6)),
        st.text("abc/ :#'\"-é{}[]0123456789.~\\", max_size=20),
        st.sampled_from(["auto", True, False]),
    )
    def test_any_configuration_survives_saving(
        self, tmp_path_factory, fold, share, samples, folder, jit
    ):
        config = Config()
        config.data = replace(
            config.data,
            held_out_fold=fold,
            validation_share=share,
            samples_per_class=samples,
            data_dir=folder,
        )
        config.train = replace(config.train, jit_compile=jit)
        file = tmp_path_factory.getbasetemp() / "round_trip.yaml"
        save_config(config, file)
        assert load_config(file) == config

    def test_a_saved_configuration_tells_every_key(self, tmp_path):
        save_config(Config(), tmp_path / "saved.yaml")
        saved = yaml.safe_load((tmp_path / "saved.yaml").read_text())
        for group in fields(Config):
            inner = getattr(Config(), group.name)
            assert list(saved[group.name]) == [item.name for item in fields(inner)]

    def test_equal_configurations_do_not_differ(self):
        assert list_differences(load_config("demo.yaml"), load_config("demo.yaml")) == []

    def test_differences_name_the_key_and_both_values(self):
        one = load_config("demo.yaml")
        other = load_config("demo.yaml", ["train.seed=7", "model.blocks=[2]", "data.flip=false"])
        assert list_differences(one, other) == [
            "data.flip: True -> False",
            "model.blocks: [1, 1, 1] -> [2]",
            "train.seed: 1 -> 7",
        ]
