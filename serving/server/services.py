"""The gRPC services: TensorFlow Serving's PredictionService and ModelService."""

import logging
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import tensorflow as tf
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from tensorflow_serving.apis import (
    model_management_pb2,
    model_service_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2,
    prediction_service_pb2_grpc,
)

from leuko_tf.cli import UserError
from serving.server.batching import AdmissionControl
from serving.server.configs import parse_models
from serving.server.errors import RequestError, invalid_argument
from serving.server.metrics import Metrics
from serving.server.servable import DEFAULT_SIGNATURE, NEVER, Servable, format_operation_error
from serving.server.versions import Models

METADATA_FIELD = "signature_def"
UNIMPLEMENTED_TEXT = "The local server does not support this method."
# Clients accept 8 KiB of headers, and some messages quote the whole request.
MAX_DETAILS = 1000
# TensorFlow and gRPC use the same error codes.
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True)
class Requests:
    """Gives requests that come by gRPC or REST access to the models."""

    models: Models
    admission: AdmissionControl
    metrics: Metrics

    @contextmanager
    def admit(self, spec: Any, api: str, entrypoint: str) -> Iterator[Servable]:
        """Admits a request, yields its servable, and records metrics even on failure.

        The ModelSpec's signature name is read only after the request has run. For `api` and
        `entrypoint` see `Metrics.record`.

        Raises:
          RequestError: the request is refused, or running it raised any exception.
        """
        start = time.perf_counter()
        model = signature = ""
        status = "OK"
        try:
            with (
                convert_errors(),
                self.admission.admit(),
                self.models.use_servable(spec) as servable,
            ):
                model = servable.name
                try:
                    yield servable
                finally:
                    key = spec.signature_name or DEFAULT_SIGNATURE
                    signature = key if key in servable.definitions else ""
        except RequestError as error:
            status = error.code.name
            raise
        finally:
            seconds = time.perf_counter() - start
            self.metrics.record(model, signature, api, entrypoint, status, seconds)


@contextmanager
def convert_errors() -> Iterator[None]:
    """Converts every exception to a RequestError."""
    try:
        yield
    except RequestError:
        raise
    except UserError as error:
        raise invalid_argument(str(error)) from None
    except tf.errors.OpError as error:
        raise RequestError(_STATUS_CODES[error.error_code], format_operation_error(error)) from None
    except Exception as error:
        logging.getLogger(__name__).exception("Internal error in a request")
        raise RequestError(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}") from None


def _check_spec(request: Any) -> None:
    """Raises RequestError unless the request names a model."""
    if not request.HasField("model_spec"):
        raise invalid_argument("The request lacks a model_spec.")


@contextmanager
def _abort_on_error(context: Any) -> Iterator[None]:
    """Ends the call with the code and message of any exception."""
    try:
        with convert_errors():
            yield
    except RequestError as error:
        context.abort(error.code, error.text[:MAX_DETAILS])


def _refuse_method(request: Any, context: Any) -> None:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, UNIMPLEMENTED_TEXT)


class _Services(
    prediction_service_pb2_grpc.PredictionServiceServicer,
    model_service_pb2_grpc.ModelServiceServicer,
):
    """TensorFlow Serving's PredictionService and ModelService."""

    Regress = MultiInference = staticmethod(_refuse_method)

    def __init__(self, requests: Requests):
        self._requests = requests

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        return self._run("Predict", Servable.predict, request, context)

    def Classify(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._run("Classify", Servable.classify, request, context)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        with _abort_on_error(context):
            _check_spec(request)
            if set(request.metadata_field) != {METADATA_FIELD}:
                raise invalid_argument(f'metadata_field must be "{METADATA_FIELD}".')
            with self._requests.models.use_servable(request.model_spec) as servable:
                return servable.get_metadata()

    def _run(self, api: str, method: Callable[..., Any], request: Any, context: Any) -> Any:
        remaining = context.time_remaining()
        deadline = NEVER if remaining is None else time.time() + remaining
        with _abort_on_error(context):
            _check_spec(request)
            with self._requests.admit(request.model_spec, api, "GRPC") as servable:
                return method(servable, request, deadline)

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        with _abort_on_error(context):
            _check_spec(request)
            return self._requests.models.get_statuses(request.model_spec)

    def HandleReloadConfigRequest(self, request: Any, context: Any) -> Any:  # noqa: N802
        """Loads the models of a ReloadConfigRequest, then answers."""
        with _abort_on_error(context):
            self._requests.models.reload(parse_models(request.config))
        return model_management_pb2.ReloadConfigResponse()


def make_grpc_server(
    requests: Requests, spare_threads: int, max_message_bytes: int
) -> tuple[grpc.Server, health.HealthServicer]:
    """Makes the gRPC server and its health service; it listens on no port yet.

    `spare_threads` are in addition to those of queued and running requests.
    """
    server = grpc.server(
        futures.ThreadPoolExecutor(requests.admission.limit + spare_threads),
        options=[
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.max_send_message_length", max_message_bytes),
            # Otherwise a second server could listen on the same port and take half the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    services = _Services(requests)
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(services, server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(services, server)
    health_servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health_servicer, server)
    files = (prediction_service_pb2.DESCRIPTOR, model_service_pb2.DESCRIPTOR)
    names = [service.full_name for file in files for service in file.services_by_name.values()]
    # Always healthy: it starts after its models, and never unloads a model's last version.
    for name in ("", *names):
        health_servicer.set(name, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    return server, health_servicer
