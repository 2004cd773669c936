"""Small SavedModels for tests of serving, with and without the signatures of our exports."""

import hashlib
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.savedmodel.decoding import attempt

OLDER = 3
NEWEST = 12
# Logits from the mean colour: fixed numbers that give different colours different classes.
WEIGHTS = (4 * np.sin(np.arange(3 * len(CODES)))).reshape(3, len(CODES)).astype(np.float32)
SALIENCY_SIDE = 8


class ContractModel(tf.Module):
    """A model with the export's signatures that computes softmax(mean colour x WEIGHTS)."""

    def __init__(self):
        super().__init__()
        self.weights = tf.Variable(WEIGHTS, trainable=False)

    def _compute_outputs(self, mean_colour):
        probabilities = tf.nn.softmax(mean_colour / 255.0 @ self.weights)
        order = tf.argsort(probabilities, direction="DESCENDING", stable=True)

        def score(codes):
            return tf.reduce_sum(tf.gather(probabilities, [INDEX[c] for c in codes], axis=1), 1)

        return {
            "probabilities": probabilities,
            "classes": tf.gather(tf.constant(CODES), order),
            "blast_score": score(BLAST),
            "atypical_score": score(ATYPICAL),
            "remark": tf.fill(tf.shape(probabilities)[:1], ""),
        }

    def _compute_colours(self, files):
        """Computes mean colours [n, 3] of image files, and which of them are images."""

        def mean_colour(encoded):
            image = tf.io.decode_image(encoded, channels=3, expand_animations=False)
            return tf.ensure_shape(tf.reduce_mean(tf.cast(image, tf.float32), [0, 1]), [3])

        colours, valid = attempt(mean_colour, files)
        return colours, {"valid": valid, "problem": tf.where(valid, "", "not a PNG or JPEG image")}

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def from_arrays(self, images):
        return self._compute_outputs(tf.reduce_mean(tf.cast(images, tf.float32), [1, 2]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def from_files(self, images):
        colours, validity = self._compute_colours(images)
        return {**self._compute_outputs(colours), **validity}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def explain(self, images):
        colours, validity = self._compute_colours(images)
        level = tf.cast(tf.reduce_mean(colours, 1), tf.uint8)
        saliency = tf.tile(level[:, None, None], [1, SALIENCY_SIDE, SALIENCY_SIDE])
        maps = {"saliency": saliency, "field": tf.fill(tf.shape(level), 400)}
        return {**self._compute_outputs(colours), **validity, **maps}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="images")])
    def embed(self, images):
        colours, validity = self._compute_colours(images)
        return {"embedding": colours, **validity}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        # Unlike the project's, it fails on invalid tf.Examples, to test errors of the graph.
        features = tf.io.parse_example(
            inputs, {"image/encoded": tf.io.FixedLenFeature((), tf.string)}
        )
        colours, _ = self._compute_colours(features["image/encoded"])
        outputs = self._compute_outputs(colours)
        scores = tf.sort(outputs["probabilities"], direction="DESCENDING")
        return {"classes": outputs["classes"], "scores": scores}


class TellingModel(tf.Module):
    """Returns its version twice, once from a variable, and how many rows were computed together.

    The signature `hold` writes the file PATH.reached and then reads PATH before it answers: a named
    pipe keeps it waiting for as long as a test needs.
    """

    def __init__(self, version):
        super().__init__()
        self.version = version
        self.again = tf.Variable(version, dtype=tf.int64, trainable=False)

    def _fill_outputs(self, like):
        shape = tf.shape(like)
        return {
            "version": tf.fill(shape, tf.constant(self.version, tf.int64)),
            "again": tf.fill(shape, self.again.read_value()),
            "rows": tf.fill(shape, tf.size(like)),
        }

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="names")])
    def tell(self, names):
        return {**self._fill_outputs(names), "names": names}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="paths")])
    def hold(self, paths):
        def hold(path):
            with tf.control_dependencies([tf.io.write_file(path + ".reached", "")]):
                # Opening a pipe waits for its writer. It does not matter that reading fails.
                return tf.io.read_file(path)

        _, done = attempt(hold, paths)
        return {**self._fill_outputs(paths), "done": done}


def write_contract_export(base: Path) -> None:
    """Writes versions 3 and 12 of a ContractModel, and two folders that are no versions."""
    model = ContractModel()
    folder = base / str(OLDER)
    signatures = {
        "serving_default": model.from_arrays,
        "encoded": model.from_files,
        "explain": model.explain,
        "embed": model.embed,
        "classify": model.classify,
    }
    tf.saved_model.save(model, str(folder), signatures=signatures)
    methods = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    methods.replace_method_name("classify", tf.saved_model.CLASSIFY_METHOD_NAME, tags="serve")
    methods.save()
    (folder / "fingerprint.pb").unlink()
    _write_warm_up(folder)
    shutil.copytree(folder, base / "99-draft")
    write_checksums(folder)
    shutil.copytree(folder, base / str(NEWEST))
    (base / "100").mkdir()  # a copy that has just begun


def write_telling_export(folder: Path) -> None:
    """Writes a TellingModel of the version that names the folder, published by one rename."""
    model = TellingModel(int(folder.name))
    aside = folder.with_name(f".{folder.name}")
    signatures = {"serving_default": model.tell, "hold": model.hold}
    tf.saved_model.save(model, str(aside), signatures=signatures)
    write_checksums(aside)
    aside.rename(folder)


def write_checksums(folder: Path) -> None:
    """Writes every file's SHA-256, as the project's exports have."""
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder)}\n"
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    ]
    (folder / "assets.extra").mkdir(exist_ok=True)
    (folder / "assets.extra" / "SHA256SUMS").write_text("".join(lines))


def _write_warm_up(folder: Path) -> None:
    extra = folder / "assets.extra"
    extra.mkdir()
    with tf.io.TFRecordWriter(str(extra / "tf_serving_warmup_requests")) as file:
        for signature in ("encoded", "explain", "embed"):
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.signature_name = signature
            request.inputs["images"].CopyFrom(tf.make_tensor_proto([b"grey"] * 2))
            file.write(log.SerializeToString())
