"""The folders that models' versions stand in, and whether one is there in whole."""

import hashlib
import time
from pathlib import Path

from serving.server.configs import ConfigError, ModelConfig

SUMS_FILE = Path("assets.extra") / "SHA256SUMS"
# A folder without checksums counts as copied in whole when nothing in it changed for so long.
SETTLED_S = 3.0

# Each file's path, size, time of writing and time of change.
Fingerprint = tuple[tuple[str, int, int, int], ...]


def version_folders(config: ModelConfig) -> list[Path]:
    """Finds the versions that may be served.

    Args:
      config: ModelConfig.

    Returns:
      list of Path, the newest version first. Folders named by an integer with a `saved_model.pb`
      in them, if the configuration does not ask for others only.

    Raises:
      ConfigError: the model's base path is no folder, or there are none.
    """
    base = config.base_path
    if not base.is_dir():
        raise ConfigError(f"{base} is not a folder: export a model first (leuko_tf.export).")
    folders = [
        folder
        for folder in base.iterdir()
        if folder.name.isascii()
        and folder.name.isdecimal()
        and (not config.specific or int(folder.name) in config.specific)
        and (folder / "saved_model.pb").is_file()
    ]
    if not folders:
        raise ConfigError(
            f"{base} holds no model that is asked for: a folder named by its version number, such"
            f" as {base / '1'}, with a saved_model.pb in it is needed (see leuko_tf.export)."
        )
    return sorted(folders, key=lambda folder: int(folder.name), reverse=True)


def fingerprint(folder: Path) -> Fingerprint:
    """What changes when anything in the folder does."""
    entries = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:  # gone meanwhile
            continue
        entries.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(entries)


def is_growing(folder: Path) -> bool:
    """Whether something in the folder changed a moment ago."""
    # The time of change is the kernel's and not, as that of writing may be, the original's.
    newest = max((changed for *_, changed in fingerprint(folder)), default=0)
    return abs(time.time() - newest / 1e9) < SETTLED_S


class Checksums:
    """Whether folders are there in whole; each state of a folder is read once."""

    def __init__(self) -> None:
        self._errors: dict[Path, tuple[Fingerprint, str]] = {}

    def is_whole(self, folder: Path) -> bool:
        """Whether a folder is not, or no longer, being copied.

        Its checksums tell, if it has some: they hold from the moment that all is there, and if
        they do not when nothing changes any more, then the folder is as whole as it will be, and
        damaged (see `error`). Without checksums it is whole when nothing changes any more; so a
        folder in which a copy stands still for longer than that may be loaded too early. Publish
        by renaming, or with checksums.
        """
        if not (folder / SUMS_FILE).is_file():
            return not is_growing(folder)
        return not self.error(folder) or not is_growing(folder)

    def error(self, folder: Path) -> str:
        """What contradicts the folder's checksums; empty if nothing, or if it has none."""
        if not (folder / SUMS_FILE).is_file():
            return ""
        now = fingerprint(folder)
        if folder not in self._errors or self._errors[folder][0] != now:
            self._errors[folder] = (now, _checksum_error(folder))
        return self._errors[folder][1]


def _checksum_error(folder: Path) -> str:
    """The first line of SHA256SUMS, with paths from the version's folder, that does not hold."""
    try:
        for line in (folder / SUMS_FILE).read_text().splitlines():
            wanted, _, name = line.partition(" ")
            with (folder / name.lstrip(" *")).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                    return f"{name.lstrip(' *')} does not match {SUMS_FILE}"
    except (OSError, ValueError) as error:
        return f"{SUMS_FILE} does not hold: {error}"
    return ""
