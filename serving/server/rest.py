"""TensorFlow Serving's REST interface, and the metrics page.

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
from tensorflow_serving.apis import classification_pb2, get_model_metadata_pb2, model_pb2

from serving.server import metrics
from serving.server.errors import RequestError, invalid_argument
from serving.server.json_values import (
    abbreviate,
    inputs_to_columns,
    rows_to_columns,
    to_array,
    to_example,
    to_json,
)
from serving.server.servable import DEFAULT_SIGNATURE
from serving.server.services import METADATA_FIELD, UNIMPLEMENTED_TEXT, Requests, convert_errors

# TensorFlow Serving's --rest_api_timeout_in_ms.
TIMEOUT_S = 30.0
# Python refuses to convert thousands of digits.
MAX_LENGTH_DIGITS = 15
_MODEL = r"(?i:/v1/models)/([^/:]+)(?:/(?i:versions)/(\d{1,19})|/(?i:labels)/([^/:]+))?"
_RUN_PATH = re.compile(_MODEL + r":(predict|classify|regress)")
_READ_PATH = re.compile(_MODEL + r"(?:/(metadata))?")
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
    """The HTTP server, at a host and a port (0: any free one); without `tls` not encrypted.

    Raises:
      OSError: it cannot listen at the address.
    """

    daemon_threads = True
    # Otherwise a second server could listen on the same port and take half the requests.
    allow_reuse_port = False
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        requests: Requests,
        max_body_bytes: int,
        tls: ssl.SSLContext | None,
    ):
        self.requests = requests
        self.max_body_bytes = max_body_bytes
        self.tls = tls
        self.running = 0
        self.change = threading.Condition()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Binds without the base class's host name lookup, which may take seconds."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def start(self) -> None:
        """Answers requests in background threads."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self, grace_s: float) -> None:
        """Takes no more requests; waits up to `grace_s` seconds for running ones."""
        self.shutdown()
        self.server_close()
        with self.change:
            self.change.wait_for(lambda: self.running == 0, grace_s)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs nothing: the client disconnected or did not speak HTTP."""


class _Handler(BaseHTTPRequestHandler):
    server: RestServer
    protocol_version = "HTTP/1.1"
    # Seconds that a client may take to send a request, and pause between requests.
    timeout = 30
    # Sends headers and body in one packet; otherwise delayed acknowledgement costs 40 ms.
    wbufsize = -1

    def setup(self) -> None:
        if self.server.tls:
            # In the connection's own thread, so that a slow handshake does not block other clients.
            self.request.settimeout(self.timeout)
            self.request = self.server.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        """Logs no requests; nor does TensorFlow Serving."""

    def do_GET(self) -> None:
        if self.path == metrics.PATH:
            page = self.server.requests.metrics.format_page()
            self._send(HTTPStatus.OK, page, metrics.CONTENT_TYPE)
        else:
            self._answer(_READ_PATH)

    def do_POST(self) -> None:
        self._answer(_RUN_PATH)

    def _answer(self, pattern: re.Pattern[str]) -> None:
        with self.server.change:
            self.server.running += 1
        try:
            try:
                body = self._read_body()
                match = pattern.fullmatch(self.path)
                if match is None:
                    raise invalid_argument(f"Malformed request: {self.command} {self.path}")
                with convert_errors():
                    text = json.dumps(_respond(self.server.requests, match, body))
                status = HTTPStatus.OK
            except RequestError as error:
                status = _HTTP_STATUS.get(error.code, HTTPStatus.INTERNAL_SERVER_ERROR)
                text = json.dumps({"error": error.text})
            self._send(status, text)
        finally:
            with self.server.change:
                self.server.running -= 1
                self.server.change.notify_all()

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            raise invalid_argument("The request needs a Content-Length in bytes.")
        if len(length) > MAX_LENGTH_DIGITS or int(length) > self.server.max_body_bytes:
            self.close_connection = True  # the body stays unread
            raise RequestError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"The body is larger than max ({length} vs. {self.server.max_body_bytes} bytes).",
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
    """Returns the answer, ready for JSON; raises RequestError."""
    name, version, label, action = match.groups()
    spec = model_pb2.ModelSpec(name=unquote(name))
    if version is not None:
        if int(version) >= 2**63:
            raise invalid_argument(f"The version is too large: {version}")
        spec.version.value = int(version)
    if label is not None:
        spec.version_label = unquote(label)
    if action is None:
        return _message_to_json(requests.models.get_statuses(spec))
    if action == "metadata":
        return _get_metadata(requests, spec)
    if action == "regress":
        raise RequestError(grpc.StatusCode.UNIMPLEMENTED, UNIMPLEMENTED_TEXT)
    run = _predict if action == "predict" else _classify
    deadline = time.time() + TIMEOUT_S
    with requests.admit(spec, action.capitalize(), "REST") as servable:
        return run(servable, spec, _parse_document(body, spec), deadline)


def _get_metadata(requests: Requests, spec: Any) -> Any:
    with requests.models.use_servable(spec) as servable:
        response = servable.get_metadata()
    packed = response.metadata[METADATA_FIELD].value
    signatures = get_model_metadata_pb2.SignatureDefMap.FromString(packed)
    return {
        "model_spec": _message_to_json(response.model_spec),
        "metadata": {METADATA_FIELD: _message_to_json(signatures)},
    }


def _message_to_json(message: Any) -> Any:
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )


def _parse_document(body: bytes, spec: Any) -> dict[str, Any]:
    """Parses the request's JSON object; copies its signature name to the ModelSpec."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise invalid_argument(f"The body is not valid JSON: {error}") from None
    if not isinstance(document, dict):
        raise invalid_argument(f"The body must be a JSON object, not {abbreviate(document)}")
    signature = document.get("signature_name", "")
    if not isinstance(signature, str):
        raise invalid_argument(f"'signature_name' must be a string, not {abbreviate(signature)}")
    spec.signature_name = signature
    return document


def _predict(servable: Any, spec: Any, document: dict[str, Any], deadline: float) -> Any:
    key = spec.signature_name or DEFAULT_SIGNATURE
    infos = servable.get_definition(key, grpc.StatusCode.INVALID_ARGUMENT).inputs
    by_row = "instances" in document
    if by_row == ("inputs" in document):
        raise invalid_argument("The body needs either 'instances' or 'inputs'.")
    if by_row:
        values = rows_to_columns(document["instances"], infos)
    else:
        values = inputs_to_columns(document["inputs"], infos)
    arrays = {name: to_array(value, name, infos[name].dtype) for name, value in values.items()}
    outputs = servable.run(key, arrays, deadline)
    counts = {np.shape(array)[:1] for array in outputs.values()}
    if by_row and counts != {(len(document["instances"]),)}:
        text = "An output and 'instances' differ in their numbers of rows: use 'inputs'."
        raise invalid_argument(text)
    answers = {name: to_json(array, name) for name, array in sorted(outputs.items())}
    result: Any = answers
    if len(answers) == 1:
        (result,) = answers.values()
    elif by_row:
        rows = zip(*answers.values(), strict=True)
        result = [dict(zip(answers, row, strict=True)) for row in rows]
    return {"predictions" if by_row else "outputs": result}


def _classify(servable: Any, spec: Any, document: dict[str, Any], deadline: float) -> Any:
    request = classification_pb2.ClassificationRequest(model_spec=spec)
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise invalid_argument(f"'examples' must be a list of examples, not {abbreviate(examples)}")
    listed = request.input.example_list_with_context
    if "context" in document:
        listed.context.CopyFrom(to_example(document["context"]))
    listed.examples.extend(map(to_example, examples))
    result = servable.classify(request, deadline).result
    return {
        "results": [
            [[c.label, float(str(np.float32(c.score)))] for c in classifications.classes]
            for classifications in result.classifications
        ]
    }
