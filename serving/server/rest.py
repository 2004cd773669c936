"""TensorFlow Serving's REST interface, and the page of metrics.

GET  /v1/models/MODEL[/versions/V|/labels/L]           status
GET  /v1/models/MODEL[/versions/V|/labels/L]/metadata  signatures
POST /v1/models/MODEL[/versions/V|/labels/L]:predict   {"instances": ...} or {"inputs": ...}
POST /v1/models/MODEL[/versions/V|/labels/L]:classify  {"examples": ...}
GET  /monitoring/prometheus/metrics
"""

import json
import re
import socketserver
import ssl
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

import grpc
import numpy as np
from google.protobuf import json_format
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
)

from serving.server import metrics
from serving.server.errors import RequestError, invalid_argument
from serving.server.json_values import (
    columns_of_inputs,
    columns_of_rows,
    short,
    to_array,
    to_example,
    to_json,
)
from serving.server.servable import DEFAULT_SIGNATURE
from serving.server.services import METADATA_FIELD, Requests, as_request_errors

# TensorFlow Serving's --rest_api_timeout_in_ms.
TIMEOUT_S = 30.0
# Python refuses to convert thousands of digits.
MAX_VERSION_DIGITS = 19
MAX_LENGTH_DIGITS = 15
_MODEL = r"(?i:/v1/models)/([^/:]+)(?:/(?i:versions)/(\d+)|/(?i:labels)/([^/:]+))?"
_WORK = re.compile(_MODEL + r":(predict|classify|regress)")
_LOOK = re.compile(_MODEL + r"(?:/(metadata))?")
_HTTP_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.FAILED_PRECONDITION: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.OUT_OF_RANGE: HTTPStatus.BAD_REQUEST,
    grpc.StatusCode.NOT_FOUND: HTTPStatus.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED: HTTPStatus.TOO_MANY_REQUESTS,
    grpc.StatusCode.UNIMPLEMENTED: HTTPStatus.NOT_IMPLEMENTED,
    grpc.StatusCode.UNAVAILABLE: HTTPStatus.SERVICE_UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: HTTPStatus.GATEWAY_TIMEOUT,
}


class RestServer(ThreadingHTTPServer):
    """The HTTP server.

    Args:
      address: tuple of host and port; port 0 takes any free one.
      requests: Requests.
      max_body_bytes: int. The largest request.
      tls: ssl.SSLContext, or None for plain HTTP.

    Raises:
      OSError: it cannot listen there.
    """

    daemon_threads = True
    # Or a second server on the same port would start and take half the requests.
    allow_reuse_port = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        requests: Requests,
        max_body_bytes: int,
        tls: ssl.SSLContext | None = None,
    ):
        self.requests = requests
        self.max_body_bytes = max_body_bytes
        self.tls = tls
        self.running = 0
        self.change = threading.Condition()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds, without the base class's search for the host's name, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def start(self) -> None:
        """Answers requests, in threads of its own."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Takes no more requests, and waits for those that run, but not longer than `grace_s`."""
        self.shutdown()
        self.server_close()
        with self.change:
            self.change.wait_for(lambda: self.running == 0, grace_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing: a client went away, or spoke no HTTP."""


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    # For a client to send what it has begun, and between its requests.
    timeout = 30
    # Headers and body in one packet: or the client's system waits 40 ms to confirm the first.
    wbufsize = -1

    def setup(self) -> None:
        if self.server.tls:
            # Here, in the connection's own thread, lest one client's handshake hold up others.
            self.request.settimeout(self.timeout)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps no log of requests, as TensorFlow Serving keeps none."""

    def do_GET(self) -> None:
        if self.path == metrics.PATH:
            page = self.server.requests.metrics.page()
            self._send(HTTPStatus.OK, page, metrics.CONTENT_TYPE)
        else:
            self._answer(_LOOK)

    def do_POST(self) -> None:
        self._answer(_WORK)

    def _answer(self, pattern: re.Pattern[str]) -> None:
        with self.server.change:
            self.server.running += 1
        try:
            try:
                body = self._body()
                with as_request_errors():
                    text = json.dumps(_respond(self.server.requests, self._match(pattern), body))
                status = HTTPStatus.OK
            except RequestError as error:
                status = _HTTP_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
                text = json.dumps({"error": error.text})
            self._send(status, text)
        finally:
            with self.server.change:
                self.server.running -= 1
                self.server.change.notify_all()

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str]:
        match = pattern.fullmatch(self.path)
        if match is None:
            raise invalid_argument(f"Malformed request: {self.command} {self.path}")
        return match

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            raise invalid_argument("The request's Content-Length is needed, in bytes.")
        if len(length) > MAX_LENGTH_DIGITS or int(length) > self.server.max_body_bytes:
            self.close_connection = True  # with the body unread
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"Received message larger than max ({length} vs. {self.server.max_body_bytes})",
            )
        return self.rfile.read(int(length))

    def _send(self, status: int, text: str, kind: str = "application/json") -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.wfile.flush()


def _respond(requests: Requests, match: re.Match[str], body: bytes) -> Any:
    """The JSON of an answer; raises RequestError."""
    name, version, label, action = match.groups()
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version is not None:
        if len(version) > MAX_VERSION_DIGITS or int(version) >= 2**63:
            raise invalid_argument(f"Failed to convert version: {version} to numeric.")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    if action is None:
        status = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
        return _as_json(requests.status(status))
    if action == "metadata":
        return _metadata(requests, spec)
    if action == "regress":
        raise RequestError(
            grpc.StatusCode.UNIMPLEMENTED, "The local server does not have this method."
        )
    work = _predict if action == "predict" else _classify
    deadline = time.time() + TIMEOUT_S
    with requests.admit(spec, action.capitalize(), "REST") as servable:
        return work(servable, spec, _document(body, spec), deadline)


def _metadata(requests: Requests, spec: Any) -> Any:
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=spec, metadata_field=[METADATA_FIELD]
    )
    response = requests.metadata(request)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    response.metadata[METADATA_FIELD].Unpack(signatures)
    return {
        "model_spec": _as_json(response.model_spec),
        "metadata": {METADATA_FIELD: _as_json(signatures)},
    }


def _as_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _document(body: bytes, spec: Any) -> dict[str, Any]:
    """The request's JSON object; its signature goes into the ModelSpec."""
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {short(document)} Is not object")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid_argument(
            f"JSON Value: {short(document)} not formatted correctly. 'signature_name' key must be"
            " a string value."
        )
    spec.signature_name = signature
    return document


def _predict(servable: Any, spec: Any, document: dict[str, Any], deadline: float) -> Any:
    key = spec.signature_name or DEFAULT_SIGNATURE
    if key not in servable.definitions:
        raise invalid_argument(f'Serving signature name: "{key}" not found in signature def')
    infos = servable.definitions[key].inputs
    rows, columns = "instances" in document, "inputs" in document
    if rows and columns:
        raise invalid_argument(
            f"JSON Value: {short(document)} Not formatted correctly expecting only one of"
            " 'inputs' or 'instances' keys to exist "
        )
    if rows:
        values = columns_of_rows(document["instances"], infos)
    elif columns:
        values = columns_of_inputs(document["inputs"], infos)
    else:
        raise invalid_argument("Missing 'inputs' or 'instances' key")
    arrays = {name: to_array(value, name, infos[name].dtype) for name, value in values.items()}
    outputs = servable.run(key, arrays, deadline)
    count = len(document["instances"]) if rows else None
    if rows and any(np.shape(array)[:1] != (count,) for array in outputs.values()):
        raise invalid_argument(
            "An output has another number of rows than 'instances'; ask with 'inputs'."
        )
    answers = {name: to_json(array, name) for name, array in sorted(outputs.items())}
    if len(answers) == 1:
        (only,) = answers.values()
        return {"predictions" if rows else "outputs": only}
    if rows:
        names = list(answers)
        lines = zip(*answers.values(), strict=True)
        return {"predictions": [dict(zip(names, line, strict=True)) for line in lines]}
    return {"outputs": answers}


def _classify(servable: Any, spec: Any, document: dict[str, Any], deadline: float) -> Any:
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    examples = document.get("examples")
    if "examples" not in document:
        raise invalid_argument(
            f"JSON Value: {short(document)} When method is classify, key 'examples' is expected"
            " and was not found"
        )
    if not isinstance(examples, list):
        raise invalid_argument(
            f"JSON Value: {short(document)} Expecting 'examples' value to be an list/array"
        )
    if not examples:
        raise invalid_argument(f"JSON Value: {short(document)} 'examples' value is an empty array")
    if "context" in document:
        with_context = request.input.example_list_with_context
        with_context.context.CopyFrom(to_example(document["context"]))
        with_context.examples.extend(map(to_example, examples))
    else:
        request.input.example_list.examples.extend(map(to_example, examples))
    result = servable.classify(request, deadline).result
    return {
        "results": [
            [[c.label, float(str(np.float32(c.score)))] for c in classifications.classes]
            for classifications in result.classifications
        ]
    }
