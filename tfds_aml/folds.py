"""Assignment of images to the five cross-validation folds."""

import hashlib
from collections.abc import Iterable, Mapping

FOLDS = (1, 2, 3, 4, 5)
SPLIT_NAMES = tuple(f"fold_{k}" for k in FOLDS)


def stratified_folds(label_by_id: Mapping[str, str]) -> dict[str, int]:
    """Deals the images of each class over the folds, as evenly as their number allows.

    Within a class the images are ordered by the SHA-256 of their id, so that the outcome is the
    same on every machine and does not depend on the order of files or lines. Each class goes on
    dealing where the one before it stopped: rare classes do not all begin at fold 1.

    Args:
      label_by_id: mapping of image id to class code.

    Returns:
      Mapping of image id to fold, 1 to 5. Fold sizes differ by at most one within each class
      and by at most one over all.
    """
    folds = {}
    dealt = 0
    for label in sorted(set(label_by_id.values())):
        ids = [i for i, code in label_by_id.items() if code == label]
        for image_id in sorted(ids, key=_digest):
            folds[image_id] = FOLDS[dealt % len(FOLDS)]
            dealt += 1
    return folds


def folds_by_image(lists: Mapping[int, Iterable[str]]) -> dict[str, list[int]]:
    """Inverts fold lists: image name to every fold that lists it (once for each mention)."""
    folds: dict[str, list[int]] = {}
    for fold, names in lists.items():
        for name in names:
            folds.setdefault(name, []).append(fold)
    return folds


def _digest(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()
