"""One optimizer step of ResNeXt-50 32x4d on the CPU: ours, stock Keras and PyTorch."""

from dataclasses import replace

from benchmarks.arithmetic import TRAINING_FACTOR, compute_forward_gflop
from benchmarks.contenders import POLICIES, Case, Contender, Options, Stage

_OURS = "benchmarks.builders.training:build_training"
_TORCH = "benchmarks.builders.torch_cpu:build_training"


def _list_cases(options: Options) -> list[Case]:
    seconds = 3.0 if options.short else 6.0
    sizes = ((224, 8),) if options.short else ((128, 16), (224, 8), (400, 4))
    # Without the settings of a case.
    torch = [
        Contender(
            f"PyTorch {'compiled' if compiled else 'eager'}{', channels last' * channels_last}",
            "peer",
            _TORCH,
            {"compiled": compiled, "channels_last": channels_last},
        )
        for compiled in ((False, True) if options.peers else ())
        for channels_last in ((True,) if options.short else (True, False))
    ]
    cases = [
        _make_case("", size, batch, precision, seconds, torch)
        for size, batch in sizes
        for precision in POLICIES
    ]
    # One step of the stock convolution takes ten seconds, at batch 8 most of a minute.
    stock = Contender("Keras Conv2D(groups=32)", "peer", _OURS, {"stock": True}, warm_up=1)
    title, batch = "Keras' own grouped convolution", 2 if options.short else 8
    return [*cases, _make_case(title, 224, batch, "float32", 0.0, [stock])]


def _make_case(
    title: str, size: int, batch: int, precision: str, seconds: float, peers: list[Contender]
) -> Case:
    settings = {"size": size, "batch": batch, "precision": precision}
    contenders = [
        replace(contender, settings={**settings, **contender.settings})
        for contender in (Contender("leuko_tf", "ours", _OURS), *peers)
    ]
    gflop = TRAINING_FACTOR * compute_forward_gflop(size)
    return Case(title, contenders, precision, size, batch, seconds, gflop)


STAGE = Stage(
    title="Training step on the CPU",
    unit="images/s",
    remarks=(
        "The paper's ResNeXt-50 32x4d, 23,112,975 parameters, 15 outputs: forward, cross-entropy, "
        "backward and Adam on one fixed batch of random float32 images in 0 to 255; no pipeline.",
        "Ours is what `leuko_tf.train` compiles, with its accuracy metric, in the function that "
        "Keras' `fit` calls for every batch; bfloat16 is the policy mixed_bfloat16.",
        "PyTorch: the same network with symmetric padding (SAME padding of a strided convolution "
        "is asymmetric and would cost a copy), fused Adam, no metric; bfloat16 is autocast; "
        "compiled is `torch.compile` of the network in its default mode.",
        "TFLOP/s: of the convolutions, forward and both gradients.",
    ),
    cases=_list_cases,
    peers_need=("torch",),
)
