"""How requests share the machine: who may wait, and what is computed together.

Batching is TensorFlow's own: its BatchFunction operation joins the rows of concurrent requests,
runs a signature once for all of them and hands each request its rows back.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import tensorflow as tf

from serving.server.configs import BatchingParameters
from serving.server.errors import RequestError, deadline_error


class Entrance:
    """Says who comes in, and of those who computes at once and who waits for that.

    Args:
      running: int. Requests that compute at once, where they are not joined into batches.
      limit: int. Requests that are in, those that wait included.
    """

    def __init__(self, running: int, limit: int):
        self.limit = limit
        self._free_turns = running
        # Who came first goes first, which no semaphore promises.
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self._places = threading.Semaphore(limit)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Lets a request in; raises RequestError if the server is full."""
        if not self._places.acquire(blocking=False):
            raise RequestError(
                grpc.StatusCode.UNAVAILABLE,
                f"The server is full: {self.limit} requests run or wait. Try again later.",
            )
        try:
            yield
        finally:
            self._places.release()

    @contextmanager
    def turn(self, deadline: float) -> Iterator[None]:
        """Waits for a turn, until the deadline (seconds since the epoch); raises RequestError."""
        self._take_turn(min(max(deadline - time.time(), 0), threading.TIMEOUT_MAX))
        try:
            if time.time() >= deadline:
                raise deadline_error()
            yield
        finally:
            with self._lock:
                self._free_turns += 1
                self._call_next()

    def _take_turn(self, wait_s: float) -> None:
        called = threading.Event()
        with self._lock:
            self._waiting.append(called)
            self._call_next()
        if called.wait(wait_s):
            return
        with self._lock:
            if not called.is_set():  # nor meanwhile
                self._waiting.remove(called)
                raise deadline_error()

    def _call_next(self) -> None:
        """Gives the turns that are free to those who wait longest; with the lock held."""
        while self._free_turns and self._waiting:
            self._free_turns -= 1
            self._waiting.popleft().set()


def can_batch(definition: Any) -> bool:
    """Whether requests to a signature (SignatureDef) can be joined whatever they hold.

    That is so if each input has a free first dimension and no other free one, and each output a
    free first dimension. Images of any size could only be joined with others of their size
    (tensorflow/serving issue 2043).
    """
    inputs = [info.tensor_shape for info in definition.inputs.values()]
    outputs = [info.tensor_shape for info in definition.outputs.values()]
    return (
        bool(inputs)
        and all(
            [dim.size < 0 for dim in shape.dim] == [True] + [False] * (len(shape.dim) - 1)
            for shape in inputs
        )
        and all(
            shape.unknown_rank or [d.size < 0 for d in shape.dim[:1]] == [True] for shape in outputs
        )
    )


@dataclass(frozen=True)
class Batched:
    """A signature whose requests are joined, added to a session's graph.

    Attributes:
      deadlines: tf.Tensor float64 [n]. Placeholder: each row's deadline, seconds since the epoch.
      inputs: list of tf.Tensor. Placeholders, in the order of the inputs' names.
      outputs: list of tf.Tensor. Whether each row was computed, bool [n]; then the outputs in the
        order of their names.
    """

    deadlines: Any
    inputs: list[Any]
    outputs: list[Any]

    def run(self, session: Any, arrays: list[np.ndarray], deadline: float) -> list[np.ndarray]:
        """Waits for a batch and its computing; raises RequestError and whatever TensorFlow does."""
        deadlines = np.full(len(arrays[0]), deadline)
        feed = dict(zip([self.deadlines, *self.inputs], [deadlines, *arrays], strict=True))
        computed, *outputs = session.run(self.outputs, feed)
        if not computed.all():
            raise deadline_error()
        return outputs


def add_batched(graph: Any, definition: Any, parameters: BatchingParameters) -> Batched:
    """Adds a batched form of a signature to a graph that a SavedModel was loaded into.

    Args:
      graph: tf.Graph.
      definition: SignatureDef, for which `can_batch` holds.
      parameters: BatchingParameters.

    Returns:
      Batched.
    """
    inputs = [info for _, info in sorted(definition.inputs.items())]
    outputs = [info.name for _, info in sorted(definition.outputs.items())]
    part = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), [name.partition(":")[0] for name in outputs]
    )
    names = {node.name for node in part.node}
    # Variables and tables stay outside of the function, which is given their handles.
    handles = {
        operation.outputs[0].name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.name in names
        and not operation.inputs
        and [output.dtype for output in operation.outputs] == [tf.resource]
    }

    @tf.autograph.experimental.do_not_convert
    def compute(deadlines: Any, *rows: Any) -> list[Any]:
        """The signature for the rows that are not too late; zeros for the others."""
        in_time = deadlines > tf.timestamp()
        places = tf.where(in_time)
        fed = {
            info.name: tf.gather(row, places[:, 0]) for info, row in zip(inputs, rows, strict=True)
        }
        fed |= {name: tf.identity(handle) for name, handle in handles.items()}
        computed = tf.graph_util.import_graph_def(part, fed, outputs, name="")
        count = tf.shape(deadlines, tf.int64)
        shapes = [tf.concat([count, tf.shape(c, tf.int64)[1:]], 0) for c in computed]
        return [
            in_time,
            *(tf.scatter_nd(places, c, s) for c, s in zip(computed, shapes, strict=True)),
        ]

    with graph.as_default():
        specs = [
            tf.TensorSpec([None], tf.float64),
            *(tf.TensorSpec(tf.TensorShape(i.tensor_shape), tf.as_dtype(i.dtype)) for i in inputs),
        ]
        function = tf.function(compute).get_concrete_function(*specs)
        placeholders = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        batched = tf.raw_ops.BatchFunction(
            in_tensors=placeholders,
            captured_tensors=function.captured_inputs,
            f=function,
            Tout=[output.dtype for output in function.outputs],
            max_batch_size=parameters.max_batch_size,
            batch_timeout_micros=parameters.batch_timeout_micros,
            max_enqueued_batches=parameters.max_enqueued_batches,
            num_batch_threads=parameters.num_batch_threads,
            allowed_batch_sizes=list(parameters.allowed_batch_sizes),
            # The session's queues are told apart by this.
            shared_name=placeholders[0].name,
        )
    return Batched(placeholders[0], placeholders[1:], batched)
