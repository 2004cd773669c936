"""The table of predictions: the one thing that model and evaluation have in common.

A Parquet file with a row an image:

  id               string   the image's path within its data set, such as BAS/BAS_0021.tiff
  label            string   one of the 15 codes
  fold             int8     1 to 5
  reannotation_1   string   a code, UNC or none
  reannotation_2   string   likewise
  p_NGS ... p_KSC  float32  15 probabilities, in the order of `leuko_tf.classes.CODES`, summing to 1

and, in the file's metadata under `leuko_tf`, a JSON object that says where the rows come from:
`synthetic`, `dataset`, `folds`, `split`, `model`, and whether the split was `held_out` from the
model's training (null where not known).

A CSV file with the same columns does, too: UTF-8, a first line of names, commas, decimal points. It
tells no source. Without the two re-annotations every image counts as not re-annotated. Columns of
other names are left alone.

The published network's `heldout_outputs.npz` (arrays label, probability16, fold, codes15,
outputs16) is a third form: its two outputs for erythroblasts are summed. It names no images, so
that its ids are row numbers, from 0 as its arrays count.

  python -m leuko_tf.predictions heldout_outputs.npz --out published.parquet

converts either into Parquet.
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
        "the outputs of fold 2 were softened by a temperature before they were published (of all "
        "temperatures, 1.000 fits its 16 outputs best; the other folds want 1.9 to 2.2). What "
        "pools probabilities over folds feels it: pooled areas under curves, calibration, fitted "
        "temperatures, abstention, prediction sets. Answers, and figures of single folds but for "
        "the calibration of fold 2, do not"
    ),
}

# Probabilities are float32 softmax outputs: their sum is 1 to about 1e-6.
SUM_TOLERANCE = 1e-3

OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def write_predictions(table: pd.DataFrame, source: Source, path: Path) -> None:
    """Writes the table as Parquet, with its source.

    Args:
      table: the columns above.
      source: JSON-like description of where the rows come from.
      path: file to write, replaced as a whole.
    """
    write_parquet(_check_table(table, str(path)), source, path, SCHEMA)


def write_parquet(
    table: pd.DataFrame, source: Mapping[str, Any], path: Path, schema: pa.Schema | None = None
) -> None:
    """Writes any table as Parquet, as a whole or not at all, its source in the file's metadata.

    Args:
      table: the table.
      source: JSON-like description of where the rows come from.
      path: file to write, replaced.
      schema: the columns' types, if they are not to follow from the table.
    """
    arrow = pa.Table.from_pandas(table, schema, preserve_index=False)
    arrow = arrow.replace_schema_metadata(
        {**(arrow.schema.metadata or {}), METADATA_KEY: json.dumps(source).encode()}
    )
    with write_aside(path) as aside:
        pq.write_table(arrow, aside)


def read_predictions(path: Path) -> tuple[pd.DataFrame, Source]:
    """Reads and checks a table of predictions in any of its three forms, known by the ending.

    Args:
      path: a `.csv` or `.npz` file; any other ending means Parquet.

    Returns:
      The table, of the types above whichever form it came in; and its source, empty where the file
      does not tell.

    Raises:
      UserError: if the file is not there or not of its form, or the table or its source is not as
        described above. The message names the column, or the first row and its id: rows count from
        1; of a CSV file it is the line, as an editor counts, and of an `.npz` the arrays' index.
    """
    if not _exists(path):
        raise UserError(f"No file {path}")
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
    for column in EXAMINERS:
        if column not in table.columns:
            table[column] = NOT_REANNOTATED
    return _check_table(table, str(path), name_row), source


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # such as a folder that may not be entered
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def _read_parquet(path: Path) -> tuple[pd.DataFrame, Source]:
    try:
        # Not `read_table`, which would also read a folder, and columns out of the path's names.
        with pq.ParquetFile(path) as file:
            arrow = file.read(columns=COLUMNS)
        # pandas' own metadata would make an index of a column that was one when it was written.
        table = arrow.to_pandas(ignore_metadata=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise UserError(
            f"{path} is not a Parquet file that can be read: {error} (a table of another form must "
            "end in .csv or .npz)"
        ) from error
    source: Any
    try:
        source = json.loads((arrow.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    except ValueError:
        source = None
    if not isinstance(source, dict):
        raise UserError(f"{path}: its source, under leuko_tf in the metadata, is no JSON object")
    return table, cast(Source, source)


def _read_csv(path: Path) -> pd.DataFrame:
    try:
        _refuse_other_separators(path)
        # All as text: ids such as 001 and NA stay what they are, names that come twice are seen,
        # and a cell that is no number spoils its own row only.
        text = pd.read_csv(
            path, header=None, dtype=str, keep_default_na=False, skipinitialspace=True
        )
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(
            f"{path} is not a CSV file that can be read (UTF-8, commas between columns): "
            f"{str(error).strip()}"
        ) from error
    names = [*text.iloc[0]]
    if len(names) == 1:
        raise UserError(f"{path} has a single column, {names[0]!r}. Put commas between columns.")
    return text[1:].set_axis(names, axis=1)


def _refuse_other_separators(path: Path) -> None:
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        header = next((line.strip() for line in file if line.strip()), "")
    for separator, name in OTHER_SEPARATORS.items():
        names = {cell.strip(' "') for cell in header.split(separator)}
        if len(names.intersection(COLUMNS)) > 1:
            raise UserError(
                f"{path} is separated by {name}; write it with commas and decimal points"
            )


def _name_row(row: int) -> str:
    return f"row {row + 1}"


def _name_line(path: Path, row: int) -> str:
    """Where a row of a CSV file begins. Blank lines and line breaks in quotes are lines, too."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        filled = [(n, line) for n, line in enumerate(file, 1) if line.strip(" \t\r\n")]
    reader = csv.reader((line for _, line in filled), skipinitialspace=True)
    try:
        for _ in islice(reader, row + 1):  # the header and the rows before
            pass
        return f"line {filled[reader.line_num][0]}"
    except (csv.Error, IndexError):  # not all that pandas reads, such as a cell of 200,000 letters
        return f"{_name_row(row)} below the header"


def _read_published_outputs(path: Path) -> tuple[pd.DataFrame, Source]:
    try:
        # Not `np.load`, which advises to load what is no zip file unsafely.
        with path.open("rb") as raw, np.lib.npyio.NpzFile(raw, allow_pickle=False) as file:
            outputs = dict(zip(file["outputs16"].tolist(), file["probability16"].T, strict=True))
            outputs["EBO"] = outputs["EBO"] + outputs.pop("EBO2")
            table = pd.DataFrame({f"p_{code}": outputs[code] for code in CODES})
            codes = dict(enumerate(file["codes15"].tolist()))
            table["label"] = [codes.get(label) for label in file["label"].tolist()]
            table["fold"] = file["fold"]
    except Exception as error:  # zip, NumPy and pandas raise a dozen types: all mean this
        raise UserError(
            f"{path} is not the published network's heldout_outputs.npz: {error}"
        ) from error
    table["id"] = [f"row {row}" for row in range(len(table))]
    return table, PUBLISHED_SOURCE


def get_probabilities(table: pd.DataFrame) -> np.ndarray:
    """float64 array [n, 15] of the table's probabilities."""
    return table[PROBABILITIES].to_numpy(np.float64)


def _check_table(
    table: pd.DataFrame, where: str, name_row: Callable[[int], str] = _name_row
) -> pd.DataFrame:
    """The table with the documented columns and types.

    Args:
      table: as it was read.
      where: the file, for messages.
      name_row: names a row, counted from 0, as the file's reader finds it.

    Raises:
      UserError: if a column is missing or comes twice, or a row is not as documented.
    """
    names = [*table.columns]
    missing = [c for c in COLUMNS if c not in names]
    doubled = [c for c in COLUMNS if names.count(c) > 1]
    for columns, what, more in (
        (missing, "missing", _hint_on_folds(missing)),
        (doubled, "doubled", ""),
    ):
        if columns:
            plural = "s" * (len(columns) > 1)
            raise UserError(f"{where}: {what} column{plural} {' '.join(columns)}{more}")
    if table.empty:
        raise UserError(f"{where}: no rows")
    table = table[COLUMNS].reset_index(drop=True)
    numbers = table[["fold", *PROBABILITIES]].apply(pd.to_numeric, errors="coerce")
    values = numbers[PROBABILITIES].to_numpy(np.float64)

    def refuse(bad: Any, what: str, more: str = "") -> None:
        rows = np.flatnonzero(np.asarray(bad))
        if len(rows):
            first = rows[0]
            raise UserError(
                f"{where}: {what} in {len(rows)} row{'s' * (len(rows) > 1)}, the first is "
                f"{name_row(first)} (id {table['id'][first]!r}){more}"
            )

    refuse(table["id"].isna() | (table["id"] == ""), "no id")
    refuse(~table["id"].map(lambda i: isinstance(i, str)), "an id that is not text")
    refuse(table["id"].duplicated(), "an id that stood before")
    refuse(~table["label"].isin(CODES), "a label that is none of the 15 codes")
    for column in EXAMINERS:
        refuse(~table[column].isin(REANNOTATIONS), f"a {column} that is no code, UNC or none")
    refuse(~numbers["fold"].isin(range(1, 6)), "a fold that is not 1 to 5")
    refuse(~np.isfinite(values).all(axis=1), "a probability that is not a finite number")
    refuse(((values < 0) | (values > 1)).any(axis=1), "a probability outside of 0 to 1")
    sums = values.sum(axis=1)
    off = np.abs(sums - 1) > SUM_TOLERANCE
    refuse(
        off,
        "probabilities that do not sum to 1",
        f": they sum to {sums[off.argmax()]:.6g} there; {SUM_TOLERANCE:g} off is tolerated, so "
        "write at least five digits",
    )
    types = {**dict.fromkeys(DESCRIPTIONS, "str"), **dict.fromkeys(PROBABILITIES, "float32")}
    return table.assign(**numbers).astype({**types, "fold": "int8"})


def _hint_on_folds(missing: list[str]) -> str:
    if "fold" not in missing:
        return ""
    column = "" if missing == ["fold"] else "fold: "
    return f" ({column}write 1 everywhere if there was no cross-validation)"


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
