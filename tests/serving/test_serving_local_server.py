"""The local server as a process: how it starts, what it refuses to start on, how it stops."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from contract_export import NEWEST

from serving.client import Client
from serving.local_server import newest_version

ROOT = Path(__file__).parents[2]


def _fails_with_one_line(base, *parts, port=0):
    arguments = ["--model-base-path", str(base), "--port", str(port)]
    result = subprocess.run(
        [sys.executable, "-m", "serving.local_server", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    # TensorFlow's own log may come before it.
    line = result.stderr.splitlines()[-1]
    assert line.startswith("serving.local_server: ")
    for part in parts:
        assert str(part) in line


def test_ready_line_names_the_newest_version_and_the_port(server):
    assert server.ready_line == (
        f"leuko_tf local server: model leuko version {NEWEST} ready on {server.address}\n"
    )
    host, port = server.address.split(":")
    assert host == "127.0.0.1"
    assert int(port) > 0


def test_only_whole_versions_named_by_integers_count(export_base):
    assert (export_base / "99-draft" / "saved_model.pb").is_file()
    assert (export_base / "100").is_dir()
    assert newest_version(export_base) == export_base / str(NEWEST)


def test_ctrl_c_ends_it_with_exit_code_zero(start_server):
    """As SIGTERM does, by which the fixture ends every server and checks its exit code."""
    with start_server() as server:
        with Client(server.address) as client:
            assert client.status()[0].state == "AVAILABLE"
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(timeout=60) == 0
        assert server.process.stdout.read() == ""


@pytest.mark.parametrize("port", ["65536", "-1", "grpc"])
def test_a_port_that_is_none_is_a_usage_error(port):
    command = [sys.executable, "-m", "serving.local_server", "--model-base-path=x", "--port", port]
    result = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "--port" in result.stderr.splitlines()[-1]


def test_a_folder_without_a_model_is_explained(tmp_path):
    _fails_with_one_line(tmp_path / "missing", tmp_path / "missing", "is not a folder")
    _fails_with_one_line(tmp_path, tmp_path, "holds no model")


def test_a_damaged_model_is_explained(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"damaged")
    _fails_with_one_line(tmp_path, "Cannot load the model in", tmp_path / "1")


def test_a_port_in_use_is_explained(export_base):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        _fails_with_one_line(export_base, f"Cannot listen on 127.0.0.1:{port}", port=port)
