from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from running import check_refusal, run_module

from leuko_tf.api import explain
from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.config import ModelConfig
from leuko_tf.explanation.methods import METHODS, Explanation
from leuko_tf.network.layers import CellScaling
from leuko_tf.network.loading import load_model
from leuko_tf.network.resnext import (
    LAST_FEATURE_MAP,
    OUTPUT_NAME,
    SCALING,
    build_resnext,
    from_config,
)
from leuko_tf.network.view import crop_center


@pytest.fixture(scope="module")
def images(images: np.ndarray) -> np.ndarray:
    return images[[0, CODES.index("MYO")]]


@pytest.fixture(scope="module")
def explanations(model, images: np.ndarray) -> list[Explanation]:
    return explain(model, images)


def test_maps_have_the_images_size_and_run_from_0_to_1(
    explanations: list[Explanation], images: np.ndarray
) -> None:
    for explanation in explanations:
        assert tuple(explanation.maps) == METHODS
        for saliency in explanation.maps.values():
            assert saliency.shape == images.shape[1:3]
            assert np.isfinite(saliency).all()
            assert saliency.min() >= 0
            assert 0.5 < saliency.max() <= 1


def test_answer_is_the_models(explanations: list[Explanation], images: np.ndarray, model) -> None:
    expected = model.predict(images, verbose=0)
    assert [e.code for e in explanations] == [CODES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(
        [e.probability for e in explanations], expected.max(axis=1), atol=1e-5
    )


def test_plain_gradient_equals_one_taken_by_hand(
    explanations: list[Explanation], images: np.ndarray, model
) -> None:
    dense = model.get_layer(OUTPUT_NAME)
    features = keras.Model(model.get_layer(SCALING).output, dense.input)
    middle = images[:, 30:370, 30:370]  # the model's field is of 340 pixels
    small = tf.image.resize(middle, (32, 32), method="bilinear", antialias=True)
    with tf.GradientTape() as tape:
        tape.watch(small)
        logits = tf.matmul(features(small / 255), dense.kernel) + dense.bias
        answered = tf.reduce_max(logits, axis=1)
    by_hand = tf.reduce_max(tf.abs(tape.gradient(answered, small)), axis=-1)
    by_hand = tf.image.resize(by_hand[..., tf.newaxis], (340, 340)).numpy()[..., 0]
    for explanation, expected in zip(explanations, by_hand, strict=True):
        found = explanation.maps["gradient"]
        correlation = np.corrcoef(found[30:370, 30:370].ravel(), expected.ravel())[0, 1]
        assert found.sum() == pytest.approx(found[30:370, 30:370].sum())
        assert correlation > 0.999


def test_grad_cam_lies_over_the_cells_of_the_feature_map_that_it_weighs() -> None:
    """A network whose feature map is the image itself, a mean for each 8 x 8 pixels."""
    pictures = keras.Input((None, None, 3))
    x = keras.layers.AveragePooling2D(8)(CellScaling(64, 64, name=SCALING)(pictures))
    x = keras.layers.Activation("linear", name=LAST_FEATURE_MAP)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(pictures, keras.layers.Dense(15, activation="softmax")(x))
    kernel = np.zeros((3, 15), np.float32)
    kernel[:, 4] = 1
    model.layers[-1].set_weights([kernel, np.zeros(15, np.float32)])
    image = np.zeros((1, 64, 64, 3), np.uint8)
    image[:, 16:24, 40:48] = 255
    (explanation,) = explain(model, image, ("Grad-CAM++",))
    saliency = explanation.maps["Grad-CAM++"]
    rows, columns = np.mgrid[:64, :64]
    middle = [(places * saliency).sum() / saliency.sum() for places in (rows, columns)]
    np.testing.assert_allclose(middle, [19.5, 43.5], atol=0.05)


@pytest.mark.parametrize(("height", "width"), [(90, 71), (33, 60), (40, 41)])
def test_maps_lie_where_the_network_looks(height: int, width: int) -> None:
    """At the 50 pixels in the middle, or at all of a smaller image."""
    model = build_resnext(32, 50, 15, [1], 8, 8, 2)
    image = np.random.default_rng(0).integers(0, 256, (1, height, width, 3), np.uint8)
    (explanation,) = explain(model, image, METHODS[:1])
    middle = np.asarray(crop_center(image, 50))
    (of_middle,) = explain(model, middle, METHODS[:1])
    assert explanation.probability == pytest.approx(of_middle.probability)
    for method, saliency in explanation.maps.items():
        assert saliency.shape == (height, width)
        top, left = (max(0, (side - 50) // 2) for side in (height, width))
        shown = saliency[top : top + 50, left : left + 50]
        above, before = (max(0, -((side - 50) // 2)) for side in (height, width))
        of_image = of_middle.maps[method][above:, before:][: shown.shape[0], : shown.shape[1]]
        np.testing.assert_allclose(shown, of_image, atol=1e-6)
        assert saliency.sum() == pytest.approx(shown.sum())


def test_images_of_any_sizes_are_explained_in_their_order() -> None:
    model = build_resnext(32, 32, 15, [1], 8, 8, 2)
    rng = np.random.default_rng(0)
    sizes = [(40, 40), (33, 60), *[(40, 40)] * 5, (33, 60)]
    images = [rng.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    for image, found in zip(images, explain(model, images, METHODS[:1]), strict=True):
        (alone,) = explain(model, image, METHODS[:1])
        np.testing.assert_array_equal(found.image, image)
        assert found.code == alone.code
        np.testing.assert_allclose(found.maps["gradient"], alone.maps["gradient"], atol=1e-5)
    assert explain(model, []) == []
    for wrong in (images[0][..., 0], [np.zeros((4, 4, 4), np.uint8)]):
        with pytest.raises(UserError, match=r"must be an array \[height, width, 3\]"):
            explain(model, wrong)
    with pytest.raises(UserError, match="Unknown method 'LIME'"):
        explain(model, images, ("LIME",))


def test_command_draws_a_figure_an_image_and_says_that_cells_are_synthetic(
    smear: Path, workdir: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    Image.open(smear / "EBO" / "EBO_0001.tiff").convert("RGB").resize((90, 70)).save(small)
    out, files = tmp_path / "figures", (smear / "BAS" / "BAS_0001.tiff", small)
    words = ("--model", workdir / "best.keras", "--out", out, *files)
    done = run_module("leuko_tf.saliency", *words)
    assert done.returncode == 0, done.stderr
    assert sorted(f.name for f in out.iterdir()) == ["BAS_0001.png", "small.png"]
    for figure in out.iterdir():
        with Image.open(figure) as picture:
            assert picture.size[0] > 600
            assert "SYNTHETIC" in picture.text["Title"]


def test_unreadable_image_ends_in_one_message(smear: Path, workdir: Path, tmp_path: Path) -> None:
    no_image, truncated = tmp_path / "cell.png", tmp_path / "cell.tiff"
    no_image.write_bytes(b"no image")
    truncated.write_bytes((smear / "EBO" / "EBO_0001.tiff").read_bytes()[:100_000])
    words = ("--model", workdir / "best.keras", "--out", tmp_path / "out")
    for bad in (no_image, truncated, tmp_path):
        done = run_module("leuko_tf.saliency", *words, bad)
        check_refusal(done, f"error: {bad} is not an image")
    assert not (tmp_path / "out").exists()


def test_other_networks_and_mixed_precision_are_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(15)]).save(other)
    with pytest.raises(UserError, match="is not a network of this project"):
        load_model(other)
    mixed = tmp_path / "mixed.keras"
    small = ModelConfig(input_size=32, blocks=[1], stem_width=8, width=8, cardinality=2)
    from_config(small, "mixed_bfloat16").save(mixed)
    with pytest.raises(UserError, match=r"best\.keras"):
        load_model(mixed)
