"""What an exported version answers, by each of its signatures and by the pieces of them."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from leuko_tf.api import explain
from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.network.resnext import OUTPUT_NAME

# What the export promises: `.keras`, SavedModel and served answers agree to this.
AGREEMENT = 1e-5
SIZE = 32  # of the tiny network's input
BAD = b"no image"


@pytest.fixture(scope="module")
def loaded(exports: Path):
    return tf.saved_model.load(str(exports / "1"))


def example(*values: bytes, name: str = "image/encoded") -> bytes:
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    features = tf.train.Features(feature={name: feature})
    return tf.train.Example(features=features).SerializeToString()


def assert_answers(answer: dict[str, np.ndarray], expected: np.ndarray) -> None:
    np.testing.assert_allclose(answer["probabilities"], expected, atol=AGREEMENT)
    for name, codes in (("blast_score", BLAST), ("atypical_score", ATYPICAL)):
        scores = expected[:, [INDEX[c] for c in codes]].sum(axis=1)
        np.testing.assert_allclose(answer[name], scores, atol=AGREEMENT)
    assert_ranked(answer["classes"], np.asarray(answer["probabilities"]))


def assert_ranked(classes: tf.Tensor, probabilities: np.ndarray) -> None:
    order = np.vectorize(lambda code: INDEX[code.decode()])(classes.numpy())
    assert (np.diff(np.take_along_axis(probabilities, order, axis=1), axis=1) <= 0).all()
    assert all(len(set(row)) == len(CODES) for row in order)


def test_signatures_are_these(loaded) -> None:
    files = {"images": ((None,), tf.string)}
    answer = {
        "probabilities": ((None, 15), tf.float32),
        "classes": ((None, 15), tf.string),
        "blast_score": ((None,), tf.float32),
        "atypical_score": ((None,), tf.float32),
        "remark": ((None,), tf.string),
    }
    checked = {"valid": ((None,), tf.bool), "problem": ((None,), tf.string)}
    maps = {"saliency": ((None, SIZE, SIZE), tf.uint8), "field": ((None,), tf.int32)}
    width = loaded.signatures["embed"].structured_outputs["embedding"].shape[1]
    scores = {"classes": ((None, 15), tf.string), "scores": ((None, 15), tf.float32)}
    found = {
        name: tuple(
            {key: (tuple(spec.shape), spec.dtype) for key, spec in specs.items()}
            for specs in (signature.structured_input_signature[1], signature.structured_outputs)
        )
        for name, signature in loaded.signatures.items()
    }
    assert found == {
        "serving_default": ({"images": ((None, None, None, 3), tf.uint8)}, answer),
        "encoded": (files, answer | checked),
        "explain": (files, answer | checked | maps),
        "embed": (files, {"embedding": ((None, width), tf.float32)} | checked),
        "classify": ({"inputs": ((None,), tf.string)}, scores),
    }


def test_every_signature_gives_the_keras_models_answers(
    loaded, pngs: list[bytes], images: np.ndarray, expected: np.ndarray
) -> None:
    signatures = loaded.signatures
    encoded = tf.constant(pngs)
    assert_answers(signatures["serving_default"](images=tf.constant(images)), expected)
    for name in ("encoded", "explain"):
        answer = signatures[name](images=encoded)
        assert_answers(answer, expected)
        assert answer["valid"].numpy().all()
        assert set(answer["problem"].numpy()) == {b""}
    classified = signatures["classify"](inputs=tf.constant([example(f) for f in pngs]))
    np.testing.assert_allclose(classified["scores"], -np.sort(-expected), atol=AGREEMENT)
    assert_ranked(classified["classes"], expected)


@pytest.mark.parametrize(("height", "width"), [(400, 400), (SIZE, SIZE), (37, 211)])
@pytest.mark.parametrize("number", [1, 3])
def test_images_of_any_size_and_number_are_taken(
    loaded, model, height: int, width: int, number: int
) -> None:
    shape = (number, height, width, 3)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    served = loaded.signatures["serving_default"](images=tf.constant(images))["probabilities"]
    np.testing.assert_allclose(served, model.predict(images, verbose=0), atol=AGREEMENT)


@pytest.mark.parametrize("name", ["serving_default", "encoded", "explain", "embed", "classify"])
def test_an_empty_batch_gives_an_empty_answer(loaded, name: str) -> None:
    signature = loaded.signatures[name]
    ((field, spec),) = signature.structured_input_signature[1].items()
    for side in (0, SIZE, 40):
        shape = [0, *(d or side for d in spec.shape[1:])]
        answer = signature(**{field: tf.zeros(shape, spec.dtype)})
        for output, promise in signature.structured_outputs.items():
            assert answer[output].shape == (0, *promise.shape[1:])


@pytest.mark.parametrize("others", [0, 2])
def test_invalid_images_are_zeros_and_empty_strings(
    loaded, pngs: list[bytes], expected: np.ndarray, others: int
) -> None:
    good = pngs[:others]
    batch = [*good, BAD]
    for name in ("encoded", "explain", "embed"):
        answer = {
            k: v.numpy() for k, v in loaded.signatures[name](images=tf.constant(batch)).items()
        }
        assert answer.pop("valid").tolist() == [True] * others + [False]
        assert answer.pop("problem")[-1] == b"not a PNG or JPEG image"
        if name != "embed":
            assert set(answer.pop("classes")[-1]) == {b""}
            answer.pop("remark")  # of the model, and not of the image
            np.testing.assert_allclose(
                answer["probabilities"][:-1], expected[:others], atol=AGREEMENT
            )
        for numbers in answer.values():
            assert not numbers[-1].any()


def test_classify_takes_a_bad_example_for_an_invalid_image(
    loaded, pngs: list[bytes], expected: np.ndarray
) -> None:
    integers = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    number = tf.train.Example(features=tf.train.Features(feature={"image/encoded": integers}))
    bad = [
        *(b"", b"\xff no example", example(), example(pngs[0], pngs[1]), example(BAD)),
        *(example(pngs[0], name="image"), number.SerializeToString()),
    ]
    answer = loaded.signatures["classify"](inputs=tf.constant([*bad, example(pngs[0])]))
    assert not answer["scores"][:-1].numpy().any()
    assert set(answer["classes"][:-1].numpy().ravel()) == {b""}
    np.testing.assert_allclose(answer["scores"][-1], -np.sort(-expected[0]), atol=AGREEMENT)


def test_saliency_is_that_of_the_saliency_command(
    loaded, pngs: list[bytes], images: np.ndarray, model
) -> None:
    """The command computes it with the network as trained, before batch norms are folded."""
    answer = loaded.signatures["explain"](images=tf.constant(pngs))
    explanations = explain(model, images, ("gradient",))
    maps = answer["saliency"].numpy()
    assert (maps.max(axis=(1, 2)) >= 254).all()
    assert set(answer["field"].numpy()) == {340}
    placed = tf.image.resize(maps[..., None] / 255, (340, 340)).numpy()[..., 0]
    for served, explanation in zip(placed, explanations, strict=True):
        expected = explanation.maps["gradient"]
        np.testing.assert_allclose(served, expected[30:370, 30:370], atol=0.51 / 255)
        assert expected.sum() == pytest.approx(expected[30:370, 30:370].sum())


def test_embedding_is_the_input_of_the_last_layer(
    loaded, pngs: list[bytes], expected: np.ndarray, model
) -> None:
    answer = loaded.signatures["embed"](images=tf.constant(pngs))
    last = model.get_layer(OUTPUT_NAME)
    np.testing.assert_allclose(last(answer["embedding"]), expected, atol=AGREEMENT)


def test_pieces_make_up_the_signatures(
    loaded, pngs: list[bytes], images: np.ndarray, expected: np.ndarray
) -> None:
    """As a server does that runs the network elsewhere."""
    resized = loaded.resized(tf.constant(images))
    assert resized.shape == (len(images), SIZE, SIZE, 3)
    assert_answers(loaded.answered(loaded.network(resized)), expected)

    decoded, valid, problem = loaded.decoded(tf.constant([*pngs, BAD]))
    assert valid.numpy().tolist() == [True] * len(pngs) + [False]
    assert problem.numpy()[-1] == b"not a PNG or JPEG image"
    np.testing.assert_allclose(decoded[:-1], resized, atol=1e-3)

    nothing = loaded.answered(tf.zeros((1, 15)))
    assert set(nothing["classes"].numpy().ravel()) == {b""}


def test_network_has_a_fixed_size_and_resizes_nothing(loaded) -> None:
    (network,) = loaded.network.concrete_functions
    assert network.inputs[0].shape.as_list() == [None, SIZE, SIZE, 3]
    assert network.inputs[0].dtype == tf.float32
    library = network.graph.as_graph_def().library.function
    operations = {n.op for f in library for n in f.node_def}
    operations |= {o.type for o in network.graph.get_operations()}
    assert "Conv2D" in operations
    # Those that other runtimes have not, or not as TensorFlow has them.
    foreign = {"ScaleAndTranslate", "ResizeBilinear", "MatrixDiagV3", "If", "StatelessIf", "While"}
    assert operations & foreign == set()
