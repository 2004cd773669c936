"""The table of predictions: a faithful round trip, every mistake named, no half-written file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError, write_json, written_aside
from leuko_tf.predictions import (
    COLUMNS,
    METADATA_KEY,
    PROBABILITIES,
    probabilities,
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
        scores = probabilities(again)
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
        """Double precision, wider integers and dictionary-encoded text mean the same."""
        given = table.astype({"fold": "int64", "label": "category", "p_NGS": "float64"})
        pq.write_table(pa.Table.from_pandas(given), tmp_path / "p.parquet")
        again, _ = read_predictions(tmp_path / "p.parquet")
        assert list(again["label"]) == list(table["label"])
        assert list(again["fold"]) == list(table["fold"])


def _put(column, value, row=2):
    def change(table):
        if isinstance(value, (str, type(None))):
            table[column] = table[column].astype(object)
        table.loc[row, column] = value
        return table

    return change


def _scale(factor, row=2):
    def change(table):
        table.loc[row, PROBABILITIES] *= factor
        return table

    return change


def _add_and_take(amount, row=2):
    """Leaves the sum 1 and moves one probability out of range."""

    def change(table):
        table.loc[row, PROBABILITIES] = [1 + amount, -amount, *[0] * 13]
        return table

    return change


ROW_2 = r"in 1 row, the first is row 2 \(id 'LYT/LYT_0002\.tiff'\)"
REFUSALS = {
    "a column is missing": (lambda t: t.drop(columns="p_MYB"), "missing column p_MYB$"),
    "columns are missing": (
        lambda t: t.drop(columns=["label", "fold"]), "missing columns label fold$"),
    "there are no rows": (lambda t: t.iloc[:0], "no rows"),
    "an id is missing": (_put("id", None), "no id in 1 row, the first is row 2 "),
    "an id stood before": (
        _put("id", "NGS/NGS_0000.tiff"),
        r"an id that stood before in 1 row, the first is row 2 \(id 'NGS/NGS_0000\.tiff'\)",
    ),
    "a label is unknown": (_put("label", "XYZ"), f"a label that is none of the 15 codes {ROW_2}"),
    "a label is UNC": (_put("label", "UNC"), f"a label that is none of the 15 codes {ROW_2}"),
    "a label is missing": (_put("label", None), f"a label that is none of the 15 codes {ROW_2}"),
    "a re-annotation is unknown": (
        _put("reannotation_1", "nan"), f"an unknown reannotation_1 {ROW_2}"),
    "a re-annotation is missing": (
        _put("reannotation_2", None), f"an unknown reannotation_2 {ROW_2}"),
    "a fold is 0": (_put("fold", 0), f"a fold that is not 1 to 5 {ROW_2}"),
    "a fold is 6": (_put("fold", 6), f"a fold that is not 1 to 5 {ROW_2}"),
    "a probability is NaN": (
        _put("p_MYO", np.nan), f"a probability that is not a finite number {ROW_2}"),
    "a probability is infinite": (
        _put("p_MYO", np.inf), f"a probability that is not a finite number {ROW_2}"),
    "a probability is negative": (_add_and_take(0.1), f"a probability outside of 0 to 1 {ROW_2}"),
    "probabilities sum to 0.9": (_scale(0.9), f"probabilities that do not sum to 1 {ROW_2}"),
    "probabilities sum to 1.01": (_scale(1.01), f"probabilities that do not sum to 1 {ROW_2}"),
    "a probability is text": (
        lambda t: t.assign(p_NGS="high"), "a probability is not a number: .*high"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "text"), REFUSALS.values(), ids=REFUSALS.keys())
class TestRefusals:
    def test_on_reading_it_is_refused_by_file_and_row_or_column(
        self, table, change, text, tmp_path
    ):
        file = tmp_path / "p.parquet"
        pq.write_table(pa.Table.from_pandas(change(table), preserve_index=False), file)
        with pytest.raises(UserError, match=text) as caught:
            read_predictions(file)
        assert str(caught.value).startswith(f"{file}: ")

    def test_on_writing_it_is_refused_and_no_file_is_left(self, table, change, text, tmp_path):
        file = tmp_path / "p.parquet"
        with pytest.raises(UserError, match=text):
            write_predictions(change(table), SOURCE, file)
        assert list(tmp_path.iterdir()) == []


def test_the_number_of_bad_rows_and_the_first_are_told(table, tmp_path):
    table.loc[[4, 7, 9], "label"] = "???"
    with pytest.raises(UserError, match=r"in 3 rows, the first is row 4 \(id 'MON/"):
        write_predictions(table, SOURCE, tmp_path / "p.parquet")


class TestFilesThatAreNone:
    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(UserError, match=r"none\.parquet is not a Parquet file"):
            read_predictions(tmp_path / "none.parquet")

    @pytest.mark.parametrize("content", [b"", b"id,label\n", b"PAR1" * 20])
    def test_a_file_of_another_format(self, content, tmp_path):
        file = tmp_path / "p.parquet"
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"{file} is not a Parquet file"):
            read_predictions(file)

    def test_a_file_that_was_cut_short(self, table, tmp_path):
        file = tmp_path / "p.parquet"
        write_predictions(table, SOURCE, file)
        file.write_bytes(file.read_bytes()[:-100])
        with pytest.raises(UserError, match="is not a Parquet file"):
            read_predictions(file)

    def test_a_file_whose_pages_are_damaged(self, table, tmp_path):
        file = tmp_path / "p.parquet"
        write_predictions(table, SOURCE, file)
        content = bytearray(file.read_bytes())
        content[4:400] = b"\xff" * 396
        file.write_bytes(content)
        with pytest.raises(UserError, match="is not a Parquet file"):
            read_predictions(file)

    def test_a_folder(self, tmp_path):
        with pytest.raises(UserError, match="is not a Parquet file"):
            read_predictions(tmp_path)

    @pytest.mark.parametrize("source", [b"not JSON", b"[1]", b"\xff"])
    def test_a_source_that_is_no_json_object(self, table, source, tmp_path):
        arrow = pa.Table.from_pandas(table).replace_schema_metadata({METADATA_KEY: source})
        pq.write_table(arrow, tmp_path / "p.parquet")
        with pytest.raises(UserError, match=r"its source, .* is no JSON object"):
            read_predictions(tmp_path / "p.parquet")


class TestWrittenAside:
    def test_the_file_appears_under_its_name_only_when_it_is_whole(self, tmp_path):
        file = tmp_path / "new" / "file.txt"
        with written_aside(file) as aside:
            aside.write_text("half")
            assert not file.exists()
            assert aside.parent == file.parent  # so that the rename stays within a file system
            assert aside.suffix == ".txt"
            aside.write_text("whole")
        assert file.read_text() == "whole"
        assert list(file.parent.iterdir()) == [file]

    @staticmethod
    def _fail_halfway(file: Path, error: type[BaseException]) -> None:
        with written_aside(file) as aside:
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
