"""Fills the report's page from metrics and predictions."""

from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

import leuko_tf
from leuko_tf.classes import BY_CODE, LINEAGE_ORDER
from leuko_tf.cli import written_aside
from leuko_tf.report import plots

# To be stated wherever results are shown.
LIMITS = (
    "Research use only: nothing here is a diagnosis, and a cell's class is not a patient's.",
    "No split by patient is possible: images of one patient lie in several folds, so the figures "
    "are optimistic for new patients.",
    "Blasts come from patients and normal cells mostly from controls: stain and background can "
    "give the class away.",
    "The labels are one examiner's; the re-annotators disagree with 15 to 20 % of them.",
    "Classes of 11 to 26 images make averages over classes swing.",
)


def write_report(table, metrics, disputed, surest, path):
    path.write_text("report")
