"""ONNX Runtime and OpenVINO, used directly."""

import os
from pathlib import Path

import numpy as np

from benchmarks.inference import ONNX, SIZE
from benchmarks.inference.asking import Answer, asked, with_scores
from benchmarks.worker import Work


def onnx_runtime(work: str, batch: int, precision: str, files: bool = False) -> Work:
    """ONNX Runtime on the CPU, float32.

    Args:
      work: folder of the preparation.
      batch: images a step.
      precision: `float32`.
      files: whether a step begins with PNG files.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _threads()
    session = onnxruntime.InferenceSession(
        str(Path(work, ONNX)), options, providers=["CPUExecutionProvider"]
    )

    def ask(images: np.ndarray) -> Answer:
        return with_scores(session.run(["probabilities"], {"images": images})[0])

    return asked(work, batch, precision, ask, files)


def openvino(work: str, batch: int, precision: str, files: bool = False) -> Work:
    """OpenVINO on the CPU.

    Args:
      work: folder of the preparation.
      batch: images a step; the shape is static.
      precision: `float32` or `bfloat16`.
      files: whether a step begins with PNG files.
    """
    from leuko_tf.network.runtimes import import_openvino

    core = import_openvino().Core()
    network = core.read_model(Path(work, ONNX))
    network.reshape([batch, SIZE, SIZE, 3])
    compiled = core.compile_model(
        network,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
            "INFERENCE_NUM_THREADS": _threads(),
        },
    )
    request = compiled.create_infer_request()

    def ask(images: np.ndarray) -> Answer:
        # The output belongs to the request, which overwrites it next time.
        return with_scores(np.array(request.infer([images])[0]))

    return asked(work, batch, precision, ask, files)


def _threads() -> int:
    return len(os.sched_getaffinity(0))
