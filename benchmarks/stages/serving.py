"""Images per second of the local server, compared with the same graph called in-process."""

from typing import Any

from benchmarks.contenders import Case, Contender, Options, Role, Stage
from benchmarks.stages.inference import SIZE, list_own_preparations

ENCODED, EXPLAIN = "encoded", "explain"
# Requests under way at once: two full batches; one waits while the other is computed.
CONCURRENCY = 32
TURN_S = 5.0
# Alternatives to the values in serving/config/batching.config.
OTHER_BATCHING: tuple[tuple[str, Any], ...] = (
    ("num_batch_threads", 2),
    ("batch_timeout_micros", 0),
    ("batch_timeout_micros", 100_000),
    ("allowed_batch_sizes", (1, 2, 4, 8, 16)),
)


def _list_cases(options: Options) -> list[Case]:
    work = {"work": options.work}

    def by_grpc(name: str, role: Role = "variant", **settings: object) -> Contender:
        given = {"signature": ENCODED, "concurrency": CONCURRENCY, **work, **settings}
        return Contender(name, role, "benchmarks.builders.serving:build_grpc", given, warm_up=1)

    def in_process(batch: int) -> Contender:
        name, settings = f"in one's own process, batch {batch}", {**work, "batch": batch}
        return Contender(name, "peer", "benchmarks.builders.inference:build_encoded", settings)

    contenders = [
        by_grpc("by gRPC, batching", "ours", batching={}),
        *(in_process(batch) for batch in ((8,) if options.short else (1, 8, 16))),
        by_grpc("batching off"),
    ]
    if not options.short:
        contenders += [
            by_grpc("8 images a request, batching off", images=8, concurrency=4),
            by_grpc("--runtime openvino, batching off", runtime="openvino"),
            by_grpc("explain", batching={}, signature=EXPLAIN),
            *(by_grpc(f"{name} {value}", batching={name: value}) for name, value in OTHER_BATCHING),
        ]
    return [Case("", contenders, precision="float32", size=SIZE, seconds=TURN_S)]


STAGE = Stage(
    title="Serving",
    unit="images/s",
    remarks=(
        "The export that the inference stage runs gets PNG files of 400 px (signature `encoded`, "
        "which decodes them), one image per request unless the row says otherwise. Server and "
        "client share the cores.",
        f"By gRPC: `serving.local_server` on loopback, {CONCURRENCY} requests under way at once, "
        "as from as many clients; with `--enable-batching` and the parameters of "
        "`serving/config/batching.config`, except for the one that a row names.",
        "In one's own process: the same signature of the same export, called with ready batches; "
        "no server could be faster.",
    ),
    preparations=list_own_preparations,
    cases=_list_cases,
)
