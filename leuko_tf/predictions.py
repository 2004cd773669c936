"""The table of predictions: the one thing that model and evaluation have in common.

A Parquet file with a row an image:

  id               string   the image's path within its data set
  label            string   one of the 15 codes
  fold             int8     1 to 5
  reannotation_1   string   a code, UNC or none
  reannotation_2   string   likewise
  p_NGS ... p_KSC  float32  15 probabilities, in the order of `leuko_tf.classes.CODES`, summing to 1

and, in the file's metadata under `leuko_tf`, a JSON object that says where the rows come from:
`synthetic`, `dataset`, `folds`, `split`, `model`, and whether the split was `held_out` from the
model's training (null where not known).
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leuko_tf.classes import CODES, REANNOTATIONS
from leuko_tf.cli import UserError, written_aside

PROBABILITIES = [f"p_{code}" for code in CODES]
DESCRIPTIONS = ["id", "label", "fold", "reannotation_1", "reannotation_2"]
COLUMNS = DESCRIPTIONS + PROBABILITIES
SCHEMA = pa.schema(
    [(name, pa.int8() if name == "fold" else pa.string()) for name in DESCRIPTIONS]
    + [(name, pa.float32()) for name in PROBABILITIES]
)
METADATA_KEY = b"leuko_tf"

# Probabilities are float32 softmax outputs: their sum is 1 to about 1e-6.
SUM_TOLERANCE = 1e-3


def write_predictions(table: pd.DataFrame, source: dict[str, Any], path: Path) -> None:
    """Writes the table as Parquet, with its source.

    Args:
      table: the columns above.
      source: JSON-like description of where the rows come from.
      path: file to write, replaced as a whole.
    """
    checked = _checked(table, str(path))
    arrow = pa.Table.from_pandas(checked, SCHEMA, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), METADATA_KEY: json.dumps(source).encode()}
    )
    with written_aside(path) as aside:
        pq.write_table(arrow, aside)


def read_predictions(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Reads and checks a table of predictions.

    Returns:
      The table, and its source; empty where the file does not tell.

    Raises:
      UserError: if the file is not there or not Parquet, or the table or its source is not as
        described above. The message names the column, or the first row and its id.
    """
    try:
        # Not `read_table`, which would also read a folder, and columns out of the path's names.
        with pq.ParquetFile(path) as file:
            arrow = file.read()
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path} is not a Parquet file that can be read: {error}") from error
    try:
        source = json.loads((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError:
        source = None
    if not isinstance(source, dict):
        raise UserError(f"{path}: its source, under leuko_tf in the metadata, is no JSON object")
    return _checked(arrow.to_pandas(), str(path)), source


def probabilities(table: pd.DataFrame) -> np.ndarray:
    """float64 array [n, 15] of the table's probabilities."""
    return table[PROBABILITIES].to_numpy(np.float64)


def _checked(table: pd.DataFrame, where: str) -> pd.DataFrame:
    missing = [c for c in COLUMNS if c not in table.columns]
    if missing:
        raise UserError(f"{where}: missing column{'s' * (len(missing) > 1)} {' '.join(missing)}")
    if table.empty:
        raise UserError(f"{where}: no rows")
    table = table[COLUMNS].reset_index(drop=True)
    try:
        values = probabilities(table)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a probability is not a number: {error}") from error

    def refuse(bad: Any, what: str) -> None:
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            first = rows[0]
            raise UserError(
                f"{where}: {what} in {len(rows)} row{'s' * (len(rows) > 1)}, the first is row "
                f"{first} (id {table['id'][first]!r})"
            )

    refuse(table["id"].isna(), "no id")
    refuse(table["id"].duplicated(), "an id that stood before")
    refuse(~table["label"].isin(CODES), "a label that is none of the 15 codes")
    for column in ("reannotation_1", "reannotation_2"):
        refuse(~table[column].isin(REANNOTATIONS), f"an unknown {column}")
    refuse(~table["fold"].isin(range(1, 6)), "a fold that is not 1 to 5")
    refuse(~np.isfinite(values).all(axis=1), "a probability that is not a finite number")
    refuse(((values < 0) | (values > 1)).any(axis=1), "a probability outside of 0 to 1")
    refuse(np.abs(values.sum(axis=1) - 1) > SUM_TOLERANCE, "probabilities that do not sum to 1")
    return table
