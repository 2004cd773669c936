"""How versions and configurations change under a running server."""

import hashlib
import itertools
import json
import re
import shutil
import threading
import time
import urllib.request
from concurrent import futures
from pathlib import Path

import grpc
import pytest
import tensorflow as tf
from calls import (
    TIMEOUT_S,
    ask_statuses,
    ask_version,
    check_refusal,
    make_telling_request,
    wait_for,
)
from conftest import LOG_LINE
from contract_export import write_checksums, write_telling_export
from google.protobuf import text_format
from tensorflow_serving.apis import get_model_status_pb2, model_management_pb2

from serving.server import folders
from serving.server.configs import ModelConfig
from serving.server.folders import Checksums
from serving.server.versions import Models

State = get_model_status_pb2.ModelVersionStatus
NOT_FOUND = grpc.StatusCode.NOT_FOUND
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
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


def _statuses(models):
    return {status.version: status for status in ask_statuses(models, "telling")}


def _wait_for_state(models, version, state):
    def has_state():
        statuses = _statuses(models)
        return version in statuses and statuses[version].state == state

    wait_for(has_state)


def _write_elsewhere(base, version) -> Path:
    """Writes a version where no server looks, to be copied."""
    folder = base.parent / "elsewhere" / str(version)
    folder.parent.mkdir(exist_ok=True)
    write_telling_export(folder)
    return folder


def test_versions_swap_under_load_without_a_lost_or_mixed_answer(
    watching, base, prediction, models
):
    stop = threading.Event()

    def ask_by_grpc():
        versions = []
        for rows in itertools.cycle((1, 3, 0)):  # requests without rows are not batched
            if stop.is_set():
                return versions
            versions.append(ask_version(prediction, rows))

    def ask_by_rest():
        url = f"{watching.rest}/v1/models/telling:predict"
        versions = []
        while not stop.is_set():
            with urllib.request.urlopen(url, b'{"instances": ["a", "b"]}', TIMEOUT_S) as answer:
                rows = json.load(answer)["predictions"]
            (version,) = {row[key] for row in rows for key in ("version", "again")}
            versions.append(version)
        return versions

    with futures.ThreadPoolExecutor(5) as pool:
        calls = [pool.submit(ask) for ask in (*[ask_by_grpc] * 4, ask_by_rest)]
        try:
            for version in range(2, 2 + SWAPS):
                write_telling_export(base / str(version))
                _wait_for_state(models, version, State.AVAILABLE)
        finally:
            stop.set()
    answered = [call.result() for call in calls]  # raises the error of a failed call
    for versions in answered:
        assert versions == sorted(versions)  # never back to an old one
    assert len({version for versions in answered for version in versions}) > SWAPS / 2
    wait_for(lambda: {s.state for v, s in _statuses(models).items() if v <= SWAPS} == {State.END})
    assert ask_version(prediction) == SWAPS + 1
    log = watching.log.read_text()
    assert all(map(LOG_LINE.match, log.splitlines()))
    for version in range(1, SWAPS + 1):
        assert re.search(rf"INFO .*: Model telling version {version} loaded after \d+\.\d s\n", log)
        assert re.search(rf"INFO .*: Model telling version {version} unloaded after \d", log)


def test_an_unloaded_version_is_not_found(base, prediction, models):
    write_telling_export(base / "30")
    _wait_for_state(models, 1, State.END)
    check_refusal(prediction.Predict, make_telling_request(b"a", version=1), NOT_FOUND, "telling")


@pytest.mark.parametrize("checksums", [True, False])
def test_a_half_copied_version_is_not_loaded(base, prediction, models, checksums):
    version = 40 if checksums else 41
    whole = _write_elsewhere(base, version)
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
            for _ in range(3):  # the server checks each half file several times
                time.sleep(0.1)
                assert version not in _statuses(models)
            target.write_bytes(content)
    _wait_for_state(models, version, State.AVAILABLE)
    assert ask_version(prediction, version=version) == version


def test_a_version_that_does_not_load_is_told_and_the_old_one_stays(
    watching, base, prediction, models
):
    before = ask_version(prediction)
    bad = base / "50"
    bad.mkdir()
    (bad / "saved_model.pb").write_bytes(b"damaged")
    write_checksums(bad)
    _wait_for_state(models, 50, State.END)
    status = _statuses(models)[50].status
    assert status.error_code
    assert status.error_message
    assert ask_version(prediction) == before
    failure = r"ERROR .*: Model telling version 50 failed to load after \d+\.\d s: "
    failure += re.escape(status.error_message)
    wait_for(lambda: re.search(failure, watching.log.read_text()) is not None)
    # Repaired in place, it is tried again.
    shutil.copytree(_write_elsewhere(base, 50), bad, dirs_exist_ok=True)
    _wait_for_state(models, 50, State.AVAILABLE)
    assert ask_version(prediction) == 50


def test_a_deleted_version_gives_way_to_the_one_before(base, prediction, models):
    before = ask_version(prediction)
    write_telling_export(base / "60")
    _wait_for_state(models, 60, State.AVAILABLE)
    _wait_for_state(models, before, State.END)
    (base / "60").rename(base / ".60")
    _wait_for_state(models, before, State.AVAILABLE)
    wait_for(lambda: 60 not in _statuses(models))
    assert ask_version(prediction) == before


def test_the_last_version_stays_when_its_folder_goes(base, prediction, models):
    before = ask_version(prediction)
    gone = base.with_name("gone")
    base.rename(gone)
    try:
        time.sleep(0.5)  # the server checks several times
        assert ask_version(prediction) == before
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
    (message,) = caplog.messages
    text = r"Model telling version 2 failed to load after \d\.\d s: no such operation"
    assert re.fullmatch(text, message)


# Reloading the configuration.


@pytest.fixture
def reload(models, base):
    """Sends a new configuration; restores the old one at the end."""

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
VERSION_99 = "model_version_policy { specific { versions: 99 } }"
LABELS = """
    version_labels { key: "stable" value: 1 }
    version_labels { key: "canary" value: 2 }
"""


def test_reload_changes_versions_labels_and_models(reload, base, prediction, models):
    newest = ask_version(prediction)
    if not (base / "2").exists():
        write_telling_export(base / "2")
    assert reload(_config(base, extra=BOTH + LABELS), _config(base, "other")).status.error_code == 0
    assert ask_version(prediction, label="stable") == 1
    assert ask_version(prediction, label="canary") == ask_version(prediction) == 2
    assert ask_version(prediction, name="other") >= newest

    reload(_config(base))
    _wait_for_state(models, 1, State.END)
    for spec, code, word in (
        ({"name": "other"}, NOT_FOUND, "other"),
        ({"label": "stable"}, INVALID_ARGUMENT, "stable"),
    ):
        check_refusal(prediction.Predict, make_telling_request(b"a", **spec), code, word)
    with pytest.raises(grpc.RpcError, match="other"):
        ask_statuses(models, "other")


@pytest.mark.parametrize(
    ("configs", "code", "text"),
    [
        ([_config("BASE/none")], INVALID_ARGUMENT, "is not a folder"),
        ([_config("BASE"), _config("BASE/..", "empty")], INVALID_ARGUMENT, "holds no model"),
        ([_config("BASE", extra=VERSION_99)], INVALID_ARGUMENT, "holds no model"),
        ([_config("BASE", extra=LABELS)], FAILED_PRECONDITION, "label names version"),
        ([_config("BASE").replace("tensorflow", "torch")], INVALID_ARGUMENT, "torch"),
        ([_config("BASE")] * 2, INVALID_ARGUMENT, "telling is listed more than once"),
    ],
    ids=["no folder", "no model", "no version", "label", "platform", "twice"],
)
def test_a_bad_configuration_changes_nothing(reload, base, prediction, models, configs, code, text):
    version = ask_version(prediction)
    configs = [config.replace("BASE", str(base)) for config in configs]
    check_refusal(lambda configs, _: reload(*configs), configs, code, text)
    available = [v for v, s in _statuses(models).items() if s.state == State.AVAILABLE]
    assert available == [version]
    assert ask_version(prediction) == version


def test_another_kind_of_configuration_is_refused(models):
    request = model_management_pb2.ReloadConfigRequest()
    check_refusal(models.HandleReloadConfigRequest, request, INVALID_ARGUMENT, "model_config_list")


# Complete folders.


def _export(folder: Path) -> Path:
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def test_checksums_tell_at_once(tmp_path):
    folder = _export(tmp_path / "1")
    write_checksums(folder)
    sums = Checksums()
    assert sums.is_complete(folder)
    (folder / "saved_model.pb").write_bytes(b"grap!")
    assert not sums.is_complete(folder)
    assert "saved_model.pb does not match" in sums.find_error(folder)
    (folder / "saved_model.pb").unlink()
    assert not sums.is_complete(folder)
    assert "saved_model.pb" in sums.find_error(folder)


def test_checksums_are_those_of_the_command_sha256sum(tmp_path):
    folder = _export(tmp_path / "1")
    digest = hashlib.sha256(b"graph").hexdigest()
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "SHA256SUMS").write_text(f"{digest} *saved_model.pb\n")
    assert Checksums().find_error(folder) == ""
    (folder / "assets.extra" / "SHA256SUMS").write_text("nonsense")
    assert Checksums().find_error(folder)


@pytest.mark.parametrize("damaged", [False, True])
def test_a_folder_that_rests_counts_as_complete(tmp_path, monkeypatch, damaged):
    """Without checksums, or with ones that do not match."""
    folder = _export(tmp_path / "1")
    if damaged:
        write_checksums(folder)
        (folder / "saved_model.pb").write_bytes(b"grap!")
    assert not Checksums().is_complete(folder)
    monkeypatch.setattr(folders, "SETTLED_S", 0.01)
    time.sleep(0.02)
    assert Checksums().is_complete(folder)
    assert bool(Checksums().find_error(folder)) == damaged


def test_newest_folders_come_first(tmp_path):
    for number in (9, 10, 2):
        _export(tmp_path / str(number))
    found = folders.find_version_folders(ModelConfig("m", tmp_path))
    assert [int(folder.name) for folder in found] == [10, 9, 2]
