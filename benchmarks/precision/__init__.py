"""What coarser numbers cost: float32, bfloat16 and int8 on the same real cells.

`python -m benchmarks.precision --model M --images FOLDER`: the ways of computing are
contenders in processes of their own (see `benchmarks`), which first answer all cells and then
race. This module lists them and imports nothing heavy; `ways` does the work, `comparison` counts.
"""

from pathlib import Path

from benchmarks.contenders import IMAGES_A_SECOND, OURS, PEER, VARIANT, Case, Contender, Stage

BATCH = 8  # images a step
SECONDS_A_TURN = 2.0

# Cells that the int8 ranges are taken from, and that are not measured: at most so many, and at
# most this share of the folder. NNCF takes 300 where it may; more changed nothing.
CALIBRATION, CALIBRATION_SHARE = 300, 0.25

# What the preparation writes.
CELLS, CALIBRATION_CELLS, LABELS, REFERENCE = (
    "cells.npy",
    "calibration.npy",
    "labels.npy",
    "reference.npy",
)

PEERS_NEED = ("openvino", "nncf")

_HERE = "benchmarks.precision.ways"


def preparation(work: Path, model: Path, images: Path) -> Contender:
    """Reads the folder of cells; its facts tell what it found."""
    settings = {"work": str(work), "model": str(model), "images": str(images)}
    return Contender("cells", OURS, f"{_HERE}:make_cells", settings, warm_up=0)


def case(work: Path, model: Path, size: int) -> Case:
    """All ways of computing the model's answers, float32 on TensorFlow first."""
    listed = [
        ("TensorFlow, float32", OURS, "tensorflow", {"precision": "float32"}),
        ("TensorFlow, bfloat16", VARIANT, "tensorflow", {"precision": "bfloat16"}),
        ("OpenVINO, float32", PEER, "openvino", {"precision": "float32"}),
        ("OpenVINO, bfloat16", PEER, "openvino", {"precision": "bfloat16"}),
        ("OpenVINO, int8", PEER, "openvino_int8", {}),
    ]
    contenders = []
    for name, role, function, more in listed:
        settings = {"work": str(work), "model": str(model), "file": answers_file(name), **more}
        contenders.append(Contender(name, role, f"{_HERE}:{function}", settings))
    return Case("", contenders, size=size, batch=BATCH, seconds=SECONDS_A_TURN)


def answers_file(name: str) -> str:
    """Where in the work folder a contender leaves its probabilities of all cells."""
    return "_".join("".join(c if c.isalnum() else " " for c in name).split()) + ".npy"


STAGE = Stage(
    title="What coarser numbers cost",
    unit=IMAGES_A_SECOND,
    remarks=(
        "The same network and the same cells everywhere, as uint8 at the network's size; what is "
        "compared with is the Keras model in float32. Answer: the class of the highest "
        "probability. Differences: of a cell, that of the class whose probability changed most.",
        f"Images a second: {BATCH} a step, decoded before; each way in a process of its own, in "
        "turns; speed is that over TensorFlow's float32 in the same round.",
        "TensorFlow: the network as it is exported, batch norms folded, in one graph; bfloat16 is "
        "the policy mixed_bfloat16 with the same weights, scaling and softmax in float32.",
        "OpenVINO: the network as `leuko_tf.network.runtimes` converts it, image after image. bfloat16 is "
        "its hint of inference precision. int8: NNCF's quantisation after training, its defaults "
        "but for the preset MIXED, which it recommends for activations that take negative values.",
    ),
    preparations=lambda options: [],
    cases=lambda options: [],
)
