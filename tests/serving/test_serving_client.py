"""The client as a library and as a command, against a running server."""

import io
import itertools
import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import threading
from concurrent import futures
from pathlib import Path

import grpc
import matplotlib
import numpy as np
import pytest
from PIL import Image
from running import ROOT, check_refusal, run, run_module
from stand_in_server import SIDE, VERSION, start_stand_in

from leuko_tf.classes import CODES
from serving import client as client_module
from serving import grpc_client, images
from serving.client import (
    MAX_IMAGES_PER_REQUEST,
    RESEARCH_NOTE,
    Client,
    ImageError,
    ServingError,
    Tls,
    read_image,
)
from serving.connection import ADDRESS_VARIABLE
from serving.grpc_client import MAX_EXPLAINED_PER_REQUEST

NOWHERE = "127.0.0.1:1"


def _run(*arguments, address=NOWHERE):
    return run_module("serving.client", *arguments, env={ADDRESS_VARIABLE: address}, timeout=60)


def _start(*arguments, address, **streams):
    """Starts the command without waiting for its end."""
    return subprocess.Popen(
        [sys.executable, "-m", "serving.client", *map(str, arguments)],
        env={**os.environ, ADDRESS_VARIABLE: address},
        text=True,
        **streams,
    )


def _read_json_lines(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


def _check_one_line(result, *parts):
    check_refusal(result, *map(str, parts))
    *warnings, line = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert len(warnings) <= 1
    assert all(warning.startswith("no answer yet from ") for warning in warnings)


def _fail(address, images=(b"x",), **options) -> ServingError:
    """Classifies images and returns the error."""
    with Client(address, **options) as client, pytest.raises(ServingError) as caught:
        client.predict(images)
    return caught.value


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


def _write_two_page_tiff(path):
    page = Image.new("RGB", (4, 4))
    page.save(path, "TIFF", save_all=True, append_images=[page])


def _write_half_a_png(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, "PNG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("write", "text"),
    [
        (lambda path: Image.new("L", (4, 4)).save(path, "TIFF"), "one 8-bit RGB or RGBA image"),
        (_write_two_page_tiff, "one 8-bit RGB or RGBA image"),
        (lambda path: Image.new("RGB", (4, 4)).save(path, "GIF"), "not a PNG, JPEG or TIFF image"),
        (Path.touch, "is not a PNG, JPEG or TIFF image"),
        (_write_half_a_png, "Cannot decode"),
        (Path.mkdir, "Cannot read .* Is a directory"),
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


def test_folders_stand_for_their_images(tmp_path):
    folder, elsewhere = tmp_path / "cells", tmp_path / "elsewhere"
    names = ["b.PNG", "a.tiff", "inner/c.jpeg", "notes.txt", ".hidden/d.png", "inner/.e.png"]
    for path in (*(folder / name for name in names), elsewhere / "f.png"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "link").symlink_to(elsewhere)
    found = images.find_image_files(["first.png", folder])
    expected = ["a.tiff", "b.PNG", "inner/c.jpeg"]
    assert found == [Path("first.png"), *(folder / name for name in expected)]
    (elsewhere / "f.png").unlink()
    with pytest.raises(ImageError, match="without PNG, JPEG or TIFF files"):
        images.find_image_files([elsewhere])


# Overlays.


def test_colours_of_overlays_are_near_magma():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    black = Image.new("RGB", (16, 16))
    ours = np.asarray(images.draw_overlay(black, levels)) / images._OVERLAY_OPACITY
    magma = matplotlib.colormaps["magma"](levels)[..., :3] * 255
    np.testing.assert_allclose(ours, magma, atol=12)


def test_an_overlay_covers_the_whole_image_and_lets_it_through():
    image = Image.new("L", (30, 20))
    image.paste(255, (15, 0, 30, 20))
    saliency = np.array([[0, 0], [255, 255]], np.uint8)
    result = np.asarray(images.draw_overlay(image, saliency)).astype(int)
    assert result.shape == (20, 30, 3)
    assert (result[-1] - result[0]).min() > 50  # bright below, where the map is
    assert (result[:, -1] - result[:, 0]).min() > 50  # and right, where the image is


@pytest.mark.parametrize(("width", "height"), [(31, 26), (15, 12), (20, 9)])
def test_an_overlay_lies_where_the_network_looked(width, height):
    """Here at 20 pixels in the middle: one bright pixel of the map returns to its place."""
    bright = np.zeros((20, 20), np.uint8)
    bright[9, 12] = 255
    black = Image.new("RGB", (width, height))
    result = np.asarray(images.draw_overlay(black, bright, field=20)).sum(axis=2)
    assert result.shape == (height, width)
    top, left = (height - 20) // 2, (width - 20) // 2
    assert np.unravel_index(result.argmax(), result.shape) == (top + 9, left + 12)


# The class.


def test_predict_answers_in_order(address, image_files):
    encoded = [read_image(path) for path in image_files.values()]
    with Client(address) as client:
        answers = client.predict(encoded)
        (alone,) = client.predict(encoded[-1:])
        assert client.predict([]) == []
    assert len(answers) == 4
    for answer in answers:
        assert sorted(answer.classes) == sorted(CODES)
        assert list(answer.probabilities) == sorted(answer.probabilities, reverse=True)
        assert sum(answer.probabilities) == pytest.approx(1, abs=1e-4)
        assert 0 <= answer.blast_score <= answer.atypical_score + 1e-6 <= 1 + 2e-6
        by_class = dict(zip(answer.classes, answer.probabilities, strict=True))
        assert by_class["MYO"] + by_class["MOB"] == pytest.approx(answer.blast_score, abs=1e-5)
    assert alone.probabilities == pytest.approx(answers[-1].probabilities, abs=1e-5)
    png, *tiffs, _ = answers
    for tiff in tiffs:  # with and without an alpha channel
        assert tiff.classes == png.classes
        assert tiff.probabilities == pytest.approx(png.probabilities, abs=1e-5)


def test_many_and_large_images_are_sent_in_parts(address, image_files):
    image = read_image(image_files["a.png"])
    with Client(address) as client:
        assert len(client.predict([image] * (2 * MAX_IMAGES_PER_REQUEST + 1))) == 33
    with Client(address, max_message_bytes=2 * len(image) + 5000) as client:
        assert len(client.predict([image] * 5)) == 5


def test_an_image_over_the_limit_is_refused(address, image_files):
    image = read_image(image_files["a.png"])
    error = _fail(address, [image], max_message_bytes=len(image))
    assert f"size limit (here {len(image)} bytes)" in str(error)
    assert error.code is EXHAUSTED


def test_status_and_version(address, image_files):
    image = read_image(image_files["a.png"])
    with Client(address) as client:
        available = [s for s in client.status() if s.state == "AVAILABLE"]
        assert available[0].message == ""
    with Client(address, version=available[0].version) as client:
        (answer,) = client.predict([image])
        assert answer.model_version == available[0].version
    error = _fail(address, [image], version=987654)
    assert "987654" in str(error)
    assert error.code is grpc.StatusCode.NOT_FOUND
    with Client(address, model="nope") as client, pytest.raises(ServingError) as caught:
        client.status()
    assert caught.value.code is grpc.StatusCode.NOT_FOUND


def test_a_missed_deadline_is_explained(stand_in):
    may_answer = threading.Event()
    stand_in.before_answer = lambda images: may_answer.wait()
    error = _fail(stand_in.address, timeout_s=0.5)
    may_answer.set()
    assert "did not answer within 0.5 s" in str(error)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_answer_of_another_kind_of_model_is_explained(stand_in):
    stand_in.outputs = {}
    error = _fail(stand_in.address)
    assert "lacks probabilities, classes" in str(error)
    assert error.code is None
    scores = np.zeros(1, np.float32)
    stand_in.outputs = dict.fromkeys(("probabilities", "blast_score", "atypical_score"), scores)
    stand_in.outputs["classes"] = [b"MYO"]
    assert "for 1 images has the shapes atypical" in str(_fail(stand_in.address))


def test_version_and_label_are_sent(stand_in):
    for which in ({"version": 5}, {"label": "canary"}, {}):
        with Client(stand_in.address, "cells", **which) as client:
            client.predict([b"x"])
    specs = [request.model_spec for request in stand_in.requests]
    assert [(spec.name, spec.version.value, spec.version_label) for spec in specs] == [
        ("cells", 5, ""),
        ("cells", 0, "canary"),
        ("cells", 0, ""),
    ]
    with pytest.raises(ValueError, match="not both"):
        Client(stand_in.address, version=5, label="canary")


def test_invalid_images_are_marked_and_the_others_kept(stand_in):
    stand_in.problems = {b"bad": "not a PNG"}
    with Client(stand_in.address) as client:
        assert [a.problem for a in client.predict([b"x", b"bad", b"y"])] == ["", "not a PNG", ""]
        stand_in.leaves_out = ("problem",)
        assert client.predict([b"bad"])[0].problem == "The server cannot read the image."
        stand_in.leaves_out = ("problem", "valid")  # an older export
        assert client.predict([b"bad"])[0].problem == ""


def test_saliency_comes_from_the_signature_explain(stand_in):
    with Client(stand_in.address) as client:
        first, second, *_ = client.predict([b"x"] * MAX_EXPLAINED_PER_REQUEST, saliency=True)
        assert first.saliency.shape == second.saliency.shape == (SIDE, SIDE)
        assert first.saliency.dtype == np.uint8
        assert first.saliency_field == 6
        assert client.predict([b"x"])[0].saliency is None
        signatures = [request.model_spec.signature_name for request in stand_in.requests]
        assert signatures == ["explain", "encoded"]
        client.predict([b"x"] * (MAX_EXPLAINED_PER_REQUEST + 1), saliency=True)
        assert len(stand_in.requests) == 4
        stand_in.leaves_out = ("saliency",)
        with pytest.raises(ServingError, match="lacks saliency"):
            client.predict([b"x"], saliency=True)


# Streams.


def _blast_scores(answers):
    return [round(answer.blast_score * 255) for answer in answers]


def test_a_stream_keeps_its_order_and_its_bound_of_requests_under_way(stand_in):
    """Three requests come before any is answered, and the last of them is answered first."""
    together, lock, under_way, most = threading.Barrier(3), threading.Lock(), set(), []
    answered = {first: threading.Event() for first in range(0, 96, MAX_IMAGES_PER_REQUEST)}

    def last_first(batch):
        first = batch[0][0]
        with lock:
            under_way.add(first)
            most.append(len(under_way))
        together.wait(timeout=30)
        number = first // MAX_IMAGES_PER_REQUEST
        if number % 3 < 2:
            answered[first + MAX_IMAGES_PER_REQUEST].wait(timeout=30)
        with lock:
            under_way.remove(first)
        answered[first].set()

    stand_in.before_answer = last_first
    with Client(stand_in.address) as client:
        answers = client.classify_many((bytes([i]) for i in range(96)), concurrency=3)
        assert _blast_scores(answers) == list(range(96))
    assert max(most) == 3


def test_an_endless_stream_is_read_as_needed(stand_in):
    taken = itertools.count()

    def endless():
        while True:
            yield bytes([next(taken) % 256])

    with Client(stand_in.address) as client:
        answers = client.classify_many(endless(), concurrency=2)
        assert _blast_scores(itertools.islice(answers, 40)) == list(range(40))
        answers.close()
        # Those answered, and a request's worth for each under way, waiting, and being filled.
        assert next(taken) <= 40 + (2 + 3) * MAX_IMAGES_PER_REQUEST


def test_answers_before_a_failure_are_yielded(stand_in):
    def fail_later(batch):
        if batch[0] != b"\0":
            raise ValueError("no more")

    stand_in.before_answer = fail_later
    received = []

    def classify(client):
        for answer in client.classify_many(bytes([i]) for i in range(40)):
            received.append(answer)

    with Client(stand_in.address) as client, pytest.raises(ServingError, match="no more"):
        classify(client)
    assert _blast_scores(received) == list(range(MAX_IMAGES_PER_REQUEST))


# Failures that pass.

UNAVAILABLE, EXHAUSTED = grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_server_that_is_busy_is_asked_again(stand_in, caplog):
    stand_in.failures = [UNAVAILABLE, EXHAUSTED, UNAVAILABLE]
    with Client(stand_in.address) as client:
        assert len(client.predict([b"x"])) == 1
    assert len(stand_in.requests) == 4
    (warning,) = caplog.messages
    assert f"no answer yet from {stand_in.address} (as it was told)" in warning


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED], ids=lambda code: code.name)
def test_a_server_that_stays_busy_is_given_up(stand_in, code):
    stand_in.always = code
    error = _fail(stand_in.address, timeout_s=1)
    assert re.search("1 s.*as it was told", str(error))
    assert error.code is code
    assert len(stand_in.requests) > 1


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code not in (grpc.StatusCode.OK, UNAVAILABLE, EXHAUSTED)],
    ids=lambda code: code.name,
)
def test_other_failures_are_not_tried_again(stand_in, code):
    stand_in.always = code
    assert _fail(stand_in.address).code is code
    assert len(stand_in.requests) == 1


def test_a_message_over_the_servers_limit_is_not_tried_again(caplog):
    with start_stand_in(options=(("grpc.max_receive_message_length", 1000),)) as server:
        error = _fail(server.address, [b"x" * 2000])
    assert "over its size limit" in str(error)
    assert error.code is EXHAUSTED
    assert not caplog.messages


def test_a_server_that_was_never_reached_gets_less_time(free_address, monkeypatch):
    monkeypatch.setattr(grpc_client, "FIRST_CONTACT_S", 0.5)
    error = _fail(free_address)
    assert re.search(r"in 0\.5 s: .*Connection refused", str(error))
    assert error.code is UNAVAILABLE


def test_a_server_that_starts_late_is_waited_for(free_address):
    """Nothing listens at first; then a server does, at the same address."""
    port = int(free_address.rpartition(":")[2])
    with Client(free_address) as client, futures.ThreadPoolExecutor(1) as pool:
        answers = pool.submit(client.predict, [b"x"])
        with start_stand_in(port=port):
            assert len(answers.result(timeout=60)) == 1


def test_closing_gives_up_what_is_under_way(stand_in):
    stand_in.always = UNAVAILABLE
    client = Client(stand_in.address)
    threading.Timer(0.3, client.close).start()
    with pytest.raises(ServingError) as caught:
        client.predict([b"x"])
    assert caught.value.code is grpc.StatusCode.CANCELLED


def test_a_server_killed_under_load_ends_the_client_at_its_deadline(image_files, tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(2000)]
    for path in paths:
        path.symlink_to(image_files["a.png"])
    server = [sys.executable, ROOT / "tests" / "stand_in_server.py"]
    with subprocess.Popen(server, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().strip()
        with (
            (tmp_path / "errors.txt").open("w") as errors,
            _start(
                *("--json", "--deadline", 2, tmp_path),
                address=address,
                stdout=subprocess.PIPE,
                stderr=errors,
            ) as client,
        ):
            lines = [client.stdout.readline() for _ in range(3)]
            process.kill()
            lines += client.stdout
    errors = (tmp_path / "errors.txt").read_text()
    result = subprocess.CompletedProcess([], client.returncode, "", errors)
    _check_one_line(result, address, f"{len(lines)} of 2000 images were answered")
    assert 3 <= len(lines) < 2000
    assert [json.loads(line)["file"] for line in lines] == sorted(map(str, paths))[: len(lines)]


# Encryption.


def test_encryption_with_a_clients_certificate(certificates, image_files):
    """The server encrypts, and refuses clients without a certificate."""
    files = {file.name: file.read_bytes() for file in certificates.iterdir()}
    credentials = grpc.ssl_server_credentials(
        [(files["server.key"], files["server.pem"])], files["ca.pem"], require_client_auth=True
    )
    ca, certificate, key = (certificates / n for n in ("ca.pem", "client.pem", "client.key"))
    options = ("--ca-certificate", ca, "--client-certificate", certificate, "--client-key", key)
    with start_stand_in(credentials=credentials) as server:
        result = _run(image_files["a.png"], *options, address=server.address)
        assert result.returncode == 0, result.stderr
        for tls in (None, Tls(), Tls(ca_certificate=ca)):
            assert _fail(server.address, tls=tls, timeout_s=1)
        assert len(server.requests) == 1


def test_certificates_that_cannot_be_used_are_named(certificates, image_files, tmp_path):
    image, missing = image_files["a.png"], tmp_path / "none.pem"
    key, certificate = certificates / "client.key", certificates / "client.pem"
    for tls, text in (
        (Tls(ca_certificate=missing), f"Cannot read {missing}"),
        (Tls(ca_certificate=image), f"{image} is not a PEM file with a certificate"),
        (Tls(client_certificate=certificate), "both a client's certificate and its key"),
        (Tls(client_key=key), "both a client's certificate and its key"),
        (Tls(None, certificate, certificate), f"{certificate} is not a PEM file with a private"),
    ):
        with pytest.raises(ServingError) as caught:
            Client(NOWHERE, tls=tls)
        assert text in str(caught.value)
    _check_one_line(_run(image, "--ca-certificate", missing), f"Cannot read {missing}")


# The command.


def test_table(address, image_files, free_address):
    """At the server of `--address`, which takes precedence over the environment."""
    options = ("--top", 2, "--address", address)
    result = _run(*image_files.values(), *options, address=free_address)
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


def test_json_lines_of_a_folder(address, image_files):
    result = _run("--json", image_files["a.png"].parent, address=address)
    assert result.returncode == 0, result.stderr
    lines = _read_json_lines(result)
    assert [line["file"] for line in lines] == [str(path) for path in image_files.values()]
    with Client(address) as client:
        (answer,) = client.predict([read_image(image_files["a.png"])])
    assert lines[0]["classes"] == list(answer.classes[:3])
    assert lines[0]["probabilities"] == pytest.approx(answer.probabilities[:3], abs=1e-5)
    assert lines[0]["blast_score"] == pytest.approx(answer.blast_score, abs=1e-5)
    assert lines[0]["atypical_score"] == pytest.approx(answer.atypical_score, abs=1e-5)
    assert lines[0]["model_version"] == answer.model_version
    assert RESEARCH_NOTE in result.stderr


@pytest.mark.parametrize("words", [(), ("--json",)])
def test_a_remark_of_the_model_is_printed_once(stand_in, image_files, words):
    stand_in.remark = b"learned from drawings"
    result = _run(*words, *image_files.values(), address=stand_in.address)
    assert result.stderr.splitlines() == ["learned from drawings", RESEARCH_NOTE]
    if words:
        assert {line["remark"] for line in _read_json_lines(result)} == {"learned from drawings"}


def test_an_export_without_remarks_will_do(stand_in, image_files):
    stand_in.leaves_out = ("remark",)
    result = _run(image_files["a.png"], address=stand_in.address)
    assert (result.returncode, result.stderr.strip()) == (0, RESEARCH_NOTE)


@pytest.fixture
def one_bad_each(stand_in, image_files, tmp_path):
    """Good files around one that cannot be read, and one that the server marks as invalid."""
    broken, refused = tmp_path / "broken.png", tmp_path / "refused.png"
    broken.write_bytes(image_files["a.png"].read_bytes()[:200])
    Image.new("RGB", (9, 9)).save(refused)
    stand_in.problems = {refused.read_bytes(): "too small"}
    return [broken, image_files["a.png"], refused, tmp_path / "missing.png", image_files["d.jpg"]]


def test_images_without_answer_are_listed_at_the_end(stand_in, one_bad_each):
    result = _run(*one_bad_each, address=stand_in.address)
    assert result.returncode == 1
    head, *rows = result.stdout.splitlines()
    assert head.startswith("file")
    assert [row.split()[0] for row in rows] == [str(one_bad_each[1]), str(one_bad_each[4])]
    note, count, *problems = result.stderr.splitlines()
    assert note == RESEARCH_NOTE
    assert count == "error: 3 of 5 images have no answer:"
    parts = ("broken.png", "refused.png: too small", "missing.png")
    for problem, part in zip(problems, parts, strict=True):
        assert part in problem

    lines = _read_json_lines(_run("--json", *one_bad_each, address=stand_in.address))
    assert [line["file"] for line in lines] == [str(path) for path in one_bad_each]
    assert ["problem" in line for line in lines] == [True, False, True, True, False]


def test_images_that_only_the_server_refuses_are_named(stand_in, image_files):
    """Exports without `valid` refuse the whole request."""
    stand_in.always = grpc.StatusCode.INVALID_ARGUMENT
    first, second, *_ = image_files.values()
    result = _run(first, address=stand_in.address)
    _check_one_line(result, f"error: {first}: ", "as it was told")
    result = _run(first, second, address=stand_in.address)
    _check_one_line(result, f"One of {first} to {second}: ", "as it was told")


def test_overlays_are_saved_under_the_files_names(stand_in, image_files, tmp_path):
    again = tmp_path / "again" / "a.png"
    again.parent.mkdir()
    again.symlink_to(image_files["a.png"])
    out = tmp_path / "maps"
    paths = [*image_files.values(), again]
    result = _run("--json", "--saliency", out, *paths, address=stand_in.address)
    assert result.returncode == 0, result.stderr
    saved = [Path(line["saliency"]) for line in _read_json_lines(result)]
    names = ["a", "b", "c", "d"]
    expected = [*(f"{name}_saliency.png" for name in names), "a_saliency_2.png"]
    assert [path.name for path in saved] == expected
    assert sorted(saved) == sorted(out.iterdir())
    for path, source in zip(saved, paths, strict=True):
        with Image.open(path) as map_, Image.open(source) as image:
            assert (map_.format, map_.mode, map_.size) == ("PNG", "RGB", image.size)
            assert f"{source.name}: MYO 0.625; {RESEARCH_NOTE}" in map_.text["Description"]


def test_a_folder_for_overlays_that_cannot_be_made(stand_in, image_files):
    image = image_files["a.png"]
    _check_one_line(_run("--saliency", image, image, address=stand_in.address), image)


def test_version_label_and_concurrency_options(stand_in, image_files):
    paths = [image_files["a.png"]] * (2 * MAX_IMAGES_PER_REQUEST)
    gate = threading.Barrier(2)
    stand_in.before_answer = lambda batch: gate.wait(timeout=30)
    result = _run(*paths, "--label", "stable", "--concurrency", 2, address=stand_in.address)
    assert result.returncode == 0, result.stderr
    assert {r.model_spec.version_label for r in stand_in.requests} == {"stable"}
    gate = threading.Barrier(1)
    result = _run("--json", paths[0], "--model-version", VERSION, address=stand_in.address)
    assert json.loads(result.stdout)["model_version"] == VERSION
    assert stand_in.requests[-1].model_spec.version.value == VERSION


def test_a_terminal_gets_a_progress_bar(stand_in, image_files):
    terminal, side = pty.openpty()
    termios.tcsetwinsize(side, (24, 80))
    streams = {"stdout": subprocess.PIPE, "stderr": side}
    with _start(*image_files.values(), address=stand_in.address, **streams) as process:
        os.close(side)
        lines = process.stdout.read().splitlines()
        shown = b""
        while chunk := _read(terminal):
            shown += chunk
    os.close(terminal)
    assert process.returncode == 0
    assert len(lines) == 1 + len(image_files)
    assert b"/4 [" in shown
    assert RESEARCH_NOTE.encode() in shown


def _read(terminal):
    try:
        return os.read(terminal, 10_000)
    except OSError:  # end of file on Linux, after the other side was closed
        return b""


def test_ctrl_c_ends_it_quietly(stand_in, image_files):
    arrived = threading.Event()
    may_answer = threading.Event()

    def hang(batch):
        arrived.set()
        may_answer.wait()

    stand_in.before_answer = hang
    streams = {"stderr": subprocess.PIPE}
    with _start(image_files["a.png"], address=stand_in.address, **streams) as process:
        assert arrived.wait(timeout=60)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read() == ""
    may_answer.set()
    assert process.returncode == -signal.SIGINT


def test_errors_name_address_model_and_label(address, image_files, free_address):
    image = image_files["a.png"]
    result = _run(image, "--deadline", "0.5", address=free_address)
    _check_one_line(result, f"No answer from a server at {free_address}", ADDRESS_VARIABLE)
    result = _run(image, "--model", "nope", address=address)
    _check_one_line(result, address, "'nope'")
    result = _run(image, "--label", "nope", address=address)  # no fault of the image
    _check_one_line(result, f"error: Model 'leuko' at {address} has no such label")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["a.png", "--top", "0"],
        ["a.png", "--concurrency", "0"],
        ["a.png", "--deadline", "nan"],
        ["a.png", "--model-version", "1", "--label", "stable"],
        ["a.png", "--nope"],
    ],
)
def test_usage_errors(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["client", *arguments])
    with pytest.raises(SystemExit) as end:
        client_module.main()
    assert end.value.code == 2
    assert "usage: python -m serving.client" in capsys.readouterr().err


def test_client_never_imports_tensorflow(address, image_files):
    code = (
        "import sys; from serving.client import Client, read_image\n"
        "answers = Client(sys.argv[1]).predict([read_image(sys.argv[2])])\n"
        "print(len(answers), {'tensorflow', 'tensorflow_serving', 'keras'} & sys.modules.keys())"
    )
    result = run([sys.executable, "-c", code, address, image_files["b.tiff"]])
    assert result.stdout == "1 set()\n", result.stderr
