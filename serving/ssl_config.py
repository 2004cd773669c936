"""Puts a server's key and certificates into the one file that TensorFlow Serving reads.

    python -m serving.ssl_config --key server.key --certificate server.pem --ca ca.pem --out FILE

The file is for `--ssl_config_file` of TensorFlow Serving (compose.tls.yaml) and
`--ssl-config-file` of the local server. It is an SSLConfig, which holds the PEM files' text, not
their paths. A server with it encrypts gRPC and refuses clients without a certificate of that
authority. The file contains the private key: only its owner can read it; never put it into a
repository. Research use only.
"""

import argparse
import json
from pathlib import Path

from leuko_tf.cli import UserError, run, write_aside
from serving.connection import read_pem
from serving.server.configs import read_ssl

# Printed by --help.
RECIPE = """\
without an authority, make one and its certificates with openssl 3:

  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 3650 \\
    -subj "/CN=laboratory" -addext keyUsage=critical,keyCertSign -keyout ca.key -out ca.pem
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \\
    -subj "/CN=server" -addext basicConstraints=critical,CA:FALSE \\
    -addext subjectAltName=DNS:localhost,DNS:HOST \\
    -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 365 \\
    -subj "/CN=client" -addext basicConstraints=critical,CA:FALSE \\
    -CA ca.pem -CAkey ca.key -keyout client.key -out client.pem

HOST is the server's name for its clients. Keep ca.key on neither machine. A client then runs

  python -m serving.client --address HOST:8500 --ca-certificate ca.pem \\
    --client-certificate client.pem --client-key client.key IMAGE...
"""


def write_ssl_config(key: Path, certificate: Path, authority: Path, out: Path) -> None:
    """Writes an SSLConfig with `client_verify` that only its owner can read; replaces `out`.

    Args:
      key: The server's private key, a PEM file without a passphrase.
      certificate: The server's certificate, followed by its intermediate ones, a PEM file.
      authority: Certificates that check the clients' certificates, a PEM file.

    Raises:
      UserError: a file cannot be read or is not such a file, or the key does not belong to the
        certificate.
    """
    lines = []
    for field, file, kind in (
        ("server_key", key, "PRIVATE KEY"),
        ("server_cert", certificate, "CERTIFICATE"),
        ("custom_ca", authority, "CERTIFICATE"),
    ):
        pem = read_pem(file, kind)
        if not pem.isascii():
            raise UserError(f"{file} has characters outside of ASCII.")
        if field == "server_key" and b"ENCRYPTED" in pem:
            raise UserError(
                f"{key} is locked with a passphrase, which a server cannot enter."
                f" Unlock it: openssl pkey -in {key} -out unlocked.key"
            )
        # A JSON string is a valid text-format string.
        lines.append(f"{field}: {json.dumps(pem.decode())}\n")
    with write_aside(out) as aside:
        aside.touch(0o600, exist_ok=False)
        aside.write_text("".join([*lines, "client_verify: true\n"]))
        try:
            read_ssl(aside).make_http_context()
        except UserError:
            raise UserError(
                f"{key}, {certificate} and {authority} do not go together: does the key belong to"
                f" the first certificate in {certificate}, and are the files complete?"
            ) from None


def main() -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.ssl_config",
        description="Put a server's key and certificates into the file that TensorFlow Serving"
        " and the local server read.",
        epilog=RECIPE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for option, meaning in (
        ("--key", "the server's private key"),
        ("--certificate", "the server's certificate, followed by its intermediate ones"),
        ("--ca", "the authority's certificate; clients without one of this authority are refused"),
    ):
        parser.add_argument(option, type=Path, required=True, metavar="PEM", help=meaning)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    args = parser.parse_args()
    write_ssl_config(args.key, args.certificate, args.ca, args.out)


if __name__ == "__main__":
    run(main)
