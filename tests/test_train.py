import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from running import check_refusal, run_module

from leuko_tf.cli import UserError
from leuko_tf.config import load_config
from leuko_tf.train import train
from leuko_tf.training import callbacks
from leuko_tf.training.callbacks import read_log


def make_words(workdir: Path, settings: list[str]) -> list[str]:
    return ["leuko_tf.train", "--config", "demo.yaml", "--workdir", str(workdir), *settings]


def test_work_folder_holds_what_the_readme_promises(workdir: Path, tiny: list[str]) -> None:
    assert load_config(workdir / "config.yaml") == load_config("demo.yaml", tiny)
    run = json.loads((workdir / "run.json").read_text())
    assert run["dataset"]["synthetic"] is True
    assert run["versions"]["keras"] == keras.__version__
    assert run["git_revision"] is None or len(run["git_revision"]) >= 40
    log = read_log(workdir)
    assert [entry["epoch"] for entry in log] == [1, 2]
    assert run["precision"] == "float32"
    assert run["jit_compile"] is False
    assert {"loss", "accuracy", "val_loss", "learning_rate", "images_per_second"} <= log[0].keys()
    assert list((workdir / "tensorboard").rglob("events.out.tfevents.*"))
    assert not [f for f in workdir.iterdir() if f.name.startswith(".")]


def test_best_model_is_ready_for_use_and_last_one_for_training(workdir: Path) -> None:
    best = keras.models.load_model(workdir / "best.keras")
    last = keras.models.load_model(workdir / "last.keras")
    images = np.random.default_rng(0).integers(0, 256, (3, 400, 400, 3), np.uint8)
    assert best.predict(images, verbose=0).shape == (3, 15)
    assert getattr(best, "optimizer", None) is None
    assert int(last.optimizer.iterations) == 2 * (15 * 8 // 24)


def test_killed_training_resumes_to_the_same_curve_as_an_unbroken_one(
    tiny: list[str], tmp_path: Path
) -> None:
    settings = [*tiny, "train.epochs=5", "train.deterministic=true"]
    unbroken = tmp_path / "unbroken"
    assert run_module(*make_words(unbroken, settings)).returncode == 0

    broken = tmp_path / "broken"
    command = [sys.executable, "-m", *make_words(broken, settings)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        while len(read_log(broken)) < 2 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "the training ended before it could be killed"
    assert len(read_log(broken)) < 5

    resumed = run_module(*make_words(broken, settings))
    assert resumed.returncode == 0, resumed.stderr
    assert "resuming" in resumed.stdout
    expected, got = read_log(unbroken), read_log(broken)
    assert [e["epoch"] for e in got] == [1, 2, 3, 4, 5]
    for key in ("loss", "accuracy", "val_loss", "learning_rate"):
        np.testing.assert_allclose(
            [e[key] for e in got], [e[key] for e in expected], rtol=1e-5, atol=1e-7, err_msg=key
        )
    last = keras.models.load_model(broken / "last.keras")
    assert int(last.optimizer.iterations) == 5 * (15 * 8 // 24)
    assert len(json.loads((broken / "run.json").read_text())["resumed"]) == 1


def test_finished_training_is_left_as_it_is(
    workdir: Path, tiny: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = {f: f.stat().st_mtime_ns for f in workdir.iterdir() if f.is_file()}
    train(load_config("demo.yaml", tiny), workdir, verbose=0)
    assert "is trained: all 2 epochs are done" in capsys.readouterr().out
    kept = {f: f.stat().st_mtime_ns for f in workdir.iterdir() if f.name.endswith("keras")}
    assert kept.items() <= before.items()
    assert len(read_log(workdir)) == 2


def test_other_configuration_in_the_same_work_folder_is_refused(
    workdir: Path, tiny: list[str]
) -> None:
    config = load_config("demo.yaml", [*tiny, "optimizer.learning_rate=0.5"])
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.003 -> 0\.5"):
        train(config, workdir)


def test_loss_that_becomes_nan_stops_the_training(tiny: list[str], tmp_path: Path) -> None:
    settings = [*tiny, "optimizer.learning_rate=1e30", "optimizer.name=adam"]
    settings += ["optimizer.weight_decay=0", "optimizer.warmup_epochs=0"]
    with pytest.raises(UserError, match=r"The loss became (nan|inf) in epoch 1, step \d"):
        train(load_config("demo.yaml", settings), tmp_path / "run", verbose=0)
    assert not list((tmp_path / "run").glob("*.keras"))


def test_averaged_weights_are_those_of_the_best_model(tiny: list[str], tmp_path: Path) -> None:
    config = load_config("demo.yaml", [*tiny, "optimizer.ema_momentum=0.9", "train.epochs=1"])
    train(config, tmp_path, verbose=0)
    best = keras.models.load_model(tmp_path / "best.keras")
    last = keras.models.load_model(tmp_path / "last.keras")
    averages = last.optimizer._model_variables_moving_average
    assert len(averages) == len(best.trainable_variables)
    for average, used, raw in zip(
        averages, best.trainable_variables, last.trainable_variables, strict=True
    ):
        np.testing.assert_array_equal(average.numpy(), used.numpy())
        # The biases before batch norms learn nothing.
        if not raw.path.endswith("bias"):
            assert np.abs(raw.numpy() - used.numpy()).max() > 0


def test_logit_adjustment_knows_the_classes_shares_and_resumes(
    tiny: list[str], tmp_path: Path
) -> None:
    settings = [*tiny, "optimizer.logit_adjustment=true", "data.samples_per_class=null"]
    # Half of the epochs in one go, the rest in another.
    config = load_config("demo.yaml", [*settings, "train.epochs=2"])
    train(replace(config, train=replace(config.train, epochs=1)), tmp_path, verbose=0)
    (tmp_path / "config.yaml").unlink()
    train(config, tmp_path, verbose=0)
    assert [e["epoch"] for e in read_log(tmp_path)] == [1, 2]
    shares = keras.models.load_model(tmp_path / "last.keras").loss.shares
    assert len(shares) == 15
    assert sum(shares) == pytest.approx(1)
    keras.models.load_model(tmp_path / "best.keras")


def test_best_model_of_a_mixed_precision_training_is_float32(
    tiny: list[str], tmp_path: Path
) -> None:
    config = load_config("demo.yaml", [*tiny, "train.precision=mixed_bfloat16", "train.epochs=1"])
    train(config, tmp_path, verbose=0)
    best = keras.models.load_model(tmp_path / "best.keras")
    last = keras.models.load_model(tmp_path / "last.keras")
    assert {layer.dtype_policy.name for layer in best.layers} == {"float32"}
    assert "mixed_bfloat16" in {layer.dtype_policy.name for layer in last.layers}


@pytest.mark.parametrize(("interval_s", "lines"), [(0, 6), (1e9, 0)])
def test_progress_within_an_epoch_comes_after_each_interval(
    interval_s: float, lines: int, capsys: pytest.CaptureFixture[str]
) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"])
    progress = callbacks.PrintProgress(interval_s)
    images, labels = np.zeros((8, 2)), np.eye(3)[[0] * 8]
    model.fit(images, labels, batch_size=2, epochs=2, callbacks=[progress], verbose=0)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == lines  # three of the four steps of each epoch
    line = r"epoch [12] of 2, step [123] of 4: loss \d\.\d{4}, accuracy \d\.\d{4}, \d+ s"
    assert all(re.fullmatch(line, each) for each in printed)


@pytest.fixture
def progress_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Has a line printed after each step, and counts these lines."""
    monkeypatch.setattr(callbacks, "PROGRESS_INTERVAL_S", 0)
    return lambda: len(re.findall(r"epoch \d of \d, step \d of 5: loss", capsys.readouterr().out))


def test_whole_training_step_compiles_under_xla(
    tiny: list[str], tmp_path: Path, progress_lines: Callable[[], int]
) -> None:
    config = load_config("demo.yaml", [*tiny, "train.jit_compile=true", "train.epochs=1"])
    train(config, tmp_path, verbose=1)
    assert np.isfinite(read_log(tmp_path)[0]["loss"])
    assert progress_lines() == 0, "Keras' progress bar is enough"


def test_decoded_cells_can_lie_on_disk(
    tiny: list[str], workdir: Path, tmp_path: Path, progress_lines: Callable[[], int]
) -> None:
    config = load_config("demo.yaml", [*tiny, "data.cache=disk"])
    train(config, tmp_path, verbose=2)
    assert progress_lines() == 2 * 4
    assert not (tmp_path / "cells.npy").exists(), "only while it trains"
    in_memory, on_disk = read_log(workdir), read_log(tmp_path)
    np.testing.assert_allclose(
        [e["loss"] for e in on_disk], [e["loss"] for e in in_memory], rtol=1e-3
    )


def test_bad_input_ends_in_one_message_and_no_trace(tmp_path: Path) -> None:
    done = run_module(*make_words(tmp_path / "run", [f"data.data_dir={tmp_path}"]))
    check_refusal(done, "error: aml_cytomorphology_lmu/complete is not built in", "tfds build")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16", "mixed_float16"])
def test_resumed_model_is_the_one_that_was_trained(
    tiny: list[str], tmp_path: Path, precision: str
) -> None:
    from leuko_tf.network.resnext import from_config
    from leuko_tf.training.building import build_or_resume, compile_model

    settings = [*tiny, f"train.precision={precision}", "optimizer.ema_momentum=0.9"]
    config = load_config("demo.yaml", settings)
    trained = compile_model(from_config(config.model, precision), config, steps=5)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (16, 32, 32, 3))
    best = from_config(config.model, "float32")
    save = callbacks.SaveModels(tmp_path, best, "loss", float("inf"))
    kept: dict[str, list[np.ndarray]] = {}

    def keep(epoch: int, logs: object) -> None:
        # Not after `fit`, which ends by overwriting the weights with their averages.
        kept["model"] = [v.numpy() for v in trained.variables]
        kept["optimizer"] = [v.numpy() for v in trained.optimizer.variables]

    trained.fit(
        images,
        np.eye(15)[rng.integers(0, 15, 16)],
        batch_size=4,
        callbacks=[save, keras.callbacks.LambdaCallback(on_epoch_end=keep)],
        verbose=0,
    )

    resumed, done = build_or_resume(config, tmp_path, steps=5)
    assert done == 1
    assert type(resumed.optimizer) is type(trained.optimizer)
    assert ("LossScale" in type(resumed.optimizer).__name__) == (precision == "mixed_float16")
    for got, expected in (
        (resumed.variables, kept["model"]),
        (resumed.optimizer.variables, kept["optimizer"]),
    ):
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)
    inner = getattr(resumed.optimizer, "inner_optimizer", resumed.optimizer)
    spared = [v for v in resumed.trainable_variables if not inner._use_weight_decay(v)]
    assert {v.name for v in spared} == {"bias", "gamma", "beta"}
