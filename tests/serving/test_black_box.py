"""Any server of an export over REST; the local server's metrics, health, socket, TLS and files."""

import base64
import http.client
import json
import re
import ssl
import urllib.request

import grpc
import numpy as np
import pytest
from calls import TIMEOUT_S, ask_rest, check_refusal, make_request, to_arrays
from contract_export import NEWEST, OLDER
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from running import ROOT
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from serving.connection import Tls, open_channel
from serving.server.configs import read_batching, read_models, read_ssl
from serving.ssl_config import write_ssl_config

METRICS = "/monitoring/prometheus/metrics"


@pytest.fixture(scope="module")
def model(rest) -> str:
    return f"{rest}/v1/models/leuko"


@pytest.fixture
def contract(contract_address):
    """For tests that need `write_contract_export`'s model."""


@pytest.fixture(scope="module")
def png(image_files) -> dict[str, str]:
    return {"b64": base64.b64encode(image_files["a.png"].read_bytes()).decode()}


def _ask_grpc(channel, signature, images):
    request = make_request(images, signature)
    return to_arrays(PredictionServiceStub(channel).Predict(request, TIMEOUT_S))


def _check_same(json_value, array):
    if np.asarray(array).dtype.kind in "OS":
        assert np.char.encode(json_value).tolist() == np.asarray(array, "S").tolist()
    else:
        np.testing.assert_allclose(json_value, array, atol=1e-6)


# Status and metadata.


def test_status(model):
    status, answer = ask_rest(model)
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
    status, answer = ask_rest(model + path)
    (only,) = answer["model_version_status"]
    assert (status, only["version"], only["state"]) == (200, str(version), "AVAILABLE")


@pytest.mark.parametrize("path", ["", f"/versions/{OLDER}", "/labels/stable"])
def test_metadata(contract, model, path):
    status, answer = ask_rest(f"{model}{path}/metadata")
    assert status == 200
    assert answer["model_spec"]["name"] == "leuko"
    assert answer["model_spec"]["version"] == str(OLDER if path else NEWEST)
    signatures = answer["metadata"]["signature_def"]["signature_def"]
    assert set(signatures) == {"serving_default", "encoded", "explain", "embed", "classify"}
    assert signatures["encoded"]["inputs"]["images"]["dtype"] == "DT_STRING"


# Predict and classify.


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
def test_rows_of_files(model, channel, png, image_files, signature):
    document = {"signature_name": signature, "instances": [png, png]}
    status, answer = ask_rest(f"{model}:predict", document)
    assert status == 200
    expected = _ask_grpc(channel, signature, [image_files["a.png"].read_bytes()])
    for prediction in answer["predictions"]:
        assert set(prediction) == set(expected)
        for name, array in expected.items():
            _check_same(prediction[name], array[0])


@pytest.mark.parametrize("inputs", [lambda v: v, lambda v: {"images": v}], ids=["plain", "named"])
def test_columns_of_files(model, channel, png, image_files, inputs):
    document = {"signature_name": "encoded", "inputs": inputs([png, {"b64": ""}])}
    status, answer = ask_rest(f"{model}:predict", document)
    assert status == 200
    expected = _ask_grpc(channel, "encoded", [image_files["a.png"].read_bytes(), b""])
    assert set(answer["outputs"]) == set(expected)
    assert answer["outputs"]["valid"] == [True, False]
    for name, array in expected.items():
        _check_same(answer["outputs"][name], array)


@pytest.mark.parametrize("named", [False, True])
def test_rows_of_pixels(model, channel, pixels, named):
    images = np.stack([pixels, 255 - pixels])
    instances = [{"images": rows} if named else rows for rows in images.tolist()]
    status, answer = ask_rest(f"{model}:predict", {"instances": instances})
    assert status == 200
    expected = _ask_grpc(channel, "serving_default", images)
    for row, prediction in enumerate(answer["predictions"]):
        for name, array in expected.items():
            _check_same(prediction[name], array[row])


def test_floats_are_written_as_short_as_they_are(contract, model, pixels):
    document = {"instances": [np.zeros_like(pixels).tolist()]}
    _, answer = ask_rest(f"{model}:predict", document)
    assert answer["predictions"][0]["probabilities"] == [0.06666667] * len(CODES)


@pytest.mark.parametrize("path", ["", f"/versions/{OLDER}", "/labels/canary"])
def test_classify(contract, model, png, path):
    document = {"signature_name": "classify", "examples": [{"image/encoded": png}] * 2}
    status, answer = ask_rest(f"{model}{path}:classify", document)
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
    assert ask_rest(f"{model}:classify", shared) == ask_rest(f"{model}:classify", alone)


# Refusals.


INSTANCES = {"signature_name": "encoded", "instances": ["x"]}
PNG = {"b64": "iVBORw=="}


@pytest.mark.parametrize(
    ("path", "document", "status", "word"),
    [
        ("nope", None, 404, "nope"),
        ("nope/metadata", None, 404, "nope"),
        ("leuko/versions/987654", None, 404, "987654"),
        ("leuko/labels/nope", None, 400, "version label: nope"),
        ("leuko/versions/new", None, 400, "GET /v1/models/leuko/versions/new"),
        ("leuko/nope", None, 400, "GET /v1/models/leuko/nope"),
        ("leuko:predict", None, 400, "GET /v1/models/leuko:predict"),
        ("leuko/versions/9223372036854775808", None, 400, "9223372036854775808"),
        ("leuko/versions/" + "9" * 5000, None, 400, "999"),
        ("nope:predict", INSTANCES, 404, "nope"),
        ("leuko/versions/9:predict", INSTANCES, 404, "9"),
        ("leuko/labels/nope:predict", INSTANCES, 400, "version label: nope"),
        ("leuko:nope", INSTANCES, 400, "POST /v1/models/leuko:nope"),
        ("leuko", INSTANCES, 400, "POST /v1/models/leuko"),
        ("leuko:predict", b"", 400, "JSON"),
        ("leuko:predict", b"{", 400, "JSON"),
        ("leuko:predict", b"[" * 100_000, 400, ""),
        ("leuko:predict", b"\xff\xfe{", 400, "JSON"),
        ("leuko:predict", [], 400, "object"),
        ("leuko:predict", {"signature_name": 1}, 400, "signature_name"),
        ("leuko:predict", {}, 400, "instances"),
        ("leuko:predict", {"instances": [1], "inputs": [1]}, 400, "instances"),
        ("leuko:predict", {"instances": {}}, 400, "instances"),
        ("leuko:predict", {"instances": []}, 400, "instances"),
        ("leuko:predict", {"inputs": {"more": 1}}, 400, "images"),
        ("leuko:predict", {"instances": [{"more": 1}]}, 400, "images"),
        ("leuko:predict", {**INSTANCES, "instances": [PNG, {"images": PNG}]}, 400, ""),
        ("leuko:predict", {**INSTANCES, "instances": [{"images": PNG}, PNG]}, 400, ""),
        ("leuko:predict", {**INSTANCES, "signature_name": "nope"}, 400, "nope"),
        ("leuko:predict", {"instances": [[[["x"]]]]}, 400, "uint8"),
        ("leuko:predict", {"instances": [[[[1.5]]]]}, 400, "uint8"),
        ("leuko:predict", {"instances": [[[[True]]]]}, 400, "uint8"),
        ("leuko:predict", {"instances": [[[[1]]], [[[1], [2]]]]}, 400, ""),
        ("leuko:predict", {"instances": [[[1, [2]]]]}, 400, ""),
        ("leuko:predict", {"instances": [1]}, 400, ""),
        ("leuko:predict", b'{"inputs": ' + b"[" * 300 + b"1" + b"]" * 300 + b"}", 400, "dimension"),
        ("leuko:predict", {**INSTANCES, "instances": [1]}, 400, "string"),
        ("leuko:predict", {**INSTANCES, "instances": [{"b64": "%"}]}, 400, "64"),
        ("leuko:classify", {"signature_name": "classify"}, 400, "examples"),
        ("leuko:classify", {"examples": []}, 400, "examples"),
        ("leuko:classify", {"examples": [1]}, 400, "JSON object"),
        ("leuko:classify", {"examples": [{"a": [1, "b"]}]}, 400, "eature"),
    ],
)
def test_what_cannot_be_done_is_refused(rest, path, document, status, word):
    answer = ask_rest(f"{rest}/v1/models/{path}", document)
    assert answer[0] == status
    assert word in answer[1]["error"]


def test_regress_is_left_out(contract, model):
    assert ask_rest(f"{model}:regress", {"examples": [{}]})[0] == 501


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


def _read_metrics(rest):
    with urllib.request.urlopen(rest + METRICS, timeout=TIMEOUT_S) as page:
        return page.read().decode()


def _count(rest, **labels):
    counts = re.findall(r":tensorflow:serving:request_count\{(.*)\} (\d+)", _read_metrics(rest))
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(int(count) for found, count in counts if all(label in found for label in wanted))


def test_metrics_count_requests(rest, model, png):
    before = _count(rest, model_name="leuko", status="OK")
    for _ in range(3):
        ask_rest(f"{model}:predict", {"signature_name": "encoded", "instances": [png]})
    assert _count(rest, model_name="leuko", status="OK") >= before + 3


def test_metrics_tell_signatures_and_errors_apart(contract, rest, model, png):
    labels = {"model_name": "leuko", "signature": "embed"}
    good, bad = (_count(rest, **labels, status=s) for s in ("OK", "INVALID_ARGUMENT"))
    ask_rest(f"{model}:predict", {"signature_name": "embed", "instances": [png]})
    ask_rest(f"{model}:predict", {"signature_name": "embed", "instances": [1]})
    assert _count(rest, **labels, status="OK") == good + 1
    assert _count(rest, **labels, status="INVALID_ARGUMENT") == bad + 1


def test_metrics_are_well_formed_and_bounded(contract, rest):
    for number in range(3):
        ask_rest(f"{rest}/v1/models/made-up-{number}:predict", INSTANCES)
        ask_rest(f"{rest}/v1/models/leuko:predict", {"signature_name": f"made-up-{number}"})
    text = _read_metrics(rest)
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


def test_health(contract, channel):
    check = health_pb2_grpc.HealthStub(channel).Check
    services = ("tensorflow.serving.PredictionService", "tensorflow.serving.ModelService")
    for service in ("", *services):
        answer = check(health_pb2.HealthCheckRequest(service=service), TIMEOUT_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    request = health_pb2.HealthCheckRequest(service="nope")
    check_refusal(check, request, grpc.StatusCode.NOT_FOUND)


def test_reflection_lists_the_services(contract, channel):
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = stub.ServerReflectionInfo(requests, timeout=TIMEOUT_S)
    assert {service.name for service in answer.list_services_response.service} == {
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    }


def test_the_unix_socket(contract, server, socket_path, pixels):
    with grpc.insecure_channel(f"unix:{socket_path}") as channel:
        outputs = _ask_grpc(channel, "serving_default", pixels[None])
    assert outputs["probabilities"].shape == (1, len(CODES))


# TLS.


@pytest.fixture(scope="module")
def encrypted(start_server, export_base, certificates):
    file = certificates / "ssl.config"
    parts = (certificates / name for name in ("server.key", "server.pem", "ca.pem"))
    write_ssl_config(*parts, file)
    with start_server("--model-base-path", export_base, "--ssl-config-file", file) as server:
        yield server


def test_grpc_needs_a_certificate(encrypted, certificates, pixels):
    authority, certificate, key = (certificates / n for n in ("ca.pem", "client.pem", "client.key"))
    with open_channel(encrypted.address, Tls(authority, certificate, key)) as channel:
        outputs = _ask_grpc(channel, "serving_default", pixels[None])
    assert outputs["probabilities"].shape == (1, len(CODES))
    for tls in (Tls(authority), None):
        with open_channel(encrypted.address, tls) as channel:
            predict = PredictionServiceStub(channel).Predict
            check_refusal(predict, make_request(pixels[None]), grpc.StatusCode.UNAVAILABLE)


def test_rest_with_and_without_a_certificate(encrypted, certificates):
    assert encrypted.rest.startswith("https://")
    context = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    url = f"{encrypted.rest}/v1/models/leuko"
    with pytest.raises(OSError, match=r"(?i)certificate|reset|closed|EOF|broken"):
        ask_rest(url, context=context)
    with pytest.raises(OSError, match=r"(?i)reset|closed|EOF|broken|disconnected|BadStatus"):
        ask_rest(url.replace("https:", "http:"))
    context.load_cert_chain(certificates / "client.pem", certificates / "client.key")
    assert ask_rest(url, context=context)[0] == 200


# Bad configuration.


MODEL = 'config { name: "a" base_path: "b" model_platform: "tensorflow" %s }'
NO_VERSION = "model_version_policy { specific {} }"
SMALL_SIZES = "max_batch_size { value: 4 } allowed_batch_sizes: [1, 2]"
NO_AUTHORITY = 'server_key: "x" server_cert: "y" client_verify: true'


def _list_models(*models):
    return f"model_config_list {{ {' '.join(models)} }}"


@pytest.mark.parametrize(
    ("read", "text", "part"),
    [
        (read_models, "model_config_list {", "not a ModelServerConfig"),
        (read_models, "models {}", '"models"'),
        (read_models, "custom_model_config {}", "model_config_list"),
        (read_models, _list_models('config { name: "a" }'), "needs a name and a base_path"),
        (read_models, _list_models((MODEL % "").replace("tensorflow", "torch")), '"torch"'),
        (read_models, _list_models(MODEL % "", MODEL % ""), "a is listed more than once"),
        (read_models, _list_models(MODEL % NO_VERSION), "names no version"),
        (read_batching, "max_batch_size { value: 0 }", "max_batch_size must be positive"),
        (read_batching, "pad_variable_length_inputs: true", "pad_variable_length_inputs"),
        (read_batching, SMALL_SIZES, "end with max_batch_size (4)"),
        (read_ssl, 'server_key: "x"', "server_key and server_cert are required"),
        (read_ssl, NO_AUTHORITY, "client_verify requires custom_ca"),
    ],
)
def test_a_bad_file_is_explained(tmp_path, read, text, part):
    file = tmp_path / "a.config"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read(file)
    assert str(file) in str(caught.value)
    assert part in str(caught.value)
    with pytest.raises(UserError, match="Cannot read"):
        read(tmp_path / "missing")


def test_the_projects_own_files_are_read():
    config = ROOT / "serving" / "config"
    assert read_batching(config / "batching.config").max_batch_size >= 16
    assert read_models(config / "models.config")[0].name == "leuko"
