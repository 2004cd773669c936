"""A made-up table, and its evaluation."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.worker import Work, prepared
from leuko_tf import metrics, predictions, report  # noqa: F401
from leuko_tf.classes import CODES, NOT_REANNOTATED
from leuko_tf.evaluate import evaluate
from leuko_tf.explanation import mistakes  # noqa: F401
from leuko_tf.metrics import agreement, published  # noqa: F401
from leuko_tf.predictions import EXAMINERS, PROBABILITIES, write_predictions
from tfds_aml.synthetic_smear.smear import REAL_COUNTS

TABLE = "predictions.parquet"
# How sure and how right the made-up network is: most answers right, some close.
SURENESS, AGREEMENT = 0.6, 0.8


def make_table(work: str, rows: int, reannotated: int) -> Work:
    """Writes `TABLE`.

    Args:
      work: folder to write to.
      rows: its length.
      reannotated: rows with two re-annotations.
    """
    rng = np.random.default_rng(1)
    shares = np.array([REAL_COUNTS[code] for code in CODES]) / sum(REAL_COUNTS.values())
    labels = np.sort(rng.choice(len(CODES), rows, p=shares))
    labels[: len(CODES)] = np.arange(len(CODES))  # each class is there
    scores = rng.dirichlet(np.full(len(CODES), 0.3), rows)
    scores[np.arange(rows), labels] += rng.uniform(0, 2 * SURENESS, rows)
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
    codes = np.array(CODES)[labels]
    table["id"] = [f"{code}/{code}_{i:05d}.tiff" for i, code in enumerate(codes)]
    table["label"] = codes
    table["fold"] = 1 + rng.permutation(rows) % 5
    looked_at = np.arange(rows) < reannotated
    rng.shuffle(looked_at)
    for column in EXAMINERS:
        others = np.array(CODES)[rng.integers(0, len(CODES), rows)]
        seen = np.where(rng.random(rows) < AGREEMENT, codes, others)
        table[column] = np.where(looked_at, seen, NOT_REANNOTATED)
    write_predictions(table, {"synthetic": True}, Path(work, TABLE))
    return prepared()


def evaluation(work: str, replicates: int) -> Work:
    """One evaluation a step; everything that it needs is imported before.

    Args:
      work: folder with the table.
      replicates: of the bootstrap; 0 for no intervals.
    """
    table = Path(work, TABLE)
    out = tempfile.mkdtemp(prefix="evaluation-", dir=work)

    def step() -> int:
        evaluate(table, Path(out), replicates=replicates)
        return 0

    return Work(step)
