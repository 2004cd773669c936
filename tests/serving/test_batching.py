"""Concurrent requests: batches, queues, deadlines and refusals."""

import contextlib
import os
import time
from concurrent import futures

import grpc
import pytest
import tensorflow as tf
from calls import (
    TIMEOUT_S,
    ask_rest,
    check_refusal,
    make_request,
    make_telling_request,
    to_arrays,
    wait_for,
)
from conftest import TELLING_VERSION
from contract_export import NEWEST, write_checksums, write_telling_export
from tensorflow_serving.apis import prediction_log_pb2
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from serving.local_server import GRACE_S, RUNNING, WAITING
from serving.server.batching import AdmissionControl
from serving.server.configs import BatchingParameters
from serving.server.errors import RequestError
from serving.server.servable import NEVER, WARM_UP_FILE, Servable

LATE = grpc.StatusCode.DEADLINE_EXCEEDED
# Rows wait up to 20 s: batches run when they are full.
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
    def start(parameters):
        file = tmp_path_factory.mktemp("config") / "batching.config"
        file.write_text(parameters)
        options = ("--enable-batching", "--batching-parameters-file", file)
        return start_server("--model-name", "telling", "--model-base-path", telling_base, *options)

    return start


@pytest.fixture(scope="module")
def full_batches(start_batching):
    with start_batching(FULL_BATCHES) as server, grpc.insecure_channel(server.address) as channel:
        yield PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def small_queue(start_batching):
    with start_batching(SMALL_QUEUE) as server:
        yield server


def _hold(path):
    return make_request([str(path).encode()], "hold", "telling", input="paths")


class Gate:
    """A file that is not read until `open` is called: a named pipe until then."""

    def __init__(self, folder):
        self.path = folder / "gate"
        self._pipe = folder / "pipe"
        os.mkfifo(self._pipe)
        os.link(self._pipe, self.path)

    def wait_for_a_request(self):
        """Waits until a request is held."""
        wait_for(self.path.with_name("gate.reached").exists)

    def open(self):
        """Lets waiting and later requests pass."""
        beside = self.path.with_name("open")
        beside.write_text("open")
        beside.rename(self.path)
        while True:
            try:
                os.close(os.open(self._pipe, os.O_WRONLY | os.O_NONBLOCK))
            except OSError:  # no reader left
                return
            time.sleep(0.01)


@pytest.fixture
def gate(tmp_path):
    gate = Gate(tmp_path)
    yield gate
    gate.open()


def test_admission_is_limited_and_so_are_turns():
    control = AdmissionControl(running=1, limit=2)
    with control.admit(), control.admit():
        with pytest.raises(RequestError) as caught, control.admit():
            pass
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE
        with control.take_turn(NEVER):
            with pytest.raises(RequestError) as caught, control.take_turn(time.time() + 0.01):
                pass
            assert caught.value.code == LATE
        with control.take_turn(NEVER):
            pass
        with pytest.raises(RequestError) as caught, control.take_turn(time.time() - 1):
            pass
        assert caught.value.code == LATE
    with control.admit():
        pass


def test_turns_go_by_arrival():
    control = AdmissionControl(running=1, limit=1)
    order = []

    def take(number):
        with control.take_turn(NEVER):
            order.append(number)

    with futures.ThreadPoolExecutor(4) as pool, control.take_turn(NEVER):
        for number in range(4):
            pool.submit(take, number)
            wait_for(lambda count=number + 1: len(control._waiting) == count)
    assert order == [0, 1, 2, 3]


def test_requests_that_come_together_are_joined(full_batches):
    calls = [
        full_batches.Predict.future(make_telling_request(b"a%d" % i), TIMEOUT_S) for i in range(4)
    ]
    for i, future in enumerate(calls):
        outputs = to_arrays(future.result())
        assert outputs["names"].tolist() == [b"a%d" % i]
        assert outputs["rows"].tolist() == [4]
        assert outputs["version"].tolist() == [TELLING_VERSION]


def test_rows_come_back_to_their_requests(full_batches):
    three = full_batches.Predict.future(make_telling_request(b"a", b"b", b"c"), TIMEOUT_S)
    one = full_batches.Predict.future(make_telling_request(b"d"), TIMEOUT_S)
    assert to_arrays(three.result())["names"].tolist() == [b"a", b"b", b"c"]
    assert to_arrays(one.result())["names"].tolist() == [b"d"]
    assert to_arrays(one.result())["rows"].tolist() == [4]


def test_a_request_without_rows_waits_for_nobody(full_batches):
    outputs = to_arrays(full_batches.Predict(make_telling_request(), TIMEOUT_S))
    assert {name: array.shape for name, array in outputs.items()} == {
        name: (0,) for name in ("version", "again", "rows", "names")
    }


def test_a_request_above_the_largest_batch_is_refused(full_batches):
    request = make_telling_request(*[b"a"] * 5)
    check_refusal(full_batches.Predict, request, grpc.StatusCode.INVALID_ARGUMENT, "size 5", "4")


def test_a_row_that_is_late_is_not_computed(full_batches):
    """Its batch runs when full, without the late row."""
    late = full_batches.Predict.future(make_telling_request(b"late"), 0.2)
    assert late.exception().code() == LATE
    calls = [full_batches.Predict.future(make_telling_request(b"a"), TIMEOUT_S) for _ in range(3)]
    for future in calls:
        outputs = to_arrays(future.result())
        assert outputs["names"].tolist() == [b"a"]
        assert outputs["rows"].tolist() == [3]


def test_beyond_the_queue_requests_are_refused(small_queue, gate):
    with grpc.insecure_channel(small_queue.address) as channel:
        stub = PredictionServiceStub(channel)
        calls = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(8)]
        wait_for(lambda: sum(future.done() for future in calls) >= 4)
        gate.open()
        codes = [future.code() for future in calls]  # waits for each
    assert set(codes) == {grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE}
    assert codes.count(grpc.StatusCode.OK) <= 4  # one runs, two wait, one comes as the gate opens


def test_a_request_that_is_late_in_the_queue_is_not_computed(small_queue, gate, tmp_path):
    (tmp_path / "never").mkdir()
    never = Gate(tmp_path / "never")
    with grpc.insecure_channel(small_queue.address) as channel:
        stub = PredictionServiceStub(channel)
        held = stub.Predict.future(_hold(gate.path), TIMEOUT_S)
        gate.wait_for_a_request()
        late = stub.Predict.future(_hold(never.path), 0.5)
        assert late.exception().code() == LATE
        gate.open()
        assert held.exception() is None
        # If the late request ran, it would block the queue for ever.
        assert stub.Predict.future(_hold(gate.path), TIMEOUT_S).exception() is None


def test_without_batching_the_queue_is_bounded_too(contract_address, channel, server, gate):
    stub = PredictionServiceStub(channel)
    limit = RUNNING + WAITING
    calls = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(limit + 5)]
    wait_for(lambda: sum(future.done() for future in calls) == 5)
    refused = [future for future in calls if future.done()]
    assert {future.code() for future in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert f"{limit} requests" in refused[0].details()
    # Status is still answered; REST refuses work, too.
    assert ask_rest(f"{server.rest}/v1/models/telling")[0] == 200
    status, answer = ask_rest(f"{server.rest}/v1/models/telling:predict", {"instances": ["a"]})
    assert (status, answer["error"]) == (503, refused[0].details())
    gate.open()
    for future in calls:
        if future not in refused:
            assert future.result().model_spec.version.value == TELLING_VERSION


def test_without_batching_a_late_request_gives_way(contract_address, channel, gate):
    stub = PredictionServiceStub(channel)
    held = [stub.Predict.future(_hold(gate.path), TIMEOUT_S) for _ in range(RUNNING)]
    # Requests may overtake each other: the first of these may still get a turn.
    wait_for(lambda: stub.Predict.future(make_telling_request(b"a"), 0.5).code() == LATE)
    assert stub.Predict.future(make_telling_request(b"a"), 0.5).code() == LATE
    gate.open()
    assert [future.exception() for future in held] == [None] * RUNNING
    assert to_arrays(stub.Predict(make_telling_request(b"a"), TIMEOUT_S))["names"].tolist() == [
        b"a"
    ]


def _wait_until_it_listens_no_more(server):
    with contextlib.suppress(OSError):
        while True:
            ask_rest(f"{server.rest}/v1/models/telling")
            time.sleep(0.05)


def _start_held_request(api, server, channel, pool, gate):
    """Returns the future of a request that runs until the gate opens."""
    if api == "grpc":
        held = PredictionServiceStub(channel).Predict.future(_hold(gate.path), TIMEOUT_S)
    else:
        document = {"signature_name": "hold", "instances": [str(gate.path)]}
        held = pool.submit(ask_rest, f"{server.rest}/v1/models/telling:predict", document)
    gate.wait_for_a_request()
    return held


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_running_request_finishes_when_the_server_stops(start_server, telling_base, gate, api):
    options = ("--model-name", "telling", "--model-base-path", telling_base)
    with (
        start_server(*options) as server,
        grpc.insecure_channel(server.address) as channel,
        futures.ThreadPoolExecutor(1) as pool,
    ):
        answer = _start_held_request(api, server, channel, pool, gate)
        server.process.terminate()
        _wait_until_it_listens_no_more(server)
        gate.open()
        if api == "grpc":
            assert answer.result().model_spec.version.value == TELLING_VERSION
        else:
            status, document = answer.result()
            assert (status, document["predictions"][0]["version"]) == (200, TELLING_VERSION)
        # Before the fixture sends another signal, which would end it at once.
        assert server.process.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("api", ["grpc", "rest"])
def test_a_request_that_hangs_does_not_keep_the_server(
    start_server, telling_base, tmp_path, gate, api
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
        held = _start_held_request(api, server, channel, pool, gate)
        server.process.terminate()
        assert server.process.wait(GRACE_S + 5) == 0
        assert not socket.exists()
        assert held.exception()


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
    full = AdmissionControl(running=0, limit=0)
    assert Servable("leuko", export_base / str(NEWEST), full).version == NEWEST


def test_warm_up_requests_above_the_largest_batch_are_left_out(export_base):
    batching = BatchingParameters(max_batch_size=1)
    servable = Servable("leuko", export_base / str(NEWEST), AdmissionControl(1, 1), batching)
    assert servable.version == NEWEST
