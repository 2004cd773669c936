"""Which versions of which models are loaded, and how one takes another's place.

A version goes from START through LOADING to AVAILABLE, and later through UNLOADING to END. A new
one is loaded and warm before the old one stops taking requests; the old one then finishes those
that it has, and is unloaded. So for a while both are in memory.
"""

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

from serving.server.configs import ConfigError, ModelConfig
from serving.server.errors import RequestError, invalid_argument
from serving.server.folders import Checksums, Fingerprint, fingerprint, is_growing, version_folders
from serving.server.servable import Servable, operation_text

State = get_model_status_pb2.ModelVersionStatus
_RECHECK_S = 0.1
_LOG = logging.getLogger(__name__)
_UNKNOWN = grpc.StatusCode.UNKNOWN.value[0]


@dataclass
class Version:
    """A version of a model, from the moment that it is to be loaded."""

    number: int
    folder: Path
    fingerprint: Fingerprint
    state: int = State.START
    error_code: int = 0
    error: str = ""
    servable: Servable | None = None
    requests: int = 0


class Models:
    """The models that are served. Threads may share it.

    Args:
      load: function of a model's name and a version's folder to a Servable.
    """

    def __init__(self, load: Callable[[str, Path], Servable]):
        self._load = load
        # One at a time changes what is loaded. Requests do not wait for this.
        self._work = threading.Lock()
        # Guards the tables and the versions; told whenever a request ends.
        self._change = threading.Condition()
        self._configs: dict[str, ModelConfig] = {}
        self._versions: dict[str, list[Version]] = {}
        self._checksums = Checksums()

    # Requests.

    @contextmanager
    def servable(self, spec: Any) -> Iterator[Servable]:
        """Gives the version that a ModelSpec names, which stays loaded meanwhile.

        Raises:
          RequestError: it names none that is available.
        """
        with self._change:
            version = self._find(spec)
            version.requests += 1
        try:
            assert version.servable is not None
            yield version.servable
        finally:
            with self._change:
                version.requests -= 1
                self._change.notify_all()

    def _find(self, spec: Any) -> Version:
        if not spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        available = self._available(spec.name)
        number = self._number(spec)
        if number is None:
            wanted = f"Latest({spec.name})"
        else:
            wanted = f"Specific({spec.name}, {number})"
            available = [version for version in available if version.number == number]
        if spec.name not in self._configs or not available:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
            )
        return max(available, key=lambda version: version.number)

    def _number(self, spec: Any) -> int | None:
        """The version that a ModelSpec asks for by number or label, or None for the newest."""
        if spec.HasField("version"):
            return spec.version.value
        if spec.HasField("version_label"):
            config = self._configs.get(spec.name)
            if config is None or spec.version_label not in config.labels:
                raise invalid_argument(f"Unrecognized servable version label: {spec.version_label}")
            return config.labels[spec.version_label]
        return None

    def statuses(self, spec: Any) -> Any:
        """The states of a model's versions, or of one, newest first: a GetModelStatusResponse.

        Raises:
          RequestError: there are none.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._change:
            number = self._number(spec)
            for version in sorted(
                self._versions.get(spec.name, ()), key=lambda version: -version.number
            ):
                if number in (None, version.number):
                    status = response.model_version_status.add(
                        version=version.number, state=version.state
                    )
                    status.status.error_code = version.error_code
                    status.status.error_message = version.error
        if not response.model_version_status:
            wanted = "any versions" if number is None else f"version {number}"
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Could not find {wanted} of model {spec.name}"
            )
        return response

    def newest(self) -> dict[str, int]:
        """The newest available version of each model."""
        with self._change:
            return {
                name: max(version.number for version in self._available(name))
                for name in self._configs
            }

    def _available(self, name: str) -> list[Version]:
        """The model's versions that answer, those loaded last before others of their number."""
        versions = self._versions.get(name, [])
        return [version for version in reversed(versions) if version.state == State.AVAILABLE]

    # Changes of what is loaded.

    def start(self, configs: Sequence[ModelConfig]) -> bool:
        """Loads the first models.

        Returns:
          Whether all of them can answer; if not, folders are still being copied: call again.

        Raises:
          ConfigError: a model has no version, or a version that does not load.
        """
        with self._work:
            complete = self._load_all(configs)
            for version in (v for versions in self._versions.values() for v in versions):
                if version.error:
                    raise ConfigError(f"Cannot load the model in {version.folder}: {version.error}")
            if complete:
                self._take(configs)
        return complete

    def reload(self, configs: Sequence[ModelConfig]) -> None:
        """Changes which models and versions are served, without a gap for those that stay.

        Raises:
          ConfigError: a model has no version that loads, or a label names one that is not
            available; all stays as it was.
        """
        with self._work:
            try:
                while not self._load_all(configs):
                    time.sleep(_RECHECK_S)
                for config in configs:
                    self._check_labels(config)
            except ConfigError:
                self._unload_unwanted()
                raise
            self._take(configs)

    def poll(self) -> None:
        """Looks at the folders: loads what is new, unloads what it replaces."""
        with self._work:
            for config in self._configs.values():
                self._load_wanted(config)
            self._unload_unwanted()

    def _take(self, configs: Sequence[ModelConfig]) -> None:
        with self._change:
            self._configs = {config.name: config for config in configs}
        self._unload_unwanted()

    def _load_all(self, configs: Sequence[ModelConfig]) -> bool:
        """Whether each model has a version that answers; if not, one may yet be copied in whole."""
        complete = True
        for config in configs:
            folders = version_folders(config)
            self._load_wanted(config)
            with self._change:
                available = {version.folder for version in self._available(config.name)}
                errors = {v.folder: v.error for v in self._versions.get(config.name, ()) if v.error}
            if not available.intersection(folders):
                if all(folder in errors and not is_growing(folder) for folder in folders):
                    raise ConfigError(
                        f"Cannot load the model in {folders[0]}: {errors[folders[0]]}"
                    )
                complete = False
        return complete

    def _check_labels(self, config: ModelConfig) -> None:
        with self._change:
            numbers = {version.number for version in self._available(config.name)}
        for number in config.labels.values():
            if number not in numbers:
                raise ConfigError(
                    f"Request to assign label to version {number} of model {config.name}, which is"
                    " not currently available for inference",
                    precondition=True,
                )

    def _wanted(self, config: ModelConfig) -> list[Path]:
        """The versions to serve of those whose folders are whole and not known to fail."""
        wanted: list[Path] = []
        try:
            folders = version_folders(config)
        except ConfigError:  # all gone since they were loaded
            folders = []
        for folder in folders:
            if len(wanted) == (config.latest or len(folders)):
                break
            known = self._known(config.name, folder)
            if known is not None and known.error and known.fingerprint == fingerprint(folder):
                continue
            is_loaded = known is not None and known.state == State.AVAILABLE
            if is_loaded or self._checksums.is_whole(folder):
                wanted.append(folder)
        return wanted

    def _known(self, name: str, folder: Path) -> Version | None:
        """The newest record of a version that was loaded from a folder."""
        with self._change:
            versions = self._versions.get(name, [])
            return next((v for v in reversed(versions) if v.folder == folder), None)

    def _load_wanted(self, config: ModelConfig) -> None:
        for folder in reversed(self._wanted(config)):
            known = self._known(config.name, folder)
            if known is None or known.state == State.END:
                version = Version(int(folder.name), folder, fingerprint(folder))
                self._load_version(config.name, version)

    def _load_version(self, name: str, version: Version) -> None:
        """Loads a version; one that fails ends with its error."""
        with self._change:
            # One record for each folder: this one's replaces that of its failure or last end.
            versions = [v for v in self._versions.get(name, ()) if v.folder != version.folder]
            self._versions[name] = [*versions, version]
            version.state = State.LOADING
        try:
            if error := self._checksums.error(version.folder):
                raise tf.errors.DataLossError(None, None, error)
            servable = self._load(name, version.folder)
        except Exception as error:  # TensorFlow raises many kinds of exception for damaged exports.
            with self._change:
                version.state = State.END
                version.error_code = getattr(error, "error_code", _UNKNOWN)
                text = operation_text(error) if isinstance(error, tf.errors.OpError) else str(error)
                version.error = text or type(error).__name__
            if self._configs:  # at the start whoever started it is told
                _LOG.error(
                    "Model %s: version %d does not load: %s", name, version.number, version.error
                )
            return
        with self._change:
            version.servable = servable
            version.state = State.AVAILABLE
        _LOG.info("Model %s: version %d is available.", name, version.number)

    def _unload_unwanted(self) -> None:
        """Unloads what is not wanted, but of a model that stays never the last version."""
        for name in list(self._versions):
            config = self._configs.get(name)
            wanted = set(self._wanted(config)) if config else set()
            with self._change:
                available = self._available(name)
                kept = [version for version in available if version.folder in wanted]
                leaving = [version for version in available if version.folder not in wanted]
                if config and not kept:
                    continue
                for version in leaving:
                    version.state = State.UNLOADING
            for version in leaving:
                self._unload(version)
                _LOG.info("Model %s: version %d is unloaded.", name, version.number)
            with self._change:
                # Of what is gone, folder and all, nothing needs telling any more.
                self._versions[name] = [
                    version
                    for version in self._versions[name]
                    if version.state != State.END or (config and version.folder.is_dir())
                ]
                if not self._versions[name]:
                    del self._versions[name]

    def _unload(self, version: Version) -> None:
        with self._change:
            self._change.wait_for(lambda: version.requests == 0)
            servable, version.servable = version.servable, None
        assert servable is not None
        servable.close()
        with self._change:
            version.state = State.END
