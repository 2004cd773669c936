"""Configurations: the project's own files, mistakes named by their key, round trips."""

import re
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from leuko_tf.cli import UserError
from leuko_tf.config import (
    Config,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
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
    def test_there_are_four(self):
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
        assert config.model == ModelConfig(400, 400, [3, 4, 6, 3], 64, 128, 32, "leaky_relu", 0.99)
        assert config.optimizer == OptimizerConfig("adam", 0.001, "constant", 0, 0, 0, False, None)
        data = config.data
        assert (data.rotate, data.flip, data.samples_per_class) == (True, True, 10_000)
        assert (config.train.epochs, config.train.precision) == (20, "float32")

    def test_the_papers_says_behind_each_value_how_sure_it_is(self):
        """Values that steer how it runs, not what is computed, need no mark."""
        lines = (CONFIGS / "paper.yaml").read_text().splitlines()
        values = [line for line in lines if re.match(r"  \w+:", line)]
        unmarked = [line.split(":")[0].strip() for line in values if not re.search("# [VMU]", line)]
        assert unmarked == ["dataset", "cache", "jit_compile"]


# Wrong types and values out of range, by key.
WRONG = {
    "data": [3],
    "train": [[1, 2]],
    "optimizer": [None],
    "data.dataset": [None],
    "data.held_out_fold": [1.5, True, None, "one", 0, 6],
    "data.validation_share": ["much", -0.1, 0.51, float("nan")],
    "data.samples_per_class": [10.0, 0],
    "data.batch_size": [[32], 0],
    "data.rotate": [7, 1, "always", None],
    "data.flip": [0.5, [True]],
    "data.stain": [0.6],
    "data.cache": ["tape"],
    "model.input_size": [96.0, 15],
    "model.blocks": [3, None, [3, "four"], [3, 4.5], {"first": 3}, [], [3, 0]],
    "model.stem_width": [0],
    "model.width": ["wide", 0, -32],
    "model.cardinality": [0, 5],
    "model.batch_norm_momentum": [1.0, -0.1],
    "optimizer.name": ["sgd"],
    "optimizer.learning_rate": ["fast", None, 0, float("nan"), float("inf")],
    "optimizer.schedule": ["linear"],
    "optimizer.warmup_epochs": [-1, 2],  # 2: not without a cosine
    "optimizer.weight_decay": [0.1, -0.1],  # 0.1: not without AdamW
    "optimizer.label_smoothing": [1.0, -0.1],
    "optimizer.logit_adjustment": [1],
    "optimizer.ema_momentum": [[0.9], 0.0, 1.0],
    "train.epochs": [1.5, 0],
    "train.seed": ["random", -1, 2**32],
    "train.deterministic": [2],
    "train.precision": ["float8"],
    "train.jit_compile": [1, "maybe"],
}
UNKNOWN = [("date.rotate", True), ("data.rotat", True), ("rotate", True), ("data.3", 1)]


def _as_setting(key: str, value: object) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True).splitlines()[0]}"


class TestMistakes:
    @pytest.mark.parametrize("source", ["file", "command line"])
    @pytest.mark.parametrize(
        ("key", "value"),
        [(key, value) for key, values in WRONG.items() for value in values],
        ids=str,
    )
    def test_a_wrong_value_is_refused_by_its_key(self, key, value, source, written):
        in_file = source == "file"
        file, settings = written({key: value} if in_file else {}), [_as_setting(key, value)]
        with pytest.raises(UserError, match=rf"(^|\s){re.escape(key)}\b"):
            load_config(file, [] if in_file else settings)

    @pytest.mark.parametrize(("key", "value"), UNKNOWN)
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

    @pytest.mark.parametrize(
        ("setting", "message"),
        [
            *((s, f"key.sub=value. Received: {s}") for s in ("train.epochs", "", "=3", "--epochs")),
            ("model.blocks=[1, 2", "command line: model.blocks=[1, 2 cannot be read"),
            ("data.data_dir='x", "command line: data.data_dir='x cannot be read"),
            ("data.flip={", "command line: data.flip={ cannot be read"),
        ],
    )
    def test_a_malformed_setting_is_refused_by_its_text(self, setting, message):
        with pytest.raises(UserError, match=re.escape(message)):
            load_config("demo.yaml", [setting])

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            *((text, "broken.yaml") for text in ("data: [1", "\tdata: 1", "- a\n- b", "a: *b")),
            ("data: {flip: ", "broken.yaml"),
            ("train:\n  epochs: 1\n  epochs: 2\n", "duplicate key epochs"),
            (bytes(range(256)), "cannot be read as YAML"),
        ],
        ids=repr,
    )
    def test_a_file_that_is_no_mapping_in_yaml_is_refused_by_its_name(
        self, content, message, tmp_path
    ):
        file = tmp_path / "broken.yaml"
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=re.escape(message)):
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
    def test_the_command_line_wins_over_the_file_and_the_last_setting_over_others(self, written):
        file = written({"train.epochs": 5, "train.seed": 4})
        train = load_config(file, ["train.epochs=8", "train.epochs=9"]).train
        assert (train.epochs, train.seed) == (9, 4)

    def test_a_list_is_replaced_as_a_whole(self):
        assert load_config("paper.yaml", ["model.blocks=[2, 2]"]).model.blocks == [2, 2]

    def test_a_setting_may_repair_what_the_file_alone_would_get_wrong(self, written):
        """Ranges are checked in the result: a width of 30 fits 5 groups, not the default's 32."""
        config = load_config(written({"model.width": 30}), ["model.cardinality=5"])
        assert (config.model.width, config.model.cardinality) == (30, 5)

    @pytest.mark.parametrize(
        ("setting", "value"),
        [
            ("data.samples_per_class=null", None),
            ("data.rotate=false", False),
            ("data.data_dir=/a=b", "/a=b"),
            ("data.data_dir=2024", "2024"),
            ("optimizer.learning_rate=1e-4", 1e-4),
            ("optimizer.learning_rate=1", 1.0),
            ("train.jit_compile=true", True),
            ("train.jit_compile=auto", "auto"),
        ],
    )
    def test_values_keep_their_types(self, setting, value):
        received = attrgetter(setting.split("=")[0])(load_config("demo.yaml", [setting]))
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

    def test_differences_name_the_key_and_both_values(self):
        one = load_config("demo.yaml")
        assert list_differences(one, load_config("demo.yaml")) == []
        other = load_config("demo.yaml", ["train.seed=7", "model.blocks=[2]", "data.flip=false"])
        assert list_differences(one, other) == [
            "data.flip: True -> False",
            "model.blocks: [1, 1, 1] -> [2]",
            "train.seed: 1 -> 7",
        ]
