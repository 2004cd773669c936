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
  remark           string [n], a warning about the model, such as that it was trained on synthetic
                   cells; mostly empty

and the others are

  valid            bool [n], whether the file could be decoded
  problem          string [n], why not, in one sentence; empty where valid
  saliency         uint8 [n, size, size], where size is the side of the network's input: the plain
                   gradient of the first class's logit, as in `leuko_tf.saliency`, scaled to 0 to
                   255 in each image
  field            int32 [n], side in pixels of the square in the image's middle that network and
                   map cover (`leuko_tf.network.view.to_network_input`); 0 where not valid
  embedding        float32 [n, d], the input of the network's last layer
  scores           float32 [n, 15], the probabilities of `classes`, falling

n may be 0. Images may have any size up to `leuko_tf.savedmodel.decoding.MAX_PIXELS`, and the files
of one request may differ in size. An invalid image does not affect the others: its numbers are
zeros and its classes empty strings, in `classify` too.
"""

import argparse
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import CODES, SYNTHETIC_REMARK
from leuko_tf.cli import (
    UserError,
    import_tensorflow_quietly,
    parse_positive_int,
    parse_positive_number,
    run,
)
from leuko_tf.files import CONFIG, MODEL_CARD

if TYPE_CHECKING:
    import keras

# Batch sizes of the warm-up. serving/config/batching.config allows any up to the last, but warming
# up all of them would delay a new version by minutes.
WARM_BATCH_SIZES = (1, 2, 4, 8, 16)

EXTRA = "assets.extra"
LABELS = "labels.txt"
MODEL_DESCRIPTION = "model.json"
CHECKSUMS = "SHA256SUMS"  # for `sha256sum -c assets.extra/SHA256SUMS` in the version's folder
UNFINISHED = ".unfinished"  # not an integer, so servers ignore it


def export(
    model: "keras.Model",
    out: Path,
    description: dict[str, Any],
    *,
    temperature: float = 1.0,
    version: int | None = None,
    documents: Mapping[str, Path] | None = None,
) -> Path:
    """Publishes the model as a new version, and returns the version's folder.

    The finished version is renamed to its number, so that no server finds a part of it. Deletes
    what killed exports left in the base folder.

    Args:
      model: Cannot be used afterwards (see `leuko_tf.savedmodel.signatures.ServedModel`).
      out: The model's base folder, which holds the versions.
      description: JSON-like facts about the model for assets.extra/model.json. If it has a true
        `synthetic`, every answer carries `SYNTHETIC_REMARK`.
      temperature: Divides the logits; above 0.
      version: By default the next one.
      documents: Files to copy to assets.extra, by their name there.

    Raises:
      UserError: If the version exists.
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
    _delete_unfinished(out)
    aside = _name_unfinished(out)
    try:
        _save(served, aside)
        extra = aside / EXTRA
        extra.mkdir()
        (extra / LABELS).write_text("\n".join(CODES) + "\n")
        (extra / MODEL_DESCRIPTION).write_text(json.dumps(facts, indent=2) + "\n")
        for name, file in (documents or {}).items():
            shutil.copyfile(file, extra / name)
        warmup.write_warmup_requests(extra / warmup.FILE, served.size, WARM_BATCH_SIZES)
        (extra / CHECKSUMS).write_text(compute_checksums(aside))
        return _publish(aside, out, version)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def find_versions(base: Path) -> list[int]:
    """Lists the versions in a model's base folder, lowest first."""
    names = [d.name for d in base.iterdir() if d.is_dir()]
    return sorted(int(n) for n in names if n.isascii() and n.isdecimal() and str(int(n)) == n)


def prune(base: Path, keep: int, published: Path) -> list[int]:
    """Deletes the oldest versions until `keep`, 1 or more, remain; never the one just published.

    Each is renamed first, so that no server finds a part of it. Returns the deleted versions.
    """
    others = [v for v in find_versions(base) if v != int(published.name)]
    old = others[: max(0, len(others) - (keep - 1))]
    for version in old:
        aside = _name_unfinished(base)
        (base / str(version)).rename(aside)
        shutil.rmtree(aside)
    return old


def compute_checksums(folder: Path) -> str:
    """Computes the SHA-256 of every file in a folder, in the format of `sha256sum`."""
    lines = []
    for file in sorted(f for f in folder.rglob("*") if f.is_file()):
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        lines.append(f"{digest}  {file.relative_to(folder).as_posix()}\n")
    return "".join(lines)


def _save(served: Any, folder: Path) -> None:
    import tensorflow as tf

    tf.saved_model.save(served, str(folder), signatures=served.endpoints)
    names = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    names.replace_method_name("classify", tf.saved_model.CLASSIFY_METHOD_NAME, tags="serve")
    names.save()
    # TensorFlow's own, optional checksum is that of the graph before this change.
    (folder / "fingerprint.pb").unlink()


def _publish(finished: Path, base: Path, version: int | None) -> Path:
    """Renames a finished folder to its version; safe if others publish at the same time."""
    while True:
        number = 1 + max(find_versions(base), default=0) if version is None else version
        target = base / str(number)
        try:
            return finished.rename(target)
        except OSError:
            if version is not None:
                _refuse_existing(target)
            if not target.exists():
                raise


def _refuse_existing(version: Path) -> None:
    if version.exists():
        raise UserError(
            f"Version {version} exists. Choose another number, or omit --version for the next one."
        )


def _name_unfinished(base: Path) -> Path:
    """This process's folder for what is not yet, or no longer, a version."""
    return base / f"{UNFINISHED}-{socket.gethostname()}-{os.getpid()}"


def _delete_unfinished(base: Path) -> None:
    """Deletes the unfinished folders of this machine's processes that have ended."""
    for folder in base.glob(f"{UNFINISHED}-{socket.gethostname()}-*"):
        process = folder.name.rpartition("-")[2]
        if process.isdecimal() and not Path("/proc", process).exists():
            shutil.rmtree(folder, ignore_errors=True)


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
        type=parse_positive_number,
        default=1.0,
        metavar="T",
        help="divides the logits (default: 1). For the network of fold k of a cross-validation, "
        "take temperature.folds.<k>.temperature of its metrics.json, fitted on the other folds",
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card to include")
    for option, purpose in (
        ("--version", "the version's number (default: the next)"),
        ("--keep", "delete the oldest versions until N remain"),
    ):
        parser.add_argument(option, type=parse_positive_int, metavar="N", help=purpose)
    arguments = parser.parse_args()
    if arguments.card and not arguments.card.is_file():
        raise UserError(
            f"There is no model card {arguments.card}. `python -m leuko_tf.evaluate` writes one."
        )
    if arguments.version:
        _refuse_existing(arguments.out / str(arguments.version))
    import_tensorflow_quietly()
    from leuko_tf.network.loading import load_model
    from leuko_tf.provenance import describe_model

    found = {CONFIG: arguments.model.parent / CONFIG, MODEL_CARD: arguments.card}
    version = export(
        load_model(arguments.model),
        arguments.out,
        describe_model(arguments.model).to_json(),
        temperature=arguments.temperature,
        version=arguments.version,
        documents={name: file for name, file in found.items() if file and file.is_file()},
    )
    print(f"exported: {version}")
    if arguments.keep:
        for old in prune(arguments.out, arguments.keep, version):
            print(f"deleted: {arguments.out / str(old)}")


if __name__ == "__main__":
    run(main)
