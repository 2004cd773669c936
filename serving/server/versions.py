"""Loads and unloads versions of models, and finds the version that a request names.

A version goes from LOADING to AVAILABLE, and later through UNLOADING to END. A new
version is loaded and warmed up before the old one stops taking requests; the old one is unloaded
when its last request has ended. Until then both are in memory.
"""

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import get_model_status_pb2

from leuko_tf.cli import UserError
from serving.server.configs import ModelConfig
from serving.server.errors import RequestError, invalid_argument
from serving.server.folders import (
    Checksums,
    Fingerprint,
    compute_fingerprint,
    find_version_folders,
    is_growing,
)
from serving.server.servable import Servable, format_operation_error

State = get_model_status_pb2.ModelVersionStatus
_RECHECK_S = 0.1
_LOG = logging.getLogger(__name__)
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]


@dataclass
class Version:
    """A version of a model that is, was or will be loaded."""

    number: int
    folder: Path
    fingerprint: Fingerprint
    state: int = State.LOADING
    error_code: int = 0
    error: str = ""
    servable: Servable | None = None
    requests: int = 0


class Models:
    """Keeps the served models. Threads may share it.

    Args:
      load: Makes a Servable from a model's name and a version's folder.
    """

    def __init__(self, load: Callable[[str, Path], Servable]):
        self._load = load
        # Held while versions are loaded and unloaded. Requests do not wait for it.
        self._work = threading.Lock()
        # Guards the tables and the versions; notified whenever a request ends.
        self._change = threading.Condition()
        self._configs: dict[str, ModelConfig] = {}
        self._versions: dict[str, list[Version]] = {}
        self._checksums = Checksums()

    # Requests.

    @contextmanager
    def use_servable(self, spec: Any) -> Iterator[Servable]:
        """Yields the version that a ModelSpec names, and keeps it loaded until the end.

        Raises:
          RequestError: no such version is available.
        """
        if not spec.name:
            raise invalid_argument("model_spec lacks the model's name.")
        with self._change:
            number = self._find_number(spec)
            available = [v for v in self._list_available(spec.name) if number in (None, v.number)]
            if spec.name not in self._configs or not available:
                raise _not_found(spec.name, number)
            version = max(available, key=lambda v: v.number)
            version.requests += 1
        try:
            assert version.servable is not None
            yield version.servable
        finally:
            with self._change:
                version.requests -= 1
                self._change.notify_all()

    def _find_number(self, spec: Any) -> int | None:
        """Returns the version that a ModelSpec names by number or label; None: the newest."""
        if spec.HasField("version"):
            return spec.version.value
        if spec.HasField("version_label"):
            config = self._configs.get(spec.name)
            if config is None or spec.version_label not in config.labels:
                raise invalid_argument(f"Unknown version label: {spec.version_label}")
            return config.labels[spec.version_label]
        return None

    def get_statuses(self, spec: Any) -> get_model_status_pb2.GetModelStatusResponse:
        """Returns the states of a model's versions, or of one, newest first.

        Raises:
          RequestError: there are none.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._change:
            number = self._find_number(spec)
            versions = [v for v in self._versions.get(spec.name, ()) if number in (None, v.number)]
            for version in sorted(versions, key=lambda v: v.number, reverse=True):
                status = {"error_code": version.error_code, "error_message": version.error}
                response.model_version_status.add(
                    version=version.number, state=version.state, status=status
                )
        if not versions:
            raise _not_found(spec.name, number)
        return response

    def find_newest(self) -> dict[str, int]:
        """Returns the newest available version of each model."""
        with self._change:
            return {
                name: max(version.number for version in self._list_available(name))
                for name in self._configs
            }

    def _list_available(self, name: str) -> list[Version]:
        """Lists the model's available versions, the last loaded first."""
        versions = self._versions.get(name, [])
        return [version for version in reversed(versions) if version.state == State.AVAILABLE]

    # Loading and unloading.

    def start(self, configs: Sequence[ModelConfig]) -> bool:
        """Loads the first models.

        Returns:
          Whether all models are available; if not, folders are still being copied: call again.

        Raises:
          UserError: a model has no version, or a version does not load.
        """
        with self._work:
            complete = self._load_all(configs)
            for version in itertools.chain(*self._versions.values()):
                if version.error:
                    raise UserError(f"Cannot load the model in {version.folder}: {version.error}")
            if complete:
                self._apply(configs)
        return complete

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Changes the served models and versions without interrupting those that stay.

        Raises:
          UserError: a model has no version that loads; nothing changes.
          RequestError: a label names a version that is not available; nothing changes.
        """
        with self._work:
            try:
                while not self._load_all(configs):
                    time.sleep(_RECHECK_S)
                for config in configs:
                    self._check_labels(config)
            except (UserError, RequestError):
                self._unload_unwanted()
                raise
            self._apply(configs)

    def poll(self) -> None:
        """Loads new versions and unloads those that they replace."""
        with self._work:
            for config in self._configs.values():
                self._load_wanted(config)
            self._unload_unwanted()

    def _apply(self, configs: Sequence[ModelConfig]) -> None:
        with self._change:
            self._configs = {config.name: config for config in configs}
        self._unload_unwanted()

    def _load_all(self, configs: Sequence[ModelConfig]) -> bool:
        """Returns whether each model is available; if not, a folder is still being copied."""
        complete = True
        for config in configs:
            folders = find_version_folders(config)
            self._load_wanted(config)
            records = [self._find_record(config.name, folder) for folder in folders]
            if not any(record and record.state == State.AVAILABLE for record in records):
                errors = [record.error if record else "" for record in records]
                if all(errors) and not any(map(is_growing, folders)):
                    raise UserError(f"Cannot load the model in {folders[0]}: {errors[0]}")
                complete = False
        return complete

    def _check_labels(self, config: ModelConfig) -> None:
        with self._change:
            numbers = {version.number for version in self._list_available(config.name)}
        for number in set(config.labels.values()) - numbers:
            text = f"A label names version {number} of model {config.name}, which is not available."
            raise RequestError(grpc.StatusCode.FAILED_PRECONDITION, text)

    def _find_wanted(self, config: ModelConfig) -> list[Path]:
        """Finds the versions to serve; skips incomplete folders and those that failed before."""
        wanted: list[Path] = []
        try:
            folders = find_version_folders(config)
        except UserError:  # all deleted since they were loaded
            folders = []
        for folder in folders:
            if len(wanted) == (config.latest or len(folders)):
                break
            known = self._find_record(config.name, folder)
            if known and known.error and known.fingerprint == compute_fingerprint(folder):
                continue
            is_loaded = known and known.state == State.AVAILABLE
            if is_loaded or self._checksums.is_complete(folder):
                wanted.append(folder)
        return wanted

    def _find_record(self, name: str, folder: Path) -> Version | None:
        """Returns the newest record of a version that was loaded from a folder."""
        with self._change:
            versions = self._versions.get(name, [])
            return next((v for v in reversed(versions) if v.folder == folder), None)

    def _load_wanted(self, config: ModelConfig) -> None:
        for folder in reversed(self._find_wanted(config)):
            known = self._find_record(config.name, folder)
            if known is None or known.state == State.END:
                version = Version(int(folder.name), folder, compute_fingerprint(folder))
                self._load_version(config.name, version)

    def _load_version(self, name: str, version: Version) -> None:
        """Loads a version; on failure its state is END and its error is set."""
        with self._change:
            # One record per folder: this one replaces that of an earlier failure or unloading.
            versions = [v for v in self._versions.get(name, ()) if v.folder != version.folder]
            self._versions[name] = [*versions, version]
        start = time.perf_counter()
        try:
            if error := self._checksums.find_error(version.folder):
                raise tf.errors.DataLossError(None, None, error)
            servable = self._load(name, version.folder)
        except Exception as error:  # TensorFlow raises many kinds of exception for damaged exports.
            with self._change:
                version.state = State.END
                version.error_code = getattr(error, "error_code", _UNKNOWN)
                is_op_error = isinstance(error, tf.errors.OpError)
                text = format_operation_error(error) if is_op_error else str(error)
                version.error = text or type(error).__name__
            if self._configs:  # otherwise `start` raises it
                _log_change(name, version, start, "failed to load")
            return
        with self._change:
            version.servable = servable
            version.state = State.AVAILABLE
        _log_change(name, version, start, "loaded")

    def _unload_unwanted(self) -> None:
        """Unloads unwanted versions; never unloads a configured model's last version."""
        for name in list(self._versions):
            config = self._configs.get(name)
            wanted = set(self._find_wanted(config)) if config else set()
            with self._change:
                available = self._list_available(name)
                leaving = [version for version in available if version.folder not in wanted]
                if config and len(leaving) == len(available):
                    continue
                for version in leaving:
                    version.state = State.UNLOADING
            for version in leaving:
                self._unload(name, version)
            with self._change:
                # Forget ended versions whose folder is gone.
                self._versions[name] = [
                    version
                    for version in self._versions[name]
                    if version.state != State.END or (config and version.folder.is_dir())
                ]
                if not self._versions[name]:
                    del self._versions[name]

    def _unload(self, name: str, version: Version) -> None:
        start = time.perf_counter()
        with self._change:
            self._change.wait_for(lambda: version.requests == 0)
            servable, version.servable = version.servable, None
        assert servable is not None
        servable.close()
        _log_change(name, version, start, "unloaded")
        with self._change:
            version.state = State.END


def _not_found(name: str, number: int | None) -> RequestError:
    wanted = f"Model {name}" if number is None else f"Version {number} of model {name}"
    return RequestError(grpc.StatusCode.NOT_FOUND, f"{wanted} not found.")


def _log_change(name: str, version: Version, start: float, change: str) -> None:
    """Logs what happened to a version, and how long it took since `start`."""
    level = logging.ERROR if version.error else logging.INFO
    seconds = time.perf_counter() - start
    text = f": {version.error}" if version.error else ""
    _LOG.log(
        level, "Model %s version %d %s after %.1f s%s", name, version.number, change, seconds, text
    )
