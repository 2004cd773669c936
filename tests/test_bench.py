"""The benchmark's own workings: turns, ratios, workers, pages. No timing is asserted."""

import ast
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import ROOT, check_refusal, run, run_module

from benchmarks import __main__ as program
from benchmarks import machine
from benchmarks.arithmetic import compute_forward_gflop
from benchmarks.child import Child, FreshChild, Starter
from benchmarks.contenders import Case, Contender, Options, Stage
from benchmarks.page import format_page
from benchmarks.race import race
from benchmarks.results import (
    Row,
    compute_speed_ratio,
    compute_spread,
    compute_value,
    find_fastest_peers,
    to_json,
)
from benchmarks.stages import evaluation, startup
from benchmarks.worker import ContenderError, Turn
from leuko_tf.cli import UserError
from leuko_tf.config import ModelConfig
from leuko_tf.data import augmentation

TINY = ModelConfig(input_size=64, blocks=[1, 1], stem_width=8, width=16, cardinality=4)
WORKS = "benchmarks.worker:Work"  # a builder without steps to do


class Runner:
    """Stands in for a worker: does as many images per second as its list says, then dies."""

    peak_gib, ready_after = 1.0, 2.0

    def __init__(self, name: str, speeds: list[int], turns: list[str]):
        self.facts: dict = {"note": f"this is {name}"}
        self._name, self._speeds, self._turns = name, list(speeds), turns

    def turn(self, seconds: float) -> Turn:
        if not self._speeds:
            raise ContenderError("died")
        self._turns.append(self._name)
        return Turn(steps=1, images=self._speeds.pop(0), seconds=1.0, others=0.25)

    def close(self) -> None:
        self._turns.append(f"end of {self._name}")


def run_race(
    speeds: dict[str, list[int]], rounds: int, has_room: bool = True
) -> tuple[list[Row], list[str]]:
    """Rows, and names in the order of the turns; a contender without speeds does not start.

    All that started have ended.
    """
    turns: list[str] = []
    contenders = [
        Contender(name, "peer" if k else "ours", "none:none") for k, name in enumerate(speeds)
    ]

    def start(contender: Contender) -> Runner:
        if not speeds[contender.name]:
            raise ContenderError("not installed")
        return Runner(contender.name, speeds[contender.name], turns)

    case = Case("", contenders, seconds=1.0)
    rows = race(case, "images/s", rounds, start, lambda gib: has_room)
    ended = [name for name in turns if name.startswith("end")]
    assert sorted(ended) == sorted(f"end of {name}" for name, given in speeds.items() if given)
    return rows, [name for name in turns if not name.startswith("end")]


class TestRace:
    @pytest.mark.parametrize(
        ("speeds", "turns", "failures"),
        [
            ({"A": [1, 1], "B": [1, 1], "C": [1, 1]}, "ABC ABC", [None, None, None]),
            ({"A": [1, 1], "B": [], "C": [1, 1]}, "AC AC", [None, "not installed", None]),
            ({"A": [1, 1], "B": [1], "C": [1, 1]}, "ABC AC", [None, "died", None]),
            ({"A": [], "B": [1, 1]}, "B B", ["not installed", None]),
        ],
    )
    def test_contenders_take_turns_until_they_fail(self, speeds, turns, failures):
        rows, taken = run_race(speeds, rounds=2)
        assert "".join(taken) == turns.replace(" ", "")
        assert [row.failure for row in rows] == failures
        assert [row.values for row in rows] == [*speeds.values()]
        assert all(row.ratios == (row.values if speeds["A"] else []) for row in rows[1:])

    def test_what_does_not_fit_into_memory_races_against_ours_later(self):
        rows, turns = run_race({"A": [2] * 6, "B": [1] * 3, "C": [4] * 3}, 3, has_room=False)
        assert turns == ["A", "B"] * 3 + ["A", "C"] * 3
        assert [row.ratios for row in rows] == [[], [2.0] * 3, [0.5] * 3]

    def test_ratios_are_of_the_same_round(self):
        rows, _ = run_race({"A": [10, 30, 20], "B": [5, 10, 40]}, rounds=3)
        assert rows[1].values == [5, 10, 40]
        assert rows[1].ratios == [2.0, 3.0, 0.5]
        assert rows[1].others == [0.25] * 3


class TestNumbers:
    def test_median_and_range(self):
        assert compute_spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "low": 1.0, "high": 10.0}
        assert compute_spread([]) is None

    def test_values_are_images_per_second_or_seconds_per_step(self):
        turn = Turn(steps=4, images=40, seconds=2.0)
        assert compute_value(turn, "images/s") == 20
        assert compute_value(turn, "s") == 0.5

    def test_a_ratio_above_one_means_that_ours_is_faster(self):
        assert compute_speed_ratio(20.0, 10.0, "images/s") == 2
        assert compute_speed_ratio(1.0, 3.0, "s") == 3

    def test_the_fastest_peer_is_chosen_by_median_within_case_and_group(self):
        def row(name: str, values: list[float], **more) -> Row:
            return Row(name, "peer", "", "", 224, 8, values=values, ratios=[1.0], **more)

        rows = [row("a", [1, 2, 9]), row("b", [3, 3, 3]), row("c", [1], group="files")]
        rows += [row("d", []), Row("e", "ours", "", "", 224, 8, values=[50])]
        as_json = to_json(Stage("", "images/s", ()), rows, {})["rows"]
        found = find_fastest_peers(as_json, "images/s")
        assert [peer["contender"] for peer in found] == ["b", "c"]

    def test_arithmetic_is_the_published_networks(self):
        # Xie et al. 2017: 4.2 x 10^9 products at 224 px, of two operations each.
        assert compute_forward_gflop(224) == pytest.approx(8.46, abs=0.01)

    def test_load_of_others_is_what_the_group_did_not_do(self):
        share = machine.compute_share(90.0, 92.0, seconds=4.0)
        assert share == pytest.approx(min(1, 0.5 / (os.cpu_count() or 1)))
        assert machine.compute_share(None, 92.0, 4.0) is None

    @pytest.mark.skipif(not Path("/proc/stat").exists(), reason="this system has no /proc/stat")
    def test_work_of_a_group_is_seen(self):
        def measure_group() -> float:
            no_group = -1
            return machine.measure_others(no_group) - machine.measure_others(os.getpgrp())

        before, until = measure_group(), time.process_time() + 0.5
        while time.process_time() < until:
            pass
        assert measure_group() - before >= 0.2


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Child]:
    """Starts real workers, and ends them after the test."""
    children = []

    def start_one(builder: str, **settings: object) -> Child:
        contender = Contender("x", "peer", builder, settings, warm_up=0)
        child = Child(contender, 1, tmp_path / "x.log", patience=60)
        children.append(child)
        return child

    yield start_one
    for child in children:
        child.close()


def wait_for_state(process: int, *states: str) -> None:
    """Waits until a process is in a state as the kernel calls it: R, S, T, Z; "" when gone."""
    state = None
    deadline = time.monotonic() + 10  # signals take their time on a busy machine
    while state not in states and time.monotonic() < deadline:
        time.sleep(0.01)
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            state = ""
    assert state in states


class TestWorker:
    def test_it_does_whole_steps_and_tells_their_number(self, start):
        child = start(WORKS, facts={"note": "hello"})
        assert child.facts == {"note": "hello"}
        turn = child.turn(0.0)
        assert (turn.steps, turn.images) == (1, 0)
        assert child.turn(0.05).seconds >= 0.05

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_it_is_paused_outside_of_its_turns(self, start):
        child = start(WORKS)
        child.turn(0.0)
        wait_for_state(child._process.pid, "T")

    @pytest.mark.parametrize(
        ("builder", "reason"),
        [
            ("no_such_package:build", "ModuleNotFoundError: No module named 'no_such_package'"),
            ("benchmarks.worker:nothing", "AttributeError: .*nothing"),
            ("os:abort", "died of SIGABRT"),
            ("os:_exit", "TypeError"),
        ],
    )
    def test_who_fails_tells_why(self, start, tmp_path, builder, reason):
        with pytest.raises(ContenderError, match=reason):
            start(builder)
        assert ("Traceback" in (tmp_path / "x.log").read_text()) == ("Error" in reason)

    def test_death_between_turns_is_told(self, start):
        child = start(WORKS)
        os.kill(child._process.pid, signal.SIGKILL)
        with pytest.raises(ContenderError, match="killed"):
            child.turn(0.0)

    def test_a_worker_that_died_is_in_the_table_with_its_reason(self, tmp_path):
        contenders = [Contender("A", "ours", WORKS), Contender("B", "peer", "os:abort")]
        rows = race(Case("", contenders), "s", 2, Starter(1, tmp_path).start)
        assert len(rows[0].values) == 2
        assert rows[1].failure == "died of SIGABRT"

    def test_a_fresh_one_is_another_process_every_turn(self, tmp_path):
        child = Starter(1, tmp_path).start(Contender("x", "ours", WORKS, fresh=True))
        assert isinstance(child, FreshChild)
        assert child.turn(0.0).steps == child.turn(0.0).steps == 1
        assert child.ready_after > 0

    @pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux'")
    def test_it_dies_with_its_parent(self, tmp_path):
        text = (
            "import os, signal, sys, pathlib\n"
            "from benchmarks.child import Child\n"
            "from benchmarks.contenders import Contender\n"
            f"child = Child(Contender('x', 'ours', {WORKS!r}), 1, pathlib.Path(sys.argv[1]))\n"
            "print(child._process.pid, flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        wait_for_state(int(run([sys.executable, "-c", text, tmp_path / "x.log"]).stdout), "", "Z")


def make_results() -> dict:
    stage = Stage("Training", "images/s", ["One step."])
    rows = [
        Row("ours|x", "ours", "", "float32", 224, 8, values=[10, 20, 30], gflop_an_image=25.0),
        Row(
            *("torch", "peer", "", "float32", 224, 8),
            values=[5.0, 5.0, 20.0],
            ratios=[2.0, 4.0, 1.5],
            others=[0.1, None, 0.3],
            peak_gib=1.25,
            ready_after=31.4,
        ),
        Row("onnx", "peer", "", "float32", 224, 8, failure="ImportError: none"),
        Row("late", "peer", "", "float32", 224, 8, values=[1.0], failure="killed"),
    ]
    setting = machine.describe_setting(threads=2, rounds=3, short=True)
    return {"train": json.loads(json.dumps(to_json(stage, rows, setting)))}


def test_the_page_has_medians_ranges_ratios_reasons_and_the_setting():
    text = format_page(make_results())
    lines = text.splitlines()
    (summary,) = [line for line in lines if line.startswith("| Training")]
    assert summary.endswith("| 224 px, batch 8, float32 | 20 | torch | 5 | 2.00 (1.50 to 4.00) |")
    (ours,) = [line for line in lines if line.startswith("| 224 px") and "**" in line]
    assert "**ours\\|x** | 20 (10 to 30) |" in ours
    assert "0.5" in ours  # TFLOP/s: 25 GFLOP, 20 a second
    (torch,) = [line for line in lines if line.startswith("| 224 px") and "torch" in line]
    assert "5 (5 to 20) | 2.00 (1.50 to 4.00)" in torch
    assert "31 s | 1.2 | 30%" in torch
    assert "did not run: ImportError: none" in text
    assert "stopped after 1 rounds: killed" in text
    assert "2 threads; 3 rounds" in text
    assert f"keras {keras.__version__}" in text
    assert "- One step." in text
    # Columns that hold nothing are left out.
    assert "largest difference" not in text
    assert "| case | size" not in text


def check_builder(contender: Contender) -> None:
    """Checks that a builder exists and takes its settings; reads its file, which may need torch."""
    module, _, name = contender.builder.partition(":")
    tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text())
    (function,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    taken = [argument.arg for argument in function.args.args]
    needed = taken[: len(taken) - len(function.args.defaults)]
    assert {*needed} <= {*contender.settings} <= {*taken}


class TestCommand:
    def test_peers_that_are_missing_are_named_with_the_way_to_get_them(self, monkeypatch, tmp_path):
        monkeypatch.setattr(machine.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"openvino, torch, .* pip install '\.\[bench\]'"):
            program.run_stages(["infer"], tmp_path / "out", 1, 1, short=True, peers=True)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        "words", [["nonsense"], ["--rounds", "0"], ["--threads", "100000"], ["--threads", "0"]]
    )
    def test_bad_options_are_refused_before_the_work(self, tmp_path, words):
        check_refusal(run_module("benchmarks", *words, "--out", tmp_path / "out"), words[0])
        assert not (tmp_path / "out").exists()

    def test_without_a_gpu_its_stage_says_so_in_one_line(self, tmp_path):
        if tf.config.list_physical_devices("GPU"):
            pytest.skip("there is a GPU")
        with pytest.raises(UserError, match="sees no GPU") as error:
            program.run_stages(["gpu"], tmp_path, 1, 1, short=True, peers=False)
        assert "\n" not in str(error.value)

    def test_a_foreign_file_is_not_overwritten(self, tmp_path):
        (tmp_path / "bench.json").write_text("[1, 2]")
        with pytest.raises(UserError, match=r"bench\.json holds no results"):
            program.run_stages(["startup"], tmp_path, 1, 1, short=True, peers=False)

    def test_sigterm_removes_what_it_made(self, tmp_path):
        command = [sys.executable, "-m", "benchmarks", "evaluate", "--out", tmp_path]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as running:
            deadline = time.monotonic() + 30
            while not [*tmp_path.glob("work-*")] and time.monotonic() < deadline:
                time.sleep(0.05)
            assert [*tmp_path.glob("work-*")]
            running.terminate()
            assert running.wait(30) == 128 + signal.SIGTERM
        assert not [*tmp_path.glob("work-*")]

    def test_commands_to_time_are_found(self):
        found = startup.find_commands()
        assert found == sorted(found)
        assert {"benchmarks", "leuko_tf", "leuko_tf.train", "serving.client"} <= {*found}
        assert not [name for name in found if name.endswith("_test")]

    def test_cases_begin_with_ours_and_builders_take_their_settings(self, tmp_path):
        for stage in program.STAGES.values():
            for short in (True, False):
                options = Options(short, peers=True, work=str(tmp_path))
                for case in stage.cases(options):
                    assert case.contenders[0].role == "ours"
                    names = [contender.name for contender in case.contenders]
                    assert len({*names}) == len(names)
                    for contender in case.contenders:
                        check_builder(contender)
                for contender in stage.preparations(options):
                    check_builder(contender)

    def test_evaluation_and_help_really_run(self, monkeypatch, tmp_path):
        """Two stages as the command runs them, cut short, with the results of an earlier one."""
        monkeypatch.setattr(evaluation, "ROWS", 300)
        monkeypatch.setattr(evaluation, "REANNOTATED", 90)
        monkeypatch.setattr(evaluation, "REPLICATES", 3)
        help_alone = Stage("Start-up", "s", (), lambda o: startup.STAGE.cases(o)[:1])
        monkeypatch.setattr(startup, "find_commands", lambda: ["benchmarks"])
        monkeypatch.setitem(program.STAGES, "startup", help_alone)
        (tmp_path / "bench.json").write_text(json.dumps({"stages": make_results()}))
        program.run_stages(["evaluate", "startup"], tmp_path, 1, 1, short=True, peers=False)
        stages = json.loads((tmp_path / "bench.json").read_text())["stages"]
        assert [*stages] == ["train", "evaluate", "startup"]
        for row in stages["evaluate"]["rows"] + stages["startup"]["rows"]:
            assert row["failure"] is None
            assert len(row["values"]) == 1
        text = (tmp_path / "bench.md").read_text()
        assert "python -m benchmarks" in text
        assert "## Training" in text
        assert not [*tmp_path.glob("work-*")]


class TestBuilders:
    def test_answers_by_grpc_and_in_process_are_counted_and_the_networks(self, tmp_path, start):
        from benchmarks.builders.inference import draw_cells, fit_network
        from benchmarks.stages.inference import CELLS, EXPECTED, EXPORTS, IMAGES
        from leuko_tf.export import export

        images = draw_cells(CELLS)
        model = fit_network(TINY, images)
        np.save(tmp_path / IMAGES, images)
        np.save(tmp_path / EXPECTED, model.predict(images, verbose=0))
        export(model, tmp_path / EXPORTS / "float32", {})
        shared = {"work": str(tmp_path)}
        asked = {**shared, "signature": "explain", "concurrency": 3}
        by_grpc = start("benchmarks.builders.serving:build_grpc", **asked, batching={})
        in_process = start("benchmarks.builders.inference:build_encoded", **shared, batch=8)
        assert (by_grpc.turn(0.0).images, in_process.turn(0.0).images) == (64, 8)
        assert by_grpc.turn(0.0).images == 64
        assert max(by_grpc.facts["error"], in_process.facts["error"]) < 1e-5

    def test_stock_keras_is_our_network_with_keras_own_convolution(self):
        from benchmarks.builders.training import use_stock_convolutions
        from leuko_tf.network.layers import Conv2D
        from leuko_tf.network.resnext import from_config

        ours = from_config(TINY, precision="float32")
        stock = use_stock_convolutions(ours)
        assert not [c for c in stock.layers if isinstance(c, Conv2D) and c.groups > 1]
        assert [w.shape for w in stock.weights] == [w.shape for w in ours.weights]
        assert any(getattr(layer, "groups", 1) == 4 for layer in stock.layers)


class TestTorch:
    """The peers are the same network and the same augmentation."""

    @pytest.fixture(autouse=True)
    def peer(self):
        pytest.importorskip("torch", reason="torch is not installed (pip install .[bench])")
        return importlib.import_module("benchmarks.builders.torch_cpu")

    def test_it_has_the_papers_number_of_parameters(self, peer):
        for symmetric in (False, True):
            assert peer.count_parameters(peer.make_resnext50(symmetric)) == 23_112_975

    @pytest.mark.parametrize("size", [64, 50, 49])  # even and odd at every stride
    def test_its_probabilities_are_ours(self, peer, size):
        from benchmarks.builders.inference import fit_network, get_keras_weights

        config = ModelConfig(**{**vars(TINY), "input_size": size, "field": size})
        images = np.random.default_rng(0).integers(0, 256, (16, size, size, 3), np.uint8)
        model = fit_network(config, images)
        network = peer.ResNeXt(config)
        peer.load_keras_weights(network, get_keras_weights(model))
        with peer.torch.inference_mode():
            classifier = peer.Classifier(network).eval()
            found = classifier(peer.torch.from_numpy(images)).numpy()
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert expected.max() > 0.5  # the answers are not uniform

    def test_weights_of_another_network_are_refused(self, peer):
        from benchmarks.builders.inference import get_keras_weights
        from leuko_tf.network.resnext import from_config

        weights = get_keras_weights(from_config(TINY, precision="float32"))
        fewer = {name: array for name, array in weights.items() if name != "stem_conv/0"}
        with pytest.raises(KeyError):
            peer.load_keras_weights(peer.ResNeXt(TINY), fewer)
        with pytest.raises(ValueError, match="other layers"):
            peer.load_keras_weights(peer.ResNeXt(TINY), {**weights, "extra/0": np.zeros(1)})

    @pytest.mark.parametrize("flips", [(False, False), (True, False), (True, True)])
    def test_it_rotates_images_as_ours_does(self, flips):
        from PIL import Image

        from benchmarks.builders.torch_loader import ROTATIONS

        rows, columns = np.mgrid[:24, :24]
        smooth = np.stack([rows * 10, columns * 10, rows * columns / 3], axis=-1).astype(np.uint8)
        signs = np.array([[-1.0 if flip else 1.0 for flip in flips]])
        transforms = augmentation.compute_affine_transforms(np.radians([35.0]), signs, 24)
        ours = augmentation.rotate_batch(smooth[np.newaxis], transforms, 24)[0].astype(float)
        opencv = ROTATIONS["opencv"](Image.fromarray(smooth), 35.0, [*flips]).numpy()
        np.testing.assert_array_equal(opencv, ours)
        torchs = ROTATIONS["grid_sample"](Image.fromarray(smooth), 35.0, [*flips])
        np.testing.assert_allclose(torchs.permute(1, 2, 0).numpy(), ours, atol=1.5)
