"""Folded networks: the same answers, in eager mode and in the graphs that TensorFlow optimises."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from leuko_tf.network.folding import fold_batch_norms, spare_bias_gradients
from leuko_tf.network.layers import BatchNorm, Conv2D
from leuko_tf.network.resnext import build_resnext

SMALL = {"input_size": 40, "field": 40, "blocks": (2, 1), "stem_width": 8, "width": 16}


def _network(**settings) -> keras.Model:
    """A network whose batch norms do something."""
    keras.utils.set_random_seed(0)
    model = build_resnext(**SMALL, cardinality=4, **settings)
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, variance = rng.uniform(0.5, 2, (2, *layer.gamma.shape))
            beta, mean = rng.normal(0, 0.5, (2, *layer.gamma.shape))
            layer.set_weights([gamma, beta, mean, variance])
        elif isinstance(layer, keras.layers.Conv2D):
            layer.bias.assign(rng.normal(0, 0.1, layer.bias.shape))
    return model


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3)).astype(np.float32)


# TensorFlow with oneDNN forgets the slope of a LeakyReLU that it fuses with a sum: the network with
# slope 0.3 shows it, in a graph alone.
@pytest.mark.parametrize("activation", ["leaky_relu", "relu", "silu"])
@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_a_folded_network_gives_the_same_answers(images, activation, graph):
    model = _network(activation=activation)
    expected = model(images, training=False)
    assert expected.numpy().std() > 0.01
    # The stem, three in each of the three blocks, and a projection in each stage.
    assert fold_batch_norms(model) == 1 + 3 * 3 + 2
    assert fold_batch_norms(model) == 0
    run = tf.function(model) if graph else model
    np.testing.assert_allclose(run(tf.constant(images), training=False), expected, atol=1e-5)


def test_what_is_not_a_convolution_alone_before_a_batch_norm_is_left(images):
    inputs = keras.Input((40, 40, 3))
    shared = keras.layers.Conv2D(4, 3, name="shared")(inputs)
    active = keras.layers.Conv2D(4, 3, activation="relu")(inputs)
    bare = keras.layers.Conv2D(4, 3, use_bias=False)(inputs)
    outputs = [BatchNorm()(x) for x in (shared, active, bare)]
    model = keras.Model(inputs, [*outputs, shared, keras.layers.BatchNormalization()(inputs)])
    expected = model(images)
    assert fold_batch_norms(model) == 0
    for ours, theirs in zip(model(images), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _differentiate(model: keras.Model, images: np.ndarray) -> list[np.ndarray]:
    weights = np.random.default_rng(2).normal(size=(len(images), 15))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(images, training=True) * weights)
        return tape.gradient(loss, [w.value for w in model.trainable_weights])

    return [g.numpy() for g in run()]


def test_spared_biases_change_no_other_gradient(images):
    model = _network()
    expected = _differentiate(model, images)
    assert spare_bias_gradients(model) == 1 + 3 * 3 + 2
    largest = max(np.abs(g).max() for g in expected)
    pairs = zip(model.trainable_weights, _differentiate(model, images), expected, strict=True)
    for weight, received, plain in pairs:
        np.testing.assert_allclose(received, plain, atol=1e-5 * largest, err_msg=weight.path)
        if weight.path.endswith("bias") and "probabilities" not in weight.path:
            assert not received.any(), weight.path


def test_the_bias_before_a_frozen_batch_norm_learns(images):
    model = _network()
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.trainable = False
    assert spare_bias_gradients(model) == 0
    assert all(g.any() for g in _differentiate(model, images))
    norms[0].trainable = True
    assert spare_bias_gradients(model) == 1


def test_a_convolution_whose_outputs_also_go_elsewhere_keeps_its_bias(images):
    inputs = keras.Input((40, 40, 3))
    shared = Conv2D(4, 3)(inputs)
    model = keras.Model(inputs, [BatchNorm()(shared), shared])
    assert spare_bias_gradients(model) == 0
