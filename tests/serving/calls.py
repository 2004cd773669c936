"""Calls a server under test by gRPC and REST."""

import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow_serving.apis import get_model_status_pb2, predict_pb2

TIMEOUT_S = 60


def make_request(
    values: Any = None,
    signature: str = "",
    name: str = "leuko",
    *,
    input: str = "images",
    version: int | None = None,
    label: str | None = None,
) -> predict_pb2.PredictRequest:
    """Makes a PredictRequest with the values, such as images, as its input; None: without."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    if values is not None:
        request.inputs[input].CopyFrom(tf.make_tensor_proto(values))
    return request


def make_telling_request(*strings: bytes, name: str = "telling", **spec: Any) -> Any:
    """Makes a PredictRequest to a TellingModel's default signature, one row per string."""
    return make_request(np.array(strings, object), name=name, input="names", **spec)


def to_arrays(response: predict_pb2.PredictResponse) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def ask_version(prediction: Any, rows: int = 1, **spec: Any) -> int:
    """Returns the version of a TellingModel that answers; fails if the answer mixes versions."""
    response = prediction.Predict(make_telling_request(*[b"a"] * rows, **spec), TIMEOUT_S)
    outputs = to_arrays(response)
    assert len(outputs["version"]) == rows
    (version,) = {*outputs["version"], *outputs["again"], response.model_spec.version.value}
    return version


def ask_statuses(models: Any, name: str = "leuko", **spec: Any) -> list[Any]:
    """Returns the ModelVersionStatus of a model's versions."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.CopyFrom(make_request(name=name, **spec).model_spec)
    return list(models.GetModelStatus(request, TIMEOUT_S).model_version_status)


def check_refusal(
    call: Callable[[Any, float], Any], request: Any, code: grpc.StatusCode, *words: str
) -> None:
    """Asserts that a call fails with this code and a message that contains these words.

    Servers word their messages differently: `words` are names and numbers.
    """
    with pytest.raises(grpc.RpcError) as caught:
        call(request, TIMEOUT_S)
    assert caught.value.code() == code
    for word in words:
        assert word in caught.value.details()


def ask_rest(url: str, document: Any = None, context: Any = None) -> tuple[int, Any]:
    """Returns HTTP status and JSON of the answer to a GET, or with a document to a POST."""
    body = document if document is None or isinstance(document, bytes) else json.dumps(document)
    request = urllib.request.Request(url, body.encode() if isinstance(body, str) else body)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encode_png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
