"""Executes the notebooks in a real kernel, on the files of a small demo."""

import ast
import base64
import io
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

from leuko_tf.classes import CODES, SYNTHETIC_REMARK

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
TIMEOUT_S = 300  # of one cell
OWN_PACKAGES = ("leuko_tf", "serving", "tfds_aml")


@pytest.fixture(scope="module")
def demo(
    smear: Path,
    data_dir: Path,
    workdir: Path,
    exports: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """A folder with the files of `make demo` that the notebooks need, in `runs/demo`."""
    from leuko_tf.inference import PREDICTIONS, predict_folds
    from leuko_tf.provenance import describe_model

    root = tmp_path_factory.mktemp("notebooks")
    folder = root / "runs" / "demo"
    (folder / "exports").mkdir(parents=True)
    (root / "notebooks").mkdir()
    (folder / "smear").symlink_to(smear)
    (folder / "training").symlink_to(workdir)
    (folder / "exports" / "leuko").symlink_to(exports)
    model = folder / "training" / "best.keras"
    dataset = "aml_cytomorphology_lmu/complete"
    fold = describe_model(model).held_out_fold
    assert fold is not None
    table = predict_folds(model, dataset, str(data_dir), [fold], folder / "evaluation")
    assert table == folder / "evaluation" / PREDICTIONS
    return root


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Returns a function that executes a notebook in a folder."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))  # ignore the user's settings
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    # Otherwise the threads of scikit-learn's t-SNE slow down when other tests run.
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for variable in ("MPLBACKEND", "LEUKO_SERVING_ADDRESS"):
        monkeypatch.delenv(variable, raising=False)

    def execute(name: str, folder: Path) -> nbformat.NotebookNode:
        notebook = nbformat.read(ROOT / "notebooks" / name, as_version=4)
        return NotebookClient(
            notebook,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            resources={"metadata": {"path": str(folder)}},
        ).execute()

    return execute


def find_outputs(notebook: nbformat.NotebookNode) -> list:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def read_text(notebook: nbformat.NotebookNode) -> str:
    """The notebook's printed text and its tables."""
    return "\n".join(
        output.get("text", "") + output.get("data", {}).get("text/plain", "")
        for output in find_outputs(notebook)
        if output.get("name") != "stderr"
    )


def check_pictures(notebook: nbformat.NotebookNode, number: int) -> None:
    encoded = [output.get("data", {}).get("image/png") for output in find_outputs(notebook)]
    pictures = [
        Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB") for png in encoded if png
    ]
    assert len(pictures) == number
    for picture in pictures:
        assert min(picture.size) > 300
        assert len(np.unique(np.asarray(picture).reshape(-1, 3), axis=0)) > 100


def test_classify_your_cells(execute, demo: Path) -> None:
    notebook = execute("classify_your_cells.ipynb", demo)
    printed = read_text(notebook)
    # The held-out fifth of the smear.
    assert "30 SYNTHETIC cells; network trained on SYNTHETIC cells; research use only" in printed
    assert re.search(r"BAS/BAS_\d{4}\.tiff +[A-Z]{3} +0\.\d", printed)
    assert "threshold  answered  right" in printed
    check_pictures(notebook, 3)


def test_look_inside(execute, demo: Path) -> None:
    notebook = execute("look_inside.ipynb", demo)
    printed = read_text(notebook)
    assert "30 SYNTHETIC cells; network trained on SYNTHETIC cells; research use only" in printed
    assert re.search(r"\d+ features of each of 30 SYNTHETIC cells", printed)
    assert re.search(r"\d+\.\d% of 30 SYNTHETIC cells have a nearest neighbour", printed)
    check_pictures(notebook, 2)


def test_ask_the_server(execute, demo: Path) -> None:
    # From the folder of the notebooks, where Jupyter starts when one is opened by a click.
    notebook = execute("ask_the_server.ipynb", demo / "notebooks")
    printed = read_text(notebook)
    assert "state='AVAILABLE'" in printed
    assert SYNTHETIC_REMARK in printed
    assert re.search(r"MYO_0001\.tiff +[A-Z]{3}", printed)
    damaged = next(cell for cell in notebook.cells if cell.id == "damaged").outputs[0].text
    answered, truncated, no_image = damaged.splitlines()
    assert answered[:3] in CODES
    assert "damaged" in truncated
    assert "not a PNG or JPEG image" in no_image
    assert "signatures: classify embed encoded explain serving_default" in printed
    assert f"answer: {answered}" in printed  # by REST as by gRPC
    assert "the server ended with status 0" in printed
    check_pictures(notebook, 1)


def test_there_are_three() -> None:
    assert [file.stem for file in FILES] == ["ask_the_server", "classify_your_cells", "look_inside"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_committed_notebooks_are_plain(file: Path) -> None:
    notebook = nbformat.read(file, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert file.stat().st_size < 20_000
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert (cell.outputs, cell.execution_count) == ([], None), cell.id
        assert cell.metadata == {}, cell.id
    introduction = notebook.cells[0].source
    assert "Research use only" in introduction
    assert "synthetic" in introduction


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_notebooks_use_public_names_alone(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    taken = [
        f"{node.module}.{name.name}"
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    ]
    own = [name for name in taken if name.split(".")[0] in OWN_PACKAGES]
    assert own
    assert not [name for name in own if "._" in name]
    assert "._" not in code


class TestEmbedding:
    def test_features_are_what_the_last_layer_takes(self, workdir: Path, smear: Path) -> None:
        from leuko_tf.data.images import read_image
        from leuko_tf.network.loading import load_model, make_embedding_model
        from leuko_tf.network.resnext import OUTPUT_NAME

        model = load_model(workdir / "best.keras")
        names = ("NGS/NGS_0001.tiff", "MYO/MYO_0001.tiff")
        images = np.stack([read_image(smear / name) for name in names])
        features = make_embedding_model(model).predict(images, verbose=0)
        dense = model.get_layer(OUTPUT_NAME)
        assert features.shape == (2, dense.kernel.shape[0])
        assert features.dtype == np.float32
        logits = features @ dense.kernel.numpy() + dense.bias.numpy()
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        expected = model.predict(images, verbose=0)
        np.testing.assert_allclose(
            shares / shares.sum(axis=1, keepdims=True), expected, rtol=1e-4, atol=1e-6
        )

    @pytest.mark.parametrize("merging", ["in the dense layer", "after it"])
    def test_merged_outputs_change_nothing(self, merging: str) -> None:
        import keras

        from leuko_tf.network.layers import MergingDense
        from leuko_tf.network.loading import make_embedding_model
        from leuko_tf.network.resnext import build_resnext

        network = build_resnext(
            input_size=32, blocks=[1], stem_width=8, width=8, cardinality=2, num_outputs=16
        )
        features = network.get_layer("pool").output
        if merging == "after it":
            outputs = network.output[:, :15]
        else:
            outputs = MergingDense(16, into=13, activation="softmax")(features)
        model = keras.Model(network.inputs, outputs)
        cell = np.random.default_rng(1).integers(0, 256, (1, 40, 40, 3), np.uint8)
        found = make_embedding_model(model).predict(cell, verbose=0)
        assert found.shape == (1, 16)
        expected = keras.Model(network.inputs, features).predict(cell, verbose=0)
        np.testing.assert_array_equal(found, expected)
