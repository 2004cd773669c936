"""What happens to requests that come together: joined, kept waiting, too late, too many."""

import contextlib
import os
import time
from concurrent import futures

import grpc
import pytest
import tensorflow as tf
from conftest import TELLING_VERSION
from contract_export import NEWEST, write_checksums, write_telling_export
from tensorflow_serving.apis import (
    predict_pb2,
    prediction_log_pb2,
    prediction_service_pb2_grpc,
)
from test_black_box import ask

from serving.local_server import GRACE_S, RUNNING, WAITING
from serving.server.batching import Entrance
from serving.server.configs import BatchingParameters
from serving.server.errors import RequestError
from serving.server.servable import NEVER, WARM_UP_FILE, Servable

TIMEOUT_S = 60
LATE = grpc.StatusCode.DEADLINE_EXCEEDED
# The first row waits for 20 s at most: a batch goes when it is full, or the test is slow.
FULL_BATCHES = """
    max_batch_size { value: 4 }
    batch_timeout_micros { value: 20000000 }
    max_enqueued_batches { value: 8 }
    num_batch_threads { value: 1 }
"""
SMALL_QUEUE = """
    max_batch_size { value: 1 }
    max_enqueued_batches { value: 2 }
    num_batch_threads { value: 1 }
"""


@pytest.fixture(scope="module")
def start_batching(start_server, telling_base, tmp_path_factory):
    @contextlib.contextmanager
    def start(parameters):
        file = tmp_path_factory.mktemp("config") / "batching.config"
        file.write_text(parameters)
        with start_server(
            *("--model-name", "telling", "--model-base-path", telling_base),
            *("--enable-batching", "--batching-parameters-file", file),
        ) as server:
            yield server

    return start


@pytest.fixture(scope="module")
def full_batches(start_batching):
    with start_batching(FULL_BATCHES) as server, grpc.insecure_channel(server.address) as channel:
        yield prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def small_queue(start_batching):
    with start_batching(SMALL_QUEUE) as server:
        yield server


def _request(*strings, signature="", input="names"):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "telling"
    request.model_spec.signature_name = signature
    request.inputs[input].CopyFrom(tf.make_tensor_proto(strings, tf.string))
    return request


def _hold(path):
    return _request(str(path).encode(), signature="hold", input="paths")


def _outputs(response):
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


class Gate:
    """A file that is not read until `open` is called: a named pipe until then."""

    def __init__(self, folder):
        self.path = folder / "gate"
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        os.link(self._pipe, self.path)

    def wait_for_a_request(self):
        """Until a request is held."""
        _wait(self.path.with_name("gate.reached").exists)

    def open(self):
        """Lets those in that wait, and all that come later."""
        beside = self.path.with_name("open")
        beside.write_text("open")
        beside.rename(self.path)
        while True:
            try:
                os.close(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # nobody reads, or no longer
                return
            time.sleep(0.01)


def _wait(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open()


def test_an_entrance_has_so_many_places_and_turns():
    entrance = Entrance(running=1, limit=2)
    with entrance.place(), entrance.place():
        with pytest.raises(RequestError) as caught, entrance.place():
            pass
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        with entrance.turn(NEVER):
            with pytest.raises(RequestError) as caught, entrance.turn(time.time() + 0.01):
                pass
            assert caught.value.code == LATE
        with entrance.turn(NEVER):
            pass
        with pytest.raises(RequestError) as caught, entrance.turn(time.time() - 1):
            pass
        assert caught.value.code == LATE
    with entrance.place():
        pass


def test_turns_go_by_arrival():
    entrance = Entrance(running=1, limit=1)
    came = []

    def take(number):
        with entrance.turn(NEVER):
            came.append(number)

    with futures.ThreadPoolExecutor(4) as pool, entrance.turn(NEVER):
        for number in range(4):
            pool.submit(take, number)
            _wait(lambda count=number + 1: len(entrance._waiting) == count)
    assert came == [0, 1, 2, 3]


def test_requests_that_come_together_are_joined(full_batches):
    asked = [full_batches.Predict.future(_request(b"a%d" % i), TIMEOUT_S) for i in range(4)]
    for i, future in enumerate(asked):
        outputs = _outputs(future.result())
        assert outputs["names"].tolist() == [b"a%d" % i]
        assert outputs["rows"].tolist() == [4]
        assert outputs["version"].tolist() == [TELLING_VERSION]


def test_rows_come_back_to_their_requests(full_batches):
    three = full_batches.Predict.future(_request(b"a", b"b", b"c"), TIMEOUT_S)
    one = full_batches.Predict.future(_request(b"d"), TIMEOUT_S)
    assert _outputs(three.result())["names"].tolist() == [b"a", b"b", b"c"]
    assert _outputs(one.result())["names"].tolist() == [b"d"]
    assert _outputs(one.result())["rows"].tolist() == [4]


def test_a_request_without_rows_waits_for_nobody(full_batches):
    outputs = _outputs(full_batches.Predict(_request(), TIMEOUT_S))
    assert {name: array.shape for name, array in outputs.items()} == {
        name: (0,) for name in ("version", "again", "rows", "names")
    }


def test_a_request_above_the_largest_batch_is_refused(full_batches):
    with pytest.raises(grpc.RpcError) as caught:
        full_batches.Predict(_request(*[b"a"] * 5), TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "Task size 5 is larger than maximum input batch size 4"


def test_a_row_that_is_late_is_not_computed(full_batches):
    """Its batch is computed when full: the others' rows, and not it."""
    late = full_batches.Predict.future(_request(b"late"), 0.2)
    assert late.exception().code() == LATE
    asked = [full_batches.Predict.future(_request(b"a"), TIMEOUT_S) for _ in range(3)]
    for future in asked:
        outputs = _outputs(future.result())
        assert outputs["names"].tolist() == [b"a"]
        assert outputs["rows"].tolist() == [3]


def test_beyond_the_queue_requests_are_refused(small_queue, gate):
    with grpc.insecure_channel(small_queue.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        asked = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(8)]
        _wait(lambda: sum(future.done() for future in asked) >= 4)
        gate.open()
        codes = [future.code() for future in asked]  # waits for each
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes.count(grpc.StatusCode.OK) <= 4  # one runs, two wait, one comes as the gate opens


def test_a_request_that_is_late_in_the_queue_is_not_computed(small_queue, gate, tmp_path):
    (tmp_path / "never").mkdir()
    never = Gate(tmp_path / "never")
    with grpc.insecure_channel(small_queue.address) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        held = stub.Predict.future(_hold(gate.path), TIMEOUT_S)
        gate.wait_for_a_request()
        late = stub.Predict.future(_hold(never.path), 0.5)
        assert late.exception().code() == LATE
        gate.open()
        assert held.exception() is None
        # Were the late one computed, it would hold up the queue for ever.
        assert stub.Predict.future(_hold(gate.path), TIMEOUT_S).exception() is None


def test_without_batching_the_queue_is_bounded_too(contract_address, channel, server, gate):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    limit = RUNNING + WAITING
    asked = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(limit + 5)]
    _wait(lambda: sum(future.done() for future in asked) == 5)
    refused = [future for future in asked if future.done()]
    assert {future.code() for future in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert refused[0].details() == (
        f"The server is full: {limit} requests run or wait. Try again later."
    )
    # Those who only look are still answered; by REST, too, no more work is taken.
    assert ask(f"{server.rest}/v1/models/telling")[0] == 200
    status, answer = ask(f"{server.rest}/v1/models/telling:predict", {"instances": ["a"]})
    assert (status, answer["error"]) == (503, refused[0].details())
    gate.open()
    for future in asked:
        if future not in refused:
            assert future.result().model_spec.version.value == TELLING_VERSION


def test_without_batching_a_late_request_gives_way(contract_address, channel, gate):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    held = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(RUNNING)]
    # Requests overtake each other on their way: the first of these may yet find a turn.
    _wait(lambda: stub.Predict.future(_request(b"a"), 0.5).code() == LATE)
    assert stub.Predict.future(_request(b"a"), 0.5).code() == LATE
    gate.open()
    assert [future.exception() for future in held] == [None] * RUNNING
    assert _outputs(stub.Predict(_request(b"a"), TIMEOUT_S))["names"].tolist() == [b"a"]


def _wait_until_it_listens_no_more(server):
    with contextlib.suppress(OSError):
        while True:
            ask(f"{server.rest}/v1/models/telling")
            time.sleep(0.05)


def _ask_to_hold(door, server, channel, pool, gate):
    """The future of a request that runs until the gate opens."""
    if door == "grpc":
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        asked = stub.Predict.future(_hold(gate.path), TIMEOUT_S)
    else:
        document = {"signature_name": "hold", "instances": [str(gate.path)]}
        asked = pool.submit(ask, f"{server.rest}/v1/models/telling:predict", document)
    gate.wait_for_a_request()
    return asked


@pytest.mark.parametrize("door", ["grpc", "rest"])
def test_a_running_request_finishes_when_the_server_stops(start_server, telling_base, gate, door):
    options = ("--model-name", "telling", "--model-base-path", telling_base)
    with (
        start_server(*options) as server,
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = _ask_to_hold(door, server, channel, pool, gate)
        server.process.terminate()
        _wait_until_it_listens_no_more(server)
        gate.open()
        if door == "grpc":
            assert answer.result().model_spec.version.value == TELLING_VERSION
        else:
            status, document = answer.result()
            assert (status, document["predictions"][0]["version"]) == (200, TELLING_VERSION)
        # A second signal, as the fixture sends, would end it at once.
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("door", ["grpc", "rest"])
def test_a_request_that_hangs_does_not_keep_the_server(
    start_server, telling_base, tmp_path, gate, door
):
    socket = tmp_path / "grpc.sock"
    with (
        start_server(
            *("--model-name", "telling", "--model-base-path", telling_base),
            *("--grpc-socket-path", socket),
        ) as server,
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        asked = _ask_to_hold(door, server, channel, pool, gate)
        server.process.terminate()
        assert server.process.wait(GRACE_S + 5) == 0
        assert not socket.exists()
        assert asked.exception()


def test_a_version_that_loads_does_not_keep_the_server(start_server, tmp_path, gate):
    base = tmp_path / "telling"
    base.mkdir()
    write_telling_export(base / "1")
    options = ("--model-name", "telling", "--model-base-path", base)
    with start_server(*options, "--file-system-poll-wait-seconds", 0.1) as server:
        write_telling_export(tmp_path / "2")
        log = prediction_log_pb2.PredictionLog()
        log.predict_log.request.CopyFrom(_hold(gate.path))
        with tf.io.TFRecordWriter(str(tmp_path / "2" / WARM_UP_FILE)) as file:
            file.write(log.SerializeToString())
        (tmp_path / "2" / "assets.extra" / "SHA256SUMS").unlink()
        write_checksums(tmp_path / "2")
        (tmp_path / "2").rename(base / "2")
        gate.wait_for_a_request()
        server.process.terminate()
        assert server.process.wait(GRACE_S) == 0


def test_warming_up_waits_for_no_request(export_base):
    full = Entrance(running=0, limit=0)
    assert Servable("leuko", export_base / str(NEWEST), full).version == NEWEST


def test_warm_up_requests_above_the_largest_batch_are_left_out(export_base):
    batching = BatchingParameters(max_batch_size=1)
    servable = Servable("leuko", export_base / str(NEWEST), Entrance(1, 1), batching)
    assert servable.version == NEWEST
