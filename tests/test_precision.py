"""The study of precisions: what it counts, and that it really runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import precision
from benchmarks.precision import __main__ as program
from benchmarks.precision import ways
from benchmarks.precision.comparison import compare
from benchmarks.precision.page import page
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
        assert (found.changed, found.changed_share) == (2, 0.5)
        assert (found.to_right, found.to_wrong) == (1, 1)
        assert found.largest == pytest.approx(0.2)
        assert found.mean == pytest.approx((0.2 + 0.2 + 0.1 + 0) / 4)
        assert found.accuracy == 0.5

    def test_without_labels_nothing_is_right_or_wrong(self):
        found = compare(self.FOUND, self.REFERENCE, None)
        assert found.changed == 2
        assert (found.to_right, found.to_wrong, found.accuracy) == (None, None, None)

    @pytest.mark.parametrize("found", [FOUND[:3], np.full((4, 2), np.nan)])
    def test_what_is_no_answer_is_refused(self, found):
        with pytest.raises(ValueError, match="probabilities"):
            compare(found, self.REFERENCE, None)


class TestWays:
    @pytest.fixture
    def made(self, workdir, cells, tmp_path):
        facts = ways.make_cells(str(tmp_path), str(workdir / "best.keras"), str(cells)).facts
        return tmp_path, facts

    def test_cells_for_calibration_are_not_measured(self, made):
        work, facts = made
        measured, apart = (
            np.load(work / precision.CELLS),
            np.load(work / precision.CALIBRATION_CELLS),
        )
        size = facts["size"]
        assert facts == {"cells": 112, "calibration": 38, "size": size, "labelled": True}
        assert measured.shape == (112, size, size, 3)
        assert len(apart) == 38
        seen = {cell.tobytes() for cell in measured}
        assert not [cell for cell in apart if cell.tobytes() in seen]

    def test_labels_are_the_folders_names(self, made, workdir, smear, tmp_path):
        work, _ = made
        labels = np.load(work / precision.LABELS)
        assert {*labels} == {*range(15)}
        unnamed = tmp_path / "unnamed"
        shutil.copytree(smear / "BAS", unnamed)
        shutil.copytree(smear / "EOS", unnamed / "EOS")
        made_of = (str(tmp_path / "other"), str(workdir / "best.keras"), str(unnamed))
        Path(made_of[0]).mkdir()
        assert not ways.make_cells(*made_of).facts["labelled"]
        assert not Path(made_of[0], precision.LABELS).exists()

    def test_a_folder_of_few_images_is_refused(self, workdir, smear, tmp_path):
        with pytest.raises(UserError, match="at least 20"):
            ways.make_cells(str(tmp_path), str(workdir / "best.keras"), str(smear / "BAS"))

    def test_bfloat16_rounds_and_float32_does_not(self, made, workdir):
        work, _ = made
        reference = np.load(work / precision.REFERENCE)
        largest = {}
        for name in ("float32", "bfloat16"):
            done = ways.tensorflow(str(work), str(workdir / "best.keras"), f"{name}.npy", name)
            assert done.step() == precision.BATCH
            largest[name] = compare(np.load(work / f"{name}.npy"), reference, None).largest
        assert largest["float32"] < 1e-5
        assert 1e-4 < largest["bfloat16"] < 0.2


class TestCommand:
    def test_the_whole_study(self, workdir, cells, tmp_path, monkeypatch):
        for module in precision.PEERS_NEED:
            pytest.importorskip(module, reason=f"{module} is not installed (pip install .[bench])")
        monkeypatch.setattr(program, "ROUNDS", 1)
        monkeypatch.setattr(precision, "SECONDS_A_TURN", 0.1)
        program.study(workdir / "best.keras", cells, tmp_path)
        results = json.loads((tmp_path / program.RESULTS).read_text())
        rows = {row["contender"]: row for row in results["rows"]}
        assert not [row["failure"] for row in rows.values() if row["failure"]]
        float32, int8 = (rows[f"OpenVINO, {name}"]["comparison"] for name in ("float32", "int8"))
        assert float32["largest"] < 1e-4 < int8["largest"]
        assert (tmp_path / program.PAGE).read_text() == page(results)
        assert "112 cells" in page(results)
        assert not [*tmp_path.glob("work-*")]

    def test_who_did_not_run_is_in_the_table_with_the_reason(self):
        row = {"contender": "A", "failure": None, "value": None, "ratios": [0.5]}
        row |= {"comparison": vars(compare(TestComparison.FOUND, TestComparison.REFERENCE, None))}
        row["value"] = {"median": 3.0, "low": 2.0, "high": 4.0}
        failed = {"contender": "B", "failure": "died", "value": None, "comparison": None}
        setting = program.machine.setting(1, 1, short=False)
        results = {"title": "T", "remarks": ["R"], "setting": setting, "rows": [row, failed]}
        results |= {"model": "m", "images": "i", "size": 96, "cells": 4, "calibration": 2}
        text = page({**results, "labelled": False})
        assert (
            "| A | 3 (2 to 4) | 2.00 (2.00 to 2.00) | 2 (50.00%) | 2.0e-01 | 1.2e-01 |  |" in text
        )
        assert "| B |  |  |  |  |  | did not run: died |" in text
        assert "ccuracy" not in text

    @pytest.mark.parametrize("missing", ["--model", "--images"])
    def test_what_is_not_there_is_told_in_one_line(self, missing, smear, workdir, tmp_path):
        given = {"--model": workdir / "best.keras", "--images": smear, "--out": tmp_path / "out"}
        given[missing] = tmp_path / "nothing"
        words = [str(word) for pair in given.items() for word in pair]
        command = [sys.executable, "-m", "benchmarks.precision", *words]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
        assert not (tmp_path / "out").exists()
