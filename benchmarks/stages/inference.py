"""Probabilities of 400 px images on the CPU: ours exported, PyTorch, ONNX Runtime, OpenVINO."""

from dataclasses import replace

from benchmarks.arithmetic import compute_forward_gflop
from benchmarks.contenders import Case, Contender, Options, Role, Stage

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
    settings = {"work": options.work}
    made = [("network and cells", f"{_OURS}:make_network")]
    if options.peers:
        made.append(("ONNX file", f"{_TORCH}:make_onnx"))
    return [Contender(name, "floor", builder, settings) for name, builder in made]


def list_own_preparations(options: Options) -> list[Contender]:
    """The same without the peers' files."""
    return list_preparations(replace(options, peers=False))


def _list_cases(options: Options) -> list[Case]:
    measured = [("float32", 1), ("float32", 8), ("bfloat16", 1), ("bfloat16", 8)]
    if options.short:
        measured.remove(("bfloat16", 1))
    seconds, gflop = 2.0 if options.short else 4.0, compute_forward_gflop(SIZE)
    cases = [
        Case("", _list_contenders(options, b, precision), precision, SIZE, b, seconds, gflop)
        for precision, b in measured
    ]
    title = "from PNG files, fastest --runtime"
    cases += [
        Case(title, _list_from_files(options, b), "float32", SIZE, b, seconds, gflop)
        for b in ((1, 8) if options.peers else ())
    ]
    return cases


def _list_from_files(options: Options, batch: int) -> list[Contender]:
    """Files in, scores out: `--runtime openvino` against runtimes that are used directly."""
    settings = {"work": options.work, "batch": batch, "precision": "float32", "files": True}
    ours = {**settings, "runtime": "openvino"}
    return [
        Contender("leuko_tf, --runtime openvino", "ours", f"{_OURS}:build_runtime", ours),
        Contender("OpenVINO", "peer", f"{_RUNTIMES}:build_openvino", settings),
        Contender("ONNX Runtime", "peer", f"{_RUNTIMES}:build_onnx_runtime", settings),
    ]


def _list_contenders(options: Options, batch: int, precision: str) -> list[Contender]:
    shared = {"work": options.work, "batch": batch, "precision": precision}

    def entry(name: str, role: Role, builder: str, **settings: object) -> Contender:
        return Contender(name, role, builder, {**shared, **settings})

    exported = f"{_OURS}:build_exported"
    if precision == "float32":
        contenders = [
            entry("leuko_tf, default --runtime", "ours", f"{_OURS}:build_runtime"),
            entry("leuko_tf, SavedModel", "variant", exported),
        ]
    else:
        contenders = [entry("leuko_tf, SavedModel", "ours", exported)]
    if not options.peers:
        return contenders
    torch = f"{_TORCH}:build_inference"
    contenders.append(entry("PyTorch compiled", "peer", torch, mode="compiled"))
    if not options.short:
        contenders += [
            entry("PyTorch eager", "peer", torch, mode="eager"),
            entry("PyTorch compiled, weights frozen", "peer", torch, mode="frozen"),
        ]
    contenders.append(entry("OpenVINO", "peer", f"{_RUNTIMES}:build_openvino"))
    if precision == "float32":  # ONNX Runtime has no bfloat16 on x86
        contenders.append(entry("ONNX Runtime", "peer", f"{_RUNTIMES}:build_onnx_runtime"))
    return contenders


STAGE = Stage(
    title="Inference on the CPU",
    unit="images/s",
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
