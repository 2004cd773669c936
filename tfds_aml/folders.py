"""Lists the folders in which a download may lie."""

from collections.abc import Iterator
from pathlib import Path

LEVELS_BELOW = 2


def list_folders(folder: Path, levels: int = LEVELS_BELOW) -> Iterator[Path]:
    """Yields the folder and its subfolders to that depth, sorted by level, without hidden ones.

    Follows symbolic links (to another disk, say), which `rglob` does not.
    """
    yield folder
    level = [folder]
    for _ in range(levels):
        level = sorted(
            d for f in level for d in f.iterdir() if d.is_dir() and not d.name.startswith(".")
        )
        yield from level
