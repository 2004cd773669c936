"""The whole way from a folder of TIFFs to a served answer: `python -m leuko_tf.demo`.

Runs the project's own commands and shows each before it runs, so the demo is also a list of what
to type. Without --data it draws a synthetic smear first. What the commands print is shown;
warnings of libraries go to `logs/` in the work folder.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from leuko_tf.classes import LINEAGE_ORDER
from leuko_tf.cli import UserError, run
from leuko_tf.files import BEST, METRICS, MODEL_CARD, PREDICTIONS, REPORT

DATASET = "aml_cytomorphology_lmu"
IMAGES = 1500
ASKED_CLASSES = 6
READY = " ready on "
TAIL = 20  # lines of a failed command's log to show


def demo(data: Path | None, workdir: Path) -> None:
    """Builds, trains, evaluates, explains, exports, serves and asks.

    Args:
      data: Folder of the TCIA download, whole or in part; None for a synthetic smear.
      workdir: Folder of the demo alone. What an earlier demo left in it is deleted.

    Raises:
      UserError: If a folder cannot be used, or a command fails; with the end of its log.
    """
    start = time.monotonic()
    if data and not data.is_dir():
        raise UserError(f"--data {data} is not a folder")
    if data and data.resolve().is_relative_to(workdir.resolve()):
        raise UserError(f"--data {data} lies in {workdir}, which the demo deletes. Name another.")
    if workdir.exists() and not (workdir / "demo.json").is_file():
        raise UserError(
            f"{workdir} is not the folder of an earlier demo and will not be overwritten. Choose "
            "another --workdir."
        )
    shutil.rmtree(workdir, ignore_errors=True)
    logs = workdir / "logs"
    logs.mkdir(parents=True)
    (workdir / "demo.json").write_text(json.dumps({"data": str(data or "synthetic")}) + "\n")
    tfds_dir, training, evaluation = workdir / "tfds", workdir / "training", workdir / "evaluation"
    model, exports = training / BEST, workdir / "exports" / "leuko"

    def run_module(name: str, *arguments: object) -> None:
        run_step(logs / f"{name.rpartition('.')[2]}.log", "python", "-m", name, *arguments)

    folder, config = data, "available"
    if folder is None:
        folder, config = workdir / "smear", "complete"
        run_module("tfds_aml.synthetic_smear", "--out", folder, "--images", IMAGES, "--seed", 1)
    run_step(
        *(logs / "build.log", "tfds", "build", DATASET, "--imports", "tfds_aml"),
        *("--config", config, "--manual_dir", folder, "--data_dir", tfds_dir),
        log_output=True,  # TFDS prints its whole description of the data set
    )
    (metadata_file,) = (tfds_dir / DATASET / config).glob("*/metadata.json")
    metadata = json.loads(metadata_file.read_text())
    print(f"built: {metadata['images']:,} images in {tfds_dir}")
    missing = metadata["images_listed"] - metadata["images"]
    if missing:
        _say(f"This is a part of the data set: {missing:,} listed images are missing.")
    settings = (f"data.dataset={DATASET}/{config}", f"data.data_dir={tfds_dir}")
    run_module("leuko_tf.train", "--config", "demo.yaml", "--workdir", training, *settings)
    run_module("leuko_tf.evaluate", "--model", model, "--out", evaluation)
    images = _choose_images(evaluation / PREDICTIONS, folder)
    run_module("leuko_tf.saliency", "--model", model, "--out", workdir / "saliency", *images)
    card = evaluation / MODEL_CARD
    run_module("leuko_tf.export", "--model", model, "--out", exports, "--card", card)
    with _serve(exports, logs / "server.log") as address:
        # Not logged: on stderr the client says whether the model is synthetic.
        run_step(None, "python", "-m", "serving.client", "--address", address, *images)

    accuracy = json.loads((evaluation / METRICS).read_text())["pooled"]["overall"]["accuracy"]
    kind = "SYNTHETIC, drawn by a program" if metadata["synthetic"] else f"from {data}"
    _say(
        f"Done in {time.monotonic() - start:.0f} s. The images are {kind}"
        + (f"; {missing:,} of the listed ones are missing" if missing else "")
        + f".\n  held-out accuracy  {accuracy:.4f}"
        f"\n  report             {evaluation / REPORT}"
        f"\n  saliency           {workdir / 'saliency'}"
        f"\n  model              {model}"
        f"\n  SavedModel         {exports}"
        f"\n  logs               {logs}"
        "\nResearch use only, not a diagnosis."
    )


def run_step(log: Path | None, *words: object, log_output: bool = False) -> None:
    """Shows a command and runs it here, without progress bars. Raises `UserError` if it fails.

    Args:
      log: File for the command's stderr, and for its stdout with `log_output`; None to show it.
    """
    shown, command = _make_command(*words)
    _say(f"$ {shown}")
    with log.open("w") if log else nullcontext() as errors:
        environment = {**os.environ, "TQDM_DISABLE": "1"}
        output = errors if log_output else None
        done = subprocess.run(command, stdout=output, stderr=errors, env=environment, check=False)
    if done.returncode:
        tail = _format_tail(log) if log else ""
        raise UserError(f"This command ended with status {done.returncode}: {shown}{tail}")


def _format_tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()[-TAIL:]
    return "\n".join([f"\nThe end of {log}:", *lines])


def _make_command(*words: object) -> tuple[str, list[str]]:
    """The command as a person would type it, and as it is run."""
    name, *arguments = [str(w) for w in words]
    program = sys.executable if name == "python" else str(Path(sys.executable).with_name(name))
    return shlex.join([name, *arguments]), [program, *arguments]


@contextmanager
def _serve(exports: Path, log: Path) -> Iterator[str]:
    """Runs the local server on a free port of loopback and yields its address."""
    shown, command = _make_command(
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
                raise UserError(f"The local server ended before it was ready.{_format_tail(log)}")
            print(line, end="")
            yield line.strip().rpartition(READY)[2]
        finally:
            server.terminate()
    print("server stopped")


def _choose_images(predictions: Path, folder: Path) -> list[Path]:
    """A held-out image of each of about `ASKED_CLASSES` classes, spread over the lineage order."""
    from leuko_tf.predictions import read_predictions
    from tfds_aml.aml_cytomorphology_lmu.download import read_download
    from tfds_aml.problems import Problems

    table, _ = read_predictions(predictions)
    download = read_download(folder, Problems(folder), allow_missing=True)
    files = {image.annotation.path: image.file for image in download.images}
    ids = table.groupby("label")["id"].first()
    step = max(1, len(ids) // ASKED_CLASSES)
    return [files[ids[code]] for code in LINEAGE_ORDER if code in ids][::step]


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
    workdir = arguments.workdir or Path("runs", "demo-data" if arguments.data else "demo")
    demo(arguments.data, workdir)


if __name__ == "__main__":
    run(main)
