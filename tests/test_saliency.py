import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leuko_tf.models import load_model
from leuko_tf.resnext import OUTPUT_NAME
from leuko_tf.saliency import METHODS, Explanation, explain


@pytest.fixture(scope="module")
def images(smear: Path) -> np.ndarray:
    files = [smear / "NGS" / "NGS_0001.tiff", smear / "MYO" / "MYO_0001.tiff"]
    return np.stack([np.asarray(Image.open(f).convert("RGB")) for f in files])


@pytest.fixture(scope="module")
def explanations(workdir: Path, images: np.ndarray) -> list[Explanation]:
    return explain(load_model(workdir / "best.keras"), images)


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


def test_answer_is_the_models(
    explanations: list[Explanation], images: np.ndarray, workdir: Path
) -> None:
    from leuko_tf.classes import CODES

    expected = load_model(workdir / "best.keras").predict(images, verbose=0)
    assert [e.code for e in explanations] == [CODES[i] for i in expected.argmax(axis=1)]
    np.testing.assert_allclose(
        [e.probability for e in explanations], expected.max(axis=1), atol=1e-5
    )


def test_plain_gradient_equals_one_taken_by_hand(
    explanations: list[Explanation], images: np.ndarray, workdir: Path
) -> None:
    import keras
    import tensorflow as tf

    model = load_model(workdir / "best.keras")
    dense = model.get_layer(OUTPUT_NAME)
    features = keras.Model(model.inputs, dense.input)
    small = tf.image.resize(images, (32, 32), method="bilinear", antialias=True)
    with tf.GradientTape() as tape:
        tape.watch(small)
        logits = tf.matmul(features(small), dense.kernel) + dense.bias
        answered = tf.reduce_max(logits, axis=1)
    by_hand = tf.reduce_max(tf.abs(tape.gradient(answered, small)), axis=-1)
    by_hand = tf.image.resize(by_hand[..., tf.newaxis], (400, 400)).numpy()[..., 0]
    for explanation, expected in zip(explanations, by_hand, strict=True):
        correlation = np.corrcoef(explanation.maps["gradient"].ravel(), expected.ravel())[0, 1]
        assert correlation > 0.999


def test_command_draws_a_figure_an_image_and_says_that_cells_are_synthetic(
    smear: Path, workdir: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small.png"
    Image.open(smear / "EBO" / "EBO_0001.tiff").convert("RGB").resize((90, 70)).save(small)
    out = tmp_path / "figures"
    words = ["-m", "leuko_tf.saliency", "--model", workdir / "best.keras", "--out", out]
    files = [smear / "BAS" / "BAS_0001.tiff", small]
    subprocess.run([sys.executable, *words, *files], check=True, capture_output=True)
    assert sorted(f.name for f in out.iterdir()) == ["BAS_0001.png", "small.png"]
    for figure in out.iterdir():
        with Image.open(figure) as picture:
            assert picture.size[0] > 600
            assert "SYNTHETIC" in picture.text["Title"]


def test_unreadable_image_ends_in_one_message(smear: Path, workdir: Path, tmp_path: Path) -> None:
    no_image, truncated = tmp_path / "cell.png", tmp_path / "cell.tiff"
    no_image.write_bytes(b"no image")
    truncated.write_bytes((smear / "EBO" / "EBO_0001.tiff").read_bytes()[:100_000])
    words = ["-m", "leuko_tf.saliency", "--model", workdir / "best.keras", "--out", tmp_path / "o"]
    for bad in (no_image, truncated, tmp_path):
        done = subprocess.run(
            [sys.executable, *words, bad], capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert done.stderr.startswith(f"error: {bad} is not an image")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "o").exists()


def test_other_networks_and_mixed_precision_are_refused(tmp_path: Path) -> None:
    import keras

    from leuko_tf.cli import UserError
    from leuko_tf.config import ModelConfig
    from leuko_tf.resnext import from_config

    other = tmp_path / "other.keras"
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(15)]).save(other)
    with pytest.raises(UserError, match="no network of this project"):
        load_model(other)
    mixed = tmp_path / "mixed.keras"
    small = ModelConfig(input_size=32, blocks=[1], stem_width=8, width=8, cardinality=2)
    from_config(small, "mixed_bfloat16").save(mixed)
    with pytest.raises(UserError, match=r"best\.keras"):
        load_model(mixed)
