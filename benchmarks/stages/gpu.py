"""The Keras network on a GPU, on whichever backend Keras has, against timm's in PyTorch."""

from collections.abc import Callable
from typing import Any

from benchmarks.arithmetic import TRAINING_FACTOR, compute_forward_gflop
from benchmarks.contenders import Case, Contender, Options, Stage
from benchmarks.worker import Work

BATCH = 64
STEPS_A_TURN = 10  # waited for together, as a training does
SIZES = (224, 400)

_KERAS = "benchmarks.builders.gpu_keras"
_TIMM = "benchmarks.builders.gpu_timm"

PROBE = Contender("probe", "floor", f"{_KERAS}:probe")


def repeat_steps(
    run: Callable[[], Any], wait_for: Callable[[Any], object], batch: int, note: str = ""
) -> Work:
    """Makes a work that starts several steps in a row, then waits for the last one's result."""

    def step() -> int:
        for _ in range(STEPS_A_TURN):
            result = run()
        wait_for(result)
        return STEPS_A_TURN * batch

    return Work(step, {"note": note})


def _list_cases(options: Options) -> list[Case]:
    modes = ("default",) if options.short else ("default", "max-autotune")
    seconds = 2.0 if options.short else 5.0
    cases = []
    for size in SIZES:
        settings = {"size": size, "batch": BATCH}
        for title, factor in (("training", TRAINING_FACTOR), ("inference", 1)):
            contenders = [Contender("leuko_tf", "ours", f"{_KERAS}:build_{title}", settings)]
            contenders += [
                Contender(
                    f"timm, torch.compile {mode}",
                    "peer",
                    f"{_TIMM}:build_{title}",
                    {**settings, "mode": mode},
                )
                for mode in (modes if options.peers else ())
            ]
            gflop = factor * compute_forward_gflop(size)
            cases.append(Case(title, contenders, "bfloat16", size, BATCH, seconds, gflop))
    return cases


STAGE = Stage(
    title="GPU",
    unit="images/s",
    remarks=(
        "Batches of random uint8 images that lie on the device; scaling included, no pipeline. "
        "Ours: the paper's network, policy mixed_bfloat16, the whole step compiled by XLA; "
        "training is cross-entropy and Adam.",
        "timm: `resnext50_32x4d` (ReLU, convolutions without biases, otherwise the same layers), "
        "channels last, `torch.compile`, fused Adam; training under autocast to bfloat16, "
        "inference in bfloat16 throughout.",
        "TFLOP/s: of the convolutions of our network; in training forward and both gradients.",
    ),
    cases=_list_cases,
    on_gpu=True,
)
