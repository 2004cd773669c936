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
from calls import ask_statuses, make_request, wait_for
from conftest import LOG_LINE, TELLING_VERSION
from contract_export import NEWEST, OLDER
from running import ROOT, check_refusal, run_module
from tensorflow_serving.apis import predict_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from leuko_tf.cli import UserError
from serving.server.configs import ModelConfig
from serving.server.folders import find_version_folders

COMMAND = [sys.executable, "-m", "serving.local_server", "--port", "0"]


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
    assert find_version_folders(ModelConfig("leuko", export_base)) == [newest, older]
    assert find_version_folders(ModelConfig("leuko", export_base, specific=(OLDER,))) == [older]
    with pytest.raises(UserError, match="holds no model to serve"):
        find_version_folders(ModelConfig("leuko", export_base, specific=(100,)))


def test_ctrl_c_ends_it_with_exit_code_zero(start_server, export_base):
    """As SIGTERM does, by which the fixture ends every server and checks its exit code."""
    with start_server("--model-base-path", export_base) as server:
        assert f"model leuko version {NEWEST} ready on" in server.ready_line
        with grpc.insecure_channel(server.address) as channel:
            assert [s.version for s in ask_statuses(ModelServiceStub(channel))] == [NEWEST]
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.process.stdout.read() == ""
        loaded = f"Model leuko version {NEWEST} loaded after "
        messages = (loaded, "Server started after ", "Server stopping on SIGINT", "Server stopped")
        for message, line in zip(messages, server.log.read_text().splitlines(), strict=True):
            assert message in line


def test_a_second_ctrl_c_ends_it_at_once(telling_base, tmp_path):
    os.mkfifo(tmp_path / "gate")
    options = ("--model-name", "telling", "--model-base-path", telling_base)
    with (
        subprocess.Popen(
            [*COMMAND, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True
        ) as process,
        grpc.insecure_channel(process.stdout.readline().split()[-1]) as channel,
    ):
        predict = PredictionServiceStub(channel).Predict
        path = str(tmp_path / "gate").encode()
        held = predict.future(make_request([path], "hold", "telling", input="paths"))
        wait_for((tmp_path / "gate.reached").exists)
        process.send_signal(signal.SIGINT)
        # Two signals at once would be one: the first has been taken when new requests are refused.
        empty = predict_pb2.PredictRequest()
        wait_for(lambda: predict.future(empty, 5).code() is grpc.StatusCode.UNAVAILABLE)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=5) == -signal.SIGINT
        assert held.exception()


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
    done = run_module("serving.local_server", "--model-base-path=x", option, value)
    check_refusal(done, option, status=2)


@pytest.fixture
def paths(export_base, tmp_path):
    """Names in the commands below: a base path that is right, and things that are wrong."""
    (tmp_path / "damaged" / "1").mkdir(parents=True)
    (tmp_path / "damaged" / "1" / "saved_model.pb").write_bytes(b"damaged")
    (tmp_path / "none").write_text("model_config_list {}")
    (tmp_path / "empty").write_text("")
    (tmp_path / "bad").write_text('server_key: "x" server_cert: "y"')
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield {"base": export_base, "tmp": tmp_path, "port": taken.getsockname()[1]}


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ("--model-base-path {tmp}/missing", "{tmp}/missing is not a folder"),
        ("--model-base-path {tmp}", "{tmp} holds no model"),
        ("--model-base-path {tmp}/damaged", "Cannot load the model in {tmp}/damaged/1"),
        ("--model-base-path {base} --port {port}", "listen on 127.0.0.1:{port}|--port"),
        ("--model-base-path {base} --rest-port {port}", "listen on 127.0.0.1:{port}|--rest-port"),
        ("--model-base-path {base} --grpc-socket-path {tmp}/no/a.sock", "{tmp}/no/a.sock"),
        ("--model-config-file {tmp}/none", "{tmp}/none lists no model"),
        ("--model-base-path {base} --ssl-config-file {tmp}/empty", "server_key and server_cert"),
        ("--model-base-path {base} --ssl-config-file {tmp}/bad", "not valid"),
    ],
)
def test_what_it_does_not_start_on_is_explained(paths, options, parts):
    words = options.format(**paths).split()
    done = run_module("serving.local_server", "--port", 0, *words)
    check_refusal(done)
    assert done.stdout == ""
    *log, line = done.stderr.splitlines()
    assert all(map(LOG_LINE.match, log))
    assert line.startswith("error: ")
    for part in parts.format(**paths).split("|"):
        assert part in line


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_start_ends_it(tmp_path, number):
    """A folder in which something changes all the time is never loaded, and the server waits."""
    (tmp_path / "1").mkdir()
    graph = tmp_path / "1" / "saved_model.pb"
    graph.write_bytes(b"half")
    command = [*COMMAND, "--model-base-path", tmp_path]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not _blocks_signals(process.pid):
            graph.touch()
        process.send_signal(number)
        while process.poll() is None:
            graph.touch()
            time.sleep(0.05)
        assert (process.returncode, *process.communicate()) == (0, b"", b"")


def _blocks_signals(pid) -> bool:
    """Whether the process blocks SIGINT and SIGTERM and no other signal, as the server does."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk"))
    return mask == sum(1 << (number - 1) for number in (signal.SIGINT, signal.SIGTERM))
