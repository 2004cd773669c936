"""Server fixtures: the local server, or the one that LEUKO_SERVING_ADDRESS names."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from certificates import write_certificates
from contract_export import NEWEST, OLDER, write_contract_export, write_telling_export
from PIL import Image
from running import ROOT
from stand_in_server import StandIn, start_stand_in
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.connection import ADDRESS_VARIABLE, MAX_MESSAGE_BYTES

TELLING_VERSION = 7
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} [A-Z]+ serving\.\S+: ")


@dataclass(frozen=True)
class Server:
    """A local server's process.

    Attributes:
      process: The process.
      log: The file with its stderr.
      ready_line: The first line of its stdout.
      address: `HOST:PORT` of gRPC.
      rest: URL of the REST interface.
    """

    process: subprocess.Popen
    log: Path
    ready_line: str
    address: str
    rest: str


@contextmanager
def _run_server(log: Path, *options: object) -> Iterator[Server]:
    """Runs the local server on free ports, from when it is ready; checks that it ends cleanly."""
    command = [sys.executable, "-m", "serving.local_server", *map(str, options), "--port", "0"]
    with (
        log.open("w") as stderr,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=stderr, text=True
        ) as process,
    ):
        line = process.stdout.readline()
        assert "ready on" in line, log.read_text()
        rest = process.stdout.readline().split()[-1]
        try:
            # Only the server's own lines, none of TensorFlow's.
            assert all(map(LOG_LINE.match, log.read_text().splitlines()))
            yield Server(process, log, line, line.split()[-1], rest)
        finally:
            process.terminate()
            assert process.wait(timeout=60) == 0, log.read_text()
            assert "Traceback" not in log.read_text()
            assert "Server stopped" in log.read_text()


@pytest.fixture(scope="session")
def export_base(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("exports") / "leuko"
    write_contract_export(base)
    return base


@pytest.fixture(scope="session")
def telling_base(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("exports") / "telling"
    base.mkdir()
    write_telling_export(base / str(TELLING_VERSION))
    return base


@pytest.fixture(scope="session")
def start_server(tmp_path_factory) -> Callable[..., AbstractContextManager[Server]]:
    """Runs a local server with the given options, in a `with` statement."""

    def start(*options: object):
        return _run_server(tmp_path_factory.mktemp("server") / "stderr.txt", *options)

    return start


@pytest.fixture(scope="session")
def socket_path(tmp_path_factory) -> Path:
    """A Unix socket of the shared local server."""
    return tmp_path_factory.mktemp("s") / "grpc.sock"


@pytest.fixture(scope="session")
def server(
    start_server, export_base, telling_base, socket_path, tmp_path_factory
) -> Iterator[Server]:
    """The shared local server without batching: all versions of `leuko`, with labels; `telling`."""
    file = tmp_path_factory.mktemp("config") / "models.config"
    file.write_text(f"""
        model_config_list {{
          config {{
            name: "leuko" base_path: "{export_base}" model_platform: "tensorflow"
            model_version_policy {{ all {{}} }}
            version_labels {{ key: "stable" value: {OLDER} }}
            version_labels {{ key: "canary" value: {NEWEST} }}
          }}
          config {{
            name: "telling" base_path: "{telling_base}" model_platform: "tensorflow"
          }}
        }}
    """)
    options = ("--model-config-file", file, "--grpc-socket-path", socket_path)
    with start_server(*options) as server:
        yield server


@pytest.fixture(scope="session")
def address(request) -> str:
    """The server's address. Tests that use only this run against any server of an export."""
    return os.environ.get(ADDRESS_VARIABLE) or request.getfixturevalue("server").address


@pytest.fixture(scope="session")
def rest(request) -> str:
    """The URL of the server's REST interface: port 8501 of the host in LEUKO_SERVING_ADDRESS."""
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        return f"http://{address.rpartition(':')[0]}:8501"
    return request.getfixturevalue("server").rest


@pytest.fixture(scope="session")
def contract_address(request) -> str:
    """The address of a server of `write_contract_export`'s model."""
    if os.environ.get(ADDRESS_VARIABLE):
        pytest.skip(f"needs the test's own model; {ADDRESS_VARIABLE} points at another")
    return request.getfixturevalue("address")


@pytest.fixture(scope="session")
def channel(address) -> Iterator[grpc.Channel]:
    options = [("grpc.max_send_message_length", MAX_MESSAGE_BYTES)]
    with grpc.insecure_channel(address, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel) -> PredictionServiceStub:
    return PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel) -> ModelServiceStub:
    return ModelServiceStub(channel)


@pytest.fixture
def stand_in() -> Iterator[StandIn]:
    with start_stand_in() as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory) -> Path:
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """An image: uint8 [40, 50, 3]."""
    return np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def image_files(tmp_path_factory, pixels) -> dict[str, Path]:
    """`pixels` as PNG, TIFF and TIFF with an alpha channel, and as JPEG (not the same pixels)."""
    folder = tmp_path_factory.mktemp("images")
    alpha = np.random.default_rng(1).integers(0, 256, (40, 50, 1), dtype=np.uint8)
    rgba = np.concatenate([pixels, alpha], axis=2)
    paths = {name: folder / name for name in ("a.png", "b.tiff", "c.tif", "d.jpg")}
    Image.fromarray(pixels).save(paths["a.png"])
    Image.fromarray(rgba).save(paths["b.tiff"])
    Image.fromarray(pixels).save(paths["c.tif"], compression="tiff_lzw")
    Image.fromarray(pixels).save(paths["d.jpg"])
    return paths
