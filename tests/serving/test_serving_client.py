"""The client as a library and as a command, against a running server."""

import io
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent import futures
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from PIL import Image

from leuko_tf.classes import CODES
from serving.client import (
    ADDRESS_VARIABLE,
    MAX_IMAGES_PER_REQUEST,
    RESEARCH_NOTE,
    Client,
    ImageError,
    ServingError,
    read_image,
)
from serving.messages import PredictRequest, PredictResponse, to_tensor

ROOT = Path(__file__).parents[2]


def _python(*arguments, address="127.0.0.1:1"):
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        check=False,
        cwd=ROOT,
        env={**os.environ, ADDRESS_VARIABLE: address},
        capture_output=True,
        text=True,
        timeout=60,
    )


def _run(*arguments, **options):
    return _python("-m", "serving.client", *arguments, **options)


def _fails_with_one_line(result, *parts):
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("serving.client: ")
    for part in parts:
        assert str(part) in line


@pytest.fixture(scope="module")
def free_address() -> str:
    """An address at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


# Reading files.


@pytest.mark.parametrize("name", ["a.png", "d.jpg"])
def test_png_and_jpeg_pass_unchanged(image_files, name):
    assert read_image(image_files[name]) == image_files[name].read_bytes()


@pytest.mark.parametrize("name", ["b.tiff", "c.tif"])
def test_tiff_becomes_png_without_loss(image_files, pixels, name):
    with Image.open(io.BytesIO(read_image(image_files[name]))) as png:
        assert (png.format, png.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(np.asarray(png), pixels)


def _write_grey_tiff(path):
    Image.new("L", (4, 4)).save(path, "TIFF")


def _write_two_page_tiff(path):
    page = Image.new("RGB", (4, 4))
    page.save(path, "TIFF", save_all=True, append_images=[page])


def _write_gif(path):
    Image.new("RGB", (4, 4)).save(path, "GIF")


def _write_half_a_png(path):
    png = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(png, "PNG")
    path.write_bytes(png.getvalue()[: len(png.getvalue()) // 2])


def _write_nothing(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (_write_grey_tiff, "is not a TIFF of one 8-bit RGB or RGBA image"),
        (_write_two_page_tiff, "is not a TIFF of one 8-bit RGB or RGBA image"),
        (_write_gif, "is not a PNG, JPEG or TIFF image"),
        (_write_nothing, "is not a PNG, JPEG or TIFF image"),
        (_write_half_a_png, "Cannot decode"),
        (Path.mkdir, "is a folder"),
        (lambda path: None, "Cannot read"),
    ],
    ids=["grey TIFF", "two pages", "GIF", "empty", "half a PNG", "folder", "missing"],
)
def test_a_file_that_cannot_be_sent_is_named(tmp_path, write, text):
    path = tmp_path / "cell.png"
    write(path)
    with pytest.raises(ImageError, match=text) as caught:
        read_image(path)
    assert str(path) in str(caught.value)


# The class.


def test_predict_answers_in_order(address, image_files):
    images = [read_image(path) for path in image_files.values()]
    with Client(address) as client:
        answers = client.predict(images)
        alone = client.predict(images[-1:])
    assert len(answers) == 4
    for answer in answers:
        assert sorted(answer.classes) == sorted(CODES)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-4)
        assert 0 <= answer.blast_score <= answer.atypical_score + 1e-6 <= 1 + 2e-6
    assert alone[0].probabilities == pytest.approx(answers[-1].probabilities, abs=1e-5)


def test_probabilities_belong_to_their_classes(address, image_files):
    blasts = ("MYO", "MOB")
    with Client(address) as client:
        (answer,) = client.predict([read_image(image_files["a.png"])])
    by_class = dict(zip(answer.classes, answer.probabilities, strict=True))
    assert sum(by_class[code] for code in blasts) == pytest.approx(answer.blast_score, abs=1e-5)


def test_png_and_tiff_agree(address, image_files):
    with Client(address) as client:
        png, rgba_tiff, tiff = client.predict(
            [read_image(image_files[name]) for name in ("a.png", "b.tiff", "c.tif")]
        )
    for other in (rgba_tiff, tiff):
        assert other.classes == png.classes
        assert other.probabilities == pytest.approx(png.probabilities, abs=1e-5)


def test_a_long_list_is_sent_in_parts(address, image_files):
    image = read_image(image_files["a.png"])
    with Client(address) as client:
        assert len(client.predict([image] * (2 * MAX_IMAGES_PER_REQUEST + 1))) == 33
        assert client.predict([]) == []


def test_large_images_are_sent_in_parts(address, image_files):
    image = read_image(image_files["a.png"])
    with Client(address, max_message_bytes=2 * len(image) + 5000) as client:
        assert len(client.predict([image] * 5)) == 5


def test_an_image_over_the_limit_is_refused(address, image_files):
    image = read_image(image_files["a.png"])
    with (
        Client(address, max_message_bytes=len(image)) as client,
        pytest.raises(ServingError, match=f"size limit .here {len(image)} bytes") as caught,
    ):
        client.predict([image])
    assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_status_and_version(address, image_files):
    image = read_image(image_files["a.png"])
    with Client(address) as client:
        available = [s for s in client.status() if s.state == "AVAILABLE"]
        assert available[0].message == ""
        (answer,) = client.predict([image], version=available[0].version)
        assert answer.model_version == available[0].version
        with pytest.raises(ServingError, match=r"Specific\(leuko, 987654\)") as caught:
            client.predict([image], version=987654)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_an_unknown_model_has_no_status(address):
    with Client(address, model="nope") as client, pytest.raises(ServingError) as caught:
        client.status()
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


@dataclass
class StrangeServer:
    """A server whose model is no export of this project: what it answers with, or refuses with.

    It answers when `may_answer` is set.
    """

    address: str = ""
    may_answer: threading.Event = field(default_factory=threading.Event)
    outputs: dict[str, Any] = field(default_factory=dict)
    refusal: str = ""

    def predict(self, request, context):
        self.may_answer.wait()
        if self.refusal:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, self.refusal)
        return PredictResponse(outputs={k: to_tensor(v) for k, v in self.outputs.items()})


@pytest.fixture
def strange_server():
    strange = StrangeServer()
    strange.may_answer.set()
    handler = grpc.unary_unary_rpc_method_handler(
        strange.predict, PredictRequest.FromString, PredictResponse.SerializeToString
    )
    service = "tensorflow.serving.PredictionService"
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {"Predict": handler}),)
    )
    strange.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield strange
    strange.may_answer.set()
    server.stop(None).wait()


def test_a_missed_deadline_is_explained(strange_server):
    strange_server.may_answer.clear()
    with (
        Client(strange_server.address, timeout_s=0.5) as client,
        pytest.raises(ServingError, match=r"did not answer within 0\.5 s") as caught,
    ):
        client.predict([b"x"])
    assert caught.value.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_answer_of_another_kind_of_model_is_explained(strange_server):
    with Client(strange_server.address) as client:
        with pytest.raises(ServingError, match="lacks probabilities, classes") as caught:
            client.predict([b"x"])
        assert caught.value.code is None
        scores = np.zeros(1, np.float32)
        strange_server.outputs = {
            "probabilities": scores,
            "classes": [b"MYO"],
            "blast_score": scores,
            "atypical_score": scores,
        }
        with pytest.raises(ServingError, match="for 1 images has classes of shape"):
            client.predict([b"x"])


def test_images_that_only_the_server_refuses_are_named(strange_server, image_files):
    strange_server.refusal = "too large"
    first, second, *_ = image_files.values()
    result = _run(first, address=strange_server.address)
    _fails_with_one_line(result, f"serving.client: {first}: ", "too large")
    result = _run(first, second, address=strange_server.address)
    _fails_with_one_line(result, f"One of {first} to {second}: ", "too large")


# The command.


def test_table(address, image_files):
    result = _run(*image_files.values(), "--top", "2", address=address)
    assert result.returncode == 0, result.stderr
    head, *rows = result.stdout.splitlines()
    assert head.split() == ["file", "top", "1", "top", "2", "blast", "atypical"]
    assert len({len(line) for line in (head, *rows)}) == 1
    for row, path in zip(rows, image_files.values(), strict=True):
        file, first, p1, second, p2, *scores = row.split()
        assert file == str(path)
        assert {first, second} < set(CODES)
        assert 1 >= float(p1) >= float(p2) >= 0
        assert len(scores) == 2
    assert result.stderr.strip() == RESEARCH_NOTE


def test_table_has_no_more_ranks_than_classes(address, image_files):
    result = _run(image_files["a.png"], "--top", "99", address=address)
    head, row = result.stdout.splitlines()
    assert head.split().count("top") == len(CODES)
    assert len(row) == len(head)


def test_json_lines(address, image_files):
    result = _run("--json", *image_files.values(), address=address)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in image_files.values()]
    with Client(address) as client:
        (answer,) = client.predict([read_image(image_files["a.png"])])
    assert lines[0]["classes"] == list(answer.classes[:3])
    assert lines[0]["probabilities"] == pytest.approx(answer.probabilities[:3], abs=1e-5)
    assert lines[0]["blast_score"] == pytest.approx(answer.blast_score, abs=1e-5)
    assert lines[0]["atypical_score"] == pytest.approx(answer.atypical_score, abs=1e-5)
    assert lines[0]["model_version"] == answer.model_version
    assert RESEARCH_NOTE in result.stderr


def test_address_option_goes_before_the_environment(address, image_files, free_address):
    result = _run(image_files["a.png"], "--address", address, address=free_address)
    assert result.returncode == 0, result.stderr


def test_files_that_cannot_be_sent(address, image_files, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(image_files["a.png"].read_bytes()[:200])
    for path in (tmp_path / "missing.png", tmp_path, broken):
        result = _run(image_files["a.png"], path, address=address)
        _fails_with_one_line(result, path)


def test_answers_before_an_error_are_kept(address, image_files, tmp_path):
    good = [image_files["a.png"]] * MAX_IMAGES_PER_REQUEST
    result = _run("--json", *good, tmp_path / "missing.png", address=address)
    _fails_with_one_line(result, "missing.png")
    assert len(result.stdout.splitlines()) == MAX_IMAGES_PER_REQUEST


def test_no_server(image_files, free_address):
    result = _run(image_files["a.png"], address=free_address)
    _fails_with_one_line(result, "No answer from a server at", free_address, ADDRESS_VARIABLE)


def test_unknown_model(address, image_files):
    result = _run(image_files["a.png"], "--model", "nope", address=address)
    _fails_with_one_line(result, address, "'nope'", "Latest(nope)")


@pytest.mark.parametrize("arguments", [[], ["a.png", "--top", "0"], ["a.png", "--nope"]])
def test_usage_errors(arguments):
    result = _run(*arguments)
    assert result.returncode == 2
    assert "usage: python -m serving.client" in result.stderr
    assert "Traceback" not in result.stderr


# Lightness.

ASSERT_LIGHT = (
    "\nheavy = {'tensorflow', 'tensorflow_serving', 'keras'} & sys.modules.keys()"
    "\nassert not heavy, heavy"
)


def test_client_never_imports_tensorflow(address, image_files):
    code = (
        "import sys; from serving.client import Client, read_image\n"
        "answers = Client(sys.argv[1]).predict([read_image(sys.argv[2])])\n"
        "print(len(answers))"
    )
    result = _python("-c", code + ASSERT_LIGHT, address, image_files["b.tiff"])
    assert (result.returncode, result.stdout.strip()) == (0, "1"), result.stderr


@pytest.mark.parametrize("module", ["serving.client", "serving.local_server"])
def test_help_is_light(module):
    code = (
        f"import sys, runpy; sys.argv = ['', '--help']\n"
        f"try: runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0"
    )
    result = _python("-c", code + ASSERT_LIGHT)
    assert result.returncode == 0, result.stderr
    assert f"usage: python -m {module}" in result.stdout
    assert RESEARCH_NOTE in result.stdout
