"""The gRPC client as a library: sends images to a served model and retries while it is busy."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from serving.answers import (
    EXPLAIN_SIGNATURE,
    PREDICT,
    SIGNATURE,
    Answer,
    make_request,
    unpack_answers,
)
from serving.connection import (
    ADDRESS_VARIABLE,
    DEFAULT_MODEL,
    MAX_MESSAGE_BYTES,
    TIMEOUT_S,
    ServingError,
    Tls,
    open_channel,
)
from serving.messages import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
)

STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

# At most `max_batch_size` in config/batching.config.
MAX_IMAGES_PER_REQUEST = 16
# The server explains images one by one; each takes about three times as long as classifying it.
MAX_EXPLAINED_PER_REQUEST = 4
# Requests under way at once: enough for the server to work on one while others travel.
CONCURRENCY = 4
# A request's message without its images: names, shape, length prefixes.
_MESSAGE_OVERHEAD_BYTES = 4096

# The codes for "not now". A prediction changes nothing on the server, so it is safe to repeat.
RETRY_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
# Patience with a server that was never reached: the address may be wrong.
FIRST_CONTACT_S = 5.0
# Part of gRPC's text for a message over a size limit. Its code is RESOURCE_EXHAUSTED, too, but
# a retry cannot succeed.
_TOO_LARGE = "larger than max"
# Part of TensorFlow Serving's text for a label that no version has.
_NO_LABEL = "version label"

_log = logging.getLogger("serving.client")


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of the model on the server.

    Attributes:
      state: `AVAILABLE` if it answers requests, else START, LOADING, UNLOADING or END.
      message: Why loading failed; empty if it did not.
    """

    version: int
    state: str
    message: str


class Client:
    """A connection to one model on one server; use it in a `with` statement or call `close`.

    If the server is unreachable or too busy (UNAVAILABLE, RESOURCE_EXHAUSTED), a request is
    repeated until its deadline, or for 5 s if the server was never reached. The pauses double
    from 0.1 s to 2 s, times a random factor, so that many clients do not return at once ("full
    jitter", Brooker 2015, AWS Architecture Blog). The first such failure is logged as a warning.
    gRPC's own retries do not suffice: they end after five attempts, a second or two, while a
    server takes longer to restart; and they never repeat a request above 256 KiB, which is one
    image.

    Args:
      address: `HOST:PORT` of the server's gRPC port (TensorFlow Serving: 8500, not 8501).
      model: The model's name on the server.
      version: The model's version. Defaults to the newest that the server has loaded.
      label: The version's label on the server, instead of `version`.
      timeout_s: Deadline of one request with all its attempts, in seconds.
      max_message_bytes: Largest request and answer, in bytes.
      tls: Files of an encrypted connection. Defaults to no encryption.

    Raises:
      ValueError: both a version and a label are given.
      ServingError: a file of `tls` is missing or wrong.
    """

    def __init__(
        self,
        address: str,
        model: str = DEFAULT_MODEL,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
    ):
        if version is not None and label is not None:
            raise ValueError("Give a version or a label, not both.")
        self.address = address
        self.model = model
        self.version = version
        self.label = label
        self.timeout_s = timeout_s
        self.max_message_bytes = max_message_bytes
        self._channel = open_channel(address, tls, max_message_bytes)
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            STATUS,
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )
        self._closed = threading.Event()
        self._was_reached = False
        self._channel.subscribe(self._note_contact)
        self._has_warned = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and cancels pending requests."""
        self._closed.set()
        self._channel.close()

    def predict(self, encoded_images: Iterable[bytes], *, saliency: bool = False) -> list[Answer]:
        """Classifies images as `classify_many` does, but one request after the other."""
        return list(self.classify_many(encoded_images, concurrency=1, saliency=saliency))

    def classify_many(
        self,
        encoded_images: Iterable[bytes],
        *,
        concurrency: int = CONCURRENCY,
        saliency: bool = False,
    ) -> Iterator[Answer]:
        """Classifies a stream of images, several requests at once.

        Images are taken from the iterable as needed, so it may be endless: at most
        `concurrency` + 2 requests' worth of images are in memory.

        Args:
          encoded_images: PNG or JPEG files of any size.
          concurrency: Requests under way at once, at least 1.
          saliency: Whether to request saliency maps, too (signature `explain`).

        Yields:
          One Answer per image, in the order of the images.

        Raises:
          ServingError: no server, an unknown model or version, a missed deadline, or an answer
            that is not one of this project's exports; from exports without `problem`, also an
            image that the server cannot decode. Answers to all earlier requests were yielded.
        """
        max_images = MAX_EXPLAINED_PER_REQUEST if saliency else MAX_IMAGES_PER_REQUEST
        max_bytes = self.max_message_bytes - _MESSAGE_OVERHEAD_BYTES
        pending: deque[Future[list[Answer]]] = deque()
        pool = ThreadPoolExecutor(concurrency)
        try:
            for batch in _split_into_batches(encoded_images, max_images, max_bytes):
                pending.append(pool.submit(self._classify_batch, batch, saliency))
                while pending and (len(pending) > concurrency or pending[0].done()):
                    yield from pending.popleft().result()
            while pending:
                yield from pending.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def status(self) -> list[VersionStatus]:
        """Asks the server which versions of the model it knows.

        Raises:
          ServingError: no server, an unknown model, or a missed deadline.
        """
        request = GetModelStatusRequest()
        request.model_spec.name = self.model
        return [
            VersionStatus(s.version, ModelVersionStatus.State.Name(s.state), s.status.error_message)
            for s in self._call(self._status, request).model_version_status
        ]

    def send(self, signature: str, images: np.ndarray | Sequence[bytes]) -> Any:
        """Makes one request of any signature and returns the PredictResponse as it is.

        For the arguments see `make_request`.

        Raises:
          ServingError: no server, an unknown model, version or signature, inputs that the server
            refuses, or a missed deadline.
        """
        request = make_request(self.model, signature, images, self.version, self.label)
        return self._call(self._predict, request)

    def _classify_batch(self, images: list[bytes], saliency: bool) -> list[Answer]:
        response = self.send(EXPLAIN_SIGNATURE if saliency else SIGNATURE, images)
        return unpack_answers(response, len(images), saliency)

    def _note_contact(self, state: grpc.ChannelConnectivity) -> None:
        self._was_reached |= state is grpc.ChannelConnectivity.READY

    def _get_patience_s(self) -> float:
        """For how long after its start a request is repeated."""
        return self.timeout_s if self._was_reached else min(FIRST_CONTACT_S, self.timeout_s)

    def _call(self, method: Any, request: Any) -> Any:
        """Repeats a request until it is answered, refused for good, or out of time."""
        begin = time.monotonic()
        longest_pause = FIRST_PAUSE_S
        while True:
            try:
                return method(request, timeout=max(0.0, begin + self.timeout_s - time.monotonic()))
            except grpc.RpcError as error:
                pause = random.uniform(0, longest_pause)
                is_over = time.monotonic() + pause >= begin + self._get_patience_s()
                can_retry = error.code() in RETRY_CODES and _TOO_LARGE not in _get_details(error)
                if is_over or not can_retry:
                    raise ServingError(self._explain(error), error.code()) from None
                if not self._has_warned:
                    self._has_warned = True
                    text = "no answer yet from %s (%s); retrying for up to %g s"
                    details = _get_details(error)
                    _log.warning(text, self.address, details, self._get_patience_s())
            if self._closed.wait(pause):
                raise ServingError("The connection was closed.", grpc.StatusCode.CANCELLED)
            longest_pause = min(2 * longest_pause, MAX_PAUSE_S)

    def _explain(self, error: Any) -> str:
        """One line: what happened, where, and what to do."""
        details = _get_details(error)
        server = f"The server at {self.address}"
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return (
                    f"No answer from a server at {self.address} in {self._get_patience_s():g} s:"
                    f" {details}. Start a server (python -m serving.local_server"
                    " --model-base-path exports/leuko), or give its address with --address or"
                    f" {ADDRESS_VARIABLE} (TensorFlow Serving's gRPC port is 8500; an encrypted"
                    " server needs --ca-certificate). If the server is busy, try again."
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return (
                    f"{server} did not answer within {self.timeout_s:g} s. It may be busy or still"
                    " loading: try again."
                )
            case grpc.StatusCode.NOT_FOUND:
                return (
                    f"{server} has no model '{self.model}', or not this version of it. Check the"
                    f" name and the version. ({details})"
                )
            case grpc.StatusCode.INVALID_ARGUMENT if is_unknown_label(details):
                return f"Model '{self.model}' at {self.address} has no such label. ({details})"
            case grpc.StatusCode.FAILED_PRECONDITION:
                return (
                    f"The model '{self.model}' at {self.address} does not take encoded images, or"
                    f" makes no saliency maps: serve an export of leuko_tf.export. ({details})"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in details:
                return (
                    f"A message to or from the server at {self.address} is over its size limit"
                    f" (here {self.max_message_bytes} bytes): send smaller images. ({details})"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return (
                    f"{server} was too busy for {self.timeout_s:g} s: try again later. ({details})"
                )
            case code:
                return f"{server} answered {code.name}: {details}"


def is_unknown_label(message: str) -> bool:
    """Whether an INVALID_ARGUMENT error is about the label, not about the images."""
    return _NO_LABEL in message


def _get_details(error: Any) -> str:
    return " ".join((error.details() or "").split()).rstrip(".")


def _split_into_batches(
    images: Iterable[bytes], max_images: int, max_bytes: int
) -> Iterator[list[bytes]]:
    """Splits the images into requests of limited number and size."""
    batch: list[bytes] = []
    total = 0
    for image in images:
        if batch and (len(batch) == max_images or total + len(image) > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(image)
        total += len(image)
    if batch:
        yield batch
