"""The configuration files parse as TensorFlow Serving parses them and agree with each other."""

import http.server
import json
import subprocess
import threading
from pathlib import Path

import pytest
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from tensorflow_serving.config import model_server_config_pb2

from serving.client import DEFAULT_ADDRESS, MAX_IMAGES_PER_REQUEST

SERVING = Path(__file__).parents[2] / "serving"
CONFIG = SERVING / "config"

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


@pytest.fixture(scope="module")
def service() -> dict:
    (service,) = yaml.safe_load((SERVING / "compose.yaml").read_text())["services"].values()
    return service


@pytest.fixture(scope="module")
def flags(service) -> dict[str, str]:
    return dict(flag.removeprefix("--").split("=", 1) for flag in service["command"])


@pytest.fixture(scope="module")
def model():
    config = _parse("models.config", model_server_config_pb2.ModelServerConfig())
    (model,) = config.model_config_list.config
    return model


@pytest.fixture(scope="module")
def mounts(service) -> dict[str, dict]:
    return {mount["target"]: mount for mount in service["volumes"]}


def test_models_config(model):
    assert (model.name, model.base_path, model.model_platform) == (
        "leuko",
        "/models/leuko",
        "tensorflow",
    )


def test_batching_config():
    batching = _parse("batching.config", _unshipped("BatchingParameters"))
    sizes = list(batching.allowed_batch_sizes)
    assert sizes == sorted(set(sizes))
    assert sizes[0] == 1
    assert sizes[-1] == batching.max_batch_size.value
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


def test_exports_are_mounted_where_the_model_is_looked_for(model, mounts):
    source = (SERVING / mounts[model.base_path]["source"]).resolve()
    assert source == SERVING.parent / "exports" / model.name
    assert all(mount["read_only"] for mount in mounts.values())


def test_ports_are_open_on_this_machine_only(service):
    assert set(service["ports"]) == {"127.0.0.1:8500:8500", "127.0.0.1:8501:8501"}
    assert f"{DEFAULT_ADDRESS}:8500" in service["ports"]


@pytest.mark.parametrize(("state", "healthy"), [("AVAILABLE", True), ("LOADING", False)])
def test_healthcheck_asks_for_the_models_state(service, model, state, healthy):
    """The check's own command, with its port changed, against an answer in the REST API's form."""
    asked = []

    class Rest(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            body = {"model_version_status": [{"version": "1", "state": state}]}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    kind, *command = service["healthcheck"]["test"]
    assert kind == "CMD"
    with http.server.HTTPServer(("127.0.0.1", 0), Rest) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        command[-1] = command[-1].replace("/8501", f"/{server.server_port}")
        result = subprocess.run(command, check=False, capture_output=True, timeout=30)
    assert (result.returncode == 0) is healthy, result.stderr
    assert asked == [f"/v1/models/{model.name}"]


def test_healthcheck_fails_without_a_server(service):
    command = service["healthcheck"]["test"][1:]
    command = [*command[:-1], command[-1].replace("/8501", "/1")]
    assert subprocess.run(command, check=False, capture_output=True, timeout=30).returncode != 0
