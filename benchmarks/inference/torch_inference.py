"""The same network in PyTorch, and its ONNX file."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.inference import ONNX, SIZE, WEIGHTS
from benchmarks.inference.asking import Answer, asked, with_scores
from benchmarks.torch_peer import TENSORFLOW, Answering, load_keras_weights, resnext50
from benchmarks.worker import Work, prepared

OPSET = 17


def torch_network(work: str, batch: int, precision: str, mode: str) -> Work:
    """PyTorch itself.

    Args:
      work: folder of the preparation.
      batch: images a step.
      precision: `float32`, or `bfloat16` by autocast.
      mode: `eager`, `compiled`, or `frozen`: compiled with its weights as constants.
    """
    network = _network(work).to(memory_format=torch.channels_last)
    if mode == "frozen":
        torch._inductor.config.freezing = True
    run = network if mode == "eager" else torch.compile(network)

    def ask(images: np.ndarray) -> Answer:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            return with_scores(run(torch.from_numpy(images)).numpy())

    return asked(work, batch, precision, ask)


def make_onnx(work: str) -> Work:
    """Writes the network as `ONNX`: uint8 images [batch, 400, 400, 3] to probabilities."""
    example = torch.zeros((1, SIZE, SIZE, 3), dtype=torch.uint8)
    torch.onnx.export(
        _network(work),
        (example,),
        str(Path(work, ONNX)),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_axes={"images": {0: "batch"}, "probabilities": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs onnxscript, and writes the same operations
    )
    return prepared()


def _network(work: str) -> Answering:
    network = resnext50(TENSORFLOW)
    with np.load(Path(work, WEIGHTS)) as weights:
        load_keras_weights(network, weights)
    return Answering(network).eval()
