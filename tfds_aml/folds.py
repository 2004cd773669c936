"""Assignment of images to the five cross-validation folds."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping

FOLDS = (1, 2, 3, 4, 5)
SPLIT_NAMES = tuple(f"fold_{k}" for k in FOLDS)

ASSIGNED_FOLDS = "assigned by the builder, stratified by class"


def assign_folds(
    label_by_id: Mapping[str, str], group_by_id: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Deals the images of each class over the folds, as evenly as their number allows.

    Within a class the images are ordered by the SHA-256 of their id, so that the outcome is the
    same on every machine and does not depend on the order of files or lines. Each is dealt to the
    fold that has the fewest of its class and, of those, the fewest over all: rare classes do not
    all begin at fold 1. Groups of several images come before single ones, which then even out
    what the groups left uneven.

    Args:
      label_by_id: mapping of image id to class code.
      group_by_id: mapping of image id to the name of its group, such as a digest of its pixels.
        Images of one group have one class and stay in one fold. By default each is alone.

    Returns:
      Mapping of image id to fold, 1 to 5. Without groups, fold sizes differ by at most one within
      each class and by at most one over all; with groups, by at most the largest group's size
      within each class.

    Raises:
      ValueError: if the images of a group have several classes.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(label_by_id, key=_hash_id):
        groups[group_by_id[image_id] if group_by_id else image_id].append(image_id)

    groups_by_label: dict[str, list[list[str]]] = defaultdict(list)
    for name, ids in groups.items():
        label, *others = {label_by_id[i] for i in ids}
        if others:
            raise ValueError(f"group of several classes. Received: {name}: {ids}")
        groups_by_label[label].append(ids)

    folds = {}
    dealt: Counter[int] = Counter()
    for label in sorted(groups_by_label):
        of_label: Counter[int] = Counter()
        for ids in sorted(groups_by_label[label], key=len, reverse=True):  # keeps equal ones' order
            fold = min(FOLDS, key=lambda k: (of_label[k], dealt[k], k))
            folds.update(dict.fromkeys(ids, fold))
            of_label[fold] += len(ids)
            dealt[fold] += len(ids)
    return folds


def invert_fold_lists(lists: Mapping[int, Iterable[str]]) -> dict[str, list[int]]:
    """Inverts fold lists: image name to every fold that lists it (once for each mention)."""
    folds: dict[str, list[int]] = {}
    for fold, names in lists.items():
        for name in names:
            folds.setdefault(name, []).append(fold)
    return folds


def _hash_id(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()
