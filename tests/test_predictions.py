"""The table of predictions: round trips in every form, refusals, and atomic writes."""

import csv
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from running import check_refusal, run_module

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError, write_aside, write_json
from leuko_tf.predictions import (
    COLUMNS,
    EXAMINERS,
    METADATA_KEY,
    PROBABILITIES,
    get_probabilities,
    read_predictions,
    write_predictions,
)

SOURCE = {
    "synthetic": True,
    "dataset": "aml_cytomorphology_lmu/complete:1.0.0",
    "folds": {"seed": 0, "published": False},
    "split": "fold_1",
    "model": "runs/é/best.keras",
}


@pytest.fixture
def table() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    scores = rng.dirichlet(np.ones(15), 30).astype(np.float32)
    table = pd.DataFrame(scores, columns=PROBABILITIES)
    labels = np.array(CODES)[np.arange(30) % 15]
    table.insert(0, "id", [f"{label}/{label}_{i:04d}.tiff" for i, label in enumerate(labels)])
    table.insert(1, "label", labels)
    table.insert(2, "fold", (np.arange(30) % 5 + 1).astype(np.int8))
    table.insert(3, "reannotation_1", ["none", "UNC", "MYO"] * 10)
    table.insert(4, "reannotation_2", ["none", "NGS", "UNC"] * 10)
    return table


class TestRoundTrip:
    def test_table_and_source_come_back_as_they_were(self, table, tmp_path):
        file = tmp_path / "deep" / "er" / "predictions.parquet"
        write_predictions(table, SOURCE, file)
        again, source = read_predictions(file)
        pd.testing.assert_frame_equal(again, table, check_dtype=False)
        assert source == SOURCE

    def test_the_file_has_the_documented_columns_and_types(self, table, tmp_path):
        """Whatever pandas held: a reader in another language relies on the file's own types."""
        given = table.astype({"fold": "int64", **dict.fromkeys(PROBABILITIES, "float64")})
        write_predictions(given, SOURCE, tmp_path / "p.parquet")
        schema = pq.read_schema(tmp_path / "p.parquet")
        assert schema.names == COLUMNS
        kinds = dict(zip(schema.names, schema.types, strict=True))
        assert kinds["fold"] == pa.int8()
        assert {kinds[name] for name in PROBABILITIES} == {pa.float32()}
        text = ("id", "label", "reannotation_1", "reannotation_2")
        assert {kinds[name] for name in text} == {pa.string()}

    def test_probabilities_stand_in_the_order_of_the_codes(self, table, tmp_path):
        shuffled = table[list(reversed(table.columns))]
        write_predictions(shuffled, SOURCE, tmp_path / "p.parquet")
        again, _ = read_predictions(tmp_path / "p.parquet")
        assert list(again.columns) == COLUMNS
        scores = get_probabilities(again)
        assert scores.dtype == np.float64
        np.testing.assert_array_equal(scores, table[[f"p_{code}" for code in CODES]])

    def test_other_columns_and_the_index_are_left_out(self, table, tmp_path):
        table["note"] = "x"
        write_predictions(
            table.set_index(pd.Index(range(100, 130))), SOURCE, tmp_path / "p.parquet"
        )
        assert pq.read_schema(tmp_path / "p.parquet").names == COLUMNS

    def test_a_file_without_a_source_is_read_with_an_empty_one(self, table, tmp_path):
        pq.write_table(pa.Table.from_pandas(table), tmp_path / "p.parquet")
        assert read_predictions(tmp_path / "p.parquet")[1] == {}

    def test_names_of_folders_are_not_read_as_columns(self, table, tmp_path):
        """`fold=3` in a path would mean a column to readers of partitioned data sets."""
        write_predictions(table, SOURCE, tmp_path / "fold=3" / "p.parquet")
        again, _ = read_predictions(tmp_path / "fold=3" / "p.parquet")
        assert list(again["fold"]) == list(table["fold"])

    def test_tables_of_other_writers_may_use_other_types(self, table, tmp_path):
        """Double precision, wider numbers and dictionary-encoded text mean the same."""
        given = table.astype({"fold": "float64", "label": "category", "p_NGS": "float64"})
        pq.write_table(pa.Table.from_pandas(given), tmp_path / "p.parquet")
        again, _ = read_predictions(tmp_path / "p.parquet")
        write_predictions(table, {}, tmp_path / "same.parquet")
        pd.testing.assert_frame_equal(again, read_predictions(tmp_path / "same.parquet")[0])
        assert again["fold"].dtype == np.int8
        assert {*again[PROBABILITIES].dtypes} == {np.dtype(np.float32)}

    def test_ids_that_pandas_wrote_as_its_index_are_found(self, table, tmp_path):
        table.set_index("id").to_parquet(tmp_path / "p.parquet")
        again, _ = read_predictions(tmp_path / "p.parquet")
        assert list(again["id"]) == list(table["id"])

    def test_columns_of_other_names_and_kinds_are_left_alone(self, table, tmp_path):
        arrow = pa.Table.from_pandas(table)
        arrow = arrow.append_column("notes", pa.array([{"a": [1]}] * 30))
        pq.write_table(arrow, tmp_path / "p.parquet")
        assert list(read_predictions(tmp_path / "p.parquet")[0].columns) == COLUMNS


def _put(column, value, row=2):
    def change(table):
        if isinstance(value, (str, type(None))):
            table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


def _put_scores(scale=1.0, scores=()):
    """Scales the probabilities of row 2, or replaces them."""

    def change(table):
        new = [*scores, *[0] * 13] if scores else table.loc[2, PROBABILITIES] * scale
        table.loc[2, PROBABILITIES] = new
        return table

    return change


ID_2 = r"\(id 'LYT/LYT_0002\.tiff'\)"
ROW_2 = rf"in 1 row, the first is row 3 {ID_2}"
LINE_OF_ROW_2 = rf"in 1 row, the first is line 4 {ID_2}"
ON_FOLDS = r"write 1 in every row if there was no cross-validation\)$"
ON_SUMS = ": their sum is {}, the tolerance 0.001; write at least five digits$"
BAD_SUM = f"probabilities that do not sum to 1 {{row}}{ON_SUMS}"
BAD_LABEL = "a label that is not one of the 15 codes {row}"
BAD_ANSWER = "a reannotation_{} that is not a code, UNC or none {{row}}"
BAD_FOLD = "a fold that is not 1 to 5 {row}"
NO_NUMBER = "a probability that is not a finite number {row}"
DUPLICATE = r"a duplicate id in 1 row, the first is row 3 \(id 'NGS/NGS_0000\.tiff'\)"
REFUSALS = {
    "a column is missing": (lambda t: t.drop(columns="p_MYB"), "missing column p_MYB$"),
    "columns are missing": (
        lambda t: t.drop(columns=["label", "fold"]),
        rf"missing columns label fold \(fold: {ON_FOLDS}",
    ),
    "folds are missing": (lambda t: t.drop(columns="fold"), rf"missing column fold \({ON_FOLDS}"),
    "there are no rows": (lambda t: t.iloc[:0], "no rows"),
    "an id is missing": (_put("id", None), "no id in 1 row, the first is row 3 "),
    "an id is empty": (_put("id", ""), "no id in 1 row, the first is row 3 "),
    "ids are numbers": (
        lambda t: t.assign(id=range(30)), "an id that is not text in 30 rows, the first is row 1 "),
    "an id is duplicate": (_put("id", "NGS/NGS_0000.tiff"), DUPLICATE),
    "a label is unknown": (_put("label", "XYZ"), BAD_LABEL),
    "a label is UNC": (_put("label", "UNC"), BAD_LABEL),
    "a label is missing": (_put("label", None), BAD_LABEL),
    "a re-annotation is unknown": (_put("reannotation_1", "nan"), BAD_ANSWER.format(1)),
    "a re-annotation is missing": (_put("reannotation_2", None), BAD_ANSWER.format(2)),
    "a fold is 0": (_put("fold", 0), BAD_FOLD),
    "a fold is 6": (_put("fold", 6), BAD_FOLD),
    "a fold is missing": (lambda t: t.assign(fold=t["fold"].where(t.index != 2)), BAD_FOLD),
    "a fold is between two": (
        lambda t: t.assign(fold=t["fold"].astype(float).where(t.index != 2, 1.5)), BAD_FOLD),
    "a probability is NaN": (_put("p_MYO", np.nan), NO_NUMBER),
    "a probability is infinite": (_put("p_MYO", np.inf), NO_NUMBER),
    "a probability is text": (
        lambda t: t.assign(p_NGS=["0.1", "0.1", "high", *["0.1"] * 27]), NO_NUMBER),
    "a probability is negative": (
        _put_scores(scores=(1.1, -0.1)), "a probability outside 0 to 1 {row}"),
    "probabilities sum to 0.9": (_put_scores(0.9), BAD_SUM.replace("{}", "0.9")),
    "probabilities sum to 1.01": (_put_scores(1.01), BAD_SUM.replace("{}", "1.01")),
}  # fmt: skip


@pytest.mark.parametrize(("change", "text"), REFUSALS.values(), ids=REFUSALS.keys())
def test_a_bad_table_is_refused_on_reading_and_writing(table, change, text, tmp_path):
    bad, text = change(table), text.replace("{row}", ROW_2)
    with pytest.raises(UserError, match=text):
        write_predictions(bad, SOURCE, tmp_path / "p.parquet")
    assert list(tmp_path.iterdir()) == []
    pq.write_table(pa.Table.from_pandas(bad, preserve_index=False), tmp_path / "p.parquet")
    with pytest.raises(UserError, match=text) as caught:
        read_predictions(tmp_path / "p.parquet")
    assert str(caught.value).startswith(f"{tmp_path / 'p.parquet'}: ")


def test_the_number_of_bad_rows_and_the_first_are_told(table, tmp_path):
    table.loc[[4, 7, 9], "label"] = "???"
    with pytest.raises(UserError, match=r"in 3 rows, the first is row 5 \(id 'MON/"):
        write_predictions(table, SOURCE, tmp_path / "p.parquet")


class TestFilesThatAreNone:
    @pytest.mark.parametrize("name", ["p.parquet", "p.csv", "p.npz", "p.txt", "p", "p.csv/p.csv"])
    def test_a_file_that_is_not_there(self, name, tmp_path):
        with pytest.raises(UserError, match=f"^No file {tmp_path / name}$"):
            read_predictions(tmp_path / name)

    def test_a_path_that_cannot_be_looked_at(self, tmp_path):
        with pytest.raises(UserError, match=r"x\.parquet cannot be read: File name too long"):
            read_predictions(tmp_path / f"{'x' * 300}.parquet")

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: b"",
            lambda content: b"id,label\n",
            lambda content: b"PAR1" * 20,
            lambda content: content[:-100],
            lambda content: content[:4] + b"\xff" * 396 + content[400:],
        ],
        ids=["empty", "CSV", "magic bytes", "cut short", "damaged pages"],
    )
    def test_a_file_that_is_not_parquet(self, table, damage, tmp_path):
        file = tmp_path / "p.parquet"
        write_predictions(table, SOURCE, file)
        file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(UserError, match=f"{file} cannot be read as Parquet"):
            read_predictions(file)

    @pytest.mark.parametrize("form", ["Parquet", "CSV"])
    def test_a_folder(self, form, tmp_path):
        folder = tmp_path / f"folder.{form.lower()}"
        folder.mkdir()
        with pytest.raises(UserError, match=rf"folder\.\w+ cannot be read as {form}"):
            read_predictions(folder)

    @pytest.mark.parametrize("source", [b"not JSON", b"[1]", b"\xff"])
    def test_a_source_that_is_no_json_object(self, table, source, tmp_path):
        arrow = pa.Table.from_pandas(table).replace_schema_metadata({METADATA_KEY: source})
        pq.write_table(arrow, tmp_path / "p.parquet")
        with pytest.raises(UserError, match=r"its source, .* is not a JSON object"):
            read_predictions(tmp_path / "p.parquet")


def _csv_text(table: pd.DataFrame, **changes) -> str:
    return table.to_csv(index=False, **changes)


def _cell(column, value, row=2):
    """Puts a text into one cell of a CSV file, whatever the column's type."""

    def change(table):
        table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return _csv_text(table)

    return change


# Each is the same table to a reader of CSV.
SPELLINGS = {
    "as pandas writes it": _csv_text,
    "with pandas' index": lambda t: t.to_csv(),
    "with a byte order mark": lambda t: "\ufeff" + _csv_text(t),
    "with Windows' line ends": lambda t: _csv_text(t, lineterminator="\r\n"),
    "with every cell in quotes": lambda t: _csv_text(t, quoting=csv.QUOTE_ALL),
    "with a space behind every comma": lambda t: _csv_text(t).replace(",", ", "),
    "with empty lines": lambda t: _csv_text(t).replace("\n", "\n\n"),
    "with the columns in another order": lambda t: _csv_text(t[list(reversed(t.columns))]),
    "with folds as decimal numbers": lambda t: _csv_text(t.assign(fold=t["fold"] * 1.0)),
    "with columns of other names": lambda t: _csv_text(t.assign(note="x, y", seen=None)),
}

WITH_COMMAS = "; write it with commas and decimal points$"
CSV_REFUSALS = {
    "a column is missing": (
        lambda t: _csv_text(t.drop(columns="p_MYB")), ": missing column p_MYB$"),
    "columns are missing": (
        lambda t: _csv_text(t.drop(columns=["id", "fold"])),
        rf": missing columns id fold \(fold: {ON_FOLDS}",
    ),
    "names are in small letters": (
        lambda t: _csv_text(t).lower(), ": missing columns p_NGS p_NGB .* p_KSC$"),
    "a column is duplicate": (
        lambda t: _csv_text(pd.concat([t, t["label"]], axis=1)), ": duplicate column label$"),
    "there are no rows": (lambda t: _csv_text(t.iloc[:0]), ": no rows$"),
    "the file is empty": (lambda t: "", " cannot be read as CSV .*No columns"),
    "semicolons part the columns": (
        lambda t: _csv_text(t, sep=";"), f" has semicolons between columns{WITH_COMMAS}"),
    "semicolons part the columns and commas the decimals": (
        lambda t: _csv_text(t, sep=";", decimal=","),
        f" has semicolons between columns{WITH_COMMAS}",
    ),
    "semicolons part the columns, in quotes and behind a byte order mark": (
        lambda t: "\ufeff\n" + _csv_text(t, sep=";", quoting=csv.QUOTE_ALL),
        f" has semicolons between columns{WITH_COMMAS}",
    ),
    "tabs part the columns": (
        lambda t: _csv_text(t, sep="\t"), f" has tabs between columns{WITH_COMMAS}"),
    "bars part the columns": (
        lambda t: _csv_text(t, sep="|"), r" has only one column, 'id\|label.*Put commas"),
    "a row is too long": (
        lambda t: _csv_text(t).replace("\nLYT", ",0.5\nLYT", 1), " cannot be read .*line 3"),
    "every row is too long": (
        lambda t: _csv_text(t).replace("\n", ",\n").replace("KSC,\n", "KSC\n", 1),
        " cannot be read .*Expected 20 fields in line 2, saw 21",
    ),
    "a row is too short": (lambda t: _csv_text(t.iloc[:3]).rpartition(",")[0], NO_NUMBER),
    "an id is empty": (_cell("id", ""), ": no id in 1 row, the first is line 4 "),
    "an id is duplicate": (
        _cell("id", "NGB/NGB_0001.tiff"),
        r": a duplicate id in 1 row, the first is line 4 \(id 'NGB/NGB_0001\.tiff'\)",
    ),
    "a label is unknown": (_cell("label", "NaN"), BAD_LABEL),
    "a re-annotation is empty": (_cell("reannotation_2", ""), BAD_ANSWER.format(2)),
    "a re-annotation is that of annotations.dat": (
        _cell("reannotation_1", "nan"), BAD_ANSWER.format(1)),
    "a fold is no number": (_cell("fold", "x"), BAD_FOLD),
    "a fold is empty": (_cell("fold", ""), BAD_FOLD),
    "a probability is empty": (_cell("p_EBO", ""), NO_NUMBER),
    "a probability is NaN": (_cell("p_EBO", "nan"), NO_NUMBER),
    "a probability is text": (_cell("p_EBO", "high"), NO_NUMBER),
    "probabilities are per cent": (
        lambda t: _csv_text(t.assign(**t[PROBABILITIES] * 100)),
        ": a probability outside 0 to 1 in 30 rows, the first is line 2 ",
    ),
    "probabilities do not sum to 1": (
        lambda t: _csv_text(_put_scores(0.9)(t)), BAD_SUM.replace("{}", "0.9")),
}  # fmt: skip


# Each with the line, as an editor shows it, of the row that has a wrong label.
LINES_OF_ROW_2 = {
    "as pandas writes it": (_csv_text, 4),
    "with a byte order mark": (lambda t: "\ufeff" + _csv_text(t), 4),
    "with Windows' line ends": (lambda t: _csv_text(t, lineterminator="\r\n"), 4),
    "with old Macs' line ends": (lambda t: _csv_text(t, lineterminator="\r"), 4),
    "with empty lines": (lambda t: "\n" + _csv_text(t).replace("\n", "\n\n"), 8),
    "with lines of spaces": (lambda t: _csv_text(t).replace("\n", "\n  \n \t \n"), 10),
    "with line breaks in quotes": (lambda t: _csv_text(t.assign(note="a\n\n\"b\"\nc")), 10),
    "with Windows' line breaks in quotes": (
        lambda t: _csv_text(t.assign(note="a\r\nb"), lineterminator="\r\n"), 6),
    "with a line break in the header": (
        lambda t: _csv_text(t.rename(columns={"note": "no\nte"})), 5),
    "with a line break in the row itself": (
        lambda t: _csv_text(t.assign(note=t["note"].where(t.index < 2, "a\nb"))), 4),
    "with a space behind every comma, and quotes": (
        lambda t: _csv_text(t.assign(note="a\nb")).replace(",", ", "), 6),
    "with a quote within a cell": (
        lambda t: _csv_text(t.assign(note="8 inch")).replace("8 inch", '8" inch'), 4),
}  # fmt: skip


class TestCsv:
    @pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
    def test_it_is_the_same_table_as_in_parquet(self, table, spelling, tmp_path):
        write_predictions(table, SOURCE, tmp_path / "p.parquet")
        (tmp_path / "p.csv").write_bytes(spelling(table.copy()).encode())
        again, source = read_predictions(tmp_path / "p.csv")
        pd.testing.assert_frame_equal(again, read_predictions(tmp_path / "p.parquet")[0])
        assert source == {}

    def test_ids_stay_the_text_that_they_are(self, table, tmp_path):
        ids = ["NA", "001", "1e5", "nan", "None", "True", "1.0", "a,b", 'say "x"', "é", "-", "#N/A"]
        (tmp_path / "p.csv").write_text(_csv_text(table.iloc[: len(ids)].assign(id=ids)))
        assert list(read_predictions(tmp_path / "p.csv")[0]["id"]) == ids

    def test_without_re_annotations_no_image_has_one(self, table, tmp_path):
        (tmp_path / "p.csv").write_text(_csv_text(table.drop(columns=EXAMINERS)))
        again, _ = read_predictions(tmp_path / "p.csv")
        assert (again[EXAMINERS] == "none").all(axis=None)

    def test_the_ending_may_be_in_capitals(self, table, tmp_path):
        (tmp_path / "P.CSV").write_text(_csv_text(table))
        assert len(read_predictions(tmp_path / "P.CSV")[0]) == 30

    @pytest.mark.parametrize(("change", "text"), CSV_REFUSALS.values(), ids=CSV_REFUSALS.keys())
    def test_it_is_refused_by_file_and_row_or_column(self, table, change, text, tmp_path):
        file = tmp_path / "p.csv"
        file.write_text(change(table))
        with pytest.raises(UserError, match=text.replace("{row}", LINE_OF_ROW_2)) as caught:
            read_predictions(file)
        assert str(caught.value).startswith(str(file))
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [bytes(range(256)) * 20, b"PAR1" * 20, b"\xff\xfei\0d\0"])
    def test_bytes_that_are_no_text_are_refused(self, content, tmp_path):
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(UserError, match=r"p\.csv (cannot be read as CSV|has only one column)"):
            read_predictions(tmp_path / "p.csv")

    def test_other_encodings_are_refused(self, table, tmp_path):
        table.loc[3, "id"] = "Zürich/1.tiff"
        (tmp_path / "p.csv").write_bytes(_csv_text(table).encode("latin-1"))
        with pytest.raises(UserError, match=r"as CSV \(UTF-8, .*can't decode byte 0xfc"):
            read_predictions(tmp_path / "p.csv")

    @pytest.mark.parametrize(("spell", "line"), LINES_OF_ROW_2.values(), ids=LINES_OF_ROW_2.keys())
    def test_a_row_is_told_by_its_line_in_the_file(self, table, spell, line, tmp_path):
        table.insert(1, "note", "seen")
        content = spell(_put("label", "???")(table)).encode()
        (tmp_path / "p.csv").write_bytes(content)
        with pytest.raises(UserError, match=rf"in 1 row, the first is line {line} {ID_2}"):
            read_predictions(tmp_path / "p.csv")
        at_line = re.split(rb"\r\n|\r|\n", content)[line - 1]
        assert b"LYT/LYT_0002.tiff" in at_line

    def test_where_lines_cannot_be_counted_it_is_the_row_below_the_header(self, table, tmp_path):
        table["note"] = "x" * 200_000  # more than Python's own reader of CSV takes
        (tmp_path / "p.csv").write_text(_csv_text(_put("label", "???")(table.iloc[:5])))
        with pytest.raises(UserError, match=rf"the first is row 3 below the header {ID_2}"):
            read_predictions(tmp_path / "p.csv")

    def test_a_sum_as_of_two_digits_is_told_with_what_to_do(self, table, tmp_path):
        """Fifteen rounded probabilities sum to 1 only roughly."""
        rounded = table.round(dict.fromkeys(PROBABILITIES, 5))
        (tmp_path / "p.csv").write_text(_csv_text(rounded))
        assert len(read_predictions(tmp_path / "p.csv")[0]) == 30
        rounded = table.round(dict.fromkeys(PROBABILITIES, 2))
        (tmp_path / "p.csv").write_text(_csv_text(rounded))
        sums = rounded[PROBABILITIES].sum(axis=1).round(2)
        first = sums[sums != 1].iloc[0]
        with pytest.raises(UserError, match=f"their sum is {first:g}, the tolerance 0.001"):
            read_predictions(tmp_path / "p.csv")

    @pytest.mark.parametrize("name", ["p.txt", "p.tsv", "p.csv.gz", "p"])
    def test_of_another_ending_the_message_tells_the_right_ones(self, table, name, tmp_path):
        (tmp_path / name).write_text(_csv_text(table))
        with pytest.raises(UserError, match=r"as Parquet: .* must end in \.csv or \.npz"):
            read_predictions(tmp_path / name)


@pytest.fixture
def outputs() -> dict[str, np.ndarray]:
    """Arrays as in heldout_outputs.npz: codes in alphabetical order, two outputs for EBO."""
    scores = np.random.default_rng(3).dirichlet(np.ones(16), 15).astype(np.float32)
    return {
        "label": np.arange(15, dtype=np.int8),
        "probability16": scores,
        "fold": np.tile(np.arange(1, 6, dtype=np.int8), 3),
        "codes15": np.array(sorted(CODES)),
        "outputs16": np.array(sorted([*CODES, "EBO2"])),
    }


ARRAY_REFUSALS = {
    "of another length": {"label": np.zeros(16, np.int8)},
    "shorter": {"probability16": np.full((3, 16), 1 / 16, np.float32)},
    "of one dimension": {"probability16": np.zeros(15, np.float32)},
    "of no dimension": {"probability16": np.float32(1)},
    "of two dimensions": {"label": np.zeros((15, 1), np.int8)},
    "of 15 outputs": {"probability16": np.full((15, 15), 1 / 15, np.float32)},
    "of other outputs": {"outputs16": np.array([f"o{i}" for i in range(16)])},
    "of pickled objects": {"label": np.array([{}] * 15, dtype=object)},
}


class TestPublishedOutputs:
    def test_the_two_outputs_for_erythroblasts_are_summed(self, outputs, tmp_path):
        np.savez_compressed(tmp_path / "x.npz", **outputs)
        table, _ = read_predictions(tmp_path / "x.npz")
        given = dict(zip(outputs["outputs16"], outputs["probability16"].T, strict=True))
        np.testing.assert_array_equal(table["p_EBO"], given["EBO"] + given["EBO2"])
        for code in set(CODES) - {"EBO"}:
            np.testing.assert_array_equal(table[f"p_{code}"], given[code])
        assert list(table["label"]) == sorted(CODES)
        np.testing.assert_array_equal(table["fold"], outputs["fold"])
        assert (table[EXAMINERS] == "none").all(axis=None)

    def test_the_real_outputs_are_those_of_18365_images_in_five_folds(self, shared):
        file = shared / "data" / "published_network" / "heldout_outputs.npz"
        table, source = read_predictions(file)
        assert list(table.columns) == COLUMNS
        sizes = table.groupby("fold").size().to_dict()
        assert sizes == {1: 3773, 2: 3630, 3: 3676, 4: 3714, 5: 3572}
        expected = json.loads((file.parent / "expected_metrics.json").read_text())
        confusion = pd.crosstab(
            table["label"], np.array(CODES)[get_probabilities(table).argmax(axis=1)]
        ).reindex(index=CODES, columns=CODES, fill_value=0)
        assert confusion.to_numpy().tolist() == expected["confusion_pooled"]
        with np.load(file) as given:
            ebo = given["probability16"][:, np.isin(given["outputs16"], ["EBO", "EBO2"])]
        np.testing.assert_allclose(table["p_EBO"], ebo.sum(axis=1), atol=1e-7)
        assert source["held_out"] is True
        assert source["synthetic"] is False

    @pytest.mark.parametrize("name", ["label", "probability16", "fold", "codes15", "outputs16"])
    def test_an_array_that_is_missing_is_named(self, outputs, name, tmp_path):
        del outputs[name]
        np.savez(tmp_path / "x.npz", **outputs)
        with pytest.raises(UserError, match=f"not the published network's .*'{name} is not a file"):
            read_predictions(tmp_path / "x.npz")

    @pytest.mark.parametrize("change", ARRAY_REFUSALS.values(), ids=ARRAY_REFUSALS.keys())
    def test_an_array_of_another_shape_or_kind_is_refused(self, outputs, change, tmp_path):
        np.savez(tmp_path / "x.npz", **outputs | change)
        with pytest.raises(UserError, match=r"x\.npz is not the published network's"):
            read_predictions(tmp_path / "x.npz")

    @pytest.mark.parametrize("label", [-1, 15])
    def test_a_label_without_a_code_is_refused_by_its_row(self, outputs, label, tmp_path):
        outputs["label"][4] = label
        np.savez(tmp_path / "x.npz", **outputs)
        with pytest.raises(
            UserError, match=r"one of the 15 codes in 1 row, .* index 4 \(id 'row 4'\)"
        ):
            read_predictions(tmp_path / "x.npz")

    def test_pickled_objects_are_never_loaded(self, outputs, tmp_path):
        """A pickle may hold any program; opening a table must not run one."""
        ran = tmp_path / "ran"
        np.savez(tmp_path / "x.npz", **outputs | {"fold": np.array([_Runs(ran)], dtype=object)})
        with pytest.raises(UserError, match="Object arrays cannot be loaded"):
            read_predictions(tmp_path / "x.npz")
        assert not ran.exists()

    def test_a_file_that_is_none_is_refused(self, outputs, tmp_path):
        whole, file = tmp_path / "whole.npz", tmp_path / "x.npz"
        np.savez_compressed(whole, **outputs)
        content = whole.read_bytes()
        with zipfile.ZipFile(file, "w") as archive:
            for name in outputs:
                archive.writestr(f"{name}.npy", "text")
        array = tmp_path / "array.npy"
        np.save(array, outputs["label"])
        for bytes_ in (
            file.read_bytes(),
            array.read_bytes(),
            b"",
            b"no zip file",
            content[:-10],
            content[: len(content) // 2],
            content[:200] + b"\xff" * 200 + content[400:],
        ):
            file.write_bytes(bytes_)
            with pytest.raises(UserError, match=r"x\.npz is not the published network's") as caught:
                read_predictions(file)
            assert "pickle" not in str(caught.value)


class _Runs:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path):
        self._file = file

    def __reduce__(self):
        return Path.touch, (self._file,)


def _convert(*words: object):
    return run_module("leuko_tf.predictions", *words)


class TestCommand:
    def test_csv_and_npz_become_parquet_and_read_back_the_same(self, table, outputs, tmp_path):
        (tmp_path / "p.csv").write_text(_csv_text(table))
        np.savez_compressed(tmp_path / "p.npz", **outputs)
        for file, rows in ((tmp_path / "p.csv", 30), (tmp_path / "p.npz", 15)):
            out = tmp_path / "new" / f"{file.name}.parquet"
            done = _convert(file, "--out", out)
            assert (done.returncode, done.stderr) == (0, "")
            assert done.stdout == f"{rows} rows: {out}\n"
            given, source = read_predictions(file)
            again, source_again = read_predictions(out)
            pd.testing.assert_frame_equal(again, given)
            assert source_again == source

    def test_a_table_may_be_written_over_itself(self, table, tmp_path):
        write_predictions(table, SOURCE, tmp_path / "p.parquet")
        assert _convert(tmp_path / "p.parquet", "--out", tmp_path / "p.parquet").returncode == 0
        again, source = read_predictions(tmp_path / "p.parquet")
        pd.testing.assert_frame_equal(again, table, check_dtype=False)
        assert source == SOURCE

    def test_bad_input_ends_in_one_message_and_no_file(self, table, tmp_path):
        good, bad, out = tmp_path / "good.csv", tmp_path / "bad.csv", tmp_path / "new" / "p.parquet"
        good.write_text(_csv_text(table))
        bad.write_text(_csv_text(_put("label", "XYZ")(table)))
        folder = tmp_path / "folder.parquet"
        folder.mkdir()
        for words, message in (
            ((bad, "--out", out), f"{bad}: a label that is not one of the 15 codes in 1 row, "),
            ((tmp_path / "none.csv", "--out", out), "No file "),
            ((good, "--out", tmp_path / "new" / "p.csv"), "--out must end in .parquet. Received"),
            ((good, "--out", folder), "Is a directory: "),
            ((good, "--out", good / "p.parquet"), "good.csv"),
        ):
            done = _convert(*words)
            check_refusal(done, "error: ", message)
            assert (done.stdout, done.stderr.count("\n")) == ("", 1)
        assert not (tmp_path / "new").exists()
        assert {f.name for f in tmp_path.iterdir()} == {"bad.csv", "folder.parquet", "good.csv"}


class TestWrittenAside:
    def test_the_file_appears_under_its_name_only_when_it_is_whole(self, tmp_path):
        file = tmp_path / "new" / "file.txt"
        with write_aside(file) as aside:
            aside.write_text("half")
            assert not file.exists()
            assert aside.parent == file.parent  # so that the rename stays within a file system
            assert aside.suffix == ".txt"
            aside.write_text("whole")
        assert file.read_text() == "whole"
        assert list(file.parent.iterdir()) == [file]

    @staticmethod
    def _fail_halfway(file: Path, error: type[BaseException]) -> None:
        with write_aside(file) as aside:
            aside.write_text("half")
            raise error

    @pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
    def test_after_a_failure_nothing_is_left(self, error, tmp_path):
        with pytest.raises(error):
            self._fail_halfway(tmp_path / "file.txt", error)
        assert list(tmp_path.iterdir()) == []

    def test_after_a_failure_the_file_that_was_there_is_as_it_was(self, tmp_path):
        file: Path = tmp_path / "file.txt"
        file.write_text("before")
        with pytest.raises(RuntimeError):
            self._fail_halfway(file, RuntimeError)
        assert file.read_text() == "before"
        assert list(tmp_path.iterdir()) == [file]

    def test_json_with_not_a_number_is_refused_and_leaves_nothing(self, tmp_path):
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_json(tmp_path / "x.json", {"auc": float("nan")})
        assert list(tmp_path.iterdir()) == []
        write_json(tmp_path / "x.json", {"auc": None})
        assert json.loads((tmp_path / "x.json").read_text()) == {"auc": None}
