"""The configuration files of TensorFlow Serving that the local server reads.

They are text protos. The messages of `--model-config-file` are the real ones; those of the other
two files are in no published package, so the fields that are understood here are declared by
their numbers. What the local server cannot do is refused in words, never passed over.
"""

import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)

# Fields of session_bundle_config.proto and ssl_config.proto in tensorflow/serving 2.19.
_UNPUBLISHED = """
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


class ConfigError(Exception):
    """A configuration that cannot be served, in words for people.

    Attributes:
      precondition: bool. Whether the configuration is sound and only does not fit the server's
        present state.
    """

    def __init__(self, message: str, *, precondition: bool = False):
        super().__init__(message)
        self.precondition = precondition


@dataclass(frozen=True)
class ModelConfig:
    """A model to serve.

    Attributes:
      name: str. The name that requests give.
      base_path: Path. The folder that holds the version folders.
      latest: int. How many of the newest versions are served; 0 for all.
      specific: tuple of int. The only versions that are looked at; empty for all.
      labels: mapping of str to int. The versions' names for requests, such as "stable".
    """

    name: str
    base_path: Path
    latest: int = 1
    specific: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchingParameters:
    """How requests are joined into batches; the fields are TensorFlow Serving's.

    Attributes:
      max_batch_size: int. Rows of a batch, and of a request.
      batch_timeout_micros: int. How long a batch's first row waits for others, in microseconds.
      max_enqueued_batches: int. Batches that wait; beyond them requests are refused.
      num_batch_threads: int. Batches that are computed at once.
      allowed_batch_sizes: tuple of int. Batches are padded up to one of these; empty: to none.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = os.cpu_count() or 1
    allowed_batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class SslConfig:
    """The server's side of TLS, each in PEM form.

    Attributes:
      server_key: str. The server's private key.
      server_cert: str. The server's certificate, with those that vouch for it.
      custom_ca: str. Certificates that clients' own are checked with; empty for none.
      client_verify: bool. Whether clients without a certificate are refused.
    """

    server_key: str
    server_cert: str
    custom_ca: str = ""
    client_verify: bool = False

    def grpc_credentials(self) -> Any:
        """The grpc.ServerCredentials."""
        import grpc

        return grpc.ssl_server_credentials(
            [(self.server_key.encode(), self.server_cert.encode())],
            root_certificates=self.custom_ca.encode() or None,
            require_client_auth=self.client_verify,
        )

    def http_context(self) -> ssl.SSLContext:
        """The same for REST, which would otherwise be a door without a lock beside one with.

        Raises:
          ConfigError: the keys and certificates do not hold.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:  # which only this user can read
            pair = Path(folder) / "pair.pem"
            pair.write_text(f"{self.server_key}\n{self.server_cert}\n")
            try:
                context.load_cert_chain(pair)
                if self.custom_ca:
                    context.load_verify_locations(cadata=self.custom_ca)
            except ssl.SSLError as error:
                raise ConfigError(
                    f"The keys and certificates of --ssl-config-file do not hold: {error}"
                ) from None
        if self.client_verify:
            context.verify_mode = ssl.CERT_REQUIRED
        return context


def read_models(path: Path) -> list[ModelConfig]:
    """Reads a `--model-config-file`, a ModelServerConfig; raises ConfigError."""
    from tensorflow_serving.config import model_server_config_pb2

    config = _parse(path, model_server_config_pb2.ModelServerConfig())
    try:
        return model_configs(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def model_configs(config: Any) -> list[ModelConfig]:
    """The models of a ModelServerConfig message; raises ConfigError."""
    if config.WhichOneof("config") != "model_config_list":
        raise ConfigError(
            "ServerModelConfig type not supported by HandleReloadConfigRequest."
            " Only ModelConfigList is currently supported"
        )
    models = [_model_config(model) for model in config.model_config_list.config]
    for model in models:
        if sum(other.name == model.name for other in models) > 1:
            raise ConfigError(f"Illegal to list model {model.name} multiple times in config list")
    return models


def _model_config(model: Any) -> ModelConfig:
    if not model.name or not model.base_path:
        raise ConfigError(f"A model needs a name and a base_path. Received: {{{model}}}")
    if model.model_platform != "tensorflow":
        raise ConfigError(
            f'Model {model.name} needs model_platform: "tensorflow", the only one here.'
            f' Received: "{model.model_platform}"'
        )
    if model.HasField("logging_config"):
        raise ConfigError(f"Model {model.name}: the local server has no logging_config.")
    policy = model.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific" and not policy.specific.versions:
        raise ConfigError(f"Model {model.name}: the specific version policy names no version.")
    return ModelConfig(
        name=model.name,
        base_path=Path(model.base_path),
        latest=0 if kind in ("all", "specific") else policy.latest.num_versions or 1,
        specific=tuple(policy.specific.versions),
        labels=dict(model.version_labels),
    )


def read_batching(path: Path) -> BatchingParameters:
    """Reads a `--batching-parameters-file`, a BatchingParameters message; raises ConfigError."""
    message = _parse(path, _unpublished("BatchingParameters"))
    given = {f.name: getattr(message, f.name) for f, _ in message.ListFields()}
    sizes = tuple(given.pop("allowed_batch_sizes", ()))
    parameters = BatchingParameters(
        **{name: number.value for name, number in given.items()}, allowed_batch_sizes=sizes
    )
    for name in ("max_batch_size", "max_enqueued_batches", "num_batch_threads"):
        if getattr(parameters, name) < 1:
            raise ConfigError(f"{path}: {name} must be positive.")
    if sizes and (list(sizes) != sorted(set(sizes)) or sizes[-1] != parameters.max_batch_size):
        raise ConfigError(
            f"{path}: allowed_batch_sizes must rise and end with max_batch_size"
            f" ({parameters.max_batch_size}). Received: {list(sizes)}"
        )
    return parameters


def read_ssl(path: Path) -> SslConfig:
    """Reads an `--ssl-config-file`, an SSLConfig message; raises ConfigError."""
    message = _parse(path, _unpublished("SSLConfig"))
    if not message.server_key or not message.server_cert:
        raise ConfigError(f"{path}: server_key and server_cert are needed, in PEM form.")
    if message.client_verify and not message.custom_ca:
        raise ConfigError(f"{path}: client_verify needs custom_ca, to check the clients with.")
    return SslConfig(**{f.name: value for f, value in message.ListFields()})


def _unpublished(name: str) -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = text_format.Parse(_UNPUBLISHED, descriptor_pb2.FileDescriptorProto())
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))()


def _parse(path: Path, message: Any) -> Any:
    """Fills the message from a text proto; a ConfigError names the file and the line."""
    try:
        return text_format.Parse(path.read_text(), message)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"Cannot read {path}: {error}") from None
    except text_format.ParseError as error:
        kind = message.DESCRIPTOR.name
        raise ConfigError(f"{path} is no {kind} in text form: {error}") from None
