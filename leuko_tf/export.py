"""Exports a model for TensorFlow Serving.

  python -m leuko_tf.export --model runs/x/best.keras --out exports/leuko

Each call publishes a new version, `exports/leuko/<integer>`: a SavedModel with two signatures of
the same outputs,

  serving_default  images: uint8 [n, height, width, 3], of any size
  encoded          images: string [n], PNG or JPEG files, each of any size

  probabilities    float32 [n, 15], in the order of assets.extra/labels.txt
  classes          string [n, 15], codes in order of falling probability
  blast_score      float32 [n], probability of MYO and MOB together
  atypical_score   float32 [n], probability of the eight atypical classes together
"""

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.cli import import_tensorflow_quietly, run

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

LABELS = "labels.txt"
MODEL_DESCRIPTION = "model.json"
EXTRA = "assets.extra"


def export(model: "keras.Model", out: Path, description: dict[str, Any]) -> Path:
    """Publishes the model as the next version.

    The graph has no function marked for XLA, which TensorFlow Serving refuses, and no operation
    that needs oneDNN. The version appears under its number by one rename, whole.

    Args:
      model: a model of this project, spent by this: its grouped convolutions become portable
        ones, and its batch norms are folded into the convolutions before them.
      out: the model's base folder, which holds the versions.
      description: JSON-like facts about the model, to travel in assets.extra/model.json.

    Returns:
      The new version's folder.
    """
    import keras
    import tensorflow as tf

    from leuko_tf.folding import fold_batch_norms
    from leuko_tf.layers import Conv2D
    from leuko_tf.resnext import SCALING

    for layer in model.layers:
        if isinstance(layer, Conv2D):
            layer.portable = True
    fold_batch_norms(model)

    archive = keras.export.ExportArchive()
    archive.track(model)
    archive.add_endpoint(
        "serving_default",
        lambda images: _answer(model(images)),
        [tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")],
    )
    scaling = model.get_layer(SCALING)
    archive.add_endpoint(
        "encoded",
        lambda images: _answer(model(_decoded(images, scaling.size))),
        [tf.TensorSpec((None,), tf.string, name="images")],
    )

    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".unfinished-{os.getpid()}"  # no integer: a server does not look at it
    try:
        archive.write_out(str(aside), verbose=False)
        extra = aside / EXTRA
        extra.mkdir()
        (extra / LABELS).write_text("\n".join(CODES) + "\n")
        (extra / MODEL_DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")
        version = out / str(1 + max(versions(out), default=0))
        aside.rename(version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return version


def versions(base: Path) -> list[int]:
    """The versions in a model's base folder, lowest first."""
    return sorted(int(d.name) for d in base.iterdir() if d.is_dir() and d.name.isdigit())


def _answer(probabilities: "tf.Tensor") -> "dict[str, tf.Tensor]":
    """The named outputs, from probabilities [n, 15]."""
    import tensorflow as tf

    order = tf.argsort(probabilities, direction="DESCENDING", stable=True)
    return {
        "probabilities": probabilities,
        "classes": tf.gather(tf.constant(CODES), order),
        "blast_score": _summed(probabilities, BLAST),
        "atypical_score": _summed(probabilities, ATYPICAL),
    }


def _summed(probabilities: "tf.Tensor", codes: tuple[str, ...]) -> "tf.Tensor":
    import tensorflow as tf

    return tf.reduce_sum(tf.gather(probabilities, [INDEX[c] for c in codes], axis=1), axis=1)


def _decoded(files: "tf.Tensor", size: int) -> "tf.Tensor":
    """Decodes PNG or JPEG files and brings them to one size, as the model's first layer would.

    Args:
      files: string tensor [n].
      size: side in pixels of the model's input.

    Returns:
      float32 tensor [n, size, size, 3], 0 to 255.
    """
    import tensorflow as tf

    def decode(file: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(file, channels=3, expand_animations=False)
        return tf.image.resize(image, (size, size), method="bilinear", antialias=True)

    spec = tf.TensorSpec((size, size, 3), tf.float32)
    with tf.device("CPU"):
        return tf.map_fn(decode, files, fn_output_signature=spec)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.export",
        description="Export a model as the next version of a SavedModel for TensorFlow Serving.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument(
        "--out", required=True, type=Path, help="the model's base folder, such as exports/leuko"
    )
    arguments = parser.parse_args()
    import_tensorflow_quietly()
    from leuko_tf.models import describe_model, load_model

    version = export(load_model(arguments.model), arguments.out, describe_model(arguments.model))
    print(f"exported: {version}")


if __name__ == "__main__":
    run(main)
