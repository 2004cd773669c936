"""Where a download may lie below the folder that is named."""

from collections.abc import Iterator
from pathlib import Path

LEVELS_BELOW = 2


def list_folders(folder: Path, levels: int = LEVELS_BELOW) -> Iterator[Path]:
    """The folder and those some levels below it, in sorted order, hidden ones left out.

    Not `rglob`: it passes by folders that are links to another disk.
    """
    yield folder
    level = [folder]
    for _ in range(levels):
        level = sorted(
            d for f in level for d in f.iterdir() if d.is_dir() and not d.name.startswith(".")
        )
        yield from level
