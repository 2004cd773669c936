"""The load test: its figures from known requests, and the command against servers that fail."""

import io
import json
import random
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from PIL import Image
from running import check_refusal, run_module
from stand_in_server import VERSION

from serving import loadtest
from serving.client import Client
from serving.connection import ServingError
from serving.images import ImageError
from serving.load_report import OK, Sample, compute_summary, plot
from serving.messages import to_array


def _run(address, *arguments):
    return run_module("serving.loadtest", "--address", address, *arguments, timeout=120)


# What is sent.


def test_random_images_are_as_large_as_cells():
    files = loadtest.make_random_images()
    assert len(set(files)) == loadtest.RANDOM_IMAGES
    for file in files:
        with Image.open(io.BytesIO(file)) as image:
            assert (image.format, image.mode, image.size) == ("PNG", "RGB", (400, 400))
        assert 150_000 < len(file) < 350_000


def test_every_image_is_in_a_request():
    assert loadtest.make_inputs([b"a", b"b", b"c"], 2, "encoded") == [[b"a", b"b"], [b"c", b"a"]]
    assert loadtest.make_inputs([b"a"], 3, "explain") == [[b"a", b"a", b"a"]]
    small = loadtest.make_random_images(3, side=5)
    arrays = loadtest.make_inputs(small, 2, "serving_default")
    assert [(array.shape, array.dtype) for array in arrays] == [((2, 5, 5, 3), np.uint8)] * 2
    with Image.open(io.BytesIO(small[2])) as image:
        np.testing.assert_array_equal(arrays[1][0], np.asarray(image))
    with pytest.raises(ImageError, match="one size"):
        loadtest.make_inputs(small + loadtest.make_random_images(1, side=6), 2, "serving_default")


def test_a_large_folder_gives_some_of_its_images(tmp_path, monkeypatch):
    for number in range(10):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"{number}.png")
    monkeypatch.setattr(loadtest, "MAX_FILES", 4)
    chosen = [Image.open(io.BytesIO(f)).getpixel((0, 0))[0] for f in loadtest.read_images(tmp_path)]
    assert chosen == [0, 3, 6, 9]


def test_images_that_the_server_marks_as_invalid_are_not_measured(stand_in):
    (good, bad) = loadtest.make_random_images(2, side=5)
    stand_in.problems = {bad: "too small"}
    with Client(stand_in.address) as client:
        assert loadtest.check_inputs(client, "encoded", [[good]]) == VERSION
        with pytest.raises(ServingError, match=r"invalid\. too small"):
            loadtest.check_inputs(client, "encoded", [[good], [bad]])


# When it is sent.


def test_arrivals_are_a_poisson_process():
    due = np.array(loadtest.draw_arrivals(50, 400, np.random.default_rng(3)))
    gaps = np.diff(due, prepend=0)
    assert due[-1] < 400
    assert (gaps > 0).all()
    assert len(due) == pytest.approx(50 * 400, rel=0.03)  # four standard deviations
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_a_closed_loop_keeps_its_number_of_requests_under_way():
    rounds = []
    together = threading.Barrier(3, action=lambda: rounds.append(1))

    def send():
        together.wait(timeout=30)
        return OK

    samples = loadtest.run_closed_loop(send, 3, 1.0, lambda: float(len(rounds) == 4))
    assert [s.code for s in samples] == [OK] * 12


def test_an_open_loop_counts_latency_from_when_a_request_was_due():
    """A server that answers nothing for a second: the requests due meanwhile have waited for it."""
    samples, late = loadtest.run_open_loop(lambda end: end(OK), [0.1, 0.5, 0.9], lambda: 1.0)
    latencies = [(s.due_s, round(s.latency_s, 6)) for s in samples]
    assert latencies == [(0.1, 0.9), (0.5, 0.5), (0.9, 0.1)]
    assert late == pytest.approx(0.9)


def test_an_open_loop_waits_for_no_answer_but_the_last(monkeypatch):
    waiting = []

    def begin(end):
        waiting.append(end)
        if len(waiting) == 3:  # the earlier ones are answered only now
            for each in waiting:
                each(OK)

    samples, _ = loadtest.run_open_loop(begin, [0.0, 0.0, 0.0], time.perf_counter)
    assert len(samples) == 3

    monkeypatch.setattr(loadtest, "MAX_UNANSWERED", 2)
    waiting.clear()

    def begin_later(end):
        threading.Timer(0.2, end, (OK,)).start()

    samples, _ = loadtest.run_open_loop(begin_later, [0.0] * 5, time.perf_counter)
    assert sorted(s.code for s in samples) == [loadtest.NOT_SENT] * 3 + [OK] * 2


# What comes of it.


def test_summary_of_known_requests():
    samples = [Sample(0.1 * i, 0.001 * (i + 1), OK) for i in range(100)]
    samples += [Sample(1.0, 5.0, "UNAVAILABLE"), Sample(15.0, 5.0, "DEADLINE_EXCEEDED")]
    random.Random(0).shuffle(samples)
    assert compute_summary(samples, batch=4) == {
        "seconds": 20.0,
        "requests": 102,
        "ok": 100,
        "errors": {"UNAVAILABLE": 1, "DEADLINE_EXCEEDED": 1},
        "requests_per_s": 5.0,
        "images_per_s": 20.0,
        "latency_ms": {"mean": 50.5, "p50": 50.5, "p95": 95.05, "p99": 99.01, "max": 100.0},
    }


def test_summary_and_plot_without_success(tmp_path):
    samples = [Sample(0.0, 0.5, "UNAVAILABLE")]
    result = compute_summary(samples, batch=1)
    assert (result["ok"], result["latency_ms"], result["requests_per_s"]) == (0, None, 0.0)
    for given in (samples, []):
        plot(given, "none", tmp_path / "p.png")
        with Image.open(tmp_path / "p.png") as image:
            image.verify()


# The command.


@pytest.mark.parametrize("load", [("--closed", 2), ("--open", 40)], ids=["closed", "open"])
def test_command(stand_in, tmp_path, load):
    out = tmp_path / "new" / "folder"
    result = _run(stand_in.address, *load, "--seconds", 1, "--batch", 2, "--out", out)
    assert result.returncode == 0, result.stderr
    report = json.loads((out / "loadtest.json").read_text())
    assert report["errors"] == {}
    assert report["ok"] == report["requests"] > 1
    assert report["model_version"] == VERSION
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    # Rounded to three digits after the point, both.
    assert report["images_per_s"] == pytest.approx(2 * report["requests_per_s"], abs=0.002)
    assert {r.inputs["images"].tensor_shape.dim[0].size for r in stand_in.requests} == {2}
    checks = loadtest.RANDOM_IMAGES // 2
    assert len(stand_in.requests) == report["requests"] + checks
    assert f"{report['ok']:,} of {report['requests']:,} requests" in result.stdout
    with Image.open(out / "loadtest.png") as image:
        assert min(image.size) > 300
    assert sorted(f.name for f in out.iterdir()) == ["loadtest.json", "loadtest.png"]


def test_signature_model_version_and_images_are_sent(stand_in, tmp_path):
    Image.new("RGB", (7, 6), (3, 2, 1)).save(tmp_path / "cell.tiff")
    options = ("--signature", "serving_default", "--model", "cells", "--model-version", 5)
    result = _run(stand_in.address, "--closed", 1, "--seconds", 0.2, "--images", tmp_path, *options)
    assert result.returncode == 0, result.stderr
    for request in stand_in.requests:
        spec = request.model_spec
        sent = (spec.name, spec.signature_name, spec.version.value)
        assert sent == ("cells", "serving_default", 5)
        images = to_array(request.inputs["images"])
        assert (images.shape, images[0, 0, 0].tolist()) == ((1, 6, 7, 3), [3, 2, 1])


@pytest.mark.parametrize("load", [("--closed", 2), ("--open", 50)], ids=["closed", "open"])
def test_errors_are_counted_by_code_and_not_tried_again(stand_in, load):
    def fail_later(images):
        if len(stand_in.requests) == loadtest.RANDOM_IMAGES:
            stand_in.failures = [grpc.StatusCode.UNAVAILABLE] * 3 + [grpc.StatusCode.INTERNAL]

    stand_in.before_answer = fail_later
    result = _run(stand_in.address, *load, "--seconds", 1)
    assert result.returncode == 0, result.stderr
    assert "UNAVAILABLE 3, INTERNAL 1" in result.stdout


def test_a_server_that_fails_throughout(stand_in):
    def fail_from_now_on(images):
        if len(stand_in.requests) == loadtest.RANDOM_IMAGES:
            stand_in.always = grpc.StatusCode.UNAVAILABLE

    stand_in.before_answer = fail_from_now_on
    result = _run(stand_in.address, "--open", 30, "--seconds", 0.5)
    check_refusal(result, "No request succeeded")
    assert "answered      0 of" in result.stdout
    assert "latency (ms)  none" in result.stdout


def test_errors_for_people(stand_in, tmp_path):
    file = tmp_path / "file"
    file.touch()
    stand_in.always = grpc.StatusCode.NOT_FOUND
    for options, text in (
        (("--images", tmp_path / "none.png"), "none.png"),
        (("--images", tmp_path), "without PNG, JPEG or TIFF files"),
        (("--out", file), "file"),
        ((), "has no model 'leuko', or not this version"),
    ):
        result = _run(stand_in.address, "--closed", 1, *options)
        check_refusal(result, "error: ", text)
        assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["--closed", "1", "--open", "2"], ["--open", "0"], ["--closed", "1.5"]]
)
def test_usage_errors(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["loadtest", *arguments])
    with pytest.raises(SystemExit) as end:
        loadtest.main()
    assert end.value.code == 2
    assert "usage: python -m serving.loadtest" in capsys.readouterr().err


def test_load_on_the_real_server(address):
    for signature in ("encoded", "serving_default"):
        result = _run(address, "--closed", 2, "--seconds", 0.5, "--signature", signature)
        assert result.returncode == 0, result.stderr
        assert "errors        none" in result.stdout
