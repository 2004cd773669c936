"""Training that starts from a saved model: `train.initial_model`."""

from pathlib import Path

import keras
import numpy as np
import pytest
from running import run_module

from leuko_tf.cli import UserError
from leuko_tf.config import Config, ModelConfig, load_config, make_paths_absolute
from leuko_tf.network.layers import BatchNorm, MergingDense
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import OUTPUT_NAME, build_resnext, from_config, from_model
from leuko_tf.provenance import describe_model, read_run
from leuko_tf.train import train
from leuko_tf.training.callbacks import read_log

SMALL = ModelConfig(input_size=32, blocks=[2, 1], stem_width=8, width=16, cardinality=4)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def merging() -> keras.Model:
    """A network whose last layer is that of the imported one."""
    keras.utils.set_random_seed(3)
    plain = from_config(SMALL, "float32")
    last = MergingDense(16, into=13, activation="softmax", name=OUTPUT_NAME)
    return keras.Model(plain.input, last(plain.get_layer(OUTPUT_NAME).input))


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_network_and_answers_are_those_of_the_model(merging, images, precision):
    again = from_model(merging, SMALL, precision)
    assert again.dtype_policy.name == precision
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in merging.layers]
    new = from_config(SMALL, precision)
    policies = [layer.dtype_policy.name for layer in new.layers]
    assert [layer.dtype_policy.name for layer in again.layers] == policies
    tolerance = 1e-6 if precision == "float32" else 0.02
    np.testing.assert_allclose(again(images), merging(images), atol=tolerance)


def test_momentum_is_the_configurations(merging):
    other = ModelConfig(**{**vars(SMALL), "batch_norm_momentum": 0.5})
    norms = [n for n in from_model(merging, other, "float32").layers if isinstance(n, BatchNorm)]
    assert {n.momentum for n in norms} == {0.5}


@pytest.mark.parametrize("activation", ["leaky_relu", "silu"])
def test_a_configuration_of_another_network_is_refused_with_what_to_set(activation):
    model = build_resnext(48, 300, 15, (1, 2, 1), 12, 24, 6, activation)
    with pytest.raises(UserError) as caught:
        from_model(model, ModelConfig(activation="relu"), "float32")
    settings = str(caught.value).partition("To train it, set: ")[2].split()
    assert len(settings) == 7
    told = load_config("paper.yaml", settings).model
    assert from_model(model, told, "float32").count_params() == model.count_params()


def test_a_network_of_another_kind_is_refused():
    from leuko_tf.network.layers import CellScaling

    pictures = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(CellScaling(32, name="scaling")(pictures))
    other = keras.Model(pictures, keras.layers.Dense(15)(x))
    with pytest.raises(UserError, match=r"train\.initial_model is not a ResNeXt of this project"):
        from_model(other, SMALL, "float32")


@pytest.fixture(scope="module")
def tuned(workdir: Path, tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a training that went on from another one's model, by the command."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    settings = [*tiny, "train.initial_model=best.keras", "optimizer.learning_rate=1e-7"]
    words = ("--config", "demo.yaml", "--workdir", folder, *settings)
    done = run_module("leuko_tf.train", *words, cwd=workdir)
    assert done.returncode == 0, done.stderr
    return folder


def test_training_goes_on_from_the_weights(tuned: Path, workdir: Path) -> None:
    before, after = load_model(workdir / "best.keras"), load_model(tuned / "best.keras")
    for one, other in zip(before.trainable_variables, after.trainable_variables, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), atol=1e-5)
    assert before.trainable_variables[0].numpy().std() > 0.01
    assert len(read_log(tuned)) == 2


def test_it_is_recorded(tuned: Path, workdir: Path) -> None:
    assert load_config(tuned / "config.yaml").train.initial_model == str(workdir / "best.keras")
    run = read_run(tuned)
    assert run["initial_model"] == describe_model(workdir / "best.keras").to_json()
    # That model had not seen the fold either.
    assert run["held_out_fold"] == 1


def test_a_fold_that_the_initial_model_has_seen_is_not_called_held_out(
    workdir: Path, tiny: list[str], tmp_path: Path
) -> None:
    settings = [*tiny, "data.held_out_fold=2", "train.epochs=1"]
    settings += [f"train.initial_model={workdir / 'best.keras'}"]
    train(load_config("demo.yaml", settings), tmp_path, verbose=0)
    assert read_run(tmp_path)["held_out_fold"] is None
    assert describe_model(tmp_path / "best.keras").held_out_fold is None


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("none.keras", "No model "),
        ("config.yaml", "is not a .keras model that can be loaded"),
    ],
)
def test_a_file_that_is_no_model_stops_before_any_work(
    workdir: Path, tiny: list[str], tmp_path: Path, file: str, message: str
) -> None:
    settings = [*tiny, f"train.initial_model={workdir / file}"]
    with pytest.raises(UserError, match=message):
        train(load_config("demo.yaml", settings), tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_without_one_nothing_changes() -> None:
    assert Config().train.initial_model is None
    assert make_paths_absolute(Config()) == Config()
