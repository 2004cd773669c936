"""Tables of predictions for these tests, and helpers for nested figures."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from leuko_tf.classes import CODES, INDEX
from leuko_tf.predictions import PROBABILITIES

some_examples = settings(deadline=None, max_examples=25)
few_examples = settings(deadline=None, max_examples=10)  # for tests that take 50 ms each


def table_of(labels: Sequence[str], scores: np.ndarray, folds: Any = 1) -> pd.DataFrame:
    """A table with these labels, probabilities [n, 15] and folds."""
    return pd.DataFrame(
        {
            "id": [f"{i}.tiff" for i in range(len(labels))],
            "label": list(labels),
            "fold": folds,
            "reannotation_1": "none",
            "reannotation_2": "none",
            **dict(zip(PROBABILITIES, np.asarray(scores).T, strict=True)),
        }
    )


def sure(codes: Sequence[str]) -> np.ndarray:
    """Scores of a network that is certain of these codes."""
    return np.eye(len(CODES))[[INDEX[code] for code in codes]]


def plausible(
    rng: np.random.Generator, labels: np.ndarray, skill: float = 2.0, spread: float = 1.5
) -> np.ndarray:
    """Probabilities of a network that often knows the class, in float32 precision like the files.

    Args:
      rng: source of the noise.
      labels: int array [n], indices of classes.
      skill: advantage of the right class over the others, as a logit.
      spread: standard deviation of the logits.
    """
    logits = rng.normal(0, spread, (len(labels), len(CODES)))
    logits[np.arange(len(labels)), labels] += skill
    return softmax(logits).astype(np.float32).astype(float)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def indices(table: pd.DataFrame) -> np.ndarray:
    """The labels as indices of classes."""
    return table["label"].map(INDEX).to_numpy()


@st.composite
def tables(draw: st.DrawFn, min_size: int = 1, max_size: int = 40) -> pd.DataFrame:
    """Draws a table: any classes, one to three folds, sure or undecided, with or without ties."""
    codes = draw(st.lists(st.sampled_from(CODES), min_size=1, unique=True))
    size = draw(st.integers(min_size, max_size))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.choice(codes, size)
    kind = draw(st.sampled_from(["decided", "undecided", "rounded", "sure", "all the same"]))
    if kind == "sure":
        scores = sure(rng.choice(CODES, size))
    elif kind == "all the same":
        scores = np.tile(rng.dirichlet(np.ones(len(CODES))), (size, 1))
    else:
        concentration = {"decided": 0.05, "undecided": 20.0, "rounded": 1.0}[kind]
        scores = rng.dirichlet(np.full(len(CODES), concentration), size)
        if kind == "rounded":  # sums are then within .00075 of 1, which tables may have
            scores = scores.round(4)
    folds = rng.integers(1, draw(st.integers(1, 3)) + 1, size)
    return table_of(labels.tolist(), scores.astype(np.float32), folds)


def leaves(tree: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields every value of a tree with its nested key; list members have the key of the list."""
    if isinstance(tree, dict):
        for name, inside in tree.items():
            yield from leaves(inside, (*place, name))
    elif isinstance(tree, list):
        for inside in tree:
            yield from leaves(inside, place)
    else:
        yield place, tree


def approximately(tree: Any, **tolerance: float) -> Any:
    """Replaces every float in the tree by one that compares up to rounding."""
    if isinstance(tree, dict):
        return {name: approximately(inside, **tolerance) for name, inside in tree.items()}
    if isinstance(tree, list):
        return [approximately(inside, **tolerance) for inside in tree]
    return pytest.approx(tree, **tolerance) if isinstance(tree, float) else tree
