"""Malformed requests: the server answers each of them, keeps running and does not grow."""

import base64
import collections
import http.client
import json
from pathlib import Path

import grpc
import hypothesis
import pytest
import tensorflow as tf
from calls import TIMEOUT_S, ask_rest, check_refusal, make_request
from hypothesis import strategies as st
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import classification_pb2

from serving.server.servable import MAX_ROWS

COUNT = 1000
WARM_UP = 300
# The request was answered, or the code says that it is wrong.
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,  # from gRPC itself, for bytes that are not a message
    grpc.StatusCode.UNKNOWN,  # also from gRPC
}
METHODS = [
    "PredictionService/Predict",
    "PredictionService/Classify",
    "PredictionService/GetModelMetadata",
    "ModelService/GetModelStatus",
    "ModelService/HandleReloadConfigRequest",
]
SIGNATURES = ["serving_default", "encoded", "explain", "embed", "classify", "nope", ""]


def _make_predict_request(signature, tensor):
    request = make_request(signature=signature)
    request.inputs["inputs" if signature == "classify" else "images"].CopyFrom(tensor)
    return request


def _make_classify_request():
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "leuko"
    request.model_spec.signature_name = "classify"
    return request


def _break(draw, whole: bytes) -> bytes:
    """Cuts the bytes off or changes some of them."""
    cut = draw(st.integers(0, len(whole)))
    if draw(st.booleans()):
        return whole[:cut]
    return whole[:cut] + draw(st.binary(max_size=8)) + whole[cut + draw(st.integers(0, 8)) :]


@st.composite
def _calls(draw, images):
    """Draws a method and the bytes to send to it."""
    kind = draw(st.sampled_from(["noise", "tensor", "image", "message", "example"]))
    if kind == "noise":
        return draw(st.sampled_from(METHODS)), draw(st.binary(max_size=200))
    image = _break(draw, draw(st.sampled_from(images)))
    if kind == "example":
        request = _make_classify_request()
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(image)
        return METHODS[1], request.SerializeToString()
    signature = draw(st.sampled_from(SIGNATURES))
    if kind == "tensor":
        sizes = st.lists(st.integers(-1, 5) | st.sampled_from([2**20, 2**40, 2**62]), max_size=5)
        tensor = tensor_pb2.TensorProto(  # type, shape and values need not fit each other
            dtype=draw(st.integers(0, 30) | st.integers(100, 130)),
            tensor_shape={"dim": [{"size": size} for size in draw(sizes)]},
            tensor_content=draw(st.binary(max_size=64)),
            int_val=draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
        )
        return METHODS[0], _make_predict_request(signature, tensor).SerializeToString()
    tensor = tf.make_tensor_proto([image] * draw(st.integers(0, 3)), tf.string)
    whole = _make_predict_request(signature, tensor).SerializeToString()
    return METHODS[0], _break(draw, whole) if kind == "message" else whole


def _read_resident_kb(server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


def _settings(count):
    checks = list(hypothesis.HealthCheck)
    return hypothesis.settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=checks
    )


@pytest.fixture(scope="module")
def images(image_files) -> list[bytes]:
    huge = bytearray(image_files["a.png"].read_bytes())
    huge[16:24] = bytes.fromhex("0010000000100000")  # its header says 2^20 x 2^20 pixels
    return [*(image_files[name].read_bytes() for name in ("a.png", "d.jpg")), bytes(huge)]


def test_nonsense_by_grpc(contract_address, channel, server, images):
    codes = collections.Counter()

    def send(count):
        @_settings(count)
        @hypothesis.seed(count)
        @hypothesis.given(_calls(images))
        def ask(call):
            method, request = call
            stub = channel.unary_unary(f"/tensorflow.serving.{method}")
            code = stub.future(request, TIMEOUT_S).code()
            assert code in EXPECTED
            codes[code] += 1

        ask()

    good = make_request(images[:2], "encoded").SerializeToString()
    predict = channel.unary_unary(f"/tensorflow.serving.{METHODS[0]}")
    expected = predict(good, TIMEOUT_S)
    send(WARM_UP)
    before = _read_resident_kb(server)
    send(COUNT)
    assert _read_resident_kb(server) == pytest.approx(before, rel=0.05)
    assert predict(good, TIMEOUT_S) == expected
    assert server.process.poll() is None
    assert codes.total() >= WARM_UP + COUNT
    assert len(codes) > 3  # they fail in several ways


@pytest.mark.parametrize("values", [1, MAX_ROWS + 1])
def test_too_many_rows_are_refused(contract_address, prediction, values):
    request = make_request([b""] * values, "encoded")
    request.inputs["images"].tensor_shape.dim[0].size = MAX_ROWS + 1
    code = grpc.StatusCode.INVALID_ARGUMENT
    check_refusal(prediction.Predict, request, code, "images", str(MAX_ROWS + 1), str(MAX_ROWS))


@pytest.mark.parametrize(
    ("action", "document", "name"),
    [
        ("predict", {"signature_name": "encoded", "instances": [""]}, "images"),
        ("classify", {"signature_name": "classify", "examples": [{}]}, "inputs"),
    ],
)
def test_too_many_rows_by_rest_are_refused(contract_address, server, action, document, name):
    rows = {k: v * (MAX_ROWS + 1) if isinstance(v, list) else v for k, v in document.items()}
    status, answer = ask_rest(f"{server.rest}/v1/models/leuko:{action}", rows)
    assert status == 400
    assert f"{name} has {MAX_ROWS + 1} rows" in answer["error"]


def test_few_bytes_that_stand_for_many_are_refused(contract_address, prediction):
    request = make_request([bytes(2**20)], "encoded")
    request.inputs["images"].tensor_shape.dim[0].size = MAX_ROWS
    code = grpc.StatusCode.INVALID_ARGUMENT
    check_refusal(prediction.Predict, request, code, "images", str(2**26))

    request = _make_classify_request()
    examples = request.input.example_list_with_context
    examples.context.features.feature["x"].bytes_list.value.append(bytes(2**20))
    for _ in range(MAX_ROWS):
        examples.examples.add()
    check_refusal(prediction.Classify, request, code, "inputs", str(2**26))


def test_nonsense_by_rest(contract_address, server, images):
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"))
    path = "/v1/models/leuko:predict"
    values = st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(max_size=8)
        | st.sampled_from([{"b64": base64.b64encode(image).decode()} for image in images]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["images", "b64", "more"]), inner, max_size=2)
        ),
        max_leaves=10,
    )
    documents = st.dictionaries(
        st.sampled_from(["instances", "inputs", "signature_name", "examples"]),
        values | st.sampled_from(SIGNATURES),
        max_size=3,
    )

    @_settings(300)
    @hypothesis.seed(0)
    @hypothesis.given(documents.map(json.dumps) | st.text(max_size=50))
    def ask(text):
        connection.request("POST", path, text.encode())
        response = connection.getresponse()
        answer = json.load(response)
        assert response.status in (200, 400)
        assert ("error" in answer) == (response.status == 400)

    ask()
    connection.close()
