"""A thousand requests that make no sense: the server answers each, stays up and keeps its size."""

import base64
import collections
import http.client
import json
from pathlib import Path

import grpc
import hypothesis
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from tensorflow_serving.apis import classification_pb2, predict_pb2
from test_black_box import ask as rest_ask

from serving.server.servable import MAX_ROWS

TIMEOUT_S = 60
COUNT = 1000
WARM_UP = 300
# Codes that say "your request is wrong", or that it was answered in spite of all.
EXPECTED = {
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.INTERNAL,  # of gRPC itself, for bytes that are no message
    grpc.StatusCode.UNKNOWN,  # likewise
}
METHODS = [
    "PredictionService/Predict",
    "PredictionService/Classify",
    "PredictionService/GetModelMetadata",
    "ModelService/GetModelStatus",
    "ModelService/HandleReloadConfigRequest",
]
SIGNATURES = ["serving_default", "encoded", "explain", "embed", "classify", "nope", ""]


def _predict(signature, tensor):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "leuko"
    request.model_spec.signature_name = signature
    request.inputs["inputs" if signature == "classify" else "images"].CopyFrom(tensor)
    return request.SerializeToString()


def _classify(image):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "leuko"
    request.model_spec.signature_name = "classify"
    example = request.input.example_list.examples.add()
    example.features.feature["image/encoded"].bytes_list.value.append(image)
    return request.SerializeToString()


def _tensor(dtype, sizes, content, numbers):
    """A TensorProto whose type, shape and values need not fit each other."""
    tensor = tf.make_tensor_proto(0.0)
    tensor.Clear()
    tensor.dtype = dtype
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = content
    tensor.int_val.extend(numbers)
    return tensor


def _broken(draw, whole: bytes) -> bytes:
    """The bytes cut off, or with some of them changed."""
    cut = draw(st.integers(0, len(whole)))
    if draw(st.booleans()):
        return whole[:cut]
    return whole[:cut] + draw(st.binary(max_size=8)) + whole[cut + draw(st.integers(0, 8)) :]


@st.composite
def _calls(draw, images):
    """A method and the bytes that it is sent."""
    kind = draw(st.sampled_from(["noise", "tensor", "image", "message", "example"]))
    if kind == "noise":
        return draw(st.sampled_from(METHODS)), draw(st.binary(max_size=200))
    image = _broken(draw, draw(st.sampled_from(images)))
    if kind == "example":
        return METHODS[1], _classify(image)
    signature = draw(st.sampled_from(SIGNATURES))
    if kind == "tensor":
        sizes = st.lists(st.integers(-1, 5) | st.sampled_from([2**20, 2**40, 2**62]), max_size=5)
        tensor = _tensor(
            draw(st.integers(0, 30) | st.integers(100, 130)),
            draw(sizes),
            draw(st.binary(max_size=64)),
            draw(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=4)),
        )
        return METHODS[0], _predict(signature, tensor)
    whole = _predict(signature, tf.make_tensor_proto([image] * draw(st.integers(0, 3)), tf.string))
    return METHODS[0], _broken(draw, whole) if kind == "message" else whole


def _resident_kb(server) -> int:
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


@pytest.fixture(scope="module")
def images(image_files) -> list[bytes]:
    huge = bytearray(image_files["a.png"].read_bytes())
    huge[16:24] = bytes.fromhex("0010000000100000")  # 2^20 x 2^20 pixels, says its header
    return [*(image_files[name].read_bytes() for name in ("a.png", "d.jpg")), bytes(huge)]


def test_nonsense_by_grpc(contract_address, channel, server, images):
    codes = collections.Counter()

    def send(count):
        @hypothesis.settings(
            max_examples=count,
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.seed(count)
        @hypothesis.given(_calls(images))
        def ask(call):
            method, request = call
            stub = channel.unary_unary(f"/tensorflow.serving.{method}")
            code = stub.future(request, TIMEOUT_S).code()
            assert code in EXPECTED
            codes[code] += 1

        ask()

    good = _predict("encoded", tf.make_tensor_proto(images[:2]))
    predict = channel.unary_unary(f"/tensorflow.serving.{METHODS[0]}")
    expected = predict(good, TIMEOUT_S)
    send(WARM_UP)
    before = _resident_kb(server)
    send(COUNT)
    assert _resident_kb(server) == pytest.approx(before, rel=0.05)
    assert predict(good, TIMEOUT_S) == expected
    assert server.process.poll() is None
    assert codes.total() >= WARM_UP + COUNT
    assert len(codes) > 3  # not all of them fail in one way
    print(codes, before, _resident_kb(server))


def _refusal(channel, method, request):
    stub = channel.unary_unary(f"/tensorflow.serving.PredictionService/{method}")
    error = stub.future(request, TIMEOUT_S).exception()
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    return error.details()


@pytest.mark.parametrize("values", [1, MAX_ROWS + 1])
def test_too_many_rows_are_refused(contract_address, channel, values):
    tensor = tf.make_tensor_proto([b""] * values)
    tensor.tensor_shape.dim[0].size = MAX_ROWS + 1
    text = f"{MAX_ROWS + 1} rows in images: at most {MAX_ROWS} in a request"
    assert _refusal(channel, "Predict", _predict("encoded", tensor)) == text


def test_too_many_rows_by_rest_are_refused(contract_address, server):
    document = {"signature_name": "encoded", "instances": [""] * (MAX_ROWS + 1)}
    status, answer = rest_ask(f"{server.rest}/v1/models/leuko:predict", document)
    assert (status, answer["error"][:18]) == (400, f"{MAX_ROWS + 1} rows in images")
    document = {"signature_name": "classify", "examples": [{}] * (MAX_ROWS + 1)}
    status, answer = rest_ask(f"{server.rest}/v1/models/leuko:classify", document)
    assert (status, answer["error"][:18]) == (400, f"{MAX_ROWS + 1} rows in inputs")


def test_few_bytes_that_stand_for_many_are_refused(contract_address, channel):
    tensor = tf.make_tensor_proto([bytes(2**20)])
    tensor.tensor_shape.dim[0].size = MAX_ROWS
    text = f"tensor of more than {2**26} bytes: images"
    assert _refusal(channel, "Predict", _predict("encoded", tensor)) == text

    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = "leuko"
    request.model_spec.signature_name = "classify"
    examples = request.input.example_list_with_context
    examples.context.features.feature["x"].bytes_list.value.append(bytes(2**20))
    for _ in range(MAX_ROWS):
        examples.examples.add()
    text = f"tensor of more than {2**26} bytes: inputs"
    assert _refusal(channel, "Classify", request.SerializeToString()) == text


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

    @hypothesis.settings(
        max_examples=300,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
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
