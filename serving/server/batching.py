"""How requests share the machine: admission, turns and batches.

Batching is TensorFlow's own: its BatchFunction operation joins the rows of concurrent requests,
runs a signature once for all of them and returns each request its rows.
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


class AdmissionControl:
    """Limits queued and running requests. Threads may share it.

    Args:
      running: How many requests compute at once, except those that are joined into batches.
      limit: How many requests may be queued or running; further ones are refused.
    """

    def __init__(self, running: int, limit: int):
        self.limit = limit
        self._free_turns = running
        # First come, first served; a semaphore does not promise that.
        self._waiting: deque[threading.Event] = deque()
        self._lock = threading.Lock()
        self._places = threading.Semaphore(limit)

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Admits a request; raises RequestError if the server is full."""
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
    def take_turn(self, deadline: float) -> Iterator[None]:
        """Waits for a turn to compute; raises RequestError at the deadline (Unix time)."""
        self._wait_for_turn(min(max(deadline - time.time(), 0), threading.TIMEOUT_MAX))
        try:
            if time.time() >= deadline:
                raise deadline_error()
            yield
        finally:
            with self._lock:
                self._free_turns += 1
                self._call_next()

    def _wait_for_turn(self, wait_s: float) -> None:
        called = threading.Event()
        with self._lock:
            self._waiting.append(called)
            self._call_next()
        if called.wait(wait_s):
            return
        with self._lock:
            if not called.is_set():  # it may have been called since
                self._waiting.remove(called)
                raise deadline_error()

    def _call_next(self) -> None:
        """Gives free turns to the requests that wait longest. The caller holds the lock."""
        while self._free_turns and self._waiting:
            self._free_turns -= 1
            self._waiting.popleft().set()


def can_batch(definition: Any) -> bool:
    """Whether any requests to a signature (SignatureDef) can be joined into a batch.

    Each input and output must have a variable first dimension, and no input another variable one.
    Images of variable size could be joined only with those of the same size
    (tensorflow/serving issue 2043).
    """
    inputs = [[d.size < 0 for d in i.tensor_shape.dim] for i in definition.inputs.values()]
    outputs = [output.tensor_shape for output in definition.outputs.values()]
    return (
        bool(inputs)
        and all(variable[:1] == [True] and not any(variable[1:]) for variable in inputs)
        and all(o.unknown_rank or (o.dim and o.dim[0].size < 0) for o in outputs)
    )


@dataclass(frozen=True)
class BatchedSignature:
    """A signature whose requests are joined into batches, as part of a session's graph.

    Attributes:
      deadlines: Placeholder, float64 [n]: each row's deadline as Unix time.
      inputs: Placeholders, ordered by input name.
      outputs: Whether each row was computed, bool [n]; then the outputs, ordered by name.
    """

    deadlines: Any
    inputs: list[Any]
    outputs: list[Any]

    def run(self, session: Any, arrays: list[np.ndarray], deadline: float) -> list[np.ndarray]:
        """Runs the rows as part of a batch; raises RequestError or any TensorFlow error."""
        deadlines = np.full(len(arrays[0]), deadline)
        feed = dict(zip([self.deadlines, *self.inputs], [deadlines, *arrays], strict=True))
        computed, *outputs = session.run(self.outputs, feed)
        if not computed.all():
            raise deadline_error()
        return outputs


def add_batched_signature(
    graph: Any, definition: Any, parameters: BatchingParameters
) -> BatchedSignature:
    """Adds a batched form of a signature to the tf.Graph that its SavedModel was loaded into.

    `can_batch` must accept its SignatureDef.
    """
    inputs = [info for _, info in sorted(definition.inputs.items())]
    outputs = [info.name for _, info in sorted(definition.outputs.items())]
    part = tf.compat.v1.graph_util.extract_sub_graph(
        graph.as_graph_def(), [name.partition(":")[0] for name in outputs]
    )
    names = {node.name for node in part.node}
    # Variables and tables stay outside of the function, which captures their handles.
    handles = {
        operation.outputs[0].name: operation.outputs[0]
        for operation in graph.get_operations()
        if operation.name in names
        and not operation.inputs
        and [output.dtype for output in operation.outputs] == [tf.resource]
    }

    @tf.autograph.experimental.do_not_convert
    def compute(deadlines: Any, *rows: Any) -> list[Any]:
        """Computes the signature for rows before their deadline; others get zeros."""
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
            # Identifies the queue within the session.
            shared_name=placeholders[0].name,
        )
    return BatchedSignature(placeholders[0], placeholders[1:], batched)
