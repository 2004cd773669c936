"""The 15 morphological classes of Matek et al. 2019, defined here alone.

This module imports nothing of the project and nothing heavy.

Source of codes and names: `abbreviations.txt` and the class table of TCIA
AML-Cytomorphology_LMU, doi 10.7937/tcia.2019.36f5o9ld.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class CellClass:
    """One morphological class."""

    code: str  # three letters, as in the download's folder names
    name: str  # English, as in the paper's table
    colour: str  # `#rrggbb`, used in every plot


# The order of the paper's table. It is also the order of the label feature, of the model's
# outputs and of the probability columns: index 0 is NGS everywhere.
CLASSES: tuple[CellClass, ...] = (
    CellClass("NGS", "Neutrophil (segmented)", "#1f77b4"),
    CellClass("NGB", "Neutrophil (band)", "#6baed6"),
    CellClass("LYT", "Lymphocyte (typical)", "#2ca02c"),
    CellClass("LYA", "Lymphocyte (atypical)", "#98df8a"),
    CellClass("MON", "Monocyte", "#8c564b"),
    CellClass("EOS", "Eosinophil", "#ff7f0e"),
    CellClass("BAS", "Basophil", "#17becf"),
    CellClass("MYO", "Myeloblast", "#d62728"),
    CellClass("PMO", "Promyelocyte", "#9467bd"),
    CellClass("PMB", "Promyelocyte (bilobed)", "#c5b0d5"),
    CellClass("MYB", "Myelocyte", "#e377c2"),
    CellClass("MMZ", "Metamyelocyte", "#f7b6d2"),
    CellClass("MOB", "Monoblast", "#ff9896"),
    CellClass("EBO", "Erythroblast", "#bcbd22"),
    CellClass("KSC", "Smudge cell", "#7f7f7f"),
)

CODES: tuple[str, ...] = tuple(c.code for c in CLASSES)
INDEX: dict[str, int] = {code: i for i, code in enumerate(CODES)}
BY_CODE: dict[str, CellClass] = {c.code: c for c in CLASSES}

# Maturation order within lineages, for tables and confusion matrices. Examiners confuse neighbours
# in this order, so errors lie near the diagonal.
LINEAGE_ORDER: tuple[str, ...] = (
    "MYO", "PMO", "PMB", "MYB", "MMZ", "NGB", "NGS", "EOS", "BAS",
    "MOB", "MON", "LYT", "LYA", "EBO", "KSC",
)  # fmt: skip

# The paper's two binary questions. A question's score is the sum of its classes' probabilities.
BLAST: tuple[str, ...] = ("MYO", "MOB")
# "Atypical": not expected in blood under physiological conditions. PMB is atypical by biology, but
# evaluations of the published network leave it out: hence the second group.
ATYPICAL: tuple[str, ...] = ("MYO", "MOB", "PMO", "PMB", "MYB", "MMZ", "EBO", "LYA")
ATYPICAL_WITHOUT_PMB: tuple[str, ...] = tuple(c for c in ATYPICAL if c != "PMB")
QUESTIONS: dict[str, tuple[str, ...]] = {
    "blast": BLAST,
    "atypical": ATYPICAL,
    "atypical_without_pmb": ATYPICAL_WITHOUT_PMB,
}

# Classes that are stages of one maturation, which examiners confuse as well. Every other class is a
# coarse type of its own. A type's score is the sum of its classes' probabilities.
COARSE_TYPES: dict[str, tuple[str, ...]] = {
    "neutrophil": ("NGS", "NGB"),
    "granulocyte precursor": ("PMO", "PMB", "MYB", "MMZ"),
}

# Values that a re-annotation can take besides a code.
UNCERTAIN = "UNC"  # the examiner could not assign a class
NOT_REANNOTATED = "none"  # written `nan` in annotations.dat
REANNOTATIONS: tuple[str, ...] = (*CODES, UNCERTAIN, NOT_REANNOTATED)

# File that marks the folder of a synthetic smear.
SYNTHETIC_MARK = "SYNTHETIC.json"
# Stands beside every answer of a network that was trained on drawn cells.
SYNTHETIC_REMARK = "The network was trained on SYNTHETIC cells: it knows nothing of real ones."
