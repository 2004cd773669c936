"""The classes: order and groups are the paper's, and the import is light."""

import re
import sys

from running import run

from leuko_tf import classes
from leuko_tf.classes import (
    ATYPICAL,
    ATYPICAL_WITHOUT_PMB,
    BLAST,
    BY_CODE,
    CLASSES,
    CODES,
    INDEX,
    LINEAGE_ORDER,
    QUESTIONS,
    REANNOTATIONS,
)

# The table of Matek et al. 2019, typed by hand: MYB is the myelocyte and MYO the myeloblast.
PAPER = [
    ("NGS", "Neutrophil (segmented)"),
    ("NGB", "Neutrophil (band)"),
    ("LYT", "Lymphocyte (typical)"),
    ("LYA", "Lymphocyte (atypical)"),
    ("MON", "Monocyte"),
    ("EOS", "Eosinophil"),
    ("BAS", "Basophil"),
    ("MYO", "Myeloblast"),
    ("PMO", "Promyelocyte"),
    ("PMB", "Promyelocyte (bilobed)"),
    ("MYB", "Myelocyte"),
    ("MMZ", "Metamyelocyte"),
    ("MOB", "Monoblast"),
    ("EBO", "Erythroblast"),
    ("KSC", "Smudge cell"),
]


def test_codes_and_names_stand_in_the_order_of_the_papers_table():
    assert [(c.code, c.name) for c in CLASSES] == PAPER
    assert list(CODES) == [code for code, _ in PAPER]


def test_index_and_by_code_agree_with_the_order():
    assert [INDEX[code] for code in CODES] == list(range(15))
    assert [BY_CODE[code] for code in CODES] == list(CLASSES)
    assert len(INDEX) == len(BY_CODE) == 15


def test_the_questions_are_the_three_groups_of_the_paper():
    assert list(QUESTIONS.values()) == [BLAST, ATYPICAL, ATYPICAL_WITHOUT_PMB]
    assert sorted(BLAST) == ["MOB", "MYO"]
    without_pmb = ["EBO", "LYA", "MMZ", "MOB", "MYB", "MYO", "PMO"]
    assert sorted(ATYPICAL_WITHOUT_PMB) == without_pmb
    assert sorted(ATYPICAL) == sorted([*without_pmb, "PMB"])


def test_lineage_order_is_a_permutation_of_the_codes():
    assert sorted(LINEAGE_ORDER) == sorted(CODES)


def test_colours_are_distinct_hex_colours():
    colours = [c.colour for c in CLASSES]
    assert len(set(colours)) == 15
    assert all(re.fullmatch("#[0-9a-f]{6}", colour) for colour in colours)


def test_a_reannotation_is_a_code_or_uncertain_or_none():
    assert list(REANNOTATIONS) == [*CODES, "UNC", "none"]


def test_importing_the_classes_imports_no_library_for_numbers():
    heavy = {"numpy", "pandas", "keras", "tensorflow", "omegaconf"}
    program = f"import sys, {classes.__name__}; print(*sorted({heavy!r} & set(sys.modules)))"
    done = run([sys.executable, "-c", program])
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""
