"""The network of 2019 from its weight file: the answers of the original, or a clear message."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import reference_2019 as reference
from running import check_refusal, run_module

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.import_2019 import import_network, read_weights
from leuko_tf.network.layers import MergingDense
from leuko_tf.network.loading import load_model
from tfds_aml.images import read_tiff

# Of probabilities.
AGREEMENT = 1e-5
SIZE = 400


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """Drawn cells, and noise."""
    from tfds_aml.synthetic_smear.drawing import draw_cell

    rng = np.random.default_rng(4)
    cells = [draw_cell(code, rng)[0][..., :3] for code in ("NGS", "MYO", "EBO", "KSC")]
    noise = rng.integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    return np.concatenate([cells, noise])


@pytest.fixture(scope="module")
def original(images: np.ndarray):
    """The network of 2019 by its own construction, with random weights."""
    model = reference.build()
    reference.fill(model, images)
    return model


@pytest.fixture(scope="module")
def files(original, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """Its weight file, and the file of the whole model: 400 MB, which are not kept."""
    folder = tmp_path_factory.mktemp("published")
    weights, whole = folder / "weights.hdf5", folder / "model.hdf5"
    reference.save(original, weights, whole)
    yield weights, whole
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def imported(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the command makes of the weight file."""
    out = tmp_path_factory.mktemp("imported") / "network2019.keras"
    done = run_module("leuko_tf.import_2019", files[0], "--out", out)
    assert done.returncode == 0, done.stderr
    assert "imported 549 convolutions and 53 batch norms, 23,115,024 parameters" in done.stdout
    assert [f.name for f in out.parent.iterdir()] == [out.name]
    return out


@pytest.fixture(scope="module")
def model(imported: Path) -> keras.Model:
    return load_model(imported)


def sum_erythroblasts(sixteen: np.ndarray) -> np.ndarray:
    """Converts the original's 16 probabilities into the 15 of this project."""
    by_code = dict(zip(reference.OUTPUTS, sixteen.T, strict=True))
    by_code["EBO"] = by_code["EBO"] + by_code.pop("EBO2")
    return np.stack([by_code[code] for code in CODES], axis=1)


class TestAnswers:
    def test_they_are_the_originals(self, original, model, images):
        expected = sum_erythroblasts(reference.predict(original, images))
        # Random weights prove nothing unless images and classes differ in their probabilities.
        assert expected.std(axis=0).min() > 100 * AGREEMENT
        assert expected.max(axis=1).min() > 0.1
        received = model.predict_on_batch(images)
        np.testing.assert_allclose(received, expected, atol=AGREEMENT)

    def test_they_are_the_originals_on_real_cells(self, original, model, shared):
        folder = shared / "data" / "aml_lmu" / "images"
        real = np.stack([read_tiff(next((folder / c).iterdir())) for c in ("EBO", "LYT", "MYO")])
        expected = sum_erythroblasts(reference.predict(original, real))
        received = model.predict_on_batch(real)
        np.testing.assert_allclose(received, expected, atol=AGREEMENT)

    def test_raw_they_are_the_sixteen_of_the_file(self, original, files, images, tmp_path):
        raw = import_network(files[0], raw_outputs=True)
        expected = reference.predict(original, images[:2])
        np.testing.assert_allclose(raw.predict_on_batch(images[:2]), expected, atol=AGREEMENT)
        raw.save(tmp_path / "raw.keras")
        with pytest.raises(UserError, match=r"outputs \(None, 16\), not the 15 classes"):
            load_model(tmp_path / "raw.keras")


class TestMergingDense:
    @pytest.fixture
    def merging(self) -> keras.Model:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((3,))
        return keras.Model(inputs, MergingDense(6, into=1, activation="softmax")(inputs))

    # Logits of 10,000, too: their exponentials are infinite in float32.
    @pytest.mark.parametrize("scale", [0, 1, 30, 10_000])
    def test_a_softmax_gives_the_sum_of_the_two_and_the_others_as_they_are(self, merging, scale):
        inputs = scale * np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32)
        kernel, bias = merging.get_weights()
        assert kernel.shape == (3, 6)
        separate = keras.ops.softmax(inputs @ kernel + bias).numpy()
        expected = separate[:, :5].copy()
        expected[:, 1] += separate[:, 5]
        np.testing.assert_allclose(merging(inputs), expected, atol=1e-6)

    def test_gradients_are_those_of_the_sum(self, merging):
        import tensorflow as tf

        inputs = tf.constant(np.random.default_rng(0).normal(size=(4, 3)), tf.float32)
        kernel, bias = (w.value for w in merging.weights)
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(inputs)
            merged = tf.math.log(merging(inputs)[:, 1])
            separate = tf.nn.softmax(inputs @ kernel + bias)
            summed = tf.math.log(separate[:, 1] + separate[:, 5])
        for weight in (inputs, kernel, bias):
            one, other = tape.gradient(merged, weight), tape.gradient(summed, weight)
            np.testing.assert_allclose(one, other, atol=1e-6)

    def test_it_can_be_saved(self, merging, tmp_path):
        merging.save(tmp_path / "m.keras")
        again = keras.models.load_model(tmp_path / "m.keras")
        assert again.output_shape == (None, 5)
        inputs = np.eye(3, dtype=np.float32)
        np.testing.assert_array_equal(again(inputs), merging(inputs))


@pytest.fixture(scope="module")
def empty(files: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file with the layers and shapes of the full one: zeros that take no room."""
    file = tmp_path_factory.mktemp("empty") / "weights.hdf5"
    with h5py.File(files[0]) as full, h5py.File(file, "w") as thin:

        def repeat(path: str, item: object) -> None:
            if isinstance(item, h5py.Dataset):
                thin.create_dataset(path, item.shape, item.dtype)
            else:
                thin.require_group(path)

        full.visititems(repeat)
    return file


class TestLayouts:
    def test_the_file_has_the_layers_of_keras_2(self, files):
        with h5py.File(files[0]) as content:
            with_weights = [name for name in content if len(content[name])]
            assert len(content) > len(with_weights)  # activations and the like have none
            assert sum(n.startswith("conv2d_") for n in with_weights) == 549
            assert sum(n.startswith("batch_normalization_") for n in with_weights) == 53
            assert {*content["conv2d_7/conv2d_7"]} == {"kernel:0", "bias:0"}

    def test_a_whole_model_gives_the_same_as_its_weights(self, files):
        weights, whole = files
        with h5py.File(whole) as content:
            assert {*content} >= {"model_weights", "optimizer_weights"}
        assert_same(read_weights(whole), read_weights(weights))

    def test_neither_order_nor_attributes_count(self, files, tmp_path):
        other = tmp_path / "shuffled.hdf5"
        with h5py.File(files[0]) as full, h5py.File(other, "w", track_order=True) as content:
            names = [*full]
            for i in np.random.default_rng(0).permutation(len(names)):
                group = content.create_group(names[i], track_order=True)
                for path in reversed(dataset_paths(full[names[i]])):
                    group[path] = full[names[i]][path][...]
            assert [*content] != names
            content.attrs["layer_names"] = [b"dense_1", b"none"]
        assert_same(read_weights(other), read_weights(files[0]))

    # In a session that had made other networks before; and in other versions of Keras 2.
    @pytest.mark.parametrize("first", [550, 0])
    def test_numbers_may_begin_elsewhere(self, files, tmp_path, first):
        other = tmp_path / "renumbered.hdf5"
        with h5py.File(files[0]) as full, h5py.File(other, "w") as content:
            for name in full:
                for path in dataset_paths(full[name]):
                    kind, _, number = name.rpartition("_")
                    new = int(number) - 1 + first
                    target = f"{kind}_{new}" if new else kind
                    content[f"{target}/{target}_1/{path.split('/')[-1]}"] = full[name][path][...]
        assert_same(read_weights(other), read_weights(files[0]))


def dataset_paths(group: h5py.Group) -> list[str]:
    paths: list[str] = []
    group.visititems(lambda p, item: paths.append(p) if isinstance(item, h5py.Dataset) else None)
    return paths


def assert_same(one: dict, other: dict) -> None:
    assert [*one] == [*other]
    for name in one:
        for a, b in zip(one[name], other[name], strict=True):
            np.testing.assert_array_equal(a, b, err_msg=name)


LAYER = "conv2d_7"
KERNEL, BIAS = f"{LAYER}/{LAYER}/kernel:0", f"{LAYER}/{LAYER}/bias:0"
SHAPE = (3, 3, 4, 4)  # of that kernel
NORM = "batch_normalization_2"
VARIANCE = f"{NORM}/{NORM}/moving_variance:0"
HUGE = (3, 3, 4, 10**12)  # would not fit into memory; takes no room in the file


def put(path: str, value: object = None) -> Callable[[h5py.File], None]:
    """Makes a change to a file: puts `value`, or nothing, in place of what is at `path`."""

    def change(content: h5py.File) -> None:
        if path in content:
            del content[path]
        if value is not None:
            content[path] = value

    return change


def put_huge(content: h5py.File) -> None:
    del content[KERNEL]
    content.create_dataset(KERNEL, HUGE, np.float32, chunks=(3, 3, 4, 1024))


def put_numbers_outside(content: h5py.File) -> None:
    del content[KERNEL]
    outside = [(str(Path(content.filename).with_name("numbers.bin")), 0, 4 * 9 * 4 * 4)]
    content.create_dataset(KERNEL, SHAPE, np.float32, external=outside)


def put_virtual_numbers(content: h5py.File) -> None:
    del content[KERNEL]
    layout = h5py.VirtualLayout(SHAPE, np.float32)
    layout[...] = h5py.VirtualSource("other.hdf5", "kernel", SHAPE)
    content.create_virtual_dataset(KERNEL, layout)


NUMBERS = np.zeros((16, 2), np.float32)
BAD_FILES = {
    r"548 layers conv2d_\*, not 549: conv2d_7 missing": put(LAYER),
    r"52 layers .*, not 53: batch_normalization_53 missing": put("batch_normalization_53"),
    r"2 layers dense_\*, not 1: dense_2 too many": put("dense_2/dense_2/kernel:0", NUMBERS),
    r"it has lstm_1, which that network has not": put("lstm_1/lstm_1/kernel:0", NUMBERS),
    r"conv2d_7 has the weights kernel, where kernel, bias were expected": put(BIAS),
    r"conv2d_7 has the weights bias, kernel, scale, where kernel, bias were expected": put(
        f"{LAYER}/{LAYER}/scale:0", NUMBERS
    ),
    r"conv2d_7 has the weight kernel twice": put(f"{LAYER}/other/kernel:0", NUMBERS),
    r"conv2d_7: kernel has the shape \(3, 3, 4\), not \(3, 3, 4, 4\)": put(
        KERNEL, np.zeros(SHAPE[:3], np.float32)
    ),
    r"conv2d_7: kernel holds numbers that are not finite": put(
        KERNEL, np.full(SHAPE, np.nan, np.float32)
    ),
    r"conv2d_7: kernel holds int64": put(KERNEL, np.ones(SHAPE, int)),
    r"batch_normalization_2: moving_variance holds numbers below zero": put(
        VARIANCE, np.full(128, -1.0)
    ),
    r"its model_weights are not a group of layers": put("model_weights", np.zeros(3)),
    r"conv2d_7: kernel has the shape \(3, 3, 4, 1000000000000\)": put_huge,
    r"conv2d_7 missing(?#external)": put(LAYER, h5py.ExternalLink("other.hdf5", LAYER)),
    r"conv2d_7 missing(?#soft)": put(LAYER, h5py.SoftLink("/conv2d_8")),
    r"conv2d_7: kernel is in another file(?#external)": put_numbers_outside,
    r"conv2d_7: kernel is in another file(?#virtual)": put_virtual_numbers,
}


class TestBadFiles:
    def test_the_file_that_the_others_are_made_of_is_good(self, empty):
        assert len(read_weights(empty)) == 53 + 53 + 1

    @pytest.mark.parametrize(("message", "change"), BAD_FILES.items(), ids=[*BAD_FILES])
    def test_what_is_wrong_is_named(self, message, change, empty, tmp_path):
        file = tmp_path / "bad.hdf5"
        shutil.copyfile(empty, file)
        shutil.copyfile(empty, tmp_path / "other.hdf5")
        (tmp_path / "numbers.bin").write_bytes(bytes(4 * 9 * 4 * 4))
        with h5py.File(file, "r+") as content:
            change(content)
        with pytest.raises(UserError, match=message) as caught:
            read_weights(file)
        assert str(caught.value).startswith(f"{file} does not hold the network of 2019: ")

    def test_a_weight_file_of_another_network(self, tmp_path):
        import tf_keras

        layers = [tf_keras.layers.Conv2D(4, 3, name=f"conv2d_{i}") for i in (1, 2)]
        other = tf_keras.Sequential([*layers, tf_keras.layers.Dense(16, name="fc1000")])
        other.build((None, 20, 20, 3))
        other.save_weights(tmp_path / "other.hdf5", save_format="h5")
        with pytest.raises(UserError) as caught:
            read_weights(tmp_path / "other.hdf5")
        assert str(caught.value).endswith(
            "other.hdf5 does not hold the network of 2019: it has fc1000, which that network has "
            "not; it has 2 layers conv2d_*, not 549: conv2d_3, conv2d_4, conv2d_5 and 544 more "
            "missing; it has 0 layers batch_normalization_*, not 53: batch_normalization_1, "
            "batch_normalization_2, batch_normalization_3 and 50 more missing; it has 0 layers "
            "dense_*, not 1: dense_1 missing"
        )

    @pytest.mark.parametrize("share", [0.999, 0.5, 0.01])
    def test_a_truncated_file(self, files, tmp_path, share):
        file = tmp_path / "truncated.hdf5"
        with files[0].open("rb") as full:
            file.write_bytes(full.read(int(share * files[0].stat().st_size)))
        with pytest.raises(UserError, match=r"truncated\.hdf5 is damaged or truncated; get it"):
            read_weights(file)

    def test_a_file_that_is_damaged_within_gives_a_message_or_the_right_names(
        self, empty, tmp_path
    ):
        """Any byte may be wrong; nothing but a `UserError` may come of it."""
        content = np.frombuffer(empty.read_bytes(), np.uint8)
        rng = np.random.default_rng(0)
        messages = 0
        for _ in range(10):
            damaged = content.copy()
            start = rng.integers(0, len(content) - 2000)
            damaged[start : start + 2000] = rng.integers(0, 256, 2000, np.uint8)
            (tmp_path / "damaged.hdf5").write_bytes(damaged.tobytes())
            try:
                read_weights(tmp_path / "damaged.hdf5")
            except UserError:
                messages += 1
        assert messages

    def test_no_hdf5_file_or_none_at_all(self, imported, tmp_path):
        for file in (imported, tmp_path):
            with pytest.raises(UserError, match=r"not an HDF5 file|No weight file"):
                read_weights(file)
        with pytest.raises(UserError, match=r"No weight file .*missing\.hdf5"):
            import_network(str(tmp_path / "missing.hdf5"))


class TestCommand:
    def test_a_bad_file_ends_in_one_message_and_leaves_nothing(self, empty, tmp_path):
        file = tmp_path / "bad.hdf5"
        shutil.copyfile(empty, file)
        with h5py.File(file, "r+") as content:
            del content["conv2d_549"]
        done = run_module("leuko_tf.import_2019", file, "--out", tmp_path / "out" / "network.keras")
        check_refusal(done, f"error: {file} does not hold the network of 2019: ", "conv2d_549")
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()

    def test_the_output_is_a_keras_file(self, empty, tmp_path):
        done = run_module("leuko_tf.import_2019", empty, "--out", tmp_path / "network.hdf5")
        check_refusal(done, "error: --out must end in .keras")


@pytest.fixture(scope="module")
def few_cells(smear: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A TFDS folder with one cell of each class, three in each fold."""
    import tensorflow_datasets as tfds

    import tfds_aml  # noqa: F401

    download = tmp_path_factory.mktemp("few") / "download"
    for code in CODES:
        (download / code).mkdir(parents=True)
        (download / code / f"{code}_0001.tiff").symlink_to(smear / code / f"{code}_0001.tiff")
    for file in smear.iterdir():
        if file.is_file():
            (download / file.name).symlink_to(file)
    data_dir = download.parent / "tfds"
    builder = tfds.builder(DATASET, data_dir=data_dir)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(download))
    )
    return data_dir


DATASET = "aml_cytomorphology_lmu/available"


def ask_a_server(base: Path, png: bytes) -> list:
    """The client's answers, from a local server of this model."""
    from serving.client import Client

    words = ["-m", "serving.local_server", "--model-base-path", str(base), "--port", "0"]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            with Client(server.stdout.readline().split()[-1]) as client:
                return client.predict([png])
        finally:
            server.terminate()


class TestAModelLikeAnyOther:
    def test_evaluation_takes_it(self, imported, few_cells, tmp_path):
        from leuko_tf.evaluate import evaluate
        from leuko_tf.inference import predict_folds
        from leuko_tf.predictions import read_predictions

        table = predict_folds(imported, DATASET, str(few_cells), [1], tmp_path)
        metrics = evaluate(table, tmp_path, replicates=0)
        rows, source = read_predictions(table)
        assert metrics["pooled"]["images"] == len(rows) > 1
        assert source["held_out"] is None  # nobody has told what it was trained on
        assert (tmp_path / "report.html").is_file()

    def test_export_and_saliency_take_it(self, original, imported, images, tmp_path):
        import tensorflow as tf

        from leuko_tf.api import explain
        from leuko_tf.export import export
        from leuko_tf.provenance import describe_model

        one = images[:1]
        expected = sum_erythroblasts(reference.predict(original, one))
        model = load_model(imported)
        (explanation,) = explain(model, one, ("gradient", "Grad-CAM++"))
        assert explanation.code == CODES[expected[0].argmax()]
        np.testing.assert_allclose(explanation.probability, expected.max(), atol=AGREEMENT)
        for saliency in explanation.maps.values():
            assert saliency.std() > 0.01

        version = export(model, tmp_path / "leuko", describe_model(imported).to_json())
        served = tf.saved_model.load(str(version))
        png = tf.io.encode_png(one[0])[tf.newaxis]
        answer = served.signatures["explain"](images=png)
        np.testing.assert_allclose(answer["probabilities"], expected, atol=AGREEMENT)
        # The same gradient, by the original's formula.
        map_of_export = answer["saliency"][0].numpy() / 255
        assert np.corrcoef(map_of_export.ravel(), explanation.maps["gradient"].ravel())[0, 1] > 0.99
        shutil.rmtree(version / "assets.extra")  # its warm-up would take a minute here
        (told,) = ask_a_server(version.parent, png.numpy()[0])
        by_code = dict(zip(told.classes, told.probabilities, strict=True))
        np.testing.assert_allclose([by_code[c] for c in CODES], expected[0], atol=AGREEMENT)

    def test_training_starts_from_it(self, imported, few_cells, tmp_path):
        from leuko_tf.config import load_config
        from leuko_tf.provenance import read_run
        from leuko_tf.train import train
        from leuko_tf.training.callbacks import read_log

        one_step = ["data.samples_per_class=1", "data.batch_size=8", "data.validation_share=0"]
        one_step += ["train.epochs=1", f"data.dataset={DATASET}", f"data.data_dir={few_cells}"]
        config = load_config("paper.yaml", [*one_step, f"train.initial_model={imported}"])
        train(config, tmp_path, verbose=0)
        (epoch,) = read_log(tmp_path)
        assert np.isfinite(epoch["loss"])
        assert read_run(tmp_path)["held_out_fold"] is None
        tuned, before = load_model(tmp_path / "best.keras"), load_model(imported)
        for one, other in zip(tuned.layers, before.layers, strict=True):
            assert type(one) is type(other)
        moved = tuned.get_layer("probabilities").kernel - before.get_layer("probabilities").kernel
        assert 0 < np.abs(moved).max() < 0.1
