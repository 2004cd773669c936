"""How far probabilities are from those of the float32 model, and what that changes."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Comparison:
    """One way of computing beside the reference.

    Attributes:
      changed: cells whose most probable class is another.
      changed_share: of all cells, 0 to 1.
      to_right: of the changed ones those that became right; None without labels.
      to_wrong: those that were right; None without labels.
      largest: largest absolute difference of a probability.
      mean: mean over the cells of their largest absolute difference.
      accuracy: share of cells answered right; None without labels.
    """

    changed: int
    changed_share: float
    to_right: int | None
    to_wrong: int | None
    largest: float
    mean: float
    accuracy: float | None


def compare(found: np.ndarray, reference: np.ndarray, labels: np.ndarray | None) -> Comparison:
    """Compares probabilities of the same cells.

    Args:
      found: float array [n, classes], n at least 1.
      reference: float array of the same shape.
      labels: int array [n], or None where they are not known.

    Raises:
      ValueError: if the shapes differ, or `found` holds something that is no number.
    """
    if found.shape != reference.shape:
        raise ValueError(f"probabilities {found.shape} beside {reference.shape}")
    if not np.isfinite(found).all():
        raise ValueError("its probabilities are no numbers")
    differences = np.abs(found - reference).max(axis=1)
    after, before = found.argmax(axis=1), reference.argmax(axis=1)
    changed = after != before
    known = labels is not None
    return Comparison(
        changed=int(changed.sum()),
        changed_share=float(changed.mean()),
        to_right=int((changed & (after == labels)).sum()) if known else None,
        to_wrong=int((changed & (before == labels)).sum()) if known else None,
        largest=float(differences.max()),
        mean=float(differences.mean()),
        accuracy=float((after == labels).mean()) if known else None,
    )
