"""The whole way, from a folder of TIFFs to a served answer: `python -m leuko_tf.demo`.

Runs the project's own commands, one after the other, and shows each before it runs; so the demo
is also the list of what to type. Without --data it draws a synthetic smear first.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from leuko_tf.classes import LINEAGE_ORDER
from leuko_tf.cli import UserError, run

DATASET = "aml_cytomorphology_lmu"
IMAGES = 1500
ASKED_CLASSES = 6
READY = " ready on "


def demo(data: Path | None, workdir: Path) -> None:
    """Builds, trains, evaluates, explains, exports, serves and asks.

    Args:
      data: folder of the TCIA download, whole or in part; None for a synthetic smear.
      workdir: folder of the demo alone; what an earlier demo left in it is deleted.

    Raises:
      UserError: if a command fails; it has told why.
    """
    start = time.monotonic()
    if data and data.resolve().is_relative_to(workdir.resolve()):
        raise UserError(f"--data {data} lies in {workdir}, which the demo deletes. Name another.")
    if workdir.exists() and not (workdir / "demo.json").is_file():
        raise UserError(f"{workdir} is no folder of an earlier demo; it will not be overwritten.")
    shutil.rmtree(workdir, ignore_errors=True)
    workdir.mkdir(parents=True)
    (workdir / "demo.json").write_text(json.dumps({"data": str(data or "synthetic")}) + "\n")
    tfds_dir, training, evaluation = workdir / "tfds", workdir / "training", workdir / "evaluation"
    model, exports = training / "best.keras", workdir / "exports" / "leuko"

    folder, config = data, "available"
    if folder is None:
        folder, config = workdir / "smear", "complete"
        _module("tfds_aml.synthetic_smear", "--out", folder, "--images", IMAGES, "--seed", 1)
    _command(
        *("tfds", "build", DATASET, "--imports", "tfds_aml", "--config", config),
        *("--manual_dir", folder, "--data_dir", tfds_dir),
    )
    metadata = _metadata(tfds_dir / DATASET / config)
    missing = metadata["images_listed"] - metadata["images"]
    if missing:
        _say(f"This is a part of the data set: {missing:,} listed images are missing.")
    settings = (f"data.dataset={DATASET}/{config}", f"data.data_dir={tfds_dir}")
    _module("leuko_tf.train", "--config", "demo.yaml", "--workdir", training, *settings)
    _module("leuko_tf.evaluate", "--model", model, "--out", evaluation)
    images = _held_out_images(evaluation / "predictions.parquet", folder)
    _module("leuko_tf.saliency", "--model", model, "--out", workdir / "saliency", *images)
    card = evaluation / "model_card.md"
    _module("leuko_tf.export", "--model", model, "--out", exports, "--card", card)
    with _local_server(exports, workdir / "server.log") as address:
        _module("serving.client", "--address", address, *images)

    metrics = json.loads((evaluation / "metrics.json").read_text())
    accuracy = metrics["pooled"]["overall"]["accuracy"]
    kind = "SYNTHETIC, drawn by a program" if metadata["synthetic"] else f"from {data}"
    _say(
        f"Done in {time.monotonic() - start:.0f} s. The images are {kind}"
        + (f"; {missing:,} of the listed ones are missing" if missing else "")
        + f".\n  held-out accuracy  {accuracy:.4f}"
        f"\n  report             {evaluation / 'report.html'}"
        f"\n  saliency           {workdir / 'saliency'}"
        f"\n  model              {model}"
        f"\n  SavedModel         {exports}"
        "\nResearch use only, not a diagnosis."
    )


def _module(name: str, *arguments: object) -> None:
    _command("python", "-m", name, *arguments)


def _command(*words: object) -> None:
    """Shows a command, runs it in this environment, and stops the demo if it fails."""
    shown, command = _as_command(*words)
    _say(f"$ {shown}")
    status = subprocess.run(command, check=False).returncode
    if status:
        raise UserError(f"this command ended with status {status}: {shown}")


def _as_command(*words: object) -> tuple[str, list[str]]:
    """The command as a person would type it, and as it is run."""
    name, *arguments = [str(w) for w in words]
    program = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
    return shlex.join([name, *arguments]), [program, *arguments]


@contextmanager
def _local_server(exports: Path, log: Path) -> Iterator[str]:
    """Runs the local server on a free port of loopback; gives its address, and stops it."""
    shown, command = _as_command(
        *("python", "-m", "serving.local_server", "--model-base-path", exports, "--port", 0)
    )
    _say(f"$ {shown} &")
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as server,
    ):
        try:
            assert server.stdout is not None
            line = next((text for text in server.stdout if READY in text), "")
            if not line:
                raise UserError(f"the local server ended before it was ready; {log} tells why")
            print(line, end="")
            yield line.strip().rpartition(READY)[2]
        finally:
            server.terminate()
    print("server stopped")


def _metadata(builds: Path) -> dict:
    (file,) = builds.glob("*/metadata.json")
    return json.loads(file.read_text())


def _held_out_images(predictions: Path, folder: Path) -> list[Path]:
    """One held-out image of each of the first classes that have some, in lineage order."""
    from leuko_tf.predictions import read_predictions
    from tfds_aml.aml_cytomorphology_lmu.download import read_download
    from tfds_aml.problems import Problems

    table, _ = read_predictions(predictions)
    download = read_download(folder, Problems(folder), allow_missing=True)
    files = {image.annotation.path: image.file for image in download.images}
    ids = table.groupby("label")["id"].first()
    chosen = [ids[code] for code in LINEAGE_ORDER if code in ids][
        :: max(1, len(ids) // ASKED_CLASSES)
    ]
    return [files[path] for path in chosen]


def _say(text: str) -> None:
    print(f"\n{text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.demo",
        description="Build, train, evaluate, explain, export, serve and ask, in one go.",
    )
    parser.add_argument("--data", type=Path, help="folder of the TCIA download (default: drawn)")
    parser.add_argument("--workdir", type=Path, help="default: runs/demo, or runs/demo-data")
    arguments = parser.parse_args()
    if arguments.data and not arguments.data.is_dir():
        raise UserError(f"--data {arguments.data} is no folder")
    workdir = arguments.workdir or Path("runs", "demo-data" if arguments.data else "demo")
    demo(arguments.data, workdir)


if __name__ == "__main__":
    run(main)
