"""Small real things, made once: a smear, its data set, a trained model, an exported one."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from leuko_tf.classes import CODES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

IMAGES = 150  # ten of each class

# Learns nothing much, but has every part: grouped convolutions, two stages, a schedule.
TINY = [
    "data.samples_per_class=8",
    "data.batch_size=24",
    "model.input_size=32",
    "model.field=340",
    "model.blocks=[1,1]",
    "model.stem_width=8",
    "model.width=16",
    "model.cardinality=4",
    "train.epochs=2",
]


# What takes a training, a built data set, an export, a server or an environment. Tests that use it
# are slow; `make test-fast` leaves them out, and those with a mark of their own.
SLOW_FIXTURES = {
    "bare_python",
    "barcelona_build",
    "clean_python",
    "client_python",
    "data_dir",
    "export_base",
    "munich_build",
    "original",
    "paper",
    "scored",
    "start_server",
    "telling_base",
    "wheel",
}

# Files whose tests mostly start commands, build networks, or draw many pictures.
SLOW_FILES = {
    "aml_cytomorphology_lmu_dataset_builder_test.py",
    "pbc_barcelona_dataset_builder_test.py",
    "test_barcelona_build.py",
    "test_batching.py",
    "test_bench.py",
    "test_black_box.py",
    "test_bootstrap.py",
    "test_build.py",
    "test_commands.py",
    "test_decoding.py",
    "test_docs.py",
    "test_evaluate.py",
    "test_examiners.py",
    "test_export.py",
    "test_focus.py",
    "test_folding.py",
    "test_gallery.py",
    "test_import_2019.py",
    "test_layers.py",
    "test_loadtest.py",
    "test_losses.py",
    "test_optimizers.py",
    "test_packaging.py",
    "test_precision.py",
    "test_report.py",
    "test_resnext.py",
    "test_saliency.py",
    "test_serving_client.py",
    "test_serving_local_server.py",
    "test_synthetic_smear.py",
    "test_tfds_command.py",
    "test_train.py",
}


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Does not even import slow files for `-m "not slow"`."""
    fast = config.option.markexpr == "not slow"
    return True if fast and collection_path.name in SLOW_FILES else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if item.path.name in SLOW_FILES or SLOW_FIXTURES.intersection(fixtures):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data; the tests that need it are skipped where none is named."""
    folder = os.environ.get("LEUKO_SHARED")
    if not folder:
        pytest.skip("LEUKO_SHARED names no folder with real data (see its README.md)")
    return Path(folder)


@pytest.fixture(scope="session")
def smear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic smear as a download folder."""
    from tfds_aml.synthetic_smear.smear import write_smear

    folder = tmp_path_factory.mktemp("download") / "smear"
    write_smear(folder, IMAGES, seed=1)
    return folder


@pytest.fixture(scope="session")
def data_dir(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS folder with the smear, built."""
    import tensorflow_datasets as tfds

    import tfds_aml  # noqa: F401

    folder = tmp_path_factory.mktemp("tfds")
    tfds.builder("aml_cytomorphology_lmu", data_dir=folder).download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(smear))
    )
    return folder


@pytest.fixture(scope="session")
def tiny(data_dir: Path) -> list[str]:
    """Settings of a training that takes seconds."""
    return [*TINY, f"data.data_dir={data_dir}"]


@pytest.fixture(scope="session")
def workdir(tiny: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The work folder of a finished training."""
    from leuko_tf.config import load_config
    from leuko_tf.train import train

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train(load_config("demo.yaml", tiny), folder, verbose=0)
    return folder


@pytest.fixture(scope="session")
def model(workdir: Path):
    """The trained model."""
    from leuko_tf.network.loading import load_model

    return load_model(workdir / "best.keras")


@pytest.fixture(scope="session")
def files(smear: Path) -> list[Path]:
    """A cell of each class."""
    return [smear / code / f"{code}_0001.tiff" for code in CODES]


@pytest.fixture(scope="session")
def pngs(files: list[Path]) -> list[bytes]:
    """The cells as the client sends them."""
    from serving.client import read_image

    return [read_image(file) for file in files]


@pytest.fixture(scope="session")
def images(files: list[Path]) -> np.ndarray:
    """Their pixels."""
    return np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])


@pytest.fixture(scope="session")
def expected(model, images: np.ndarray) -> np.ndarray:
    """The model's probabilities for them."""
    return model.predict(images, verbose=0)


@pytest.fixture(scope="session")
def exports(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's base folder with one exported version."""
    from leuko_tf.export import export
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    base = tmp_path_factory.mktemp("exports") / "leuko"
    model = workdir / "best.keras"
    export(load_model(model), base, describe_model(model).to_json())
    return base
