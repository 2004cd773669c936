"""Images a second that the local server answers, beside the same graph called in its process."""

from typing import Any

from benchmarks.contenders import (
    IMAGES_A_SECOND,
    OURS,
    PEER,
    VARIANT,
    Case,
    Contender,
    Options,
    Stage,
)
from benchmarks.inference import SIZE
from benchmarks.inference import STAGE as INFERENCE

ENCODED, EXPLAIN = "encoded", "explain"
# Requests under way at once: two full batches, one of which waits while the other is computed.
CONCURRENCY = 32
TURN_S = 5.0
# What serving/config/batching.config could say instead.
OTHER_BATCHING: tuple[dict[str, Any], ...] = (
    {"num_batch_threads": 2},
    {"batch_timeout_micros": 0},
    {"batch_timeout_micros": 100_000},
    {"allowed_batch_sizes": (1, 2, 4, 8, 16)},
)

_HERE = "benchmarks.serve"


def _cases(options: Options) -> list[Case]:
    asked = _Asked(options)
    contenders = [
        asked.by_grpc("by gRPC, batching", OURS, batching={}),
        *(asked.in_process(batch) for batch in ((8,) if options.short else (1, 8, 16))),
        asked.by_grpc("batching off"),
    ]
    if not options.short:
        contenders += [
            asked.by_grpc("8 images a request, batching off", images=8, concurrency=4),
            asked.by_grpc("--runtime openvino, batching off", runtime="openvino"),
            asked.by_grpc("explain", batching={}, signature=EXPLAIN),
            *(asked.by_grpc(_told(other), batching=other) for other in OTHER_BATCHING),
        ]
    return [Case("", contenders, precision="float32", size=SIZE, seconds=TURN_S)]


def _told(batching: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in batching.items())


class _Asked:
    """Contenders that ask for the same export's answers."""

    def __init__(self, options: Options):
        self._work = {"work": str(options.work)}

    def by_grpc(self, name: str, role: str = VARIANT, **settings: object) -> Contender:
        given = {"signature": ENCODED, "concurrency": CONCURRENCY, **self._work, **settings}
        return Contender(name, role, f"{_HERE}.over_grpc:answers", given, warm_up=1)

    def in_process(self, batch: int) -> Contender:
        given = {**self._work, "batch": batch}
        builder = f"{_HERE}.in_process:answers"
        return Contender(f"in one's own process, batch {batch}", PEER, builder, given)


STAGE = Stage(
    title="Serving",
    unit=IMAGES_A_SECOND,
    remarks=(
        "The export of the paper's network that inference runs, asked for PNG files of 400 px "
        "(signature `encoded`, which decodes them), one image a request where nothing else is "
        "said. Server and client share the cores.",
        f"By gRPC: `serving.local_server` on loopback, {CONCURRENCY} requests under way at once, "
        "as from as many clients; with `--enable-batching` and the parameters of "
        "`serving/config/batching.config`, but for the one that a row names.",
        "In one's own process: the same signature of the same export, called with ready batches; "
        "no server could be faster.",
    ),
    preparations=lambda options: INFERENCE.preparations(
        Options(options.short, peers=False, work=options.work)
    ),
    cases=_cases,
)
