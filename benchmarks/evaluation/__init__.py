"""Evaluation of a table of predictions as long as the data set."""

from benchmarks.contenders import FLOOR, OURS, SECONDS, Case, Contender, Options, Stage

ROWS, REANNOTATED = 18_365, 1_905
REPLICATES = 2000

_HERE = "benchmarks.evaluation.ours"


def _preparations(options: Options) -> list[Contender]:
    settings = {"work": str(options.work), "rows": ROWS, "reannotated": REANNOTATED}
    return [Contender("table of predictions", FLOOR, f"{_HERE}:make_table", settings, warm_up=0)]


def _cases(options: Options) -> list[Case]:
    def entry(name: str, replicates: int, fresh: bool) -> Contender:
        settings = {"work": str(options.work), "replicates": replicates}
        builder = f"{_HERE}:evaluation"
        return Contender(name, OURS, builder, settings, warm_up=0 if fresh else 1, fresh=fresh)

    return [
        Case(
            f"{ROWS:,} predictions",
            [
                entry("without intervals", 0, fresh=True),
                entry("without intervals, again in the same process", 0, fresh=False),
                entry(f"{REPLICATES:,} bootstrap replicates", REPLICATES, fresh=True),
            ],
        )
    ]


STAGE = Stage(
    title="Evaluation",
    unit=SECONDS,
    remarks=(
        f"`leuko_tf.evaluate.evaluate`: reading the table, every figure, report, model card. "
        f"{ROWS:,} made-up predictions with the classes of the data set, {REANNOTATED:,} of them "
        "re-annotated twice. After the imports; each round in a new process where nothing else is "
        "said.",
    ),
    preparations=_preparations,
    cases=_cases,
)
