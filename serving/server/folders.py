"""Finds the version folders of a model and checks whether they are complete."""

import hashlib
import time
from pathlib import Path

from leuko_tf.cli import UserError
from serving.server.configs import ModelConfig

SUMS_FILE = Path("assets.extra") / "SHA256SUMS"
# A folder without checksums counts as complete when nothing in it changed for this long.
SETTLED_S = 3.0

# Path, size, mtime and ctime of each file.
Fingerprint = tuple[tuple[str, int, int, int], ...]


def find_version_folders(config: ModelConfig) -> list[Path]:
    """Finds the versions that the configuration allows, newest first.

    A version is a folder named by an integer that contains a `saved_model.pb`.

    Raises:
      UserError: the model's base path is not a folder or holds no such version.
    """
    base = config.base_path
    if not base.is_dir():
        raise UserError(f"{base} is not a folder: export a model first (leuko_tf.export).")
    folders = [
        folder
        for folder in base.iterdir()
        if folder.name.isascii()
        and folder.name.isdecimal()
        and (not config.specific or int(folder.name) in config.specific)
        and (folder / "saved_model.pb").is_file()
    ]
    if not folders:
        raise UserError(
            f"{base} holds no model to serve: it needs a folder named by a version number, such as"
            f" {base / '1'}, that contains a saved_model.pb (see leuko_tf.export)."
        )
    return sorted(folders, key=lambda folder: int(folder.name), reverse=True)


def compute_fingerprint(folder: Path) -> Fingerprint:
    """Lists every file's state; differs whenever anything in the folder changes."""
    entries = []
    for path in sorted(folder.rglob("*")):
        try:
            stat = path.stat()
        except OSError:  # deleted since
            continue
        entries.append((str(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(entries)


def is_growing(folder: Path) -> bool:
    """Whether anything in the folder changed within the last SETTLED_S seconds."""
    # ctime is set by the kernel; mtime may be copied from the original.
    newest = max((changed for *_, changed in compute_fingerprint(folder)), default=0)
    return abs(time.time() - newest / 1e9) < SETTLED_S


class Checksums:
    """Verifies the checksums of folders; reads each state of a folder only once."""

    def __init__(self) -> None:
        self._errors: dict[Path, tuple[Fingerprint, str]] = {}

    def is_complete(self, folder: Path) -> bool:
        """Whether nobody is still copying the folder.

        With a checksum file: the checksums match, or nothing changes any more; the folder is then
        damaged (see `find_error`). Without one: nothing changes any more. So a copy that pauses
        for longer than SETTLED_S may be loaded too early: publish by renaming, or with checksums.
        """
        has_sums = (folder / SUMS_FILE).is_file()
        return not is_growing(folder) or (has_sums and not self.find_error(folder))

    def find_error(self, folder: Path) -> str:
        """Describes the first mismatch; empty if there is none or no checksum file."""
        if not (folder / SUMS_FILE).is_file():
            return ""
        now = compute_fingerprint(folder)
        if folder not in self._errors or self._errors[folder][0] != now:
            self._errors[folder] = (now, _find_mismatch(folder))
        return self._errors[folder][1]


def _find_mismatch(folder: Path) -> str:
    """Describes the first line of SHA256SUMS that does not match; empty if all do."""
    try:
        for line in (folder / SUMS_FILE).read_text().splitlines():
            wanted, _, name = line.partition(" ")
            with (folder / name.lstrip(" *")).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != wanted:
                    return f"{name.lstrip(' *')} does not match {SUMS_FILE}"
    except (OSError, ValueError) as error:
        return f"Cannot check {SUMS_FILE}: {error}"
    return ""
