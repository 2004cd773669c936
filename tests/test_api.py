"""`import leuko_tf` as notebooks and scripts use it."""

import sys
from pathlib import Path

import numpy as np
import pytest
from running import ROOT, run, run_module

import leuko_tf
from leuko_tf.__main__ import COMMANDS
from leuko_tf.cli import UserError
from leuko_tf.predictions import PROBABILITIES


@pytest.fixture(scope="module")
def model(workdir: Path):
    return leuko_tf.load_model(str(workdir / "best.keras"))


@pytest.fixture(scope="module")
def files(smear: Path) -> list[str]:
    return [str(file) for file in sorted((smear / "BAS").iterdir())[:3]]


@pytest.mark.slow
def test_the_import_is_light_and_the_names_are_there() -> None:
    program = (
        "import sys, leuko_tf\n"
        "assert leuko_tf.CODES[0] == 'NGS'\n"
        "assert set(leuko_tf.__all__) <= set(dir(leuko_tf))\n"
        "assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)\n"
        "from leuko_tf import predict\n"
        "assert callable(predict) and callable(leuko_tf.predict) and callable(leuko_tf.explain)"
    )
    done = run([sys.executable, "-c", program], env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(AttributeError, match="no attribute 'fit'"):
        leuko_tf.fit  # noqa: B018


@pytest.mark.slow
@pytest.mark.parametrize("module", ["view", "layers", "resnext", "convolution", "loading"])
def test_modules_of_the_network_may_be_imported_first(module: str) -> None:
    """Keras, once imported, registers the layers: that must not need a half-imported module."""
    done = run([sys.executable, "-c", f"import leuko_tf.network.{module}"])
    assert done.returncode == 0, done.stderr


def test_no_module_hides_the_function_predict() -> None:
    """To import the command's module would set `leuko_tf.predict` to it."""
    for package in ("leuko_tf", "serving", "tfds_aml", "benchmarks", "tests"):
        for file in (ROOT / package).rglob("*.py"):
            assert "leuko_tf.predict " + "import" not in file.read_text(), file


def test_files_and_arrays_get_the_same_answers(model, files: list[str]) -> None:
    table = leuko_tf.predict(model, files)
    assert [*table["id"]] == files
    assert table.attrs["problems"] == []
    images = np.stack([leuko_tf.read_image(file) for file in files])
    expected = model.predict_on_batch(images)
    np.testing.assert_allclose(table[PROBABILITIES], expected, atol=1e-5)
    for given in (images, [*images], images.astype(np.float32)):
        found = leuko_tf.predict(model, given)
        assert [*found["id"]] == ["0", "1", "2"]
        np.testing.assert_allclose(found[PROBABILITIES], expected, atol=1e-5)
    (one,) = leuko_tf.predict(model, images[0])["answer"]
    assert one == leuko_tf.CODES[expected[0].argmax()]


def test_a_folder_with_a_bad_file_warns(model, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "a.tiff").write_bytes(Path(files[0]).read_bytes())
    (tmp_path / "b.png").write_text("no image")
    with pytest.warns(UserWarning, match="1 of 2 images could not be read"):
        table = leuko_tf.predict(model, tmp_path)
    assert [*table["id"]] == ["a.tiff"]
    (tmp_path / "a.tiff").unlink()
    with pytest.raises(UserError, match="None of 1 images could be read"):
        leuko_tf.predict(model, tmp_path)


def test_images_may_differ_in_size(model, files: list[str]) -> None:
    image = leuko_tf.read_image(files[0])
    table = leuko_tf.predict(model, [image, image[10:-10, 20:-20]])
    assert [*table["width"]] == [400, 360]
    np.testing.assert_allclose(*table[PROBABILITIES].to_numpy(), atol=1e-5)  # the same middle


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ([], "no images"),
        (np.zeros((400, 400), np.uint8), "shape"),
        (np.zeros((3, 400, 400), np.uint8), "shape"),
        (np.zeros((1, 400, 400, 4), np.uint8), "shape"),
        (np.full((400, 400, 3), 0.5), "multiply it by 255"),
        (np.full((400, 400, 3), 300.0), "values in 0 to 255"),
        (np.full((400, 400, 3), np.nan), "values in 0 to 255"),
    ],
)
def test_what_is_no_image_is_refused(model, images, message: str) -> None:
    with pytest.raises(UserError, match=message):
        leuko_tf.predict(model, images)


def test_a_scale_needs_a_model_that_tells_its_own(model, files: list[str]) -> None:
    scaling = model.get_layer("scaling")
    own, scaling.pixel_size_um = scaling.pixel_size_um, None
    try:
        with pytest.raises(UserError, match="does not tell the pixel size"):
            leuko_tf.predict(model, files, pixel_size_um=0.1)
    finally:
        scaling.pixel_size_um = own


def test_the_package_lists_its_commands() -> None:
    done = run_module("leuko_tf")
    assert done.returncode == 0
    for command, purpose in COMMANDS.items():
        assert command in done.stdout
        assert purpose in done.stdout


def test_every_public_command_is_listed() -> None:
    internal = {"leuko_tf.__main__", "tfds_aml.synthetic_smear.contact_sheet"}
    modules = set()
    for package in ("leuko_tf", "serving", "tfds_aml"):
        for file in (ROOT / package).rglob("*.py"):
            if '__name__ == "__main__"' in file.read_text() and not file.stem.endswith("_test"):
                name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
                modules.add(name if name == "leuko_tf.__main__" else name.removesuffix(".__main__"))
    assert modules - internal == {name for name in COMMANDS if " " not in name}
