import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tensorflow as tf
from running import check_refusal, run, run_module
from tensorflow.compat.v1.saved_model import is_valid_signature
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.classification_pb2 import ClassificationRequest
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from leuko_tf.classes import CODES, SYNTHETIC_REMARK
from leuko_tf.cli import UserError
from leuko_tf.export import WARM_BATCH_SIZES, export, find_versions, prune
from leuko_tf.metrics.calibration import apply_temperature
from leuko_tf.network.loading import load_model, make_embedding_model
from leuko_tf.savedmodel.decoding import MAX_PIXELS
from serving.client import Client

# What the export promises: `.keras`, SavedModel and served answers agree to this.
AGREEMENT = 1e-5


def test_session_loader_of_tensorflows_core_takes_it(
    exports: Path, pngs: list[bytes], images: np.ndarray, expected: np.ndarray
) -> None:
    """TensorFlow Serving loads by this way; a model can load in Python and fail here."""
    bad = b"no image"
    encoded = [*pngs, bad]
    example = tf.train.Example()
    example.features.feature["image/encoded"].bytes_list.value.append(encoded[0])
    fed = {
        "serving_default": images,
        "encoded": encoded,
        "explain": encoded,
        "embed": encoded,
        "classify": [example.SerializeToString(), bad],
    }
    answers = {}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        meta_graph = tf.compat.v1.saved_model.loader.load(session, ["serve"], str(exports / "1"))
        for name, batch in fed.items():
            signature = meta_graph.signature_def[name]
            (given,) = signature.inputs.values()
            outputs = {k: o.name for k, o in signature.outputs.items()}
            answers[name] = session.run(outputs, {given.name: batch})
    for name in ("serving_default", "encoded", "explain"):
        probabilities = answers[name]["probabilities"][: len(images)]
        np.testing.assert_allclose(probabilities, expected, atol=AGREEMENT)
    for name in ("encoded", "explain", "embed"):
        assert answers[name]["valid"].tolist() == [True] * len(images) + [False]
    scores = -np.sort(-expected[0])
    np.testing.assert_allclose(answers["classify"]["scores"][0], scores, atol=AGREEMENT)
    assert not answers["classify"]["scores"][1].any()


def test_classify_is_in_tensorflow_servings_form(exports: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((exports / "1" / "saved_model.pb").read_bytes())
    definitions = saved.meta_graphs[0].signature_def
    assert is_valid_signature(definitions["classify"])
    methods = {k: d.method_name for k, d in definitions.items() if not k.startswith("__")}
    assert methods.pop("classify") == "tensorflow/serving/classify"
    assert set(methods) == {"serving_default", "encoded", "explain", "embed"}
    assert set(methods.values()) == {"tensorflow/serving/predict"}


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
    exports: Path, pngs: list[bytes], expected: np.ndarray, tmp_path: Path
) -> None:
    encoded = [tmp_path / f"{i}.png" for i in range(len(pngs))]
    for file, png in zip(encoded, pngs, strict=True):
        file.write_bytes(png)
    program = (
        "import sys, pathlib, numpy as np, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "files = tf.constant([pathlib.Path(f).read_bytes() for f in sys.argv[3:]])\n"
        "answers = [model.signatures[s](images=files) for s in ('encoded', 'explain')]\n"
        "np.save(sys.argv[2], [a['probabilities'] for a in answers])\n"
    )
    command = [sys.executable, "-c", program, exports / "1", tmp_path / "answers.npy", *encoded]
    done = run(command, env={"TF_ENABLE_ONEDNN_OPTS": "0"})
    assert done.returncode == 0, done.stderr
    for answer in np.load(tmp_path / "answers.npy"):
        np.testing.assert_allclose(answer, expected, atol=AGREEMENT)


@pytest.fixture(scope="module", params=[(), ("--enable-batching",)], ids=["plain", "batching"])
def address(exports: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    words = ["-m", "serving.local_server", "--model-base-path", str(exports), "--port", "0"]
    words += request.param
    with subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().split()[-1]
        server.terminate()


def test_every_served_signature_is_the_keras_model(
    address: str, images: np.ndarray, pngs: list[bytes], expected: np.ndarray, model
) -> None:
    def check_classes(classes: list[str], scores: list[float], probabilities: np.ndarray) -> None:
        by_code = dict(zip(classes, scores, strict=True))
        np.testing.assert_allclose([by_code[c] for c in CODES], probabilities, atol=AGREEMENT)

    with Client(address) as client:
        for answer, probabilities in zip(client.predict(pngs), expected, strict=True):
            check_classes(answer.classes, answer.probabilities, probabilities)
            assert answer.model_version == 1
            assert answer.remark == SYNTHETIC_REMARK  # the fixture was trained on drawn cells
        for signature, inputs in {"serving_default": images, "explain": pngs}.items():
            found = client.send(signature, inputs).outputs["probabilities"]
            np.testing.assert_allclose(tf.make_ndarray(found), expected, atol=AGREEMENT)
        found = client.send("embed", pngs).outputs["embedding"]
    features = make_embedding_model(model).predict(images, verbose=0)
    np.testing.assert_allclose(tf.make_ndarray(found), features, atol=AGREEMENT)

    request = ClassificationRequest()
    request.model_spec.name, request.model_spec.signature_name = "leuko", "classify"
    for png in pngs:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(png)
    with grpc.insecure_channel(address) as channel:
        answer = PredictionServiceStub(channel).Classify(request, 60)
    for found, probabilities in zip(answer.result.classifications, expected, strict=True):
        scores = {c.label: c.score for c in found.classes}
        check_classes([*scores], [*scores.values()], probabilities)


def test_labels_and_origin_travel_with_the_model(exports: Path) -> None:
    extra = exports / "1" / "assets.extra"
    assert tuple((extra / "labels.txt").read_text().split()) == CODES
    description = json.loads((extra / "model.json").read_text())
    assert description["synthetic"] is True
    assert description["research_use_only"] is True
    assert description["trained_on"] == "aml_cytomorphology_lmu/complete/1.0.0"
    assert description["versions"]["tensorflow"] == tf.__version__
    assert description["temperature"] == 1
    assert description["input_size"] == 32
    assert description["max_pixels"] == MAX_PIXELS
    names = ["classify", "embed", "encoded", "explain", "serving_default"]
    assert description["signatures"] == names


def test_checksums_are_of_every_other_file(exports: Path) -> None:
    version, sums = exports / "1", Path("assets.extra", "SHA256SUMS")
    command = ["sha256sum", "--check", "--strict", "--quiet", str(sums)]
    subprocess.run(command, cwd=version, check=True)
    named = {line.split("  ")[1] for line in (version / sums).read_text().splitlines()}
    there = {str(f.relative_to(version)) for f in version.rglob("*") if f.is_file()}
    assert named == there - {str(sums)}


def test_warm_up_covers_each_signature_and_batch_size(exports: Path) -> None:
    """The requests are sent as TensorFlow Serving sends them."""
    version = exports / "1"
    signatures = tf.saved_model.load(str(version)).signatures
    covered = set()
    file = version / "assets.extra" / "tf_serving_warmup_requests"
    for record in tf.data.TFRecordDataset(str(file)):
        log = PredictionLog.FromString(record.numpy())
        if log.HasField("classify_log"):
            request = log.classify_log.request
            examples = request.input.example_list.examples
            fields = {"inputs": tf.constant([e.SerializeToString() for e in examples])}
        else:
            request = log.predict_log.request
            fields = {
                k: tf.io.parse_tensor(t.SerializeToString(), tf.as_dtype(t.dtype))
                for k, t in request.inputs.items()
            }
        name = request.model_spec.signature_name
        answer = signatures[name](**fields)
        (count,) = {len(output) for output in answer.values()}
        assert answer.get("valid", tf.constant(True)).numpy().all()
        assert not np.isin(b"", answer.get("classes", "no classes"))
        covered.add((name, count))
    assert covered == {(name, count) for name in signatures for count in WARM_BATCH_SIZES}


def test_temperature_divides_the_logits(
    workdir: Path, images: np.ndarray, expected: np.ndarray, tmp_path: Path
) -> None:
    version = export(load_model(workdir / "best.keras"), tmp_path, {}, temperature=2.5)
    signatures = tf.saved_model.load(str(version)).signatures
    answer = signatures["serving_default"](images=tf.constant(images))
    np.testing.assert_allclose(
        answer["probabilities"], apply_temperature(expected, 2.5), atol=AGREEMENT
    )
    description = json.loads((version / "assets.extra" / "model.json").read_text())
    assert description["temperature"] == 2.5


def test_each_export_is_the_next_version_and_nothing_else_is_left(
    workdir: Path, tmp_path: Path
) -> None:
    base = tmp_path / "leuko"
    for name in ("7", "007", "99-draft", "²"):
        (base / name).mkdir(parents=True)
    ended = subprocess.Popen(["true"])
    ended.wait()
    host = socket.gethostname()
    kept = [f".unfinished-{host}-{os.getppid()}", f".unfinished-elsewhere-{ended.pid}"]
    for name in (*kept, f".unfinished-{host}-{ended.pid}"):
        (base / name / "variables").mkdir(parents=True)
    assert export(load_model(workdir / "best.keras"), base, {}) == base / "8"
    assert find_versions(base) == [7, 8]
    expected = {"7", "8", "007", "99-draft", "²", *kept}
    assert {f.name for f in base.iterdir()} == expected


def test_existing_version_is_refused(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / "3").mkdir()
    with pytest.raises(UserError, match=r"Version .*3 exists"):
        export(load_model(workdir / "best.keras"), tmp_path, {}, version=3)
    assert [f.relative_to(tmp_path) for f in tmp_path.rglob("*")] == [Path("3")]


@pytest.mark.parametrize(
    ("published", "keep", "left"),
    [(9, 1, [9]), (9, 2, [7, 9]), (9, 5, [1, 2, 7, 9]), (1, 1, [1]), (2, 3, [2, 7, 9])],
)
def test_the_oldest_versions_are_pruned(
    tmp_path: Path, published: int, keep: int, left: list[int]
) -> None:
    for version in (1, 2, 7, 9):
        (tmp_path / str(version) / "variables").mkdir(parents=True)
    deleted = prune(tmp_path, keep, tmp_path / str(published))
    assert find_versions(tmp_path) == left
    assert sorted([*deleted, *left]) == [1, 2, 7, 9]
    assert {f.name for f in tmp_path.iterdir()} == set(map(str, left))


def test_command_with_all_its_options(workdir: Path, tmp_path: Path) -> None:
    base, card = tmp_path / "leuko", tmp_path / "card.md"
    card.write_text("# Model card\n")
    for version in ("1", "4"):
        (base / version).mkdir(parents=True)

    def command(*options: str) -> "subprocess.CompletedProcess[str]":
        words = ("--model", workdir / "best.keras", "--out", base, "--card", card)
        return run_module("leuko_tf.export", *words, *options)

    done = command("--temperature", "1.5", "--version", "12", "--keep", "2")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"exported: {base / '12'}", f"deleted: {base / '1'}"]
    assert find_versions(base) == [4, 12]
    extra = base / "12" / "assets.extra"
    assert (extra / "model_card.md").read_text() == card.read_text()
    assert (extra / "config.yaml").read_text() == (workdir / "config.yaml").read_text()
    assert json.loads((extra / "model.json").read_text())["temperature"] == 1.5

    check_refusal(command("--version", "12"), f"error: Version {base / '12'} exists")
    for wrong in (["--temperature", "0"], ["--temperature", "nan"], ["--keep", "0"]):
        check_refusal(command(*wrong), f"not '{wrong[1]}'", status=2)


def test_failed_export_leaves_nothing(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        export(load_model(workdir / "best.keras"), tmp_path / "leuko", {"not JSON": object()})
    assert not list((tmp_path / "leuko").iterdir())


def test_model_of_another_network_is_refused(tmp_path: Path) -> None:
    import keras

    file = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(file)
    done = run_module("leuko_tf.export", "--model", file, "--out", tmp_path / "exports")
    check_refusal(done, "not the 15 classes")
    assert not (tmp_path / "exports").exists()
