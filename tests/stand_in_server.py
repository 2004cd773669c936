"""A server that answers like an export, without a model, and fails on request.

python tests/stand_in_server.py    # prints its address, and answers until it is killed
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np

from serving.messages import PredictRequest, PredictResponse, to_array, to_tensor

CLASSES = (b"LYT", b"MYO", b"NGS")
VERSION = 7
SIDE = 4  # of the saliency maps


@dataclass
class StandIn:
    """What the server does, and the requests that it received.

    Attributes:
      address: `HOST:PORT`.
      failures: codes with which the next requests fail, in turn.
      always: code with which all others fail.
      problems: image to the reason why it is marked as invalid.
      outputs: replaces the outputs of every answer, by name.
      remark: part of every answer.
      leaves_out: names of outputs to omit.
      before_answer: called with the images of each request.
      requests: all requests received.
    """

    address: str = ""
    failures: list[grpc.StatusCode] = field(default_factory=list)
    always: grpc.StatusCode | None = None
    problems: dict[bytes, str] = field(default_factory=dict)
    outputs: dict[str, Any] | None = None
    remark: bytes = b""
    leaves_out: tuple[str, ...] = ()
    before_answer: Callable[[list], object] = lambda images: None
    requests: list[Any] = field(default_factory=list)

    def predict(self, request: Any, context: Any) -> Any:
        self.requests.append(request)
        code = self.failures.pop(0) if self.failures else self.always
        if code:
            context.abort(code, "as it was told")
        images = list(to_array(request.inputs["images"]))
        self.before_answer(images)
        outputs = self.outputs
        if outputs is None:
            outputs = self._make_outputs(images, request.model_spec.signature_name)
        response = PredictResponse(
            outputs={k: to_tensor(v) for k, v in outputs.items() if k not in self.leaves_out}
        )
        if "classes" in response.outputs and self.outputs is None:
            shape = response.outputs["classes"].tensor_shape
            del shape.dim[:]
            shape.dim.add(size=len(images))
            shape.dim.add(size=len(CLASSES))
        response.model_spec.version.value = VERSION
        return response

    def _make_outputs(self, images: list, signature: str) -> dict[str, Any]:
        """The blast score is the image's first byte, scaled to 0 to 1."""
        n = len(images)
        texts = [self.problems.get(image, "") if self.problems else "" for image in images]
        first = [image[0] if isinstance(image, bytes) else image.flat[0] for image in images]
        outputs = {
            "probabilities": np.tile(np.array([0.25, 0.625, 0.125], np.float32), (n, 1)),
            "classes": [b"MYO", b"LYT", b"NGS"] * n,
            "blast_score": np.array(first, np.float32) / 255,
            "atypical_score": np.full(n, 0.75, np.float32),
            "valid": np.array([not text for text in texts]),
            "problem": [text.encode() for text in texts],
            "remark": [self.remark] * n,
        }
        if signature == "explain":
            one = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE) * 17
            outputs["saliency"] = np.tile(one, (n, 1, 1))
            outputs["field"] = np.full(n, 6, np.int32)
        return outputs


@contextmanager
def start_stand_in(
    port: int = 0, credentials: Any = None, options: tuple = ()
) -> Iterator[StandIn]:
    """Starts the server on a local port, by default a free one, and stops it at the end."""
    stand_in = StandIn()
    handler = grpc.unary_unary_rpc_method_handler(
        stand_in.predict, PredictRequest.FromString, PredictResponse.SerializeToString
    )
    service = grpc.method_handlers_generic_handler(
        "tensorflow.serving.PredictionService", {"Predict": handler}
    )
    limits = options or (("grpc.max_receive_message_length", -1),)
    server = grpc.server(futures.ThreadPoolExecutor(8), (service,), options=limits)
    if credentials:
        port = server.add_secure_port(f"127.0.0.1:{port}", credentials)
    else:
        port = server.add_insecure_port(f"127.0.0.1:{port}")
    stand_in.address = f"127.0.0.1:{port}"
    server.start()
    try:
        yield stand_in
    finally:
        server.stop(None).wait()


if __name__ == "__main__":
    with start_stand_in() as stand_in:
        stand_in.before_answer = lambda images: time.sleep(0.02)
        print(stand_in.address, flush=True)
        threading.Event().wait()
