"""Adam in one operation against Keras' own."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from leuko_tf.training.optimizers import Adam, AdamW

PAIRS = [(Adam, keras.optimizers.Adam), (AdamW, keras.optimizers.AdamW)]


def _model(policy: str = "float32") -> keras.Model:
    keras.utils.set_random_seed(1)
    layers = [keras.Input((6,)), keras.layers.Dense(5, dtype=policy), keras.layers.Dense(1)]
    return keras.Sequential(layers)


def _train(optimizer, steps: int = 12, policy: str = "float32", **compile_options):
    """Weights after some steps of `fit`."""
    model = _model(policy)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(4 * steps, 6)).astype(np.float32)
    model.compile(optimizer, loss="mse", **compile_options)
    model.fit(inputs, inputs[:, :1] ** 2, batch_size=4, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("pair", PAIRS, ids=["adam", "adamw"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"epsilon": 0.1, "beta_1": 0.5, "beta_2": 0.9},
        {"amsgrad": True},
        {"use_ema": True, "ema_momentum": 0.9},
        {"gradient_accumulation_steps": 3},
    ],
    ids=str,
)
def test_the_numbers_are_those_of_keras(pair, options):
    rate = keras.optimizers.schedules.CosineDecay(0.05, 12, alpha=0.1)
    ours, theirs = (_train(kind(rate, **options)) for kind in pair)
    start = _model().get_weights()
    for a, b, first in zip(ours, theirs, start, strict=True):
        assert np.abs(b - first).max() > 0.02
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


def test_weights_spared_from_decay_are_spared():
    results = []
    for kind in (AdamW, keras.optimizers.AdamW):
        optimizer = kind(0.01, weight_decay=1.0)
        optimizer.exclude_from_weight_decay(var_names=["bias"])
        results.append(_train(optimizer))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_and_loss_scaling(policy):
    ours, theirs = (_train(kind(0.02), policy=policy) for kind in PAIRS[0])
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)


def test_under_xla():
    ours, theirs = (
        _train(kind(0.02), jit_compile=x) for kind, x in zip(PAIRS[0], (True, False), strict=True)
    )
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_saved_with_its_model_and_loaded(tmp_path):
    model = _model()
    model.compile(AdamW(0.01), loss="mse")
    inputs = tf.ones((8, 6))
    model.fit(inputs, inputs[:, :1], verbose=0)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.optimizer) is AdamW
    for a, b in zip(again.optimizer.variables, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(a, b)
