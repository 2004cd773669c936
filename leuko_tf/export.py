"""Exports a model for TensorFlow Serving.

  python -m leuko_tf.export --model runs/x/best.keras --out exports/leuko

Each call publishes a new version, `exports/leuko/<integer>`: a SavedModel with five signatures.

  signature        input                                   outputs
  serving_default  images: uint8 [n, height, width, 3]     answer
  encoded          images: string [n], PNG or JPEG files   answer, valid, problem
  explain          images: string [n], PNG or JPEG files   answer, valid, problem, saliency, field
  embed            images: string [n], PNG or JPEG files   embedding, valid, problem
  classify         inputs: string [n], tf.Examples with    classes, scores
                   a file as feature `image/encoded`

The answer is

  probabilities    float32 [n, 15], in the order of assets.extra/labels.txt
  classes          string [n, 15], codes in order of falling probability
  blast_score      float32 [n], probability of MYO and MOB together
  atypical_score   float32 [n], probability of the eight atypical classes together
  remark           string [n], what to know of the model, such as that it learned from synthetic
                   cells; mostly empty

and the others are

  valid            bool [n], whether the file could be decoded
  problem          string [n], why not, in one sentence; empty where valid
  saliency         uint8 [n, size, size], size being the side of the network's input: the plain
                   gradient of the first class's logit, as `leuko_tf.saliency` has it, scaled to 0
                   to 255 in each image
  field            int32 [n], 0 where not valid: side in pixels of the square in the image's middle
                   that network and map cover (`leuko_tf.network.view.to_network_input`)
  embedding        float32 [n, d], the input of the network's last layer
  scores           float32 [n, 15], the probabilities of `classes`, falling

n may be 0. Images may have any size up to `leuko_tf.savedmodel.decoding.MAX_PIXELS`; files in one request may
differ in size. An image that is not valid does not disturb the others: its numbers are zeros, its
classes empty strings, in `classify` too.
"""

import argparse
import hashlib
import json
import math
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError, import_tensorflow_quietly, run

if TYPE_CHECKING:
    import keras

# Numbers of images that are warmed up. serving/config/batching.config allows any number up to the
# last; all of them would keep a new version waiting for minutes.
WARM_BATCH_SIZES = (1, 2, 4, 8, 16)

SYNTHETIC_REMARK = "The network was trained on SYNTHETIC cells: it knows nothing of real ones."

EXTRA = "assets.extra"
LABELS = "labels.txt"
MODEL_DESCRIPTION = "model.json"
MODEL_CARD = "model_card.md"
CHECKSUMS = "SHA256SUMS"  # for `sha256sum -c assets.extra/SHA256SUMS` in the version's folder
UNFINISHED = ".unfinished"  # no integer: a server does not look at it


def export(
    model: "keras.Model",
    out: Path,
    description: dict[str, Any],
    *,
    temperature: float = 1.0,
    version: int | None = None,
    documents: Mapping[str, Path] | None = None,
) -> Path:
    """Publishes the model as a new version.

    The version appears under its number by one rename, whole. What exports that were killed have
    left in the base folder is deleted.

    Args:
      model: a model of this project, spent by this (see `leuko_tf.savedmodel.signatures.ServedModel`).
      out: the model's base folder, which holds the versions.
      description: JSON-like facts about the model, to travel in assets.extra/model.json. If it
        says `synthetic`, so does every answer.
      temperature: divides the logits; above 0.
      version: the version's number; the next one by default.
      documents: files to travel in assets.extra, by the name that they get there.

    Returns:
      The new version's folder.

    Raises:
      UserError: if there is such a version.
    """
    from leuko_tf.savedmodel import decoding, warmup
    from leuko_tf.savedmodel.signatures import ServedModel

    if version is not None:
        _refuse_existing(out / str(version))
    remark = SYNTHETIC_REMARK if description.get("synthetic") else ""
    served = ServedModel(model, temperature, remark)
    facts = {
        **description,
        "temperature": temperature,
        "input_size": served.size,
        "field": served.field,
        "pixel_size_um": served.pixel_size_um,
        "max_pixels": decoding.MAX_PIXELS,
        "signatures": sorted(served.endpoints),
    }

    out.mkdir(parents=True, exist_ok=True)
    _clean_up(out)
    aside = _aside(out)
    try:
        _save(served, aside)
        extra = aside / EXTRA
        extra.mkdir()
        (extra / LABELS).write_text("\n".join(CODES) + "\n")
        (extra / MODEL_DESCRIPTION).write_text(json.dumps(facts, indent=2) + "\n")
        for name, file in (documents or {}).items():
            shutil.copyfile(file, extra / name)
        warmup.write_warmup_requests(extra / warmup.FILE, served.size, WARM_BATCH_SIZES)
        (extra / CHECKSUMS).write_text(checksums(aside))
        return _publish(aside, out, version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def versions(base: Path) -> list[int]:
    """The versions in a model's base folder, lowest first."""
    names = [d.name for d in base.iterdir() if d.is_dir()]
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal() and str(int(n)) == n)


def prune(base: Path, keep: int, published: Path) -> list[int]:
    """Deletes the oldest versions until `keep` remain, but never the one just published.

    Each goes out of sight by one rename, so that no server finds half of it.

    Args:
      base: the model's base folder.
      keep: number of versions to keep, from 1 up.
      published: the version's folder to keep in any case.

    Returns:
      The versions that were deleted.
    """
    others = [v for v in versions(base) if v != int(published.name)]
    old = others[: max(0, len(others) - (keep - 1))]
    for version in old:
        aside = _aside(base)
        (base / str(version)).rename(aside)
        shutil.rmtree(aside)
    return old


def checksums(folder: Path) -> str:
    """The SHA-256 of every file in a folder, as the command `sha256sum` writes and checks them."""
    lines = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        lines.append(f"{digest}  {file.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def training_documents(model: Path) -> dict[str, Path]:
    """What a training left beside its model that should travel with it, by name."""
    from leuko_tf.provenance import CONFIG

    config = model.parent / CONFIG
    return {CONFIG: config} if config.is_file() else {}


def _save(served: Any, folder: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(served, str(folder), signatures=served.endpoints)
    names = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    names.replace_method_name("classify", tf.saved_model.CLASSIFY_METHOD_NAME, tags="serve")
    names.save()
    # TensorFlow's own checksum, which is optional, is of the graph before that change.
    (folder / "fingerprint.pb").unlink()


def _publish(finished: Path, base: Path, version: int | None) -> Path:
    """Renames a finished folder to its version, also where others publish at the same time."""
    while True:
        target = base / str(version if version is not None else 1 + max(versions(base), default=0))
        try:
            return finished.rename(target)
        except OSError:
            if version is not None:
                _refuse_existing(target)
            if not target.exists():
                raise


def _refuse_existing(version: Path) -> None:
    if version.exists():
        raise UserError(f"There is a version {version}. Choose another number, or none.")


def _aside(base: Path) -> Path:
    """A folder of this process for what is not, or no longer, a version."""
    return base / f"{UNFINISHED}-{socket.gethostname()}-{os.getpid()}"


def _clean_up(base: Path) -> None:
    """Deletes the folders aside of this machine's processes that are no more."""
    for folder in base.glob(f"{UNFINISHED}-{socket.gethostname()}-*"):
        process = folder.name.rpartition("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _temperature(text: str) -> float:
    try:
        temperature = float(text)
    except ValueError:
        temperature = math.nan
    if not 0 < temperature < math.inf:
        raise argparse.ArgumentTypeError(f"a number above 0 is needed, not {text!r}")
    return temperature


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is needed, not {text!r}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.export",
        description="Export a model as the next version of a SavedModel for TensorFlow Serving.",
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument(
        "--out", required=True, type=Path, help="the model's base folder, such as exports/leuko"
    )
    parser.add_argument(
        "--temperature",
        type=_temperature,
        default=1.0,
        metavar="T",
        help="divides the logits (default: 1). For the network of a cross-validation's fold k, its "
        "metrics.json gives one, fitted on the other folds: temperature.folds.<k>.temperature",
    )
    parser.add_argument(
        "--card", type=Path, metavar="FILE", help="model card that is to travel along"
    )
    parser.add_argument(
        "--version", type=_positive, metavar="N", help="the version's number (default: the next)"
    )
    parser.add_argument(
        "--keep", type=_positive, metavar="N", help="delete the oldest versions until N remain"
    )
    arguments = parser.parse_args()
    if arguments.card and not arguments.card.is_file():
        raise UserError(f"There is no model card {arguments.card}. leuko_tf.evaluate writes one.")
    if arguments.version:
        _refuse_existing(arguments.out / str(arguments.version))
    import_tensorflow_quietly()
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    documents = training_documents(arguments.model)
    if arguments.card:
        documents[MODEL_CARD] = arguments.card
    version = export(
        load_model(arguments.model),
        arguments.out,
        describe_model(arguments.model).to_json(),
        temperature=arguments.temperature,
        version=arguments.version,
        documents=documents,
    )
    print(f"exported: {version}")
    if arguments.keep:
        for old in prune(arguments.out, arguments.keep, version):
            print(f"deleted: {arguments.out / str(old)}")


if __name__ == "__main__":
    run(main)
