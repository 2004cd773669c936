"""Classifies image files: `python -m leuko_tf.predict FOLDER|FILE... --model M --out P.parquet`.

The table has a row an image that could be read:

  id              its path below the folder, or as given
  width, height   of the file, in pixels
  answer          the class of the highest probability, a code
  confidence      that probability
  abstains        with --abstain-below alone: whether the confidence is lower than that
  blast_score     sum of the probabilities of MYO and MOB
  atypical_score  sum of those of `leuko_tf.classes.ATYPICAL`
  p_NGS ... p_KSC the 15 probabilities

The network looks at the middle of an image, or its edges are mirrored outwards, at the scale of its
pixels (`leuko_tf.network.view.to_network_input`): it has learned how large a cell is. For images of another
magnification `--pixel-size-um` tells how large their pixels are, or `--fit resize` takes the image
as a whole.

Research use only: a class is no diagnosis.
"""

import argparse
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import ATYPICAL, BLAST, BY_CODE, CODES
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_aside
from leuko_tf.data.images import compute_scale_factor, find_images, read_image, resample_image
from leuko_tf.network.runtimes import RUNTIMES, TENSORFLOW

if TYPE_CHECKING:
    import keras
    import numpy as np
    import pandas as pd

CROP, RESIZE = "crop", "resize"
FITS = (CROP, RESIZE)
BATCH = 16
ENDINGS = (".parquet", ".csv")


def predict(
    model: "keras.Model",
    images: Mapping[str, Path],
    fit: str = CROP,
    runtime: str = TENSORFLOW,
    factor: float = 1.0,
    symmetries: bool = False,
) -> tuple["pd.DataFrame", list[str]]:
    """Classifies image files, with a progress bar.

    Args:
      model: a model of this project, float32 (`leuko_tf.network.loading.load_model`).
      images: id to file, as `leuko_tf.data.images.find_images` gives it.
      fit: `crop` takes of an image what the network looks at (`leuko_tf.network.view.to_network_input`), `resize`
        takes the whole image in place of that.
      runtime: of `leuko_tf.network.runtimes.RUNTIMES`.
      factor: of `leuko_tf.data.images.resample_image`, which comes before the fitting.
      symmetries: see `leuko_tf.network.runtimes.make_predictor`.

    Returns:
      The table described above, rows in the order of the images; and a sentence for each file that
      could not be read.

    Raises:
      UserError: if the runtime cannot be used.
    """
    import numpy as np
    import pandas as pd
    from tqdm import tqdm

    from leuko_tf.data.images import batched
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.network.runtimes import make_predictor
    from leuko_tf.predictions import PROBABILITIES
    from tfds_aml.images import read_ahead

    answer = make_predictor(model, runtime, symmetries)
    field = model.get_layer(SCALING).field
    rows: list[dict[str, Any]] = []
    scores = [np.empty((0, len(CODES)), np.float32)]
    problems: list[str] = []

    def read(item: tuple[str, Path]) -> "tuple[dict[str, Any], np.ndarray] | str":
        image_id, file = item
        try:
            image = read_image(file)
        except UserError as error:
            return str(error)
        height, width = image.shape[:2]
        pixels = _fitted(image, fit, factor, field)
        return {"id": image_id, "width": width, "height": height}, pixels

    with tqdm(total=len(images), desc="classifying", unit=" images") as progress:
        for batch in batched(read_ahead(read, images.items()), BATCH):
            cells = [cell for cell in batch if not isinstance(cell, str)]
            problems += [problem for problem in batch if isinstance(problem, str)]
            if cells:
                rows += [row for row, _ in cells]
                scores.append(answer(np.stack([pixels for _, pixels in cells])))
            progress.update(len(batch))
    probabilities = pd.DataFrame(np.concatenate(scores), columns=PROBABILITIES)
    table = pd.DataFrame(rows, columns=["id", "width", "height"])
    table["answer"] = np.array(CODES)[probabilities.to_numpy().argmax(axis=1)]
    table["confidence"] = probabilities.max(axis=1)
    for column, codes in (("blast_score", BLAST), ("atypical_score", ATYPICAL)):
        table[column] = probabilities[[f"p_{code}" for code in codes]].sum(axis=1)
    return pd.concat([table, probabilities], axis=1), problems


def _fitted(image: "np.ndarray", fit: str, factor: float, field: int) -> "np.ndarray":
    """uint8 [field, field, 3], for the network to look at."""
    import numpy as np
    import tensorflow as tf

    from leuko_tf.network.view import crop_center

    if fit == RESIZE:
        resized = tf.image.resize(image, (field, field), method="bilinear", antialias=True)
        return np.asarray(resized).round().astype(np.uint8)
    if factor != 1:
        image = resample_image(image, factor)
    return np.asarray(crop_center(image[np.newaxis], field))[0]


def draw_saliency(
    model: "keras.Model",
    table: "pd.DataFrame",
    images: Mapping[str, Path],
    folder: Path,
    fit: str = CROP,
    factor: float = 1.0,
    note: str = "",
) -> None:
    """Draws where the network looks for its answer, a figure an image; with a progress bar.

    Args:
      model, images, fit, factor: as of `predict`.
      table: of `predict`; what the figures tell.
      folder: made if it is not there. A figure is named by the image's id, `/` becoming `__`, and
        numbered where two would have one name.
      note: goes behind the id in the figures' titles.
    """
    from tqdm import tqdm

    from leuko_tf.explanation.explainer import Explainer
    from leuko_tf.explanation.figure import draw_figure
    from leuko_tf.explanation.methods import GRADIENT
    from leuko_tf.network.resnext import SCALING

    explain = Explainer(model)
    field = model.get_layer(SCALING).field
    taken: set[str] = set()
    answers = table[["id", "answer", "confidence"]].itertuples(index=False)
    for image_id, answer, confidence in tqdm(answers, "saliency", len(table), unit=" images"):
        name = _figure_name(image_id, taken)
        taken.add(name)
        fitted = _fitted(read_image(images[image_id]), fit, factor, field)
        (explanation,) = explain(fitted[None], (GRADIENT,), [answer])
        draw_figure(replace(explanation, probability=confidence), image_id + note, folder / name)


def _figure_name(image_id: str, taken: Collection[str]) -> str:
    """A file name that is neither hidden, nor taken, nor longer than file systems allow."""
    stem = image_id.replace("/", "__").lstrip("._")[-200:]
    name, copies = f"{stem}.png", 1
    while name in taken:
        copies += 1
        name = f"{stem}_{copies}.png"
    return name


def write_table(table: "pd.DataFrame", source: Mapping[str, Any], out: Path) -> None:
    """Writes the table, as a whole or not at all.

    Args:
      table: of `predict`.
      source: JSON-like description of where the rows come from; a CSV file cannot hold it.
      out: a `.parquet` or `.csv` file, replaced.
    """
    from leuko_tf.predictions import write_parquet

    if out.suffix == ".csv":
        with write_aside(out) as aside:
            table.to_csv(aside, index=False, float_format="%.7g")
    else:
        write_parquet(table, source, out)


def _told(table: "pd.DataFrame", problems: list[str], synthetic: bool) -> str:
    """What the terminal shows of the results."""
    lines = [f"  {BY_CODE[code].name:<26}{number:>7,}" for code, number in _counts(table)]
    if "abstains" in table:
        lines.append(f"  {'too unsure, abstained':<26}{table['abstains'].sum():>7,}")
    if problems:
        lines.append(f"{len(problems):,} of {len(table) + len(problems):,} could not be read:")
        lines += [f"  {problem}" for problem in problems]
    if synthetic:
        lines.append("The network was trained on SYNTHETIC cells: it knows nothing of real ones.")
    return "\n".join([*lines, "Research use only: no class is a diagnosis."])


def _counts(table: "pd.DataFrame") -> Iterator[tuple[str, int]]:
    answered = table[~table["abstains"]] if "abstains" in table else table
    for code in CODES:
        number = int((answered["answer"] == code).sum())
        if number:
            yield code, number


def _factor(images_um: float | None, model_um: float | None, model: Path) -> float:
    if images_um is None:
        return 1.0
    if model_um is None:
        raise UserError(
            f"--pixel-size-um: what pixels {model} was trained on is not known. Resample the "
            "images yourself, and leave it out."
        )
    return compute_scale_factor(images_um, model_um)


def _warn_of_sizes(table: "pd.DataFrame", field: int, factor: float) -> None:
    from leuko_tf.network.view import FIELD

    sides = (table[["width", "height"]] * factor).round()
    number = len(table)
    advice = (
        "Say --fit crop if that is right; --pixel-size-um or --fit resize if they were taken at "
        "another magnification."
    )
    if small := int((sides < field).any(axis=1).sum()):
        print(
            f"warning: {small:,} of {number:,} images are smaller than the {field} pixels that the "
            f"network looks at: their edges were mirrored outwards. {advice}"
        )
    if large := int((sides > max(field, FIELD)).any(axis=1).sum()):
        print(
            f"warning: {large:,} of {number:,} images are larger than {max(field, FIELD)} pixels: "
            f"only the {field} in their middle were looked at. {advice}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.predict",
        description="Classify images of single cells.",
        epilog="Exit status: 0; 1 if a file could not be read, the others being in the table all "
        "the same. Research use only: no class is a diagnosis.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="FOLDER|FILE", help="TIFF, PNG or JPEG"
    )
    parser.add_argument("--model", required=True, type=Path, help="a .keras file")
    parser.add_argument("--out", required=True, type=Path, help="table to write, .parquet or .csv")
    parser.add_argument(
        "--fit",
        choices=FITS,
        help="crop takes an image's middle or mirrors its edges outwards, at the scale of its "
        "pixels (default, with a warning where images are smaller than what the network looks at, "
        "or larger than the data set's); resize takes the whole image",
    )
    parser.add_argument(
        "--pixel-size-um",
        type=float,
        metavar="UM",
        help="side of the images' pixels in micrometres: brings them to the pixels that the "
        "network was trained on (default: leave them as they are)",
    )
    parser.add_argument(
        "--symmetries",
        action="store_true",
        help="average over the eight turns and mirrorings of each image, at eight times the work",
    )
    parser.add_argument(
        "--abstain-below",
        type=float,
        metavar="P",
        help="leave answers of a lower probability to a person, 0 to 1",
    )
    parser.add_argument("--saliency", type=Path, metavar="DIR", help="draw where the network looks")
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=TENSORFLOW,
        help=f"default {TENSORFLOW}; openvino is faster on a CPU, equal to 1e-4, and takes seconds "
        "to convert; pip install leuko_tf[openvino]",
    )
    arguments = parser.parse_args()
    if arguments.out.suffix not in ENDINGS:
        raise UserError(f"--out must end in .parquet or .csv. Received: {arguments.out}")
    threshold = arguments.abstain_below
    if threshold is not None and not 0 <= threshold <= 1:
        raise UserError(f"--abstain-below takes a probability, 0 to 1. Received: {threshold}")
    given = arguments.pixel_size_um
    if given is not None and not 0 < given < 10:
        raise UserError(f"--pixel-size-um takes micrometres, 0 to 10. Received: {given}")
    if given is not None and arguments.fit == RESIZE:
        raise UserError("--fit resize takes images whole, whatever --pixel-size-um says: name one")
    if arguments.out.is_dir():
        raise UserError(f"--out {arguments.out} is a folder")
    images = find_images(arguments.images)
    for folder in (arguments.out.parent, arguments.saliency):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)  # not to fail after all the work

    import_tensorflow_quietly()
    from leuko_tf.network.loading import load_model
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.provenance import describe_model

    model = load_model(arguments.model)
    synthetic = bool(describe_model(arguments.model).synthetic)
    factor = _factor(given, model.get_layer(SCALING).pixel_size_um, arguments.model)
    fit = arguments.fit or CROP
    table, problems = predict(model, images, fit, arguments.runtime, factor, arguments.symmetries)
    if table.empty:
        raise UserError(f"None of {len(images):,} images could be read; the first: {problems[0]}")
    if threshold is not None:
        behind = [*table.columns].index("confidence") + 1
        table.insert(behind, "abstains", table["confidence"] < threshold)
    source = {
        "model": str(arguments.model),
        "trained_on_synthetic": synthetic,
        "fit": fit,
        "pixel_size_um": given,
        "runtime": arguments.runtime,
        "averaged_over_symmetries": arguments.symmetries,
        "abstain_below": threshold,
        "unreadable": problems,
        "research_use_only": True,
    }
    write_table(table, source, arguments.out)
    print(f"classified {len(table):,} of {len(images):,} images: {arguments.out}")
    if not arguments.fit:
        _warn_of_sizes(table, model.get_layer(SCALING).field, factor)
    print(_told(table, problems, synthetic), flush=True)
    if arguments.saliency:
        note = ", network trained on SYNTHETIC cells" * synthetic
        draw_saliency(model, table, images, arguments.saliency, fit, factor, note)
        print(f"figures: {arguments.saliency}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    run(main)
