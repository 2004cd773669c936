"""Connections to a server: address, encryption, message sizes, and their command-line options."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from leuko_tf.cli import UserError, parse_positive_int, parse_positive_number

ADDRESS_VARIABLE = "LEUKO_SERVING_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_MODEL = "leuko"
RESEARCH_NOTE = "research use only, not a diagnosis"

# gRPC's own limit of 4 MiB is less than 16 images (tensorflow/serving issue 1382).
MAX_MESSAGE_BYTES = 64 * 2**20
# By default gRPC waits up to two minutes before it reconnects, longer than a request may take.
MAX_RECONNECT_MS = 2000
TIMEOUT_S = 60.0


class ServingError(UserError):
    """A failed request.

    Attributes:
      code: grpc.StatusCode, or None if no request was made or the answer is not that of an export
        of this project.
    """

    def __init__(self, message: str, code: Any = None):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tls:
    """The PEM files of an encrypted connection.

    Attributes:
      ca_certificate: Checks the server's certificate. None: gRPC's own certificate authorities.
      client_certificate: Shown to the server. None shows none.
      client_key: The private key of `client_certificate`.
    """

    ca_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def read_credentials(self) -> Any:
        """Reads the files into grpc.ChannelCredentials.

        Raises:
          ServingError: a file cannot be read or is not a PEM file, or only one of a client's
            certificate and key is given.
        """
        if bool(self.client_certificate) != bool(self.client_key):
            raise ServingError("Give both a client's certificate and its key, or neither.")

        def read(path: Path | None, kind: str) -> bytes | None:
            return read_pem(path, kind) if path else None

        return grpc.ssl_channel_credentials(
            root_certificates=read(self.ca_certificate, "CERTIFICATE"),
            private_key=read(self.client_key, "PRIVATE KEY"),
            certificate_chain=read(self.client_certificate, "CERTIFICATE"),
        )


def read_pem(path: Path, kind: str) -> bytes:
    """Reads a PEM file that must hold a block of a kind, `CERTIFICATE` or `PRIVATE KEY`.

    gRPC itself accepts any bytes and only fails to connect later.

    Raises:
      ServingError: the file cannot be read or holds no such block.
    """
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ServingError(f"Cannot read {path}: {error.strerror}.") from None
    if f"{kind}-----".encode() not in pem:
        raise ServingError(f"{path} is not a PEM file with a {kind.lower()}.")
    return pem


def open_channel(
    address: str, tls: Tls | None = None, max_message_bytes: int = MAX_MESSAGE_BYTES
) -> grpc.Channel:
    """Opens a channel to `HOST:PORT` or `unix:PATH`; without `tls` it is not encrypted.

    It connects on first use and reconnects when needed.

    Raises:
      ServingError: see `Tls.read_credentials`.
    """
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, tls.read_credentials(), options)


def add_options(parser: argparse.ArgumentParser, timeout_s: float = TIMEOUT_S) -> None:
    """Adds the options that choose the server, the model and the encryption."""
    group = parser.add_argument_group("server and model")
    group.add_argument(
        "--address",
        metavar="HOST:PORT",
        default=os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS,
        help=f"the server's gRPC port (default: {ADDRESS_VARIABLE}, else {DEFAULT_ADDRESS})",
    )
    group.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"the model's name (default: {DEFAULT_MODEL})"
    )
    which = group.add_mutually_exclusive_group()
    which.add_argument(
        "--model-version",
        type=parse_positive_int,
        metavar="N",
        help="the model's version (default: the newest that the server has loaded)",
    )
    which.add_argument("--label", help="the version with this label, such as stable")
    group.add_argument(
        "--deadline",
        type=parse_positive_number,
        default=timeout_s,
        metavar="SECONDS",
        help=f"time limit of one request with all its attempts (default: {timeout_s:g})",
    )
    for option, meaning in (
        ("--ca-certificate", "encrypt, and check the server's certificate with this authority's"),
        ("--client-certificate", "certificate to show to the server"),
        ("--client-key", "private key of --client-certificate"),
    ):
        group.add_argument(option, type=Path, metavar="PEM", help=meaning)


def make_tls(args: argparse.Namespace) -> Tls | None:
    """Makes the Tls of the options of `add_options`; None if they ask for no encryption."""
    files = (args.ca_certificate, args.client_certificate, args.client_key)
    return Tls(*files) if any(files) else None
