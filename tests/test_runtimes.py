"""OpenVINO in place of TensorFlow: the same probabilities, or a message."""

import gc
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from running import check_refusal, run, run_module

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.network import runtimes
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import SCALING
from leuko_tf.network.runtimes import OPENVINO, TENSORFLOW, TOLERANCE, make_predictor
from leuko_tf.network.view import to_network_input
from leuko_tf.predictions import PROBABILITIES, read_predictions


@pytest.fixture(scope="module")
def openvino() -> None:
    pytest.importorskip("openvino", reason="openvino is not installed (pip install .[openvino])")


@pytest.fixture(scope="module")
def model(workdir: Path) -> keras.Model:
    return load_model(workdir / "best.keras")


@pytest.fixture(scope="module")
def predict(model: keras.Model, openvino: None) -> Callable[[np.ndarray], np.ndarray]:
    """The model on OpenVINO, converted once."""
    return make_predictor(model, OPENVINO)


def _cells(number: int, size: int) -> np.ndarray:
    from tfds_aml.synthetic_smear.drawing import draw_cell

    cells = [draw_cell(code, np.random.default_rng(1))[0][..., :3] for code in CODES[:number]]
    return tf.image.resize(np.stack(cells), (size, size), antialias=True).numpy()


def _to_input(model: keras.Model, images: np.ndarray) -> np.ndarray:
    scaling = model.get_layer(SCALING)
    return np.asarray(to_network_input(images, scaling.field, scaling.size))


def test_tensorflow_is_the_model_itself(model):
    cells = _cells(3, 400)
    np.testing.assert_allclose(
        make_predictor(model)(cells), model.predict_on_batch(cells), atol=1e-5
    )


class TestSymmetries:
    def test_the_answer_is_the_mean_of_those_to_the_eight_turns_and_mirrorings(self, model):
        cells = _cells(3, 400)
        variants = [tf.image.rot90(v, k) for v in (cells, cells[:, ::-1]) for k in range(4)]
        answers = [model.predict_on_batch(np.asarray(v)) for v in variants]
        assert np.std(answers, axis=0).max() > 1e-4  # the network itself knows up from down
        found = make_predictor(model, symmetries=True)(cells)
        np.testing.assert_allclose(found, np.mean(answers, axis=0), atol=1e-5)

    def test_a_turned_cell_gets_the_same_answer(self, model):
        predict = make_predictor(model, symmetries=True)
        cells = _cells(3, 400)
        for turned in (np.rot90(cells, 1, (1, 2)), cells[:, ::-1], cells.swapaxes(1, 2)):
            np.testing.assert_allclose(predict(turned), predict(cells), atol=1e-5)


@pytest.mark.usefixtures("openvino")
class TestOpenVINO:
    @pytest.mark.parametrize("size", [32, 400, 29])  # the network's own, and others
    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_its_probabilities_are_the_models(self, model, predict, size, dtype):
        cells = _cells(4, size).astype(dtype)
        expected = model.predict_on_batch(cells)
        assert expected.std(axis=0).max() > TOLERANCE  # they are no uniform answers
        found = predict(cells)
        assert (found.shape, found.dtype) == ((4, len(CODES)), np.float32)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE)

    def test_no_image_gives_no_answer(self, model, predict):
        size = model.get_layer(SCALING).size
        assert predict(np.zeros((0, size, size, 3), np.uint8)).shape == (0, len(CODES))

    def test_an_exported_model_will_do(self, exports, model):
        loaded = tf.saved_model.load(str(exports / "1"))
        network = runtimes.make_openvino_network(loaded.network.concrete_functions[0])
        cells = _cells(3, 400)
        expected = model.predict_on_batch(cells)
        np.testing.assert_allclose(network(_to_input(model, cells)), expected, atol=TOLERANCE)

    def test_threads_do_not_disturb_each_other(self, model, predict):
        cells = _cells(8, model.get_layer(SCALING).size)
        expected = predict(cells)
        found = [np.zeros(0)] * len(cells)

        def ask(i: int) -> None:
            for _ in range(20):
                found[i] = predict(cells[i : i + 1])[0]

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(cells))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        np.testing.assert_array_equal(np.stack(found), expected)

    def test_it_outlives_the_model_that_it_was_made_of(self, model):
        cells = _cells(3, 400)
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        network = runtimes.extract_network(copy)
        del copy
        gc.collect()
        converted = runtimes.convert_for_openvino(network)
        del network
        gc.collect()
        reused = [np.full(2**k, np.nan, np.float32) for k in range(4, 16) for _ in range(50)]
        found = runtimes.compile_for_openvino(converted)(_to_input(model, cells))
        del reused
        np.testing.assert_allclose(found, model.predict_on_batch(cells), atol=TOLERANCE)

    def test_another_networks_answers_are_refused(self, model, monkeypatch):
        """A converter that goes wrong: it gives a network with other weights."""
        other = keras.models.clone_model(model)
        converted = runtimes.convert_for_openvino(runtimes.extract_network(other))
        monkeypatch.setattr(runtimes, "convert_for_openvino", lambda network: converted)
        with pytest.raises(UserError, match="differ from TensorFlow's by"):
            make_predictor(model, OPENVINO)

    def test_what_it_cannot_convert_is_told(self, model):
        """Resizing with antialiasing, for one: it is done outside of what is converted."""
        size = 2 * model.get_layer(SCALING).size
        spec = tf.TensorSpec((None, size, size, 3), tf.float32)
        network = tf.function(lambda images: model(images, training=False))
        with pytest.raises(UserError, match=r"(?s)cannot convert this network.*ScaleAndTranslate"):
            runtimes.make_openvino_network(network.get_concrete_function(spec))

    def test_it_reports_to_nobody(self):
        program = (
            "import sys\n"
            "from leuko_tf.network.runtimes import import_openvino\n"
            "import_openvino().convert_model\n"
            "import openvino.tools.ovc.telemetry_utils as used\n"
            "assert used.tm.__name__ == 'openvino.tools.ovc.telemetry_stub', used.tm\n"
            "loaded = [m for m in sys.modules if m.startswith('openvino_telemetry')]\n"
            "assert not any(sys.modules[m] for m in loaded), loaded\n"
        )
        done = run([sys.executable, "-c", program])
        assert done.returncode == 0, done.stderr

    def test_evaluate_takes_it(self, workdir, tmp_path):
        tables = {}
        for runtime in (TENSORFLOW, OPENVINO):
            out = tmp_path / runtime
            words = ("--model", workdir / "best.keras", "--out", out, "--bootstrap", 0)
            done = run_module("leuko_tf.evaluate", *words, "--runtime", runtime)
            assert done.returncode == 0, done.stderr
            tables[runtime], source = read_predictions(out / "predictions.parquet")
            assert source["runtime"] == runtime
        np.testing.assert_allclose(
            tables[OPENVINO][PROBABILITIES], tables[TENSORFLOW][PROBABILITIES], atol=TOLERANCE
        )


def test_without_openvino_one_message_tells_what_to_install(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install leuko_tf\[openvino\]"):
        make_predictor(model, OPENVINO)


def test_runtime_belongs_to_a_model(tmp_path):
    words = ("--predictions", "p.csv", "--out", tmp_path / "out", "--runtime", OPENVINO)
    check_refusal(
        run_module("leuko_tf.evaluate", *words), "belong to --model, not to --predictions"
    )
    assert not (tmp_path / "out").exists()
