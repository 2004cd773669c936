"""The table of predictions: the only interface between model and evaluation.

A Parquet file with one row per image:

  id               string   the image's path within its data set, such as BAS/BAS_0021.tiff
  label            string   one of the 15 codes
  fold             int8     1 to 5
  reannotation_1   string   a code, UNC or none
  reannotation_2   string   a code, UNC or none
  p_NGS ... p_KSC  float32  15 probabilities, in the order of `leuko_tf.classes.CODES`, summing to 1

The file's metadata hold, under `leuko_tf`, a JSON object that says where the rows come from:
`leuko_tf.provenance.Source`.

A CSV file with the same columns is read as well: UTF-8, column names in the first line, commas,
decimal points. It has no source. Without the two re-annotation columns, no image counts as
re-annotated. Other columns are ignored.

The third form is the published network's `heldout_outputs.npz` (arrays label, probability16, fold,
codes15, outputs16). Its two outputs for erythroblasts are summed. It does not name its images, so
ids are row numbers, counted from 0.

This converts CSV or npz into Parquet:

  python -m leuko_tf.predictions heldout_outputs.npz --out published.parquet
"""

import argparse
import csv
import json
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from leuko_tf.classes import CODES, NOT_REANNOTATED, REANNOTATIONS
from leuko_tf.cli import UserError, run, write_aside
from leuko_tf.provenance import Source

PROBABILITIES = [f"p_{code}" for code in CODES]
EXAMINERS = ["reannotation_1", "reannotation_2"]
DESCRIPTIONS = ["id", "label", "fold", *EXAMINERS]
COLUMNS = DESCRIPTIONS + PROBABILITIES
SCHEMA = pa.schema(
    [(name, pa.int8() if name == "fold" else pa.string()) for name in DESCRIPTIONS]
    + [(name, pa.float32()) for name in PROBABILITIES]
)
METADATA_KEY = b"leuko_tf"

PUBLISHED_SOURCE: Source = {
    "synthetic": False,
    "dataset": "AML-Cytomorphology_LMU, 18,365 images",
    "folds": "published lists",
    "split": "fold_1+fold_2+fold_3+fold_4+fold_5",
    "model": "the published network of Matek et al. 2019, outputs of heldout_outputs.npz",
    "held_out": True,
    "ids": "row numbers; the outputs cannot be joined to images",
    "remark": (
        "the outputs of fold 2 were softened by a temperature before they were published (the best "
        "temperature for its 16 outputs is 1.000; for the other folds it is 1.9 to 2.2). This "
        "affects every figure that pools probabilities over folds: pooled areas under curves, "
        "calibration, fitted temperatures, abstention, prediction sets. It does not affect the "
        "answers, nor the figures of single folds, except the calibration of fold 2"
    ),
}

# Probabilities are float32 softmax outputs: their sum is 1 to about 1e-6.
SUM_TOLERANCE = 1e-3


def write_predictions(table: pd.DataFrame, source: Source, path: Path) -> None:
    """Checks the table and writes it as Parquet, with its source in the file's metadata."""
    write_parquet(_check_table(table, path), source, path, SCHEMA)


def write_parquet(
    table: pd.DataFrame, source: Mapping[str, Any], path: Path, schema: pa.Schema | None = None
) -> None:
    """Writes any table as Parquet, as a whole or not at all, its source in the file's metadata.

    Without `schema`, the columns keep the types of the table.
    """
    arrow = pa.Table.from_pandas(table, schema, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), METADATA_KEY: json.dumps(source).encode()}
    )
    with write_aside(path) as aside:
        pq.write_table(arrow, aside)


def read_predictions(path: Path) -> tuple[pd.DataFrame, Source]:
    """Reads and checks a table of predictions.

    A path that ends in `.csv` or `.npz` is read as such, any other one as Parquet.

    Returns:
      The table, with the documented types whatever its form, and its source, which is empty where
      the file has none.

    Raises:
      UserError: if the file is missing or not of its form, or if table or source are not as
        documented. The message names the column, or the first bad row and its id: in Parquet the
        row counted from 1, in CSV the line as an editor counts it, in `.npz` the array index.
    """
    try:
        if not path.exists():
            raise UserError(f"No file {path}")
    except OSError as error:  # such as a folder without permission
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    source: Source = {}
    name_row: Callable[[int], str] = _name_row
    ending = path.suffix.lower()
    if ending == ".csv":
        table = _read_csv(path)
        name_row = partial(_name_line, path)
    elif ending == ".npz":
        table, source = _read_published_outputs(path)
        name_row = "index {}".format
    else:
        table, source = _read_parquet(path)
    for column in {*EXAMINERS}.difference(table.columns):
        table[column] = NOT_REANNOTATED
    return _check_table(table, path, name_row), source


def _read_parquet(path: Path) -> tuple[pd.DataFrame, Source]:
    try:
        # `read_table` would also read folders, and take columns from names such as fold=3.
        with pq.ParquetFile(path) as file:
            arrow = file.read(columns=COLUMNS)
        # pandas' metadata would turn a column back into the index that it was when written.
        table = arrow.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path} cannot be read as Parquet: {error} (the name of a table in another form must "
            "end in .csv or .npz)"
        ) from error
    source: Any
    try:
        source = json.loads((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError:
        source = None
    if not isinstance(source, dict):
        raise UserError(f"{path}: its source, under leuko_tf in the metadata, is not a JSON object")
    return table, cast(Source, source)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        _refuse_other_separators(path)
        # As text: ids such as 001 and NA stay as they are, duplicate column names are noticed,
        # and a cell that is not a number invalidates only its own row.
        text = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} cannot be read as CSV (UTF-8, commas between columns): {str(error).strip()}"
        ) from error
    names = [*text.iloc[0]]
    if len(names) == 1:
        raise UserError(f"{path} has only one column, {names[0]!r}. Put commas between columns.")
    return text[1:].set_axis(names, axis=1)


def _refuse_other_separators(path: Path) -> None:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line.strip() for line in file if line.strip()), "")
    for separator, name in ((";", "semicolons"), ("\t", "tabs")):
        names = {cell.strip(' "') for cell in header.split(separator)}
        if len(names.intersection(COLUMNS)) > 1:
            raise UserError(
                f"{path} has {name} between columns; write it with commas and decimal points"
            )


def _name_row(row: int) -> str:
    return f"row {row + 1}"


def _name_line(path: Path, row: int) -> str:
    """Names the line on which a row of a CSV file begins.

    Blank lines, and line breaks inside quotes, count as an editor counts them.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        filled = [(n, line) for n, line in enumerate(file, 1) if line.strip(" \t\r\n")]
    reader = csv.reader((line for _, line in filled), skipinitialspace=True)
    try:
        for _ in islice(reader, row + 1):  # the header and the rows before
            pass
        return f"line {filled[reader.line_num][0]}"
    except (csv.Error, IndexError):  # csv refuses some files that pandas reads
        return f"{_name_row(row)} below the header"


def _read_published_outputs(path: Path) -> tuple[pd.DataFrame, Source]:
    try:
        # For a file that is not a zip archive, `np.load` would suggest `allow_pickle`.
        with path.open("rb") as raw, np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
            outputs = dict(zip(file["outputs16"].tolist(), file["probability16"].T, strict=True))
            outputs["EBO"] = outputs["EBO"] + outputs.pop("EBO2")
            table = pd.DataFrame({f"p_{code}": outputs[code] for code in CODES})
            codes = dict(enumerate(file["codes15"].tolist()))
            table["label"] = [codes.get(label) for label in file["label"].tolist()]
            table["fold"] = file["fold"]
    except Exception as error:  # zipfile, NumPy and pandas raise a dozen types for a bad file
        raise UserError(
            f"{path} is not the published network's heldout_outputs.npz: {error}"
        ) from error
    table["id"] = [f"row {row}" for row in range(len(table))]
    return table, PUBLISHED_SOURCE


def get_probabilities(table: pd.DataFrame) -> np.ndarray:
    """The table's probabilities, float64 [n, 15]."""
    return table[PROBABILITIES].to_numpy(np.float64)


def _check_table(
    table: pd.DataFrame, path: Path, name_row: Callable[[int], str] = _name_row
) -> pd.DataFrame:
    """Returns the table with the documented columns and types, or raises a `UserError`.

    `name_row` names a row, counted from 0, in the terms of the file.
    """
    names = [*table.columns]
    missing = [c for c in COLUMNS if c not in names]
    doubled = [c for c in COLUMNS if names.count(c) > 1]
    hint = ""
    if "fold" in missing:
        column = "fold: " if len(missing) > 1 else ""
        hint = f" ({column}write 1 in every row if there was no cross-validation)"
    for columns, what in ((missing, "missing"), (doubled, "duplicate")):
        if columns:
            plural = "s" * (len(columns) > 1)
            raise UserError(f"{path}: {what} column{plural} {' '.join(columns)}{hint}")
    if table.empty:
        raise UserError(f"{path}: no rows")
    table = table[COLUMNS].reset_index(drop=True)
    numbers = table[["fold", *PROBABILITIES]].apply(pd.to_numeric, errors="coerce")
    values = numbers[PROBABILITIES].to_numpy(np.float64)

    def refuse(bad: Any, what: str, more: str = "") -> None:
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            first = rows[0]
            raise UserError(
                f"{path}: {what} in {len(rows)} row{'s' * (len(rows) > 1)}, the first is "
                f"{name_row(first)} (id {table['id'][first]!r}){more}"
            )

    refuse(table["id"].isna() | (table["id"] == ""), "no id")
    refuse(~table["id"].map(lambda i: isinstance(i, str)), "an id that is not text")
    refuse(table["id"].duplicated(), "a duplicate id")
    refuse(~table["label"].isin(CODES), "a label that is not one of the 15 codes")
    for column in EXAMINERS:
        refuse(~table[column].isin(REANNOTATIONS), f"a {column} that is not a code, UNC or none")
    refuse(~numbers["fold"].isin(range(1, 6)), "a fold that is not 1 to 5")
    refuse(~np.isfinite(values).all(axis=1), "a probability that is not a finite number")
    refuse(((values < 0) | (values > 1)).any(axis=1), "a probability outside 0 to 1")
    sums = values.sum(axis=1)
    off = np.abs(sums - 1) > SUM_TOLERANCE
    found = f"their sum is {sums[off.argmax()]:.6g}, the tolerance {SUM_TOLERANCE:g}"
    refuse(off, "probabilities that do not sum to 1", f": {found}; write at least five digits")
    types = {**dict.fromkeys(DESCRIPTIONS, "str"), **dict.fromkeys(PROBABILITIES, "float32")}
    return table.assign(**numbers).astype({**types, "fold": "int8"})


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.predictions",
        description="Check a table of predictions and write it as Parquet.",
    )
    parser.add_argument("predictions", type=Path, help=".parquet, .csv or heldout_outputs.npz")
    parser.add_argument("--out", required=True, type=Path, help="Parquet file to write")
    arguments = parser.parse_args()
    if arguments.out.suffix != ".parquet":
        raise UserError(f"--out must end in .parquet. Received: {arguments.out}")
    table, source = read_predictions(arguments.predictions)
    write_predictions(table, source, arguments.out)
    print(f"{len(table):,} rows: {arguments.out}")


if __name__ == "__main__":
    run(main)
