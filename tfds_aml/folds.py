"""Assigns images to the five cross-validation folds."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping

FOLDS = (1, 2, 3, 4, 5)
SPLIT_NAMES = tuple(f"fold_{k}" for k in FOLDS)

ASSIGNED_FOLDS = "assigned by the builder, stratified by class"


def assign_folds(
    label_by_id: Mapping[str, str], group_by_id: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Distributes the images of each class over the folds as evenly as possible.

    Within a class, images are ordered by the SHA-256 of their id: the result is the same on every
    machine and does not depend on the order of files or lines. Each image goes to the fold with
    the fewest images of its class; ties go to the fold with the fewest images overall, so that
    rare classes do not all start at fold 1. Groups of several images come first; single images
    then even out the differences.

    Args:
      label_by_id: class code of each image id.
      group_by_id: group of each image id, such as a hash of its pixels. The images of a group
        share a class and stay in one fold. Default: each image is its own group.

    Returns:
      Fold, 1 to 5, of each image id. Without groups, fold sizes differ by at most one within each
      class and overall; with groups, by at most the largest group's size within each class.

    Raises:
      ValueError: if the images of a group have different classes.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for image_id in sorted(label_by_id, key=_hash_id):
        groups[group_by_id[image_id] if group_by_id else image_id].append(image_id)

    groups_by_label: dict[str, list[list[str]]] = defaultdict(list)
    for name, ids in groups.items():
        label, *others = {label_by_id[i] for i in ids}
        if others:
            raise ValueError(f"Images of a group have different classes. Received: {name}: {ids}")
        groups_by_label[label].append(ids)

    folds = {}
    sizes: Counter[int] = Counter()
    for label in sorted(groups_by_label):
        sizes_of_label: Counter[int] = Counter()
        for ids in sorted(groups_by_label[label], key=len, reverse=True):  # a stable sort
            fold = min(FOLDS, key=lambda k: (sizes_of_label[k], sizes[k], k))
            folds.update(dict.fromkeys(ids, fold))
            sizes_of_label[fold] += len(ids)
            sizes[fold] += len(ids)
    return folds


def _hash_id(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()
