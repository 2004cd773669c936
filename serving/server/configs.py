"""Reads TensorFlow Serving's configuration files (text protos) for the local server.

`tensorflow-serving-api` ships the messages of `--model-config-file`, but not those of the other two
files. Their supported fields are declared here by number. Unsupported settings raise UserError.
"""

import os
import ssl
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from leuko_tf.cli import UserError

# Fields of session_bundle_config.proto and ssl_config.proto in tensorflow/serving 2.19.
_UNSHIPPED = """
    name: "leuko/serving_config.proto"
    syntax: "proto3"
    dependency: "google/protobuf/wrappers.proto"
    message_type {
      name: "BatchingParameters"
      field { name: "max_batch_size" number: 1 type: TYPE_MESSAGE type_name: "W" }
      field { name: "batch_timeout_micros" number: 2 type: TYPE_MESSAGE type_name: "W" }
      field { name: "max_enqueued_batches" number: 3 type: TYPE_MESSAGE type_name: "W" }
      field { name: "num_batch_threads" number: 4 type: TYPE_MESSAGE type_name: "W" }
      field { name: "allowed_batch_sizes" number: 6 type: TYPE_INT64 label: LABEL_REPEATED }
    }
    message_type {
      name: "SSLConfig"
      field { name: "server_key" number: 1 type: TYPE_STRING }
      field { name: "server_cert" number: 2 type: TYPE_STRING }
      field { name: "custom_ca" number: 3 type: TYPE_STRING }
      field { name: "client_verify" number: 4 type: TYPE_BOOL }
    }
""".replace('"W"', '".google.protobuf.Int64Value"')


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Attributes:
      name: The name that requests give.
      base_path: The folder that holds the version folders.
      latest: How many of the newest versions are served; 0 for all.
      specific: The only versions that may be served; empty for all.
      labels: Version numbers by label, such as "stable".
    """

    name: str
    base_path: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are joined into batches. Names and defaults are TensorFlow Serving's.

    Attributes:
      max_batch_size: Largest number of rows in a batch, and in a request.
      batch_timeout_micros: How long a batch's first row waits for others, in microseconds.
      max_enqueued_batches: How many batches may wait; further requests are refused.
      num_batch_threads: How many batches are computed at once.
      allowed_batch_sizes: Batches are padded to the next of these sizes; empty: no padding.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SslConfig:
    """The server's TLS settings; keys and certificates in PEM form.

    Attributes:
      server_key: The private key.
      server_cert: The certificate, followed by its chain.
      custom_ca: Certificates to verify clients with; empty for none.
      client_verify: Whether clients without a valid certificate are refused.
    """

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False

    def make_grpc_credentials(self) -> Any:
        """Returns the grpc.ServerCredentials."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.server_key.encode(), self.server_cert.encode())],
            root_certificates=self.custom_ca.encode() or None,
            require_client_auth=self.client_verify,
        )

    def make_http_context(self) -> ssl.SSLContext:
        """Returns the same for REST, which must not stay open where gRPC is encrypted.

        Raises:
          UserError: the keys and certificates are invalid or do not belong together.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:  # readable by this user only
            pair = Path(folder) / "pair.pem"
            pair.write_text(f"{self.server_key}\n{self.server_cert}\n")
            try:
                context.load_cert_chain(pair)
                if self.custom_ca:
                    context.load_verify_locations(cadata=self.custom_ca)
            except ssl.SSLError as error:
                raise UserError(
                    f"The keys and certificates in --ssl-config-file are not valid: {error}"
                ) from None
        if self.client_verify:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def read_models(path: Path) -> list[ModelConfig]:
    """Reads a `--model-config-file`, a ModelServerConfig; raises UserError."""
    from tensorflow_serving.config import model_server_config_pb2

    config = _parse_file(path, model_server_config_pb2.ModelServerConfig())
    try:
        return parse_models(config)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_models(config: Any) -> list[ModelConfig]:
    """Converts a ModelServerConfig message; raises UserError."""
    if config.WhichOneof("config") != "model_config_list":
        raise UserError("The configuration must be a model_config_list.")
    models = [_parse_model(model) for model in config.model_config_list.config]
    for name, number in Counter(model.name for model in models).items():
        if number > 1:
            raise UserError(f"Model {name} is listed more than once.")
    return models


def _parse_model(model: Any) -> ModelConfig:
    if not model.name or not model.base_path:
        raise UserError(f"A model needs a name and a base_path. Received: {{{model}}}")
    if model.model_platform != "tensorflow":
        raise UserError(
            f'Model {model.name} needs model_platform: "tensorflow", the only one supported.'
            f' Received: "{model.model_platform}"'
        )
    if model.HasField("logging_config"):
        raise UserError(f"Model {model.name}: the local server does not support logging_config.")
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific" and not policy.specific.versions:
        raise UserError(f"Model {model.name}: the specific version policy names no version.")
    return ModelConfig(
        name=model.name,
        base_path=Path(model.base_path),
        latest=0 if kind in ("all", "specific") else policy.latest.num_versions or 1,
        specific=tuple(policy.specific.versions),
        labels=dict(model.version_labels),
    )


def read_batching(path: Path) -> BatchingParameters:
    """Reads a `--batching-parameters-file`, a BatchingParameters message; raises UserError."""
    message = _parse_file(path, _make_message("BatchingParameters"))
    sizes = tuple(message.allowed_batch_sizes)
    given = {f.name: value.value for f, value in message.ListFields() if f.message_type}
    parameters = BatchingParameters(**given, allowed_batch_sizes=sizes)
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(parameters, name) < 1:
            raise UserError(f"{path}: {name} must be positive.")
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != parameters.max_batch_size):
        raise UserError(
            f"{path}: allowed_batch_sizes must increase and end with max_batch_size"
            f" ({parameters.max_batch_size}). Received: {list(sizes)}"
        )
    return parameters


def read_ssl(path: Path) -> SslConfig:
    """Reads an `--ssl-config-file`, an SSLConfig message; raises UserError."""
    message = _parse_file(path, _make_message("SSLConfig"))
    if not message.server_key or not message.server_cert:
        raise UserError(f"{path}: server_key and server_cert are required, in PEM form.")
    if message.client_verify and not message.custom_ca:
        raise UserError(f"{path}: client_verify requires custom_ca, to verify clients with.")
    return SslConfig(**{f.name: value for f, value in message.ListFields()})


def _make_message(name: str) -> Any:
    from serving.messages import get_message_class, make_pool  # imports numpy

    return get_message_class(make_pool(_UNSHIPPED), name)()


def _parse_file(path: Path, message: Any) -> Any:
    """Fills the message from a text proto; a UserError names the file and the line."""
    try:
        return text_format.Parse(path.read_text(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}") from None
    except text_format.ParseError as error:
        kind = message.DESCRIPTOR.name
        raise UserError(f"{path} is not a {kind} text proto: {error}") from None
