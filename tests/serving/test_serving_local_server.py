"""The local server as a process: how it starts, what it refuses to start on, how it stops."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from conftest import TELLING_VERSION
from contract_export import NEWEST, OLDER
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.client import Client
from serving.server.configs import ConfigError, ModelConfig
from serving.server.folders import version_folders

ROOT = Path(__file__).parents[2]


def _fails_with_one_line(base, *parts, options=()):
    arguments = ["--model-base-path", base, "--port", 0, *options]
    result = subprocess.run(
        [sys.executable, "-m", "serving.local_server", *map(str, arguments)],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("serving.local_server: ")
    for part in parts:
        assert str(part) in line


def test_ready_line_names_the_newest_version_and_the_port(server):
    assert server.ready_line == (
        f"leuko_tf local server: model leuko version {NEWEST}, telling version {TELLING_VERSION}"
        f" ready on {server.address}\n"
    )
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_only_whole_versions_named_by_integers_count(export_base):
    assert (export_base / "99-draft" / "saved_model.pb").is_file()
    assert (export_base / "100").is_dir()
    newest, older = export_base / str(NEWEST), export_base / str(OLDER)
    assert version_folders(ModelConfig("leuko", export_base)) == [newest, older]
    assert version_folders(ModelConfig("leuko", export_base, specific=(OLDER,))) == [older]
    with pytest.raises(ConfigError, match="holds no model that is asked for"):
        version_folders(ModelConfig("leuko", export_base, specific=(100,)))


def test_ctrl_c_ends_it_with_exit_code_zero(start_server, export_base):
    """As SIGTERM does, by which the fixture ends every server and checks its exit code."""
    with start_server("--model-base-path", export_base) as server:
        assert f"model leuko version {NEWEST} ready on" in server.ready_line
        with Client(server.address) as client:
            assert [(s.version, s.state) for s in client.status()] == [(NEWEST, "AVAILABLE")]
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.process.stdout.read() == ""


def test_a_second_ctrl_c_ends_it_at_once(telling_base, tmp_path):
    os.mkfifo(tmp_path / "gate")
    options = ("--model-name", "telling", "--model-base-path", telling_base, "--port", "0")
    with (
        subprocess.Popen(
            [sys.executable, "-m", "serving.local_server", *options],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        ) as process,
        grpc.insecure_channel(process.stdout.readline().split()[-1]) as channel,
    ):
        request = predict_pb2.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = "telling", "hold"
        request.inputs["paths"].CopyFrom(tf.make_tensor_proto([str(tmp_path / "gate").encode()]))
        asked = PredictionServiceStub(channel).Predict.future(request)
        while not (tmp_path / "gate.reached").exists():
            time.sleep(0.01)
        nothing = predict_pb2.PredictRequest()
        process.send_signal(signal.SIGINT)
        # Two signals at once would be one: the first has been taken when new requests are refused.
        look = PredictionServiceStub(channel).Predict
        while look.future(nothing, 5).code() is not grpc.StatusCode.UNAVAILABLE:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == -signal.SIGINT
        assert asked.exception()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--port", "65536"),
        ("--port", "-1"),
        ("--rest-port", "http"),
        ("--file-system-poll-wait-seconds", "nan"),
        ("--grpc-max-message-bytes", "0"),
        ("--model-config-file", "also"),
        ("--batching-parameters-file", "unused"),
    ],
)
def test_options_that_cannot_be_are_usage_errors(option, value):
    command = [sys.executable, "-m", "serving.local_server", "--model-base-path=x", option, value]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert option in result.stderr.splitlines()[-1]


def test_a_folder_without_a_model_is_explained(tmp_path):
    _fails_with_one_line(tmp_path / "missing", tmp_path / "missing", "is not a folder")
    _fails_with_one_line(tmp_path, tmp_path, "holds no model")


def test_a_damaged_model_is_explained(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    _fails_with_one_line(tmp_path, "Cannot load the model in", tmp_path / "1")


@pytest.mark.parametrize("option", ["--port", "--rest-port"])
def test_a_port_in_use_is_explained(export_base, option):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        parts = (f"Cannot listen on 127.0.0.1:{port}", option)
        _fails_with_one_line(export_base, *parts, options=[option, port])


def test_a_socket_that_cannot_be_is_explained(export_base, tmp_path):
    path = tmp_path / "missing" / "grpc.sock"
    _fails_with_one_line(export_base, path, options=["--grpc-socket-path", path])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_it(tmp_path, number):
    """A folder in which something changes all the time is never loaded, and the server waits."""
    (tmp_path / "1").mkdir()
    graph = tmp_path / "1" / "saved_model.pb"
    graph.write_bytes(b"half")
    command = [sys.executable, "-m", "serving.local_server", "--model-base-path", tmp_path]
    with subprocess.Popen(
        [*command, "--port", "0"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not _blocks_signals(process.pid):
            graph.touch()
        process.send_signal(number)
        while process.poll() is None:
            graph.touch()
            time.sleep(0.05)
        assert (process.returncode, *process.communicate()) == (0, b"", b"")


def _blocks_signals(pid) -> bool:
    """Whether the process blocks SIGINT and SIGTERM, as the server does from its start on."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    wanted = sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM))
    return mask & wanted == wanted
