"""The configuration files follow their schemas, agree with each other, and serve."""

import copy
import http.server
import json
import re
import threading
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
import yaml
from calls import TIMEOUT_S, ask_version
from contract_export import write_telling_export
from google.protobuf import text_format
from running import run, run_module
from tensorflow_serving.apis import model_management_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tensorflow_serving.config import model_server_config_pb2

from leuko_tf.export import WARM_BATCH_SIZES
from serving.client import MAX_IMAGES_PER_REQUEST
from serving.connection import DEFAULT_ADDRESS
from serving.messages import get_message_class, make_pool
from serving.server.configs import read_batching

SERVING = Path(__file__).parents[2] / "serving"
CONFIG = SERVING / "config"
COMPOSE_SCHEMA = ("--builtin-schema", "vendor.compose-spec")
KSERVE_SCHEMA = ("--schemafile", Path(__file__).with_name("kserve_schema.yaml"))

# monitoring_config.proto of TensorFlow Serving, which tensorflow-serving-api does not ship.
MONITORING = """
    name: "monitoring.proto" syntax: "proto3"
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
"""


def _read_prometheus_config():
    message = get_message_class(make_pool(MONITORING), "MonitoringConfig")()
    return _parse("monitoring.config", message).prometheus_config


def _parse(name, message):
    return text_format.Parse((CONFIG / name).read_text(), message)


def _read_model(name):
    config = _parse(name, model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


class _ComposeLoader(yaml.SafeLoader):
    """Reads the list after Compose's !override, which controls merging, as a list."""


_ComposeLoader.add_constructor("!override", _ComposeLoader.construct_sequence)


def _interpolate(value, environment):
    """Fills `${NAME:-default}` and `${NAME:?message}` of a Compose file in."""
    if isinstance(value, dict):
        return {key: _interpolate(item, environment) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, environment) for item in value]
    if not isinstance(value, str):
        return value

    def fill(match):
        name, kind, text = match.groups()
        if kind == "?" and name not in environment:
            raise KeyError(f"{name}: {text}")
        return environment.get(name, text)

    return re.sub(r"\$\{(\w+):([-?])([^}]*)\}", fill, value)


def _read_compose(name, **environment):
    document = yaml.load((SERVING / name).read_text(), _ComposeLoader)
    return _interpolate(document, environment)


def _get_only(services):
    (service,) = services.values()
    return service


@pytest.fixture(scope="module")
def service() -> dict:
    return _get_only(_read_compose("compose.yaml")["services"])


@pytest.fixture(scope="module")
def encrypted() -> dict:
    return _read_compose("compose.tls.yaml", LEUKO_SSL_CONFIG="/keys/ssl.config")


@pytest.fixture(scope="module")
def flags(service) -> dict[str, str]:
    return _parse_flags(service["command"])


def _parse_flags(words) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in words)


@pytest.fixture(scope="module")
def model():
    return _read_model("models.config")


@pytest.fixture(scope="module")
def labelled():
    return _read_model("models.labels.config")


@pytest.fixture(scope="module")
def mounts(service) -> dict[str, dict]:
    return {mount["target"]: mount for mount in service["volumes"]}


@pytest.fixture(scope="module")
def kserve() -> dict:
    return yaml.safe_load((SERVING / "kserve.yaml").read_text())


# Each file in its own schema.


def _find_schema_error(schema, document, folder) -> str:
    file = folder / "document.json"
    file.write_text(json.dumps(document))
    done = run_module("check_jsonschema", *schema, file)
    assert "Traceback" not in done.stdout + done.stderr
    return "" if done.returncode == 0 else done.stdout + done.stderr


def test_compose_files_follow_the_compose_specification(encrypted, tmp_path):
    for document in (_read_compose("compose.yaml"), encrypted):
        assert _find_schema_error(COMPOSE_SCHEMA, document, tmp_path) == ""
        wrong = copy.deepcopy(document)
        _get_only(wrong["services"])["comand"] = []
        assert "comand" in _find_schema_error(COMPOSE_SCHEMA, wrong, tmp_path)


def test_kserve_manifest_follows_kserves_schema(kserve, tmp_path):
    assert _find_schema_error(KSERVE_SCHEMA, kserve, tmp_path) == ""


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
    assert path[-1] in _find_schema_error(KSERVE_SCHEMA, wrong, tmp_path)


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
    text = (CONFIG / "batching.config").read_text()
    batching = read_batching(CONFIG / "batching.config")
    assert not batching.allowed_batch_sizes  # measured: padding costs more than it saves
    assert batching.max_batch_size == WARM_BATCH_SIZES[-1]
    assert batching.max_batch_size >= MAX_IMAGES_PER_REQUEST
    assert batching.batch_timeout_micros > 0
    # Set in the file, or they would be TensorFlow Serving's defaults.
    for name in ("num_batch_threads", "max_enqueued_batches"):
        assert re.search(rf"^{name} \{{ value: [1-9]", text, re.MULTILINE)


def test_monitoring_config():
    prometheus = _read_prometheus_config()
    assert prometheus.enable
    assert prometheus.path == "/monitoring/prometheus/metrics"


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
    """It starts only with the second flag, and is read again only with the third."""
    name = "models.labels.config"
    chosen = _get_only(_read_compose("compose.yaml", LEUKO_MODELS=name)["services"])
    assert _parse_flags(chosen["command"]) == {**flags, "model_config_file": f"/config/{name}"}
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
    """REST is never encrypted. Compose does not merge lists: they must be complete."""
    text = (SERVING / "compose.tls.yaml").read_text()
    assert re.search(r"^ +ports: !override$", text, re.MULTILINE)
    tls = _get_only(encrypted["services"])
    assert tls["ports"] == ["8500:8500"]
    (secret,) = tls["secrets"]
    assert encrypted["secrets"][secret]["file"] == "/keys/ssl.config"
    assert tls["command"] == [*service["command"], f"--ssl_config_file=/run/secrets/{secret}"]
    with pytest.raises(KeyError, match=r"LEUKO_SSL_CONFIG: .*serving\.ssl_config"):
        _read_compose("compose.tls.yaml")


@pytest.mark.parametrize(
    ("state", "error_code", "healthy"),
    [("AVAILABLE", "OK", True), ("LOADING", "OK", False), ("END", "UNAVAILABLE", False)],
)
def test_healthcheck_asks_for_the_models_state(service, model, state, error_code, healthy):
    """The check's own command, on another port, with a stand-in for the REST API."""
    paths = []

    class Rest(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            paths.append(self.path)
            status = {"error_code": error_code, "error_message": ""}
            body = {"model_version_status": [{"version": "1", "state": state, "status": status}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Rest) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        result = _check_health(service, server.server_port)
    assert (result.returncode == 0) is healthy, result.stderr
    assert paths == [f"/v1/models/{model.name}"]


def test_healthcheck_of_a_server(service, contract_address, server):
    result = _check_health(service, server.rest.rpartition(":")[2])
    assert result.returncode == 0, result.stderr


def test_healthcheck_fails_without_a_server(service):
    assert _check_health(service, 1).returncode != 0


def _check_health(service, port):
    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    assert command[-1].count("/8501") == 1
    command[-1] = command[-1].replace("/8501", f"/{port}")
    return run(command, timeout=30)


# KServe.


def test_kserve_and_compose_run_the_same_server(kserve, service, flags, model):
    predictor = kserve["spec"]["predictor"]
    spec = predictor["model"]
    assert kserve["metadata"]["name"] == model.name
    assert service["image"].endswith(f":{spec['runtimeVersion']}")
    args = _parse_flags(spec["args"])
    (mount,) = spec["volumeMounts"]
    (volume,) = predictor["volumes"]
    assert volume["name"] == mount["name"]
    for flag in ("batching_parameters_file", "monitoring_config_file"):
        assert Path(args[flag]) == Path(mount["mountPath"]) / Path(flags[flag]).name
    for flag in ("enable_batching", "enable_profiler"):
        assert args[flag] == flags[flag]
    # TensorFlow counts the node's processors, not those that the container may use.
    assert args["tensorflow_session_parallelism"] == spec["resources"]["limits"]["cpu"]
    annotations = kserve["metadata"]["annotations"]
    assert annotations["prometheus.io/path"] == _read_prometheus_config().path
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


# Labels: the steps in the file's comments, on the local server.


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("exports") / "leuko"
    base.mkdir()
    for number in (1, 2, 3):
        write_telling_export(base / str(number))
    return base


def _write_config(base, folder, name="models.labels.config") -> Path:
    file = folder / name
    file.write_text((CONFIG / name).read_text().replace("/models/leuko", str(base)))
    return file


def test_labels_move_by_the_files_steps(start_server, versions, tmp_path):
    file = _write_config(versions, tmp_path)
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(file.read_text(), request.config)
    (model,) = request.config.model_config_list.config
    loaded, labels = model.model_version_policy.specific.versions, model.version_labels
    with (
        start_server("--model-config-file", file) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        service, prediction = ModelServiceStub(channel), PredictionServiceStub(channel)

        def ask():
            specs = ({"label": "stable"}, {"label": "canary"}, {})
            return [ask_version(prediction, name="leuko", **spec) for spec in specs]

        def move():
            service.HandleReloadConfigRequest(request, TIMEOUT_S)
            return ask()

        assert ask() == [1, 2, 2]
        loaded.append(3)  # publish
        assert move() == [1, 2, 3]
        labels["canary"] = 3  # try
        assert move() == [1, 3, 3]
        labels["stable"] = 3  # promote
        assert move() == [3, 3, 3]
        labels["stable"] = 1  # go back
        assert move() == [1, 3, 3]
        loaded.remove(2)  # retire
        assert move() == [1, 3, 3]
        labels["canary"] = 2
        with pytest.raises(grpc.RpcError, match="label names version 2"):
            service.HandleReloadConfigRequest(request, TIMEOUT_S)
        assert ask() == [1, 3, 3]


def test_one_export_is_enough(start_server, tmp_path):
    """Then `canary` names no version yet, and all else works. So do models without labels."""
    base = tmp_path / "leuko"
    base.mkdir()
    write_telling_export(base / "1")
    request = model_management_pb2.ReloadConfigRequest()
    text_format.Parse(_write_config(base, tmp_path, "models.config").read_text(), request.config)
    with (
        start_server("--model-config-file", _write_config(base, tmp_path)) as server,
        grpc.insecure_channel(server.address) as channel,
    ):
        prediction = PredictionServiceStub(channel)
        assert ask_version(prediction, name="leuko") == 1
        assert ask_version(prediction, name="leuko", label="stable") == 1
        with pytest.raises(grpc.RpcError, match="Version 2 of model leuko not found"):
            ask_version(prediction, name="leuko", label="canary")
        ModelServiceStub(channel).HandleReloadConfigRequest(request, TIMEOUT_S)
        assert ask_version(prediction, name="leuko") == 1
        with pytest.raises(grpc.RpcError, match="version label"):
            ask_version(prediction, name="leuko", label="stable")
