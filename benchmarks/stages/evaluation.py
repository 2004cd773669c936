"""Evaluation of a made-up table of predictions as long as the data set."""

import tempfile
from pathlib import Path

from benchmarks.contenders import Case, Contender, Options, Stage
from benchmarks.worker import Work

ROWS, REANNOTATED = 18_365, 1_905
REPLICATES = 2000

TABLE = "predictions.parquet"
# The made-up network is mostly right, and sometimes unsure; the examiners mostly agree.
SURENESS, AGREEMENT = 0.6, 0.8


def make_table(work: str, rows: int, reannotated: int) -> Work:
    """Writes `TABLE` with so many rows, of which `reannotated` have two re-annotations."""
    import numpy as np
    import pandas as pd

    from leuko_tf.classes import CODES, NOT_REANNOTATED
    from leuko_tf.predictions import EXAMINERS, PROBABILITIES, write_predictions
    from tfds_aml.synthetic_smear.smear import REAL_COUNTS

    rng = np.random.default_rng(1)
    shares = np.array([REAL_COUNTS[code] for code in CODES]) / sum(REAL_COUNTS.values())
    labels = np.sort(rng.choice(len(CODES), rows, p=shares))
    labels[: len(CODES)] = np.arange(len(CODES))  # every class occurs
    scores = rng.dirichlet(np.full(len(CODES), 0.3), rows)
    scores[np.arange(rows), labels] += rng.uniform(0, 2 * SURENESS, rows)
    table = pd.DataFrame(scores / scores.sum(axis=1, keepdims=True), columns=PROBABILITIES)
    codes = np.array(CODES)[labels]
    table["id"] = [f"{code}/{code}_{i:05d}.tiff" for i, code in enumerate(codes)]
    table["label"] = codes
    table["fold"] = 1 + rng.permutation(rows) % 5
    is_reannotated = np.arange(rows) < reannotated
    rng.shuffle(is_reannotated)
    for column in EXAMINERS:
        others = np.array(CODES)[rng.integers(0, len(CODES), rows)]
        given = np.where(rng.random(rows) < AGREEMENT, codes, others)
        table[column] = np.where(is_reannotated, given, NOT_REANNOTATED)
    write_predictions(table, {"synthetic": True}, Path(work, TABLE))
    return Work()


def build_evaluation(work: str, replicates: int) -> Work:
    """One evaluation per step, with so many bootstrap replicates; 0 for no intervals."""
    # The unused ones are what `evaluate` imports in its functions: imports are not timed.
    from leuko_tf import metrics, predictions, report  # noqa: F401
    from leuko_tf.evaluate import evaluate
    from leuko_tf.explanation import mistakes  # noqa: F401
    from leuko_tf.metrics import agreement, published  # noqa: F401

    table, out = Path(work, TABLE), Path(tempfile.mkdtemp(prefix="evaluation-", dir=work))

    def step() -> int:
        evaluate(table, out, replicates=replicates)
        return 0

    return Work(step)


def _list_preparations(options: Options) -> list[Contender]:
    settings = {"work": options.work, "rows": ROWS, "reannotated": REANNOTATED}
    return [Contender("table of predictions", "floor", f"{__name__}:make_table", settings)]


def _list_cases(options: Options) -> list[Case]:
    def entry(name: str, replicates: int, fresh: bool) -> Contender:
        settings = {"work": options.work, "replicates": replicates}
        builder = f"{__name__}:build_evaluation"
        return Contender(name, "ours", builder, settings, warm_up=0 if fresh else 1, fresh=fresh)

    contenders = [
        entry("without intervals", 0, fresh=True),
        entry("without intervals, again in the same process", 0, fresh=False),
        entry(f"{REPLICATES:,} bootstrap replicates", REPLICATES, fresh=True),
    ]
    return [Case(f"{ROWS:,} predictions", contenders)]


STAGE = Stage(
    title="Evaluation",
    unit="s",
    remarks=(
        f"`leuko_tf.evaluate.evaluate`: reading the table, every figure, report, model card. "
        f"{ROWS:,} made-up predictions with the classes of the data set, {REANNOTATED:,} of them "
        "re-annotated twice. Timed after the imports, each round in a new process unless the row "
        "says otherwise.",
    ),
    preparations=_list_preparations,
    cases=_list_cases,
)
