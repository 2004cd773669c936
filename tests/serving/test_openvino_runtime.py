"""The local server with `--runtime openvino` against TensorFlow's own run of the export."""

import numpy as np
import pytest
import tensorflow as tf
from calls import encode_png

from serving.client import Client
from serving.messages import to_array
from tfds_aml.synthetic_smear.drawing import draw_cell

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def openvino_client(start_server, exports):
    pytest.importorskip("openvino", reason="openvino is not installed (pip install .[openvino])")
    options = ("--model-base-path", exports, "--runtime", "openvino")
    with start_server(*options) as server, Client(server.address) as client:
        yield client


@pytest.fixture(scope="module")
def signatures(exports):
    return tf.saved_model.load(str(exports / "1")).signatures


def _draw_cells(count: int) -> np.ndarray:
    drawn = [draw_cell("MYO", np.random.default_rng(seed))[0][..., :3] for seed in range(count)]
    return np.stack(drawn)


def _ask(client: Client, signature: str, images) -> dict[str, np.ndarray]:
    answer = client.send(signature, images)
    return {name: to_array(tensor) for name, tensor in answer.outputs.items()}


def _check_same(found: dict[str, np.ndarray], expected: dict[str, tf.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if value.dtype == tf.float32:
            np.testing.assert_allclose(found[name], value, atol=TOLERANCE, err_msg=name)
        elif name != "classes":  # near ties may be ordered otherwise
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_images_are_answered_as_by_tensorflow(openvino_client, signatures):
    images = _draw_cells(3)
    found = _ask(openvino_client, "serving_default", images)
    expected = signatures["serving_default"](tf.constant(images))
    assert expected["probabilities"].numpy().std() > 100 * TOLERANCE
    _check_same(found, expected)


def test_files_are_answered_as_by_tensorflow_and_damaged_ones_marked(openvino_client, signatures):
    good = encode_png(_draw_cells(1)[0])
    files = [good, good[:300], encode_png(_draw_cells(2)[1][:200, :250])]
    found = _ask(openvino_client, "encoded", files)
    assert [*found["valid"]] == [True, False, True]
    _check_same(found, signatures["encoded"](tf.constant(files)))


@pytest.mark.parametrize("signature", ["serving_default", "encoded"])
def test_no_image_gives_no_answer(openvino_client, signature):
    none = np.zeros((0, 40, 40, 3), np.uint8) if signature == "serving_default" else []
    assert _ask(openvino_client, signature, none)["probabilities"].shape == (0, 15)


def test_other_signatures_are_still_there(openvino_client):
    assert _ask(openvino_client, "embed", [encode_png(_draw_cells(1)[0])])["valid"].all()
