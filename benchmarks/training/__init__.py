"""One optimizer step of ResNeXt-50 32x4d on the CPU: ours, stock Keras and PyTorch."""

from benchmarks.arithmetic import TRAINING_FACTOR, forward_gflop
from benchmarks.contenders import IMAGES_A_SECOND, OURS, PEER, Case, Contender, Options, Stage

PRECISIONS = ("float32", "bfloat16")

_OURS = "benchmarks.training.ours:training"
_TORCH = "benchmarks.training.torch_training:training"


def _cases(options: Options) -> list[Case]:
    sizes = ((224, 8),) if options.short else ((128, 16), (224, 8), (400, 4))
    cases = [
        _case(options, size, batch, precision) for size, batch in sizes for precision in PRECISIONS
    ]
    # One step of it takes ten seconds, at batch 8 most of a minute.
    return [*cases, _stock_case(224, 2 if options.short else 8)]


def _case(options: Options, size: int, batch: int, precision: str) -> Case:
    settings = {"size": size, "batch": batch, "precision": precision}
    contenders = [Contender("leuko_tf", OURS, _OURS, settings)]
    if options.peers:
        layouts = (True,) if options.short else (True, False)
        contenders += [
            Contender(
                f"PyTorch {'compiled' if compiled else 'eager'}"
                + (", channels last" if channels_last else ""),
                PEER,
                _TORCH,
                {**settings, "compiled": compiled, "channels_last": channels_last},
            )
            for compiled in (False, True)
            for channels_last in layouts
        ]
    seconds = 3.0 if options.short else 6.0
    return Case(
        "",
        contenders,
        precision=precision,
        size=size,
        batch=batch,
        seconds=seconds,
        gflop_an_image=TRAINING_FACTOR * forward_gflop(size),
    )


def _stock_case(size: int, batch: int) -> Case:
    settings = {"size": size, "batch": batch, "precision": "float32"}
    return Case(
        "Keras' own grouped convolution",
        [
            Contender("leuko_tf", OURS, _OURS, settings),
            Contender(
                "Keras Conv2D(groups=32)", PEER, _OURS, {**settings, "stock": True}, warm_up=1
            ),
        ],
        precision="float32",
        size=size,
        batch=batch,
        gflop_an_image=TRAINING_FACTOR * forward_gflop(size),
    )


STAGE = Stage(
    title="Training step on the CPU",
    unit=IMAGES_A_SECOND,
    remarks=(
        "ResNeXt-50 32x4d of the paper, 23,112,975 parameters, 15 outputs: forward, cross-entropy, "
        "backward and Adam on one fixed batch of random float32 images in 0 to 255; no pipeline.",
        "Ours is what `leuko_tf.train` compiles, with its accuracy metric, in the function that "
        "Keras' `fit` calls for every batch; bfloat16 is the policy mixed_bfloat16.",
        "PyTorch: the same network with symmetric padding (SAME padding of a strided convolution "
        "is not, and would cost a copy), Adam in its fused form, no metric; bfloat16 is autocast; "
        "compiled is `torch.compile` of the network in its default mode.",
        "TFLOP/s: those of the convolutions, forward and both gradients.",
    ),
    preparations=lambda options: [],
    cases=_cases,
    peers_need=("torch",),
)
