"""How versions and configurations change under a running server."""

import hashlib
import itertools
import json
import shutil
import threading
import time
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from contract_export import write_checksums, write_telling_export
from google.protobuf import text_format
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from serving.server import folders
from serving.server.configs import ModelConfig
from serving.server.folders import Checksums
from serving.server.versions import Models

State = get_model_status_pb2.ModelVersionStatus
TIMEOUT_S = 60
SWAPS = 20


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """The model's folder that the tests of this module change, with version 1."""
    base = tmp_path_factory.mktemp("exports") / "telling"
    base.mkdir()
    write_telling_export(base / "1")
    return base


@pytest.fixture(scope="module")
def watching(start_server, base):
    """A server of `base` with batching, in which a wrong version would most easily slip in."""
    with start_server(
        *("--model-name", "telling", "--model-base-path", base),
        *("--file-system-poll-wait-seconds", 0.1, "--enable-batching"),
    ) as server:
        yield server


@pytest.fixture(scope="module")
def channel(watching):
    with grpc.insecure_channel(watching.address) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


def _request(rows=1, name="telling", **spec):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    for field, value in spec.items():
        if field == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, field, value)
    request.inputs["names"].CopyFrom(tf.make_tensor_proto([b"a"] * rows, tf.string))
    return request


def _told(response) -> int:
    """The version that answered; fails if the answer is not wholly from it."""
    outputs = {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}
    (version,) = {*outputs["version"], *outputs["again"], response.model_spec.version.value}
    return version


def _statuses(models, name="telling"):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    answer = models.GetModelStatus(request, TIMEOUT_S)
    return {status.version: status for status in answer.model_version_status}


def _wait(condition):
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def _is(models, version, state):
    def check():
        statuses = _statuses(models)
        return version in statuses and statuses[version].state == state

    return check


def _elsewhere(base, version) -> Path:
    """A version that is written where no server looks, to be copied."""
    folder = base.parent / "elsewhere" / str(version)
    folder.parent.mkdir(exist_ok=True)
    write_telling_export(folder)
    return folder


def test_versions_swap_under_load_without_a_lost_or_mixed_answer(
    watching, base, prediction, models
):
    stop = threading.Event()
    seen, errors = [], []

    def ask_by_grpc():
        versions = []
        for rows in itertools.cycle((1, 3, 0)):  # no rows: past the batching
            if stop.is_set():
                break
            response = prediction.Predict(_request(rows), TIMEOUT_S)
            versions.append(_told(response) if rows else response.model_spec.version.value)
        seen.append(versions)

    def ask_by_rest():
        url = f"{watching.rest}/v1/models/telling:predict"
        versions = []
        while not stop.is_set():
            with urllib.request.urlopen(url, b'{"instances": ["a", "b"]}', TIMEOUT_S) as answer:
                rows = json.load(answer)["predictions"]
            (version,) = {row[key] for row in rows for key in ("version", "again")}
            versions.append(version)
        seen.append(versions)

    def run(ask):
        try:
            ask()
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=run, args=[ask_by_grpc]) for _ in range(4)]
    threads.append(threading.Thread(target=run, args=[ask_by_rest]))
    for thread in threads:
        thread.start()
    try:
        for version in range(2, 2 + SWAPS):
            write_telling_export(base / str(version))
            _wait(_is(models, version, State.AVAILABLE))
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert len(seen) == len(threads)
    for versions in seen:
        assert versions == sorted(versions)  # never back to an old one
    assert len({version for versions in seen for version in versions}) > SWAPS / 2
    _wait(lambda: {s.state for v, s in _statuses(models).items() if v <= SWAPS} == {State.END})
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == SWAPS + 1


def test_an_unloaded_version_is_not_found(base, prediction, models):
    write_telling_export(base / "30")
    _wait(_is(models, 1, State.END))
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(_request(version=1), TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "Servable not found for request: Specific(telling, 1)"


@pytest.mark.parametrize("checksums", [True, False])
def test_a_half_copied_version_is_not_loaded(base, prediction, models, checksums):
    version = 40 if checksums else 41
    whole = _elsewhere(base, version)
    if not checksums:
        shutil.rmtree(whole / "assets.extra")
    half = base / str(version)
    for source in sorted(whole.rglob("*"), key=lambda path: "variables" in str(path)):
        target = half / source.relative_to(whole)
        if source.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            content = source.read_bytes()
            target.write_bytes(content[: len(content) // 2])
            for _ in range(3):  # several looks of the server at each half file
                time.sleep(0.1)
                assert version not in _statuses(models)
            target.write_bytes(content)
    _wait(_is(models, version, State.AVAILABLE))
    assert _told(prediction.Predict(_request(version=version), TIMEOUT_S)) == version


def test_a_version_that_does_not_load_is_told_and_the_old_one_stays(base, prediction, models):
    before = _told(prediction.Predict(_request(), TIMEOUT_S))
    bad = base / "50"
    bad.mkdir()
    (bad / "saved_model.pb").write_bytes(b"damaged")
    write_checksums(bad)
    _wait(_is(models, 50, State.END))
    status = _statuses(models)[50].status
    assert status.error_code
    assert status.error_message
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == before
    # Mended in place, it is tried again.
    shutil.copytree(_elsewhere(base, 50), bad, dirs_exist_ok=True)
    _wait(_is(models, 50, State.AVAILABLE))
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == 50


def test_a_deleted_version_gives_way_to_the_one_before(base, prediction, models):
    before = _told(prediction.Predict(_request(), TIMEOUT_S))
    write_telling_export(base / "60")
    _wait(_is(models, 60, State.AVAILABLE))
    _wait(_is(models, before, State.END))
    (base / "60").rename(base / ".60")
    _wait(_is(models, before, State.AVAILABLE))
    _wait(lambda: 60 not in _statuses(models))
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == before


def test_the_last_version_stays_when_its_folder_goes(base, prediction, models):
    before = _told(prediction.Predict(_request(), TIMEOUT_S))
    gone = base.with_name("gone")
    base.rename(gone)
    try:
        time.sleep(0.5)  # several looks
        assert _told(prediction.Predict(_request(), TIMEOUT_S)) == before
    finally:
        gone.rename(base)


def test_a_version_that_does_not_load_is_logged_once(tmp_path, caplog):
    def load(name, folder):
        if folder.name == "2":
            raise tf.errors.NotFoundError(None, None, "no such operation\n\t [[{{node x}}]]")

    for number in (1, 2):
        folder = _export(tmp_path / str(number))
        write_checksums(folder)
    (tmp_path / "2").rename(tmp_path / ".2")
    models = Models(load)
    assert models.start([ModelConfig("telling", tmp_path)])
    (tmp_path / ".2").rename(tmp_path / "2")
    with caplog.at_level("INFO"):
        for _ in range(3):
            models.poll()
    assert caplog.messages == ["Model telling: version 2 does not load: no such operation"]


# Reloading the configuration.


@pytest.fixture
def reload(models, base):
    """Sends a new configuration; the old one comes back at the end."""

    def send(*configs: str):
        request = model_management_pb2.ReloadConfigRequest()
        for config in configs:
            text_format.Parse(config, request.config.model_config_list.config.add())
        return models.HandleReloadConfigRequest(request, TIMEOUT_S)

    yield send
    send(_config(base))


def _config(base, name="telling", extra=""):
    return f'name: "{name}" base_path: "{base}" model_platform: "tensorflow" {extra}'


BOTH = "model_version_policy { specific { versions: [1, 2] } }"
LABELS = """
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
"""


def test_reload_changes_versions_labels_and_models(reload, base, prediction, models):
    newest = _told(prediction.Predict(_request(), TIMEOUT_S))
    if not (base / "2").exists():
        write_telling_export(base / "2")
    assert reload(_config(base, extra=BOTH + LABELS), _config(base, "other")).status.error_code == 0
    for label, version in (("stable", 1), ("canary", 2)):
        response = prediction.Predict(_request(version_label=label), TIMEOUT_S)
        assert _told(response) == version
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == 2
    assert _told(prediction.Predict(_request(name="other"), TIMEOUT_S)) >= newest

    reload(_config(base))
    _wait(_is(models, 1, State.END))
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(_request(name="other"), TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Predict(_request(version_label="stable"), TIMEOUT_S)
    assert caught.value.details() == "Unrecognized servable version label: stable"
    with pytest.raises(grpc.RpcError, match="Could not find any versions of model other"):
        _statuses(models, "other")


@pytest.mark.parametrize(
    ("configs", "code", "text"),
    [
        (
            lambda base: [_config(base / "none")],
            grpc.StatusCode.INVALID_ARGUMENT,
            "is not a folder",
        ),
        (
            lambda base: [_config(base), _config(base.parent, "empty")],
            grpc.StatusCode.INVALID_ARGUMENT,
            "holds no model",
        ),
        (
            lambda base: [
                _config(base, extra="model_version_policy { specific { versions: 99 } }")
            ],
            grpc.StatusCode.INVALID_ARGUMENT,
            "holds no model that is asked for",
        ),
        (
            lambda base: [_config(base, extra=LABELS)],
            grpc.StatusCode.FAILED_PRECONDITION,
            "Request to assign label to version",
        ),
        (
            lambda base: [_config(base).replace("tensorflow", "torch")],
            grpc.StatusCode.INVALID_ARGUMENT,
            'Received: "torch"',
        ),
        (
            lambda base: [_config(base), _config(base)],
            grpc.StatusCode.INVALID_ARGUMENT,
            "Illegal to list model telling multiple times in config list",
        ),
    ],
    ids=["no folder", "no model", "no version", "label", "platform", "twice"],
)
def test_a_bad_configuration_changes_nothing(reload, base, prediction, models, configs, code, text):
    version = _told(prediction.Predict(_request(), TIMEOUT_S))
    with pytest.raises(grpc.RpcError) as caught:
        reload(*configs(base))
    assert caught.value.code() == code
    assert text in caught.value.details()
    available = [v for v, s in _statuses(models).items() if s.state == State.AVAILABLE]
    assert available == [version]
    assert _told(prediction.Predict(_request(), TIMEOUT_S)) == version


def test_another_kind_of_configuration_is_refused(models):
    with pytest.raises(grpc.RpcError) as caught:
        models.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), TIMEOUT_S)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "Only ModelConfigList is currently supported" in caught.value.details()


# What counts as a whole folder.


def _export(folder: Path) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_checksums_tell_at_once(tmp_path):
    folder = _export(tmp_path / "1")
    write_checksums(folder)
    sums = Checksums()
    assert sums.is_whole(folder)
    (folder / "saved_model.pb").write_bytes(b"grap!")
    assert not sums.is_whole(folder)
    assert "saved_model.pb does not match" in sums.error(folder)
    (folder / "saved_model.pb").unlink()
    assert not sums.is_whole(folder)
    assert "saved_model.pb" in sums.error(folder)


def test_checksums_are_those_of_the_command_sha256sum(tmp_path):
    folder = _export(tmp_path / "1")
    digest = hashlib.sha256(b"graph").hexdigest()
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "SHA256SUMS").write_text(f"{digest} *saved_model.pb\n")
    assert Checksums().error(folder) == ""
    (folder / "assets.extra" / "SHA256SUMS").write_text("nonsense")
    assert Checksums().error(folder)


def test_without_checksums_a_folder_must_rest(tmp_path, monkeypatch):
    folder = _export(tmp_path / "1")
    assert not Checksums().is_whole(folder)
    monkeypatch.setattr(folders, "SETTLED_S", 0.01)
    time.sleep(0.02)
    assert Checksums().is_whole(folder)


def test_a_damaged_folder_counts_as_whole_once_it_rests(tmp_path, monkeypatch):
    folder = _export(tmp_path / "1")
    write_checksums(folder)
    (folder / "saved_model.pb").write_bytes(b"grap!")
    monkeypatch.setattr(folders, "SETTLED_S", 0.01)
    time.sleep(0.02)
    assert Checksums().is_whole(folder)
    assert Checksums().error(folder)


def test_newest_folders_come_first(tmp_path):
    for number in (9, 10, 2):
        _export(tmp_path / str(number))
    found = folders.version_folders(ModelConfig("m", tmp_path))
    assert [int(folder.name) for folder in found] == [10, 9, 2]
    assert np.all(np.diff([int(folder.name) for folder in found]) < 0)
