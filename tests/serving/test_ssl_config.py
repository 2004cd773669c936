"""The file with a server's key and certificates, from making them to an answered request."""

import re
import shutil
import stat
import subprocess

import pytest
from certificates import write_certificates
from cryptography import x509
from running import check_refusal, run_module

from serving.client import Client, ServingError, Tls
from serving.ssl_config import RECIPE

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")


def _ssl_config(folder, *, key="server.key", certificate="server.pem", ca="ca.pem"):
    files = {"key": key, "certificate": certificate, "ca": ca, "out": "ssl.config"}
    options = [word for name, file in files.items() for word in (f"--{name}", folder / file)]
    return run_module("serving.ssl_config", *options, timeout=60)


@needs_openssl
def test_the_printed_recipe_makes_a_server_that_wants_certificates(
    start_server, export_base, image_files, tmp_path
):
    commands = re.findall(r"openssl (?:.*\\\n)*.*", RECIPE)[1:]
    assert len(commands) == 3
    for command in commands:
        subprocess.run(command, shell=True, check=True, cwd=tmp_path, capture_output=True)
    for name, is_authority in (("ca", True), ("server", False), ("client", False)):
        certificate = x509.load_pem_x509_certificate((tmp_path / f"{name}.pem").read_bytes())
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.value.ca is is_authority, name

    result = _ssl_config(tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    file = tmp_path / "ssl.config"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with start_server("--model-base-path", export_base, "--ssl-config-file", file) as server:
        address = f"localhost:{server.address.rpartition(':')[2]}"
        images = [image_files["a.png"].read_bytes()]
        shown = Tls(tmp_path / "ca.pem", tmp_path / "client.pem", tmp_path / "client.key")
        with Client(address, tls=shown) as client:
            assert len(client.predict(images)) == 1
        without = Client(address, tls=Tls(tmp_path / "ca.pem"), timeout_s=2)
        with without as client, pytest.raises(ServingError):
            client.predict(images)


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"key": "client.key"}, "do not go together"),
        ({"certificate": "ca.pem"}, "do not go together"),
        ({"ca": "broken.pem"}, "do not go together"),
        ({"ca": "server.key"}, "server.key is not a PEM file with a certificate"),
        ({"key": "server.pem"}, "server.pem is not a PEM file with a private key"),
        ({"key": "absent.key"}, "absent.key: No such file or directory"),
        ({"certificate": "picture.pem"}, "picture.pem is not a PEM file with a certificate"),
        ({"certificate": "umlaut.pem"}, "umlaut.pem has characters outside of ASCII"),
        pytest.param({"key": "locked.key"}, "locked with a passphrase", marks=needs_openssl),
    ],
)
def test_what_does_not_fit_is_explained_and_nothing_written(tmp_path, files, part):
    folder = write_certificates(tmp_path)
    (folder / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n")
    (folder / "picture.pem").write_bytes(b"\x89PNG\xff")
    (folder / "umlaut.pem").write_bytes(b"M\xc3\xbcller\n" + (folder / "server.pem").read_bytes())
    if "locked.key" in files.values():
        command = "openssl pkey -in server.key -aes256 -passout pass:secret -out locked.key"
        subprocess.run(command.split(), check=True, cwd=folder)
    result = _ssl_config(folder, **files)
    check_refusal(result, part)
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert not list(folder.glob("*ssl.config"))
