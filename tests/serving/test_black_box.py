"""Any server of an export, seen from outside by REST; and the local server's other doors."""

import base64
import http.client
import json
import re
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from certificates import write_certificates
from contract_export import NEWEST, OLDER
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from leuko_tf.classes import CODES
from serving.server.configs import ConfigError, read_batching, read_models, read_ssl

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60
METRICS = "/monitoring/prometheus/metrics"


def ask(url, document=None, context=None):
    """The HTTP status and the JSON of an answer to a GET, or with a document to a POST."""
    body = document if document is None or isinstance(document, bytes) else json.dumps(document)
    request = urllib.request.Request(url, body.encode() if isinstance(body, str) else body)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as response:
            assert response.headers["Content-Type"] == "application/json"
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture(scope="module")
def model(rest) -> str:
    return f"{rest}/v1/models/leuko"


@pytest.fixture
def contract(contract_address):
    """For tests that need `write_contract_export`'s model."""


@pytest.fixture(scope="module")
def png(image_files) -> dict[str, str]:
    return {"b64": base64.b64encode(image_files["a.png"].read_bytes()).decode()}


def _grpc_outputs(channel, signature, images):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "leuko"
    request.model_spec.signature_name = signature
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    response = stub.Predict(request, TIMEOUT_S)
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def _same(json_value, array):
    if np.asarray(array).dtype.kind in "OS":
        assert np.char.encode(json_value).tolist() == np.asarray(array, "S").tolist()
    else:
        np.testing.assert_allclose(json_value, array, atol=1e-6)


# Status and metadata.


def test_status(model):
    status, answer = ask(model)
    assert status == 200
    assert {"error_code": "OK", "error_message": ""} in [
        version["status"]
        for version in answer["model_version_status"]
        if version["state"] == "AVAILABLE"
    ]


@pytest.mark.parametrize(
    ("path", "version"),
    [
        (f"/versions/{OLDER}", OLDER),
        (f"/versions/{NEWEST}", NEWEST),
        ("/labels/stable", OLDER),
        ("/labels/canary", NEWEST),
    ],
)
def test_status_of_a_version(contract, model, path, version):
    status, answer = ask(model + path)
    (told,) = answer["model_version_status"]
    assert (status, told["version"], told["state"]) == (200, str(version), "AVAILABLE")


@pytest.mark.parametrize("path", ["", f"/versions/{OLDER}", "/labels/stable"])
def test_metadata(contract, model, path):
    status, answer = ask(f"{model}{path}/metadata")
    assert status == 200
    assert answer["model_spec"]["name"] == "leuko"
    assert answer["model_spec"]["version"] == str(OLDER if path else NEWEST)
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "encoded", "explain", "embed", "classify"}
    assert signatures["encoded"]["inputs"]["images"]["dtype"] == "DT_STRING"


# Predict and classify.


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
def test_rows_of_files(model, channel, png, image_files, signature):
    document = {"signature_name": signature, "instances": [png, {"images": png}]}
    status, _ = ask(f"{model}:predict", document)
    assert status == 400  # all of them named, or none
    document["instances"] = [png, png]
    status, answer = ask(f"{model}:predict", document)
    assert status == 200
    expected = _grpc_outputs(channel, signature, [image_files["a.png"].read_bytes()])
    for prediction in answer["predictions"]:
        assert set(prediction) == set(expected)
        for name, array in expected.items():
            _same(prediction[name], array[0])


@pytest.mark.parametrize("inputs", [lambda v: v, lambda v: {"images": v}], ids=["plain", "named"])
def test_columns_of_files(model, channel, png, image_files, inputs):
    document = {"signature_name": "encoded", "inputs": inputs([png, {"b64": ""}])}
    status, answer = ask(f"{model}:predict", document)
    assert status == 200
    expected = _grpc_outputs(channel, "encoded", [image_files["a.png"].read_bytes(), b""])
    assert set(answer["outputs"]) == set(expected)
    assert answer["outputs"]["valid"] == [True, False]
    for name, array in expected.items():
        _same(answer["outputs"][name], array)


@pytest.mark.parametrize("named", [False, True])
def test_rows_of_pixels(model, channel, pixels, named):
    images = np.stack([pixels, 255 - pixels])
    instances = [{"images": rows} if named else rows for rows in images.tolist()]
    status, answer = ask(f"{model}:predict", {"instances": instances})
    assert status == 200
    expected = _grpc_outputs(channel, "serving_default", images)
    for row, prediction in enumerate(answer["predictions"]):
        for name, array in expected.items():
            _same(prediction[name], array[row])


def test_floats_are_written_as_short_as_they_are(contract, model, pixels):
    document = {"instances": [np.zeros_like(pixels).tolist()]}
    _, answer = ask(f"{model}:predict", document)
    assert answer["predictions"][0]["probabilities"] == [0.06666667] * len(CODES)


@pytest.mark.parametrize("path", ["", f"/versions/{OLDER}", "/labels/canary"])
def test_classify(contract, model, png, path):
    document = {"signature_name": "classify", "examples": [{"image/encoded": png}] * 2}
    status, answer = ask(f"{model}{path}:classify", document)
    assert status == 200
    first, second = answer["results"]
    assert first == second
    labels, scores = zip(*first, strict=True)
    assert set(labels) == set(CODES)
    assert sum(scores) == pytest.approx(1, abs=1e-4)
    assert list(scores) == sorted(scores, reverse=True)


def test_classify_with_a_context(model, png):
    alone = {"signature_name": "classify", "examples": [{"image/encoded": png}]}
    shared = {"signature_name": "classify", "context": {"image/encoded": png}, "examples": [{}]}
    assert ask(f"{model}:classify", shared) == ask(f"{model}:classify", alone)


# Refusals.


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("nope", 404, "Could not find any versions of model nope"),
        ("leuko/versions/987654", 404, "Could not find version 987654 of model leuko"),
        ("leuko/labels/nope", 400, "Unrecognized servable version label: nope"),
        ("leuko/versions/new", 400, "Malformed request: GET /v1/models/leuko/versions/new"),
        ("leuko/nope", 400, "Malformed request: GET /v1/models/leuko/nope"),
        ("leuko:predict", 400, "Malformed request: GET /v1/models/leuko:predict"),
        ("leuko/versions/99999999999999999999", 400, "Failed to convert version"),
        ("leuko/versions/" + "9" * 5000, 400, "Failed to convert version"),
        ("nope/metadata", 404, "Servable not found for request: Latest(nope)"),
    ],
)
def test_a_look_at_what_is_not_there(rest, path, status, text):
    answer = ask(f"{rest}/v1/models/{path}")
    assert answer[0] == status
    assert text in answer[1]["error"]


INSTANCES = {"signature_name": "encoded", "instances": ["x"]}


@pytest.mark.parametrize(
    ("path", "document", "status", "text"),
    [
        ("nope:predict", INSTANCES, 404, "Servable not found for request: Latest(nope)"),
        ("leuko/versions/9:predict", INSTANCES, 404, "Specific(leuko, 9)"),
        ("leuko/labels/nope:predict", INSTANCES, 400, "Unrecognized servable version label: nope"),
        ("leuko:nope", INSTANCES, 400, "Malformed request: POST /v1/models/leuko:nope"),
        ("leuko", INSTANCES, 400, "Malformed request: POST /v1/models/leuko"),
        ("leuko:predict", b"", 400, "JSON Parse error: The document is empty"),
        ("leuko:predict", b"{", 400, "JSON Parse error"),
        ("leuko:predict", b"[" * 100_000, 400, ""),
        ("leuko:predict", b"\xff\xfe{", 400, "JSON Parse error"),
        ("leuko:predict", [], 400, "Is not object"),
        ("leuko:predict", {"signature_name": 1}, 400, "'signature_name' key must be a string"),
        ("leuko:predict", {}, 400, "Missing 'inputs' or 'instances' key"),
        ("leuko:predict", {"instances": [1], "inputs": [1]}, 400, "expecting only one of"),
        ("leuko:predict", {"instances": {}}, 400, "to be an list/array"),
        ("leuko:predict", {"instances": []}, 400, "No values in 'instances' array"),
        ("leuko:predict", {"inputs": {"more": 1}}, 400, "Missing named input: images"),
        ("leuko:predict", {"instances": [{"more": 1}]}, 400, "must be equal to: images"),
        (
            "leuko:predict",
            {"instances": ["x"], "signature_name": "nope"},
            400,
            'Serving signature name: "nope" not found in signature def',
        ),
        ("leuko:predict", {"instances": [[[["x"]]]]}, 400, 'JSON Value: "x" Type: String is not'),
        ("leuko:predict", {"instances": [[[[1.5]]]]}, 400, "is not of expected type: uint8"),
        ("leuko:predict", {"instances": [[[[True]]]]}, 400, "is not of expected type: uint8"),
        ("leuko:predict", {"instances": [[[[1]]], [[[1], [2]]]]}, 400, ""),
        ("leuko:predict", {"instances": [[[1, [2]]]]}, 400, ""),
        ("leuko:predict", {"instances": [1]}, 400, ""),
        (
            "leuko:predict",
            b'{"inputs": ' + b"[" * 300 + b"1" + b"]" * 300 + b"}",
            400,
            "more than 16 dimensions",
        ),
        ("leuko:predict", {**INSTANCES, "instances": [1]}, 400, "Type: Number is not of expected"),
        (
            "leuko:predict",
            {**INSTANCES, "instances": [{"b64": "%"}]},
            400,
            "Unable to base64 decode",
        ),
        ("leuko:classify", {"signature_name": "classify"}, 400, "key 'examples' is expected"),
        ("leuko:classify", {"examples": []}, 400, "'examples' value is an empty array"),
        ("leuko:classify", {"examples": [1]}, 400, "must be JSON object but got JSON Number"),
        ("leuko:classify", {"examples": [{"a": [1, "b"]}]}, 400, "Unexpected element type"),
    ],
)
def test_work_that_cannot_be_done_is_refused(rest, path, document, status, text):
    answer = ask(f"{rest}/v1/models/{path}", document)
    assert answer[0] == status
    assert text in answer[1]["error"]


def test_regress_is_left_out(contract, model):
    assert ask(f"{model}:regress", {"examples": [{}]})[0] == 501


@pytest.mark.parametrize("length", [str(2**30), "9" * 5000])
def test_a_body_above_the_limit_is_not_read(contract, server, length):
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"))
    connection.putrequest("POST", "/v1/models/leuko:predict")
    connection.putheader("Content-Length", length)
    connection.endheaders()
    response = connection.getresponse()
    assert response.status == 429
    assert "larger than max" in json.load(response)["error"]
    connection.close()


def test_connections_are_kept(contract, server):
    connection = http.client.HTTPConnection(server.rest.removeprefix("http://"))
    for _ in range(3):
        connection.request("GET", "/v1/models/leuko")
        assert json.load(connection.getresponse())["model_version_status"]
    connection.close()


# Metrics.


def _count(rest, **labels):
    with urllib.request.urlopen(rest + METRICS, timeout=TIMEOUT_S) as page:
        lines = page.read().decode().splitlines()
    total = 0
    for line in lines:
        match = re.fullmatch(r":tensorflow:serving:request_count\{(.*)\} (\d+)", line)
        if match and all(f'{name}="{value}"' in match[1] for name, value in labels.items()):
            total += int(match[2])
    return total


def test_metrics_count_requests(rest, model, png):
    before = _count(rest, model_name="leuko", status="OK")
    for _ in range(3):
        ask(f"{model}:predict", {"signature_name": "encoded", "instances": [png]})
    assert _count(rest, model_name="leuko", status="OK") >= before + 3


def test_metrics_tell_signatures_and_errors_apart(contract, rest, model, png):
    labels = {"model_name": "leuko", "signature": "embed"}
    good, bad = (_count(rest, **labels, status=s) for s in ("OK", "INVALID_ARGUMENT"))
    ask(f"{model}:predict", {"signature_name": "embed", "instances": [png]})
    ask(f"{model}:predict", {"signature_name": "embed", "instances": [1]})
    assert _count(rest, **labels, status="OK") == good + 1
    assert _count(rest, **labels, status="INVALID_ARGUMENT") == bad + 1


def test_metrics_are_well_formed_and_bounded(contract, rest):
    for number in range(3):
        ask(f"{rest}/v1/models/made-up-{number}:predict", INSTANCES)
        ask(f"{rest}/v1/models/leuko:predict", {"signature_name": f"made-up-{number}"})
    with urllib.request.urlopen(rest + METRICS, timeout=TIMEOUT_S) as page:
        text = page.read().decode()
    assert "made-up" not in text
    sample = re.compile(r'[:a-z_]+\{(?:[A-Za-z_]+="[^"]*",?)+\} \d+')
    for line in text.splitlines():
        assert line.startswith("# TYPE :tensorflow:serving:") or sample.fullmatch(line)
    buckets = re.findall(
        r'_bucket\{model_name="leuko",API="Predict",entrypoint="REST",le="(.*)"\} (\d+)', text
    )
    counts = [int(count) for _, count in buckets]
    assert counts == sorted(counts)
    assert buckets[-1][0] == "+Inf"


# Health, reflection, the socket.


@pytest.mark.parametrize(
    "service",
    ["", "tensorflow.serving.PredictionService", "tensorflow.serving.ModelService"],
)
def test_health(contract, channel, service):
    stub = health_pb2_grpc.HealthStub(channel)
    answer = stub.Check(health_pb2.HealthCheckRequest(service=service), TIMEOUT_S)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_health_of_an_unknown_service(contract, channel):
    stub = health_pb2_grpc.HealthStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.Check(health_pb2.HealthCheckRequest(service="nope"), TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_reflection_lists_the_services(contract, channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(asked, timeout=TIMEOUT_S)
    assert {service.name for service in answer.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }


def test_the_unix_socket(contract, server, socket_path, pixels):
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        outputs = _grpc_outputs(channel, "serving_default", pixels[None])
    assert outputs["probabilities"].shape == (1, len(CODES))


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    write_certificates(folder)
    return folder


@pytest.fixture(scope="module")
def ssl_config(certificates) -> str:
    parts = {"server_key": "server.key", "server_cert": "server.pem", "custom_ca": "ca.pem"}
    lines = [f"{key}: {json.dumps((certificates / f).read_text())}" for key, f in parts.items()]
    return "\n".join([*lines, "client_verify: true"])


@pytest.fixture(scope="module")
def encrypted(start_server, export_base, ssl_config, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "ssl.config"
    file.write_text(ssl_config)
    with start_server("--model-base-path", export_base, "--ssl-config-file", file) as server:
        yield server


def _credentials(folder, *, certificate):
    pair = {}
    if certificate:
        pair = {
            "private_key": (folder / "client.key").read_bytes(),
            "certificate_chain": (folder / "client.pem").read_bytes(),
        }
    return grpc.ssl_channel_credentials((folder / "ca.pem").read_bytes(), **pair)


def test_grpc_with_a_certificate(encrypted, certificates, pixels):
    credentials = _credentials(certificates, certificate=True)
    with grpc.secure_channel(encrypted.address, credentials) as channel:
        outputs = _grpc_outputs(channel, "serving_default", pixels[None])
    assert outputs["probabilities"].shape == (1, len(CODES))


@pytest.mark.parametrize("encryption", [False, True])
def test_grpc_without_a_certificate_is_refused(encrypted, certificates, pixels, encryption):
    if encryption:
        credentials = _credentials(certificates, certificate=False)
        channel = grpc.secure_channel(encrypted.address, credentials)
    else:
        channel = grpc.insecure_channel(encrypted.address)
    with channel, pytest.raises(grpc.RpcError) as caught:
        _grpc_outputs(channel, "serving_default", pixels[None])
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_rest_with_and_without_a_certificate(encrypted, certificates):
    assert encrypted.rest.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    url = f"{encrypted.rest}/v1/models/leuko"
    with pytest.raises(OSError, match=r"(?i)certificate|reset|closed|EOF|broken"):
        ask(url, context=context)
    with pytest.raises(OSError, match=r"(?i)reset|closed|EOF|broken|disconnected|BadStatus"):
        ask(url.replace("https:", "http:"))
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    assert ask(url, context=context)[0] == 200


# Bad configuration.


@pytest.mark.parametrize(
    ("read", "text", "part"),
    [
        (read_models, "model_config_list {", "is no ModelServerConfig in text form"),
        (read_models, "models {}", 'no field named "models"'),
        (read_models, "custom_model_config {}", "Only ModelConfigList is currently supported"),
        (
            read_models,
            'model_config_list { config { name: "a" model_platform: "tensorflow" } }',
            "needs a name and a base_path",
        ),
        (
            read_models,
            'model_config_list { config { name: "a" base_path: "b" model_platform: "torch" } }',
            'Received: "torch"',
        ),
        (
            read_models,
            "model_config_list {"
            + 2 * 'config { name: "a" base_path: "b" model_platform: "tensorflow" }'
            + "}",
            "Illegal to list model a multiple times in config list",
        ),
        (
            read_models,
            'model_config_list { config { name: "a" base_path: "b" model_platform: "tensorflow"'
            " model_version_policy { specific {} } } }",
            "names no version",
        ),
        (read_batching, "max_batch_size { value: 0 }", "max_batch_size must be positive"),
        (read_batching, "pad_variable_length_inputs: true", "pad_variable_length_inputs"),
        (
            read_batching,
            "max_batch_size { value: 4 } allowed_batch_sizes: [1, 2]",
            "must rise and end with max_batch_size (4)",
        ),
        (read_ssl, 'server_key: "x"', "server_key and server_cert are needed"),
        (
            read_ssl,
            'server_key: "x" server_cert: "y" client_verify: true',
            "client_verify needs custom_ca",
        ),
    ],
)
def test_a_bad_file_is_explained(tmp_path, read, text, part):
    file = tmp_path / "a.config"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert part in str(caught.value)
    with pytest.raises(ConfigError, match="Cannot read"):
        read(tmp_path / "missing")


def test_the_projects_own_files_are_read():
    config = ROOT / "serving" / "config"
    assert read_batching(config / "batching.config").max_batch_size >= 16
    assert read_models(config / "models.config")[0].name == "leuko"


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--model-config-file", "FILE"], "lists no model"),
        (["--model-base-path", "BASE", "--ssl-config-file", "FILE"], "server_key and server_cert"),
        (["--model-base-path", "BASE", "--ssl-config-file", "BAD"], "do not hold"),
    ],
)
def test_a_server_does_not_start_on_a_bad_file(export_base, tmp_path, options, part):
    (tmp_path / "FILE").write_text("model_config_list {}" if "lists" in part else "")
    (tmp_path / "BAD").write_text('server_key: "x" server_cert: "y"')
    places = {"BASE": export_base, "FILE": tmp_path / "FILE", "BAD": tmp_path / "BAD"}
    words = [str(places.get(option, option)) for option in options]
    result = subprocess.run(
        [sys.executable, "-m", "serving.local_server", *words, "--port", "0"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("serving.local_server: ")
    assert part in line
