"""The configuration files hold in their formats' own schemas, agree with each other, and serve."""

import copy
import http.server
import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
import yaml
from contract_export import write_telling_export
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config import model_server_config_pb2

from leuko_tf.export import WARM_BATCH_SIZES
from serving.client import DEFAULT_ADDRESS, MAX_IMAGES_PER_REQUEST

SERVING = Path(__file__).parents[2] / "serving"
CONFIG = SERVING / "config"
COMPOSE_SCHEMA = ("--builtin-schema", "vendor.compose-spec")
KSERVE_SCHEMA = ("--schemafile", Path(__file__).with_name("kserve_schema.yaml"))
TIMEOUT_S = 60

# tensorflow-serving-api does not ship these two messages. Their fields, as TensorFlow Serving
# declares them in session_bundle_config.proto and monitoring_config.proto.
UNSHIPPED = """
    name: "unshipped.proto" syntax: "proto3" dependency: "google/protobuf/wrappers.proto"
    message_type {
      name: "BatchingParameters"
      field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: "W" }
      field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: "W" }
      field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: "W" }
      field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: "W" }
      field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
    }
    message_type {
      name: "PrometheusConfig"
      field { name: "enable" number: 1 type: TYPE_BOOL }
      field { name: "path" number: 2 type: TYPE_STRING }
    }
    message_type {
      name: "MonitoringConfig"
      field {
        name: "prometheus_config" number: 1 type: TYPE_MESSAGE type_name: ".PrometheusConfig"
      }
    }
""".replace('"W"', '".google.protobuf.Int64Value"')


def _unshipped(name):
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = text_format.Parse(UNSHIPPED, descriptor_pb2.FileDescriptorProto())
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def _parse(name, message):
    return text_format.Parse((CONFIG / name).read_text(), message)


def _model(name):
    config = _parse(name, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


class _ComposeLoader(yaml.SafeLoader):
    """Reads Compose's !override, which says how files are merged, as the list behind it."""


_ComposeLoader.add_constructor("!override", _ComposeLoader.construct_sequence)


def _interpolated(value, environment):
    """A value of a Compose file with `${NAME:-default}` and `${NAME:?message}` filled in."""
    if isinstance(value, dict):
        return {key: _interpolated(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolated(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match):
        name, kind, text = match.groups()
        if kind == "?" and name not in environment:
            raise KeyError(f"{name}: {text}")
        return environment.get(name, text)

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", fill, value)


def _compose(name, **environment):
    document = yaml.load((SERVING / name).read_text(), _ComposeLoader)
    return _interpolated(document, environment)


def _only(services):
    (service,) = services.values()
    return service


@pytest.fixture(scope="module")
def service() -> dict:
    return _only(_compose("compose.yaml")["services"])


@pytest.fixture(scope="module")
def encrypted() -> dict:
    return _compose("compose.tls.yaml", LEUKO_SSL_CONFIG="/keys/ssl.config")


@pytest.fixture(scope="module")
def flags(service) -> dict[str, str]:
    return _flags(service["command"])


def _flags(words) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in words)


@pytest.fixture(scope="module")
def model():
    return _model("models.config")


@pytest.fixture(scope="module")
def labelled():
    return _model("models.labels.config")


@pytest.fixture(scope="module")
def mounts(service) -> dict[str, dict]:
    return {mount["target"]: mount for mount in service["volumes"]}


@pytest.fixture(scope="module")
def kserve() -> dict:
    return yaml.safe_load((SERVING / "kserve.yaml").read_text())


# Each file in its own schema.


def _check(schema, document, folder) -> str:
    """What the schema objects to; empty if nothing."""
    file = folder / "document.json"
    file.write_text(json.dumps(document))
    result = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *map(str, schema), str(file)],
        check=False,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert "Traceback" not in result.stdout + result.stderr
    return "" if result.returncode == 0 else result.stdout + result.stderr


def test_compose_files_follow_the_compose_specification(encrypted, tmp_path):
    for document in (_compose("compose.yaml"), encrypted):
        assert _check(COMPOSE_SCHEMA, document, tmp_path) == ""
        wrong = copy.deepcopy(document)
        _only(wrong["services"])["comand"] = []
        assert "comand" in _check(COMPOSE_SCHEMA, wrong, tmp_path)


def test_kserve_manifest_follows_kserves_schema(kserve, tmp_path):
    assert _check(KSERVE_SCHEMA, kserve, tmp_path) == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["spec", "predictor", "minReplica"], 1),
        (["spec", "predictor", "minReplicas"], "one"),
        (["spec", "predictor", "model", "storageURI"], "pvc://leuko-exports"),
        (["spec", "predictor", "model", "modelFormat", "framework"], "tensorflow"),
        (["spec", "predictor", "model", "readinessProbe", "httpGet", "url"], "/"),
        (["spec", "predictor", "model", "resources", "limit"], {}),
        (["metadata", "anotations"], {}),
        (["kind"], "InferenceServices"),
    ],
)
def test_a_manifest_with_a_wrong_field_is_refused(kserve, tmp_path, path, value):
    wrong = copy.deepcopy(kserve)
    place = wrong
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert path[-1] in _check(KSERVE_SCHEMA, wrong, tmp_path)


def test_models_config(model):
    assert (model.name, model.base_path, model.model_platform) == (
        "leuko",
        "/models/leuko",
        "tensorflow",
    )


def test_labelled_versions_are_those_that_are_loaded(model, labelled):
    assert set(labelled.version_labels) == {"stable", "canary"}
    assert set(labelled.version_labels.values()) == set(
        labelled.model_version_policy.specific.versions
    )
    for field in ("name", "base_path", "model_platform"):
        assert getattr(labelled, field) == getattr(model, field)


def test_batching_config():
    batching = _parse("batching.config", _unshipped("BatchingParameters"))
    assert not batching.allowed_batch_sizes  # measured: padding costs more than it saves
    assert batching.max_batch_size.value == WARM_BATCH_SIZES[-1]
    assert batching.batch_timeout_micros.value > 0
    assert batching.num_batch_threads.value > 0
    assert batching.max_enqueued_batches.value > 0


def test_the_clients_requests_fit_a_batch():
    batching = _parse("batching.config", _unshipped("BatchingParameters"))
    assert batching.max_batch_size.value >= MAX_IMAGES_PER_REQUEST


def test_monitoring_config():
    monitoring = _parse("monitoring.config", _unshipped("MonitoringConfig"))
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


# Compose.


def test_image_is_pinned(service):
    name, tag = service["image"].split(":")
    assert name == "tensorflow/serving"
    assert len(tag.split(".")) == 3
    assert all(part.isdecimal() for part in tag.split("."))


def test_flags_name_the_mounted_files(flags, mounts):
    assert (SERVING / mounts["/config"]["source"]).resolve() == CONFIG
    named = {flag: Path(value) for flag, value in flags.items() if flag.endswith("_file")}
    assert set(named) == {"model_config_file", "batching_parameters_file", "monitoring_config_file"}
    for path in named.values():
        assert path.parent == Path("/config")
        assert (CONFIG / path.name).is_file()
    assert flags["enable_batching"] == "true"
    assert flags["enable_profiler"] == "false"


def test_every_config_file_says_how_it_is_passed(flags):
    for flag in (flag for flag in flags if flag.endswith("_file")):
        assert f"--{flag}={flags[flag]}" in (CONFIG / Path(flags[flag]).name).read_text()


def test_the_file_with_labels_can_be_chosen(flags):
    """It starts only with the second flag, and is looked at again only with the third."""
    name = "models.labels.config"
    chosen = _only(_compose("compose.yaml", LEUKO_MODELS=name)["services"])
    assert _flags(chosen["command"]) == {**flags, "model_config_file": f"/config/{name}"}
    assert f"LEUKO_MODELS={name} docker compose" in (CONFIG / name).read_text()
    assert flags["allow_version_labels_for_unavailable_models"] == "true"
    assert int(flags["model_config_file_poll_wait_seconds"]) > 0


def test_exports_are_mounted_where_the_model_is_looked_for(model, mounts):
    source = (SERVING / mounts[model.base_path]["source"]).resolve()
    assert source == SERVING.parent / "exports" / model.name
    assert all(mount["read_only"] for mount in mounts.values())


def test_ports_are_open_on_this_machine_only(service):
    assert set(service["ports"]) == {"127.0.0.1:8500:8500", "127.0.0.1:8501:8501"}
    assert f"{DEFAULT_ADDRESS}:8500" in service["ports"]


def test_the_server_has_no_more_rights_than_it_needs(service):
    assert not service["user"].startswith(("0", "root"))
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_with_tls_only_grpc_is_open(service, encrypted):
    """REST is never encrypted. What Compose does not merge, the lists, must be there in whole."""
    text = (SERVING / "compose.tls.yaml").read_text()
    assert re.search(r"^ +ports: !override$", text, re.MULTILINE)
    tls = _only(encrypted["services"])
    assert tls["ports"] == ["8500:8500"]
    (secret,) = tls["secrets"]
    assert encrypted["secrets"][secret]["file"] == "/keys/ssl.config"
    assert tls["command"] == [*service["command"], f"--ssl_config_file=/run/secrets/{secret}"]
    with pytest.raises(KeyError, match=r"LEUKO_SSL_CONFIG: .*serving\.ssl_config"):
        _compose("compose.tls.yaml")


@pytest.mark.parametrize(
    ("state", "error_code", "healthy"),
    [("AVAILABLE", "OK", True), ("LOADING", "OK", False), ("END", "UNAVAILABLE", False)],
)
def test_healthcheck_asks_for_the_models_state(service, model, state, error_code, healthy):
    """The check's own command, with its port changed, against an answer in the REST API's form."""
    asked = []

    class Rest(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            status = {"error_code": error_code, "error_message": ""}
            body = {"model_version_status": [{"version": "1", "state": state, "status": status}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Rest) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        result = _health(service, server.server_port)
    assert (result.returncode == 0) is healthy, result.stderr
    assert asked == [f"/v1/models/{model.name}"]


def test_healthcheck_of_a_server(service, contract_address, server):
    result = _health(service, server.rest.rpartition(":")[2])
    assert result.returncode == 0, result.stderr


def test_healthcheck_fails_without_a_server(service):
    assert _health(service, 1).returncode != 0


def _health(service, port):
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert command[-1].count("/8501") == 1
    command[-1] = command[-1].replace("/8501", f"/{port}")
    return subprocess.run(command, check=False, capture_output=True, timeout=30)


# KServe.


def test_kserve_and_compose_run_the_same_server(kserve, service, flags, model):
    predictor = kserve["spec"]["predictor"]
    spec = predictor["model"]
    assert kserve["metadata"]["name"] == model.name
    assert service["image"].endswith(f":{spec['runtimeVersion']}")
    args = _flags(spec["args"])
    (mount,) = spec["volumeMounts"]
    (volume,) = predictor["volumes"]
    assert volume["name"] == mount["name"]
    for flag in ("batching_parameters_file", "monitoring_config_file"):
        assert Path(args[flag]) == Path(mount["mountPath"]) / Path(flags[flag]).name
    for flag in ("enable_batching", "enable_profiler"):
        assert args[flag] == flags[flag]
    # TensorFlow counts the node's processors, not those that the container may use.
    assert args["tensorflow_session_parallelism"] == spec["resources"]["limits"]["cpu"]
    monitoring = _parse("monitoring.config", _unshipped("MonitoringConfig"))
    annotations = kserve["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == monitoring.prometheus_config.path
    assert annotations["prometheus.io/port"] == str(spec["readinessProbe"]["httpGet"]["port"])


def test_kserves_config_map_is_made_of_files_that_are_there(kserve):
    text = (SERVING / "kserve.yaml").read_text()
    (volume,) = kserve["spec"]["predictor"]["volumes"]
    assert f"kubectl create configmap {volume['configMap']['name']} " in text
    files = re.findall(r"--from-file=(\S+)", text)
    assert {Path(file).name for file in files} == {"batching.config", "monitoring.config"}
    assert all((SERVING.parent / file).is_file() for file in files)


def test_kserves_probe_tells_a_model_that_answers(kserve, contract_address, server):
    path = kserve["spec"]["predictor"]["model"]["readinessProbe"]["httpGet"]["path"]
    with urllib.request.urlopen(f"{server.rest}{path}", timeout=TIMEOUT_S) as response:
        assert response.status == 200
    absent = path.replace(kserve["metadata"]["name"], "absent")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{server.rest}{absent}", timeout=TIMEOUT_S)


# Labels, as the file's comments have an operator move them, on the local server.


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("exports") / "leuko"
    base.mkdir()
    for number in (1, 2, 3):
        write_telling_export(base / str(number))
    return base


def _config_for(base, folder, name="models.labels.config") -> Path:
    file = folder / name
    file.write_text((CONFIG / name).read_text().replace("/models/leuko", str(base)))
    return file


def _told(channel, label=None):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "leuko"
    if label:
        request.model_spec.version_label = label
    request.inputs["names"].CopyFrom(tf.make_tensor_proto([b"a"]))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    (version,) = tf.make_ndarray(stub.Predict(request, TIMEOUT_S).outputs["version"])
    return version


def test_labels_move_by_the_files_steps(start_server, versions, tmp_path):
    file = _config_for(versions, tmp_path)
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(file.read_text(), request.config)
    (model,) = request.config.model_config_list.config
    loaded, labels = model.model_version_policy.specific.versions, model.version_labels
    with (
        start_server("--model-config-file", file) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        service = model_service_pb2_grpc.ModelServiceStub(channel)

        def moved():
            service.HandleReloadConfigRequest(request, TIMEOUT_S)
            return _told(channel, "stable"), _told(channel, "canary"), _told(channel)

        assert (_told(channel, "stable"), _told(channel, "canary"), _told(channel)) == (1, 2, 2)
        loaded.append(3)  # publish
        assert moved() == (1, 2, 3)
        labels["canary"] = 3  # try
        assert moved() == (1, 3, 3)
        labels["stable"] = 3  # promote
        assert moved() == (3, 3, 3)
        labels["stable"] = 1  # go back
        assert moved() == (1, 3, 3)
        loaded.remove(2)  # retire
        assert moved() == (1, 3, 3)
        labels["canary"] = 2
        del loaded[:]
        loaded.extend([1, 3])
        with pytest.raises(grpc.RpcError, match="not currently available for inference"):
            service.HandleReloadConfigRequest(request, TIMEOUT_S)
        assert _told(channel, "canary") == 3


def test_one_export_is_enough(start_server, tmp_path):
    """`canary` then names nothing yet; what works is not refused with it. Without labels, too."""
    base = tmp_path / "leuko"
    base.mkdir()
    write_telling_export(base / "1")
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(_config_for(base, tmp_path, "models.config").read_text(), request.config)
    with (
        start_server("--model-config-file", _config_for(base, tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        assert (_told(channel), _told(channel, "stable")) == (1, 1)
        with pytest.raises(grpc.RpcError, match=r"Servable not found.*leuko, 2"):
            _told(channel, "canary")
        service = model_service_pb2_grpc.ModelServiceStub(channel)
        service.HandleReloadConfigRequest(request, TIMEOUT_S)
        assert _told(channel) == 1
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label"):
            _told(channel, "stable")
