"""The comparison of precisions: what it counts, and that it really runs."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from running import check_refusal, run_module

from benchmarks import precision
from benchmarks.builders import precision as builders
from benchmarks.builders.precision import compare
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError


@pytest.fixture(scope="module")
def cells(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smear's class folders, without its masks."""
    folder = tmp_path_factory.mktemp("cells")
    for code in CODES:
        (folder / code).mkdir()
        for file in (smear / code).iterdir():
            (folder / code / file.name).symlink_to(file)
    return folder


class TestComparison:
    REFERENCE = np.array([[0.6, 0.4], [0.6, 0.4], [0.2, 0.8], [0.9, 0.1]])
    FOUND = np.array([[0.4, 0.6], [0.4, 0.6], [0.3, 0.7], [0.9, 0.1]])

    def test_changed_answers_and_differences_are_counted(self):
        found = compare(self.FOUND, self.REFERENCE, np.array([0, 1, 1, 1]))
        expected = {"changed": 2, "changed_share": 0.5, "to_right": 1, "to_wrong": 1}
        expected |= {"largest": 0.2, "mean": (0.2 + 0.2 + 0.1 + 0) / 4, "accuracy": 0.5}
        assert found == pytest.approx(expected)

    def test_without_labels_nothing_is_right_or_wrong(self):
        found = compare(self.FOUND, self.REFERENCE, None)
        assert found["changed"] == 2
        assert not [
            v for v in map(found.get, ("to_right", "to_wrong", "accuracy")) if v is not None
        ]

    @pytest.mark.parametrize("found", [FOUND[:3], np.full((4, 2), np.nan)])
    def test_other_shapes_and_no_numbers_are_refused(self, found):
        with pytest.raises(ValueError, match="probabilities"):
            compare(found, self.REFERENCE, None)


class TestBuilders:
    @pytest.fixture
    def made(self, workdir, cells, tmp_path):
        facts = builders.make_cells(str(tmp_path), str(workdir / "best.keras"), str(cells)).facts
        return tmp_path, facts

    def test_cells_for_calibration_are_not_measured(self, made):
        work, facts = made
        measured, calibrating = (
            np.load(work / file) for file in (builders.CELLS, builders.CALIBRATION_CELLS)
        )
        size = facts["size"]
        assert facts == {"cells": 112, "calibration": 38, "size": size, "labelled": True}
        assert measured.shape == (112, size, size, 3)
        assert len(calibrating) == 38
        assert not {c.tobytes() for c in measured} & {c.tobytes() for c in calibrating}
        assert {*np.load(work / builders.LABELS)} == {*range(15)}

    def test_without_folders_named_by_class_there_are_no_labels(self, workdir, smear, tmp_path):
        unnamed = tmp_path / "unnamed"
        shutil.copytree(smear / "BAS", unnamed)
        shutil.copytree(smear / "EOS", unnamed / "EOS")
        made = builders.make_cells(str(tmp_path), str(workdir / "best.keras"), str(unnamed))
        assert not made.facts["labelled"]
        assert not (tmp_path / builders.LABELS).exists()

    def test_a_folder_of_few_images_is_refused(self, workdir, smear, tmp_path):
        with pytest.raises(UserError, match="at least 20"):
            builders.make_cells(str(tmp_path), str(workdir / "best.keras"), str(smear / "BAS"))

    def test_bfloat16_rounds_and_float32_does_not(self, made, workdir):
        largest = {}
        for name in ("float32", "bfloat16"):
            work = builders.build_tensorflow(str(made[0]), str(workdir / "best.keras"), name)
            assert work.step() == precision.BATCH
            largest[name] = work.facts["comparison"]["largest"]
        assert largest["float32"] < 1e-5
        assert 1e-4 < largest["bfloat16"] < 0.2


class TestCommand:
    def test_the_whole_comparison(self, workdir, cells, tmp_path, monkeypatch):
        for module in precision.NEEDED:
            pytest.importorskip(module, reason=f"{module} is not installed (pip install .[bench])")
        monkeypatch.setattr(precision, "ROUNDS", 1)
        monkeypatch.setattr(precision, "SECONDS_A_TURN", 0.1)
        precision.compare_precisions(workdir / "best.keras", cells, tmp_path)
        results = json.loads((tmp_path / precision.RESULTS).read_text())
        rows = {row["contender"]: row for row in results["rows"]}
        assert not [row["failure"] for row in rows.values() if row["failure"]]
        float32, int8 = (rows[f"OpenVINO, {name}"]["comparison"] for name in ("float32", "int8"))
        assert float32["largest"] < 1e-4 < int8["largest"]
        page = (tmp_path / precision.PAGE).read_text()
        assert page == precision.format_page(results)
        assert "112 cells" in page
        assert not [*tmp_path.glob("work-*")]

    def test_who_did_not_run_is_in_the_table_with_the_reason(self):
        comparison = compare(TestComparison.FOUND, TestComparison.REFERENCE, None)
        row = {"contender": "A", "failure": None, "note": "", "values": [3.0], "ratios": [0.5]}
        row |= {"comparison": comparison, "value": {"median": 3.0, "low": 2.0, "high": 4.0}}
        failed = {"contender": "B", "failure": "died", "note": "", "values": [], "ratios": []}
        failed |= {"comparison": None, "value": None}
        setting = precision.machine.describe_setting(1, 1, short=False)
        results = {"title": "T", "remarks": ["R"], "setting": setting, "rows": [row, failed]}
        results |= {"model": "m", "images": "i", "size": 96, "cells": 4, "calibration": 2}
        text = precision.format_page({**results, "labelled": False})
        assert (
            "| A | 3 (2 to 4) | 2.00 (2.00 to 2.00) | 2 (50.00%) | 2.0e-01 | 1.2e-01 |  |" in text
        )
        assert "| B |  |  |  |  |  | did not run: died |" in text
        assert "ccuracy" not in text

    @pytest.mark.parametrize("missing", ["--model", "--images"])
    def test_missing_files_are_told_in_one_line(self, missing, smear, workdir, tmp_path):
        given = {"--model": workdir / "best.keras", "--images": smear, "--out": tmp_path / "out"}
        given[missing] = tmp_path / "nothing"
        done = run_module(
            "benchmarks.precision", *(word for pair in given.items() for word in pair)
        )
        check_refusal(done, "error: ", str(tmp_path / "nothing"))
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
