"""The Keras network on a GPU, on whichever backend Keras has, against timm's in PyTorch."""

from benchmarks.arithmetic import TRAINING_FACTOR, forward_gflop
from benchmarks.contenders import (
    FLOOR,
    IMAGES_A_SECOND,
    OURS,
    PEER,
    Case,
    Contender,
    Options,
    Stage,
)

BATCH = 64
STEPS_A_TURN = 10  # waited for together, as a training does
SIZES = (224, 400)

_KERAS = "benchmarks.gpu.keras_network"
_TIMM = "benchmarks.gpu.timm_network"

PROBE = Contender("probe", FLOOR, f"{_KERAS}:probe", warm_up=0)


def _cases(options: Options) -> list[Case]:
    cases = []
    for size in SIZES:
        settings = {"size": size, "batch": BATCH}
        for title, function, factor in (
            ("training", "training", TRAINING_FACTOR),
            ("inference", "inference", 1),
        ):
            modes = ["default"] if options.short else ["default", "max-autotune"]
            contenders = [Contender("leuko_tf", OURS, f"{_KERAS}:{function}", settings)]
            contenders += [
                Contender(
                    f"timm, torch.compile {mode}",
                    PEER,
                    f"{_TIMM}:{function}",
                    {**settings, "mode": mode},
                )
                for mode in (modes if options.peers else [])
            ]
            cases.append(
                Case(
                    title,
                    contenders,
                    precision="bfloat16",
                    size=size,
                    batch=BATCH,
                    seconds=2.0 if options.short else 5.0,
                    gflop_an_image=factor * forward_gflop(size),
                )
            )
    return cases


STAGE = Stage(
    title="GPU",
    unit=IMAGES_A_SECOND,
    remarks=(
        "Batches of random uint8 images that lie on the device; scaling included, no pipeline. "
        "Ours: the paper's network, policy mixed_bfloat16, the whole step compiled by XLA; "
        "training is cross-entropy and Adam.",
        "timm: `resnext50_32x4d` (ReLU, no biases of convolutions, otherwise the same layers), "
        "channels last, `torch.compile`, Adam in its fused form; training under autocast to "
        "bfloat16, inference in bfloat16 throughout.",
        "TFLOP/s: those of the convolutions of our network; in training forward and both "
        "gradients.",
    ),
    preparations=lambda options: [],
    cases=_cases,
    on_gpu=True,
)
