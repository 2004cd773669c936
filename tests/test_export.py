import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf import saved_model_pb2

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.export import export, versions
from leuko_tf.models import load_model
from serving.client import Client, read_image

# What the export promises: `.keras`, SavedModel and served answers agree to this.
AGREEMENT = 1e-5


@pytest.fixture(scope="module")
def files(smear: Path) -> list[Path]:
    return [smear / code / f"{code}_0001.tiff" for code in CODES]


@pytest.fixture(scope="module")
def images(files: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])


@pytest.fixture(scope="module")
def expected(images: np.ndarray, workdir: Path) -> np.ndarray:
    """The `.keras` model's probabilities."""
    return load_model(workdir / "best.keras").predict(images, verbose=0)


def test_tensors_and_encoded_files_give_the_keras_models_answers(
    exports: Path, files: list[Path], images: np.ndarray, expected: np.ndarray
) -> None:
    signatures = tf.saved_model.load(str(exports / "1")).signatures
    assert set(signatures) == {"serving_default", "encoded"}
    encoded = tf.constant([read_image(f) for f in files])
    for answer in (
        signatures["serving_default"](images=tf.constant(images)),
        signatures["encoded"](images=encoded),
    ):
        np.testing.assert_allclose(answer["probabilities"], expected, atol=AGREEMENT)
        blast = expected[:, [INDEX[c] for c in BLAST]].sum(axis=1)
        atypical = expected[:, [INDEX[c] for c in ATYPICAL]].sum(axis=1)
        np.testing.assert_allclose(answer["blast_score"], blast, atol=AGREEMENT)
        np.testing.assert_allclose(answer["atypical_score"], atypical, atol=AGREEMENT)
        ranked = np.take_along_axis(
            answer["probabilities"].numpy(),
            np.vectorize(lambda c: INDEX[c.decode()])(answer["classes"].numpy()),
            axis=1,
        )
        assert (np.diff(ranked, axis=1) <= 0).all()


@pytest.mark.parametrize(("height", "width"), [(400, 400), (32, 32), (37, 211)])
@pytest.mark.parametrize("number", [1, 3])
def test_images_of_any_size_and_number_are_taken(
    exports: Path, workdir: Path, height: int, width: int, number: int
) -> None:
    shape = (number, height, width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    signatures = tf.saved_model.load(str(exports / "1")).signatures
    served = signatures["serving_default"](images=tf.constant(images))["probabilities"]
    loaded = load_model(workdir / "best.keras").predict(images, verbose=0)
    np.testing.assert_allclose(served, loaded, atol=AGREEMENT)


def test_one_request_may_hold_files_of_several_sizes_and_formats(exports: Path) -> None:
    import io

    def encoded(size: tuple[int, int], form: str) -> bytes:
        file = io.BytesIO()
        Image.new("RGB", size, "purple").save(file, form)
        return file.getvalue()

    signature = tf.saved_model.load(str(exports / "1")).signatures["encoded"]
    several = [encoded((400, 400), "PNG"), encoded((90, 30), "PNG"), encoded((64, 64), "JPEG")]
    assert signature(images=tf.constant(several))["probabilities"].shape == (3, len(CODES))


def test_session_loader_of_tensorflows_core_takes_it(
    exports: Path, images: np.ndarray, expected: np.ndarray
) -> None:
    """TensorFlow Serving loads by this way; a model can load in Python and fail here."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exports / "1"))
        signature = meta_graph.signature_def["serving_default"]
        fetched = session.run(
            signature.outputs["probabilities"].name,
            {signature.inputs["images"].name: images},
        )
    np.testing.assert_allclose(fetched, expected, atol=AGREEMENT)


def test_no_function_is_marked_for_xla(exports: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((exports / "1" / "saved_model.pb").read_bytes())
    (graph,) = saved.meta_graphs
    functions = graph.graph_def.library.function
    assert len(functions) > 2
    nodes = [*graph.graph_def.node, *(n for f in functions for n in f.node_def)]
    for marked in (*functions, *nodes):
        assert not marked.attr["_XlaMustCompile"].b
    assert not [n.name for n in nodes if n.op in ("XlaLaunch", "_XlaCompile")]


def test_graph_runs_without_onednn(
    exports: Path, images: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "images = tf.constant(np.load(sys.argv[2]))\n"
        "answer = model.signatures['serving_default'](images=images)\n"
        "np.save(sys.argv[3], answer['probabilities'])\n"
    )
    arguments = [exports / "1", tmp_path / "images.npy", tmp_path / "answer.npy"]
    subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        check=True,
        capture_output=True,
    )
    np.testing.assert_allclose(np.load(tmp_path / "answer.npy"), expected, atol=AGREEMENT)


@pytest.fixture(scope="module")
def address(exports: Path) -> Iterator[str]:
    words = ["-m", "serving.local_server", "--model-base-path", str(exports), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.terminate()


def test_served_answers_are_the_keras_models(
    address: str, files: list[Path], expected: np.ndarray
) -> None:
    with Client(address) as client:
        answers = client.predict([read_image(f) for f in files])
    for answer, probabilities in zip(answers, expected, strict=True):
        by_code = dict(zip(answer.classes, answer.probabilities, strict=True))
        np.testing.assert_allclose([by_code[c] for c in CODES], probabilities, atol=AGREEMENT)
        assert answer.model_version == 1


def test_labels_and_origin_travel_with_the_model(exports: Path) -> None:
    extra = exports / "1" / "assets.extra"
    assert tuple((extra / "labels.txt").read_text().split()) == CODES
    description = json.loads((extra / "model.json").read_text())
    assert description["synthetic"] is True
    assert description["research_use_only"] is True
    assert description["trained_on"] == "aml_cytomorphology_lmu/complete/1.0.0"


def test_each_export_is_the_next_version_and_nothing_else_is_left(
    workdir: Path, tmp_path: Path
) -> None:
    base = tmp_path / "leuko"
    (base / "7").mkdir(parents=True)
    assert export(load_model(workdir / "best.keras"), base, {}) == base / "8"
    assert versions(base) == [7, 8]
    assert sorted(f.name for f in base.iterdir()) == ["7", "8"]


def test_failed_export_leaves_nothing(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        export(load_model(workdir / "best.keras"), tmp_path / "leuko", {"not JSON": object()})
    assert not list((tmp_path / "leuko").iterdir())


def test_model_of_another_network_is_refused(tmp_path: Path) -> None:
    import keras

    file = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(file)
    words = ["-m", "leuko_tf.export", "--model", file, "--out", tmp_path / "exports"]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "not the 15 classes" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "exports").exists()
