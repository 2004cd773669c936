"""Puts a server's key and certificates into the one file that TensorFlow Serving reads.

    python -m serving.ssl_config --key server.key --certificate server.pem --ca ca.pem --out FILE

It is `--ssl_config_file` of TensorFlow Serving (compose.tls.yaml) and `--ssl-config-file` of the
local server: an SSLConfig, which holds the PEM files' text, not their paths. With it a server
encrypts gRPC and refuses clients that show no certificate of that authority. The file holds the
private key: only its owner can read it, and it belongs in no repository. Research use only.
"""

import argparse
import json
import os
from collections.abc import Sequence
from pathlib import Path

from leuko_tf.cli import UserError, run, write_aside
from serving.server.configs import ConfigError, read_ssl

# Printed by --help. Each certificate comes with its key; the authority's key signs and then rests.
RECIPE = """\
where there is no authority yet, openssl 3 makes one, and certificates of it:

  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \\
    -subj "/CN=laboratory" -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \\
    -subj "/CN=server" -addext basicConstraints=critical,CA:FALSE \\
    -addext subjectAltName=DNS:localhost,DNS:HOST \\
    -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \\
    -subj "/CN=client" -addext basicConstraints=critical,CA:FALSE \\
    -CA ca.pem -CAkey ca.key -keyout client.key -out client.pem

HOST is the name by which clients call the server. Keep ca.key away from both. A client then runs

  python -m serving.client --address HOST:8500 --ca-certificate ca.pem \\
    --client-certificate client.pem --client-key client.key IMAGE...
"""


def write_ssl_config(key: Path, certificate: Path, authority: Path, out: Path) -> None:
    """Writes an SSLConfig with `client_verify`, readable only for its owner.

    Args:
      key: Path. The server's private key, a PEM file without a passphrase.
      certificate: Path. The server's certificate, with those that vouch for it, a PEM file.
      authority: Path. Certificates that clients' own are checked with, a PEM file.
      out: Path. The file to write; an older one is replaced.

    Raises:
      UserError: a file cannot be read, is not such a file, or the key is not the certificate's.
    """
    parts = {
        "server_key": _pem(key, "PRIVATE KEY"),
        "server_cert": _pem(certificate, "CERTIFICATE"),
        "custom_ca": _pem(authority, "CERTIFICATE"),
    }
    if "ENCRYPTED" in parts["server_key"]:
        raise UserError(
            f"{key} is locked with a passphrase, which servers ask nobody for."
            f" Unlock it: openssl pkey -in {key} -out unlocked.key"
        )
    # JSON's strings are text format's, too.
    lines = [f"{field}: {json.dumps(pem)}\n" for field, pem in parts.items()]
    with write_aside(out) as aside:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.writelines([*lines, "client_verify: true\n"])
        try:
            read_ssl(aside).http_context()
        except ConfigError:
            raise UserError(
                f"{key}, {certificate} and {authority} do not go together: is the key that of the"
                " file's first certificate, and are all of them whole?"
            ) from None


def _pem(path: Path, kind: str) -> str:
    """The file's text, which holds a PEM block of that kind."""
    try:
        pem = path.read_text("ascii")
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}.") from None
    except UnicodeDecodeError:
        pem = ""
    if f"{kind}-----" not in pem:
        raise UserError(f"{path} is not a PEM file with a {kind.lower()}.")
    return pem


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.ssl_config",
        description="Put a server's key and certificates into the file that TensorFlow Serving"
        " and the local server read.",
        epilog=RECIPE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--key", type=Path, required=True, metavar="PEM", help="the server's private key"
    )
    parser.add_argument(
        "--certificate",
        type=Path,
        required=True,
        metavar="PEM",
        help="the server's certificate, and after it those that vouch for it",
    )
    parser.add_argument(
        "--ca",
        type=Path,
        required=True,
        metavar="PEM",
        help="the authority's certificate; clients without one of this authority are refused",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    args = parser.parse_args(argv)
    write_ssl_config(args.key, args.certificate, args.ca, args.out)


if __name__ == "__main__":
    run(main)
