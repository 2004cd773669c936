"""The gRPC services: TensorFlow Serving's PredictionService and ModelService."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from serving.server.batching import Entrance
from serving.server.configs import ConfigError, model_configs
from serving.server.errors import RequestError, invalid_argument
from serving.server.metrics import Metrics
from serving.server.servable import DEFAULT_SIGNATURE, NEVER, Servable, operation_text
from serving.server.versions import Models

METADATA_FIELD = "signature_def"
# Clients take 8 KiB of headers, and some messages quote the whole request.
MAX_DETAILS = 1000
# TensorFlow's error codes are gRPC's.
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class Requests:
    """How a request for a model's work gets to it, by gRPC and REST alike.

    Attributes:
      models: Models.
      entrance: Entrance.
      metrics: Metrics.
    """

    def __init__(self, models: Models, entrance: Entrance, metrics: Metrics):
        self.models = models
        self.entrance = entrance
        self.metrics = metrics

    @contextmanager
    def admit(self, spec: Any, api: str, entrypoint: str) -> Iterator[Servable]:
        """Lets a request in and gives its servable; counts it, whatever comes of it.

        Args:
          spec: ModelSpec. Its signature is looked at only afterwards.
          api: str. `Predict` or `Classify`.
          entrypoint: str. `GRPC` or `REST`.

        Raises:
          RequestError: the request is refused, or its block ended in any exception.
        """
        start = time.perf_counter()
        model = signature = ""
        status = "OK"
        try:
            with (
                as_request_errors(),
                self.entrance.place(),
                self.models.servable(spec) as servable,
            ):
                model = servable.name
                try:
                    yield servable
                finally:
                    asked = spec.signature_name or DEFAULT_SIGNATURE
                    signature = asked if asked in servable.definitions else ""
        except RequestError as error:
            status = error.code.name
            raise
        finally:
            seconds = time.perf_counter() - start
            self.metrics.record(model, signature, api, entrypoint, status, seconds)

    def metadata(self, request: Any) -> Any:
        """GetModelMetadataRequest to -Response; raises RequestError."""
        check_spec(request)
        if not request.metadata_field:
            raise invalid_argument(
                "GetModelMetadataRequest must specify at least one metadata_field"
            )
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise invalid_argument(f"Metadata field {field} is not supported")
        with self.models.servable(request.model_spec) as servable:
            return servable.metadata()

    def status(self, request: Any) -> get_model_status_pb2.GetModelStatusResponse:
        """GetModelStatusRequest to -Response; raises RequestError."""
        check_spec(request)
        return self.models.statuses(request.model_spec)


@contextmanager
def as_request_errors() -> Iterator[None]:
    """Turns every exception into a RequestError."""
    try:
        yield
    except RequestError:
        raise
    except tf.errors.OpError as error:
        raise RequestError(_STATUS_CODES[error.error_code], operation_text(error)) from None
    except Exception as error:
        logging.getLogger(__name__).exception("A request failed, for no fault of its own.")
        raise RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}") from None


def check_spec(request: Any) -> None:
    """A RequestError unless the request says which model it is for."""
    if not request.HasField("model_spec"):
        raise invalid_argument("Missing ModelSpec")


def _answer(function: Callable[[Any], Any], request: Any, context: Any) -> Any:
    try:
        with as_request_errors():
            return function(request)
    except RequestError as error:
        context.abort(error.code, error.text[:MAX_DETAILS])


def _deadline(context: Any) -> float:
    """The client's deadline in seconds since the epoch; infinite if it set none."""
    remaining = context.time_remaining()
    return NEVER if remaining is None else time.time() + remaining


def _unimplemented(request: Any, context: Any) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "The local server does not have this method.")
    raise AssertionError("abort returned")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TensorFlow Serving's PredictionService."""

    Regress = MultiInference = staticmethod(_unimplemented)

    def __init__(self, requests: Requests):
        self._requests = requests

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        """PredictRequest to PredictResponse."""
        return self._work("Predict", Servable.predict, request, context)

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        """ClassificationRequest to ClassificationResponse."""
        return self._work("Classify", Servable.classify, request, context)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """GetModelMetadataRequest to GetModelMetadataResponse."""
        return _answer(self._requests.metadata, request, context)

    def _work(self, api: str, method: Callable[..., Any], request: Any, context: Any) -> Any:
        deadline = _deadline(context)

        def work(request: Any) -> Any:
            check_spec(request)
            with self._requests.admit(request.model_spec, api, "GRPC") as servable:
                return method(servable, request, deadline)

        return _answer(work, request, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """TensorFlow Serving's ModelService."""

    def __init__(self, requests: Requests):
        self._requests = requests

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """GetModelStatusRequest to GetModelStatusResponse."""
        return _answer(self._requests.status, request, context)

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """ReloadConfigRequest to ReloadConfigResponse, when the new models answer."""

        def reload(request: Any) -> Any:
            try:
                self._requests.models.reload(model_configs(request.config))
            except ConfigError as error:
                code = grpc.StatusCode.INVALID_ARGUMENT
                if error.precondition:
                    code = grpc.StatusCode.FAILED_PRECONDITION
                raise RequestError(code, str(error)) from None
            return model_management_pb2.ReloadConfigResponse()

        return _answer(reload, request, context)


def grpc_server(requests: Requests, spare_threads: int, max_message_bytes: int) -> tuple[Any, Any]:
    """Makes the gRPC server, which listens nowhere yet.

    Args:
      requests: Requests.
      spare_threads: int. Threads beside those of the requests that run or wait.
      max_message_bytes: int. The largest request and answer.

    Returns:
      grpc.Server and its health.HealthServicer.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(requests.entrance.limit + spare_threads),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Or a second server on the same port would start and take half the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(requests), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(requests), server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    names = [
        file.services_by_name[service].full_name
        for file, service in (
            (prediction_service_pb2.DESCRIPTOR, "PredictionService"),
            (model_service_pb2.DESCRIPTOR, "ModelService"),
        )
    ]
    # The server listens only when its models answer, and never drops a model's last version.
    for name in ("", *names):
        health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    return server, health_servicer
