"""ONNX Runtime and OpenVINO, used directly on the CPU. Their modules need no TensorFlow."""

from pathlib import Path

import numpy as np

from benchmarks.builders.answers import Answer, add_scores, build_asking
from benchmarks.machine import count_cores
from benchmarks.stages.inference import ONNX, SIZE
from benchmarks.worker import Work


def build_onnx_runtime(work: str, batch: int, precision: str, files: bool = False) -> Work:
    """ONNX Runtime; float32."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = count_cores()
    session = onnxruntime.InferenceSession(
        str(Path(work, ONNX)), options, providers=["CPUExecutionProvider"]
    )

    def ask(images: np.ndarray) -> Answer:
        return add_scores(session.run(["probabilities"], {"images": images})[0])

    return build_asking(work, batch, precision, ask, files)


def build_openvino(work: str, batch: int, precision: str, files: bool = False) -> Work:
    """OpenVINO with a static shape."""
    from leuko_tf.network.runtimes import import_openvino

    core = import_openvino().Core()
    network = core.read_model(Path(work, ONNX))
    network.reshape([batch, SIZE, SIZE, 3])
    hints = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": count_cores(),
    }
    request = core.compile_model(network, "CPU", hints).create_infer_request()

    def ask(images: np.ndarray) -> Answer:
        # The output belongs to the request, which overwrites it next time.
        return add_scores(np.array(request.infer([images])[0]))

    return build_asking(work, batch, precision, ask, files)
