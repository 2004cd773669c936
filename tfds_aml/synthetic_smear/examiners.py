"""Simulates two examiners who re-annotate some images and sometimes disagree."""

import numpy as np

from leuko_tf.classes import UNCERTAIN

# Classes that each class is confused with, most likely first: neighbours in maturation, or
# look-alikes (remembered textbook knowledge, not counted in data).
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "NGS": ("NGB", "EOS"),
    "NGB": ("NGS", "MMZ"),
    "LYT": ("LYA", "MYO"),
    "LYA": ("LYT", "MON", "MYO"),
    "MON": ("MOB", "MYO", "LYA"),
    "EOS": ("NGS", "BAS"),
    "BAS": ("EOS", "NGS"),
    "MYO": ("MOB", "LYT", "MON", "PMO"),
    "PMO": ("MYB", "MYO", "PMB"),
    "PMB": ("PMO", "MON", "MYO"),
    "MYB": ("MMZ", "PMO"),
    "MMZ": ("MYB", "NGB", "MON"),
    "MOB": ("MON", "MYO"),
    "EBO": ("LYT",),
    "KSC": ("LYT", "MYO"),
}
REANNOTATED_SHARE = 0.1
# Probabilities of (the label, `UNC`) for examiner 1 and examiner 2; otherwise they answer with a
# neighbour. The figures are chosen, not measured.
EXAMINERS: tuple[tuple[float, float], ...] = ((0.85, 0.03), (0.80, 0.10))


def reannotate(code: str, rng: np.random.Generator) -> tuple[str, str]:
    """Returns two examiners' answers, a code or `UNC` each, for an image with this label."""
    first, second = (_examine(code, *examiner, rng) for examiner in EXAMINERS)
    return first, second


def _examine(code: str, agrees: float, uncertain: float, rng: np.random.Generator) -> str:
    chance = rng.random()
    if chance < agrees:
        return code
    if chance < agrees + uncertain:
        return UNCERTAIN
    neighbours = NEIGHBOURS[code]
    weights = 0.5 ** np.arange(len(neighbours))
    return str(rng.choice(neighbours, p=weights / weights.sum()))
