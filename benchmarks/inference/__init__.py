"""Probabilities of 400 px images on the CPU: ours exported, PyTorch, ONNX Runtime, OpenVINO."""

from benchmarks.arithmetic import forward_gflop
from benchmarks.contenders import (
    FLOOR,
    IMAGES_A_SECOND,
    OURS,
    PEER,
    VARIANT,
    Case,
    Contender,
    Options,
    Stage,
)

SIZE = 400
CELLS = 32
# Of probabilities at equal precision; more, and it is another network that is timed.
TOLERANCE = 1e-4

WEIGHTS, IMAGES, EXPECTED = "weights.npz", "images.npy", "expected.npy"
KERAS_MODEL, EXPORTS, ONNX = "model.keras", "exports", "network.onnx"

_HERE = "benchmarks.inference"


def _preparations(options: Options) -> list[Contender]:
    settings = {"work": str(options.work)}
    made = [("network and cells", "preparation:make_network")]
    if options.peers:
        made.append(("ONNX file", "torch_inference:make_onnx"))
    return [Contender(name, FLOOR, f"{_HERE}.{f}", settings, warm_up=0) for name, f in made]


def _cases(options: Options) -> list[Case]:
    arrays = [
        Case(
            "",
            _contenders(options, batch, precision),
            precision=precision,
            size=SIZE,
            batch=batch,
            seconds=2.0 if options.short else 4.0,
            gflop_an_image=forward_gflop(SIZE),
        )
        for precision in ("float32", "bfloat16")
        for batch in ((8,) if options.short and precision == "bfloat16" else (1, 8))
    ]
    files = [
        Case(
            "from PNG files, fastest --runtime",
            _from_files(options, batch),
            precision="float32",
            size=SIZE,
            batch=batch,
            seconds=2.0 if options.short else 4.0,
            gflop_an_image=forward_gflop(SIZE),
        )
        for batch in (1, 8)
    ]
    return [*arrays, *(files if options.peers else [])]


def _from_files(options: Options, batch: int) -> list[Contender]:
    """Files in, scores out; the runtime of `--runtime openvino` against runtimes used directly."""
    settings = {
        "work": str(options.work),
        "batch": batch,
        "precision": "float32",
        "files": True,
    }
    return [
        Contender("leuko_tf, --runtime openvino", OURS, f"{_HERE}.ours:openvino", settings),
        Contender("OpenVINO", PEER, f"{_HERE}.runtimes:openvino", settings),
        Contender("ONNX Runtime", PEER, f"{_HERE}.runtimes:onnx_runtime", settings),
    ]


def _contenders(options: Options, batch: int, precision: str) -> list[Contender]:
    shared = {"work": str(options.work), "batch": batch, "precision": precision}

    def entry(name: str, role: str, builder: str, **settings: object) -> Contender:
        return Contender(name, role, f"{_HERE}.{builder}", {**shared, **settings})

    contenders = [entry("leuko_tf, SavedModel", OURS, "ours:exported")]
    if precision == "float32":
        contenders[0] = entry("leuko_tf, SavedModel", VARIANT, "ours:exported")
        contenders.insert(0, entry("leuko_tf, default --runtime", OURS, "ours:tensorflow"))
    if not options.peers:
        return contenders
    torch = "torch_inference:torch_network"
    contenders.append(entry("PyTorch compiled", PEER, torch, mode="compiled"))
    if not options.short:
        contenders += [
            entry("PyTorch eager", PEER, torch, mode="eager"),
            entry("PyTorch compiled, weights frozen", PEER, torch, mode="frozen"),
        ]
    contenders.append(entry("OpenVINO", PEER, "runtimes:openvino"))
    if precision == "float32":  # it has no bfloat16 on x86
        contenders.append(entry("ONNX Runtime", PEER, "runtimes:onnx_runtime"))
    return contenders


STAGE = Stage(
    title="Inference on the CPU",
    unit=IMAGES_A_SECOND,
    remarks=(
        "The paper's network with random weights, and moving averages and output layer fitted to "
        "synthetic cells so that its answers differ; the same weights everywhere. Each "
        "gets uint8 NumPy images [batch, 400, 400, 3] and gives NumPy arrays: probabilities, order "
        "of the classes, blast and atypical score. Scaling and softmax are included, decoding of "
        "files is not.",
        f"Largest difference: of the probabilities of {CELLS} synthetic cells from the float32 "
        "Keras model's. A trained network tells cells apart by more than this one does, so that "
        "rounding to bfloat16 weighs less there. "
        f"In float32 a contender with more than {TOLERANCE:g} does not run.",
        "Ours by default is what `--runtime tensorflow` computes: batch norms folded, weights as "
        "constants. SavedModel is the export's signature `serving_default`, as any TensorFlow "
        "Serving can run it: grouped convolutions by dense ones, as oneDNN may be off there, and "
        "the scores in the graph; elsewhere NumPy computes them. In bfloat16 ours is the export of "
        "a model with the policy mixed_bfloat16.",
        "From PNG files: Pillow decodes them, for everyone.",
        "PyTorch: channels last; bfloat16 by autocast; compiled is `torch.compile` in its default "
        "mode, frozen is that with `torch._inductor.config.freezing`. ONNX Runtime and OpenVINO: "
        "the ONNX file of that network; OpenVINO with static shape and the latency hint.",
    ),
    preparations=_preparations,
    cases=_cases,
    peers_need=("torch", "onnx", "onnxruntime", "openvino"),
)
