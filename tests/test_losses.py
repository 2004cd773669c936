"""The loss adjusted for the classes' sizes, against its definition and on what it is for."""

import keras
import numpy as np
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st

from leuko_tf.training.losses import AdjustedCrossentropy

SHARES = [0.7, 0.25, 0.05]


def _logits(seed: int, number: int = 8, classes: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, classes)).astype(np.float32)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.sampled_from([0.0, 0.1]))
def test_it_is_cross_entropy_of_logits_raised_by_the_logarithm_of_the_share(seed, smoothing):
    logits = _logits(seed)
    labels = np.eye(3)[np.arange(8) % 3]
    raised = scipy.special.log_softmax(logits.astype(float) + np.log(SHARES), axis=1)
    targets = labels * (1 - smoothing) + smoothing / 3
    expected = -(targets * raised).sum(1).mean()
    loss = AdjustedCrossentropy(SHARES, smoothing)
    got = float(loss(labels, scipy.special.softmax(logits, axis=1)))
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_equal_shares_change_nothing():
    probabilities, labels = scipy.special.softmax(_logits(0), axis=1), np.eye(3)[np.arange(8) % 3]
    plain = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)(labels, probabilities)
    got = AdjustedCrossentropy([1 / 3] * 3, 0.1)(labels, probabilities)
    np.testing.assert_allclose(float(got), float(plain), rtol=1e-6)


def test_it_survives_saving():
    loss = AdjustedCrossentropy(SHARES, 0.1)
    again = keras.losses.deserialize(keras.losses.serialize(loss))
    assert isinstance(again, AdjustedCrossentropy)
    assert (again.shares, again.label_smoothing) == (SHARES, 0.1)


def test_a_network_that_can_tell_nothing_answers_every_class_equally_often():
    """With cross-entropy it would answer the shares; a class without images stays unlikely."""
    counts = [70, 25, 5, 0]
    labels = np.eye(4)[np.repeat(range(4), counts)]
    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(4, activation="softmax")])
    network.compile(keras.optimizers.SGD(1.0), AdjustedCrossentropy([c / 100 for c in counts]))
    network.fit(np.zeros((100, 1)), labels, batch_size=100, epochs=400, verbose=0)
    answer = np.asarray(network(np.zeros((1, 1))))[0]
    np.testing.assert_allclose(answer[:3], 1 / 3, atol=0.02)
    assert answer[3] < 0.02
