"""The way to a server: address, encryption, message sizes, and the options that name them."""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

ADDRESS_VARIABLE = "LEUKO_SERVING_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:8500"
DEFAULT_MODEL = "leuko"
RESEARCH_NOTE = "research use only, not a diagnosis"

# gRPC's own limit of 4 MiB is less than 16 images (tensorflow/serving issue 1382).
MAX_MESSAGE_BYTES = 64 * 2**20
# gRPC waits up to two minutes before it connects anew, longer than a request may take in all.
MAX_RECONNECT_MS = 2000
TIMEOUT_S = 60.0


class ServingError(Exception):
    """A request that failed, in words for people.

    Attributes:
      code: grpc.StatusCode, or None where no request was made or the server answered, but not as
        an export of this project does.
    """

    def __init__(self, message: str, code: Any = None):
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Tls:
    """The PEM files of an encrypted connection.

    Attributes:
      ca_certificate: Path. What the server's certificate is checked against; None takes the
        authorities that gRPC knows.
      client_certificate: Path. What this client shows; None shows nothing.
      client_key: Path. The private key of `client_certificate`.
    """

    ca_certificate: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None

    def credentials(self) -> Any:
        """Reads the files.

        Returns:
          grpc.ChannelCredentials.

        Raises:
          ServingError: a file cannot be read or is no PEM file, or a certificate comes without
            its key or a key without its certificate.
        """
        if bool(self.client_certificate) != bool(self.client_key):
            raise ServingError("A client's certificate and its key are needed both, or none.")
        return grpc.ssl_channel_credentials(
            root_certificates=_pem(self.ca_certificate, "CERTIFICATE"),
            private_key=_pem(self.client_key, "PRIVATE KEY"),
            certificate_chain=_pem(self.client_certificate, "CERTIFICATE"),
        )


def _pem(path: Path | None, kind: str) -> bytes | None:
    """The file's bytes. gRPC takes any bytes, and says only later that no connection comes off."""
    if path is None:
        return None
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
    """Opens a channel, which connects when it is first used and again whenever it has to.

    Args:
      address: str. `HOST:PORT` of the server's gRPC port, or `unix:PATH`.
      tls: Tls. Defaults to no encryption.
      max_message_bytes: int. Largest request and answer, in bytes. Defaults to 64 MiB.

    Returns:
      grpc.Channel.

    Raises:
      ServingError: see `Tls.credentials`.
    """
    options = [
        ("grpc.max_send_message_length", max_message_bytes),
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_reconnect_backoff_ms", MAX_RECONNECT_MS),
    ]
    if tls is None:
        return grpc.insecure_channel(address, options)
    return grpc.secure_channel(address, tls.credentials(), options)


def positive(text: str) -> int:
    """An argument that is a whole number from 1 up."""
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is needed, not {text!r}")
    return int(text)


def positive_number(text: str) -> float:
    """An argument that is a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text!r}")
    return number


def add_options(parser: argparse.ArgumentParser, timeout_s: float = TIMEOUT_S) -> None:
    """Adds the options that say which model on which server, and how to reach it."""
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
        type=positive,
        metavar="N",
        help="the model's version (default: the newest that the server has loaded)",
    )
    which.add_argument("--label", help="the version that carries this label, such as stable")
    group.add_argument(
        "--deadline",
        type=positive_number,
        default=timeout_s,
        metavar="SECONDS",
        help=f"time that one request may take in all (default: {timeout_s:g})",
    )
    group.add_argument(
        "--ca-certificate",
        type=Path,
        metavar="PEM",
        help="encrypt, and check the server's certificate against this one",
    )
    group.add_argument(
        "--client-certificate", type=Path, metavar="PEM", help="certificate to show to the server"
    )
    group.add_argument(
        "--client-key", type=Path, metavar="PEM", help="private key of --client-certificate"
    )


def tls_of(args: argparse.Namespace) -> Tls | None:
    """The encryption that the options of `add_options` ask for."""
    files = (args.ca_certificate, args.client_certificate, args.client_key)
    return Tls(*files) if any(files) else None
