"""Probabilities of 400 px images on the CPU: ours exported, PyTorch, ONNX Runtime, OpenVINO."""

from collections.abc import Sequence
from dataclasses import replace

from benchmarks.arithmetic import compute_forward_gflop
from benchmarks.contenders import (
    FLOOR,
    IMAGES_A_SECOND,
    OURS,
    PEER,
    POLICIES,
    VARIANT,
    Case,
    Contender,
    Options,
    Stage,
)

SIZE = 400
CELLS = 32
# For probabilities in float32. A larger difference means that another network is timed.
TOLERANCE = 1e-4

# What the preparation writes.
WEIGHTS, IMAGES, EXPECTED = "weights.npz", "images.npy", "expected.npy"
KERAS_MODEL, EXPORTS, ONNX = "model.keras", "exports", "network.onnx"

_OURS = "benchmarks.builders.inference"
_TORCH = "benchmarks.builders.torch_cpu"
_RUNTIMES = "benchmarks.builders.runtimes"


def list_preparations(options: Options) -> list[Contender]:
    """Lists what makes the network, its exports and cells; other stages use them, too."""
    settings = {"work": str(options.work)}
    made = [("network and cells", f"{_OURS}:make_network")]
    if options.peers:
        made.append(("ONNX file", f"{_TORCH}:make_onnx"))
    return [Contender(name, FLOOR, builder, settings, warm_up=0) for name, builder in made]


def list_own_preparations(options: Options) -> list[Contender]:
    """The same without the peers' files."""
    return list_preparations(replace(options, peers=False))


def _list_cases(options: Options) -> list[Case]:
    def make_case(title: str, batch: int, precision: str, contenders: list[Contender]) -> Case:
        seconds = 2.0 if options.short else 4.0
        gflop = compute_forward_gflop(SIZE)
        return Case(title, contenders, precision, SIZE, batch, seconds, gflop)

    def list_batches(precision: str) -> Sequence[int]:
        return (8,) if options.short and precision == "bfloat16" else (1, 8)

    cases = [
        make_case("", batch, precision, _list_contenders(options, batch, precision))
        for precision in POLICIES
        for batch in list_batches(precision)
    ]
    if options.peers:
        title = "from PNG files, fastest --runtime"
        cases += [
            make_case(title, batch, "float32", _list_contenders_from_files(options, batch))
            for batch in (1, 8)
        ]
    return cases


def _list_contenders_from_files(options: Options, batch: int) -> list[Contender]:
    """Files in, scores out: `--runtime openvino` against runtimes that are used directly."""
    settings = {"work": str(options.work), "batch": batch, "precision": "float32", "files": True}
    return [
        Contender("leuko_tf, --runtime openvino", OURS, f"{_OURS}:build_openvino", settings),
        Contender("OpenVINO", PEER, f"{_RUNTIMES}:build_openvino", settings),
        Contender("ONNX Runtime", PEER, f"{_RUNTIMES}:build_onnx_runtime", settings),
    ]


def _list_contenders(options: Options, batch: int, precision: str) -> list[Contender]:
    shared = {"work": str(options.work), "batch": batch, "precision": precision}

    def entry(name: str, role: str, builder: str, **settings: object) -> Contender:
        return Contender(name, role, builder, {**shared, **settings})

    exported = f"{_OURS}:build_exported"
    if precision == "float32":
        contenders = [
            entry("leuko_tf, default --runtime", OURS, f"{_OURS}:build_tensorflow"),
            entry("leuko_tf, SavedModel", VARIANT, exported),
        ]
    else:
        contenders = [entry("leuko_tf, SavedModel", OURS, exported)]
    if not options.peers:
        return contenders
    torch = f"{_TORCH}:build_inference"
    contenders.append(entry("PyTorch compiled", PEER, torch, mode="compiled"))
    if not options.short:
        contenders += [
            entry("PyTorch eager", PEER, torch, mode="eager"),
            entry("PyTorch compiled, weights frozen", PEER, torch, mode="frozen"),
        ]
    contenders.append(entry("OpenVINO", PEER, f"{_RUNTIMES}:build_openvino"))
    if precision == "float32":  # ONNX Runtime has no bfloat16 on x86
        contenders.append(entry("ONNX Runtime", PEER, f"{_RUNTIMES}:build_onnx_runtime"))
    return contenders


STAGE = Stage(
    title="Inference on the CPU",
    unit=IMAGES_A_SECOND,
    remarks=(
        "The paper's network with random weights; its moving averages and output layer are fitted "
        "to synthetic cells so that its answers differ. All contenders have the same weights. "
        "Each gets uint8 NumPy images [batch, 400, 400, 3] and returns NumPy arrays: "
        "probabilities, order of the classes, blast and atypical score. Scaling and softmax are "
        "included, decoding of files is not.",
        f"Largest difference: of the probabilities of {CELLS} synthetic cells from those of the "
        "float32 Keras model. A trained network separates cells better than this one, so rounding "
        "to bfloat16 matters less there. A float32 contender that differs by more than "
        f"{TOLERANCE:g} does not run.",
        "Ours by default is what `--runtime tensorflow` computes: batch norms folded, weights as "
        "constants. SavedModel is the export's signature `serving_default`, which any TensorFlow "
        "Serving can run: it computes grouped convolutions as dense ones, because oneDNN may be "
        "off there, and the scores in the graph; elsewhere NumPy computes them. In bfloat16 ours "
        "is the export of a model with the policy mixed_bfloat16.",
        "From PNG files: Pillow decodes them for every contender.",
        "PyTorch: channels last; bfloat16 by autocast; compiled is `torch.compile` in its default "
        "mode, frozen is that with `torch._inductor.config.freezing`. ONNX Runtime and OpenVINO: "
        "the ONNX file of that network; OpenVINO with static shape and the latency hint.",
    ),
    preparations=list_preparations,
    cases=_list_cases,
    peers_need=("torch", "onnx", "onnxruntime", "openvino"),
)
