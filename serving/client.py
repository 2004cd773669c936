"""A gRPC client for an exported model behind TensorFlow Serving or the local server.

    python -m serving.client IMAGE_OR_FOLDER... [--address HOST:PORT] [--json] [--saliency DIR]

This module is the command, and the place to import the library from. The client needs grpcio,
protobuf, NumPy, Pillow and tqdm (`pip install leuko_tf[client]`) and never imports TensorFlow: it
runs on a microscope's computer. Research use only, not a diagnosis.
"""

import argparse
import json
import signal
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from leuko_tf.cli import UserError, run
from serving.answers import Answer
from serving.connection import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    MAX_MESSAGE_BYTES,
    RESEARCH_NOTE,
    ServingError,
    Tls,
    add_options,
    make_tls,
    parse_positive_int,
)
from serving.grpc_client import (
    CONCURRENCY,
    MAX_IMAGES_PER_REQUEST,
    Client,
    VersionStatus,
    is_unknown_label,
)
from serving.images import ImageError, find_image_files, read_image, save_overlay

__all__ = [
    "ADDRESS_VARIABLE",
    "DEFAULT_ADDRESS",
    "MAX_IMAGES_PER_REQUEST",
    "MAX_MESSAGE_BYTES",
    "RESEARCH_NOTE",
    "Answer",
    "Client",
    "ImageError",
    "ServingError",
    "Tls",
    "VersionStatus",
    "read_image",
]


def _print_table_head(top: int, width: int) -> None:
    ranks = "".join(f"{f'top {rank}':<11}" for rank in range(1, top + 1))
    _print(f"{'file':<{width}}  {ranks}{'blast':>5}  {'atypical':>8}")


def _print_table_row(path: Path, answer: Answer, top: int, width: int) -> None:
    best = list(zip(answer.classes, answer.probabilities, strict=True))[:top]
    ranks = "".join(f"{code:<4}{probability:.3f}  " for code, probability in best)
    scores = f"{answer.blast_score:5.3f}  {answer.atypical_score:8.3f}"
    _print(f"{path!s:<{width}}  {ranks:<{11 * top}}{scores}")


def _print_json_line(path: Path, answer: Answer, top: int, overlay: Path | None) -> None:
    line: dict[str, Any] = {
        "file": str(path),
        "classes": answer.classes[:top],
        "probabilities": [round(p, 6) for p in answer.probabilities[:top]],
        "blast_score": round(answer.blast_score, 6),
        "atypical_score": round(answer.atypical_score, 6),
        "model_version": answer.model_version,
    }
    if overlay:
        line["saliency"] = str(overlay)
    if answer.remark:
        line["remark"] = answer.remark
    _print(json.dumps(line))


def _print(line: str) -> None:
    """Prints a line at once, above the progress bar if there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


@dataclass(frozen=True)
class _Result:
    """The answer for one file, or the problem because of which it has none."""

    path: Path
    answer: Answer | None = None
    problem: str = ""


def _classify_files(
    client: Client, paths: Sequence[Path], concurrency: int, saliency: bool
) -> Iterator[_Result]:
    """Yields one result per file, in the order of the files."""
    started: deque[_Result] = deque()  # read, and sent unless they have a problem

    def read_images() -> Iterator[bytes]:
        for path in paths:
            try:
                image = read_image(path)
            except ImageError as error:
                started.append(_Result(path, problem=str(error)))
            else:
                started.append(_Result(path))
                yield image

    for answer in client.classify_many(read_images(), concurrency=concurrency, saliency=saliency):
        while started[0].problem:
            yield started.popleft()
        path = started.popleft().path
        if answer.problem:
            yield _Result(path, problem=f"{path}: {answer.problem}")
        else:
            yield _Result(path, answer)
    yield from started


class _Overlays:
    """Writes overlays into a folder, named after the images' files."""

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"Cannot make the folder {folder}: {error.strerror}.") from None
        self._folder = folder
        self._names: set[str] = set()

    def save(self, path: Path, answer: Answer) -> Path:
        """Writes the overlay of one image and returns its path."""
        assert answer.saliency is not None
        name, copies = f"{path.stem}_saliency.png", 1
        while name in self._names:  # files with the same name in several folders
            copies += 1
            name = f"{path.stem}_saliency_{copies}.png"
        self._names.add(name)
        caption = f"{path.name}: {answer.classes[0]} {answer.probabilities[0]:.3f}; {RESEARCH_NOTE}"
        save_overlay(self._folder / name, path, answer.saliency, answer.saliency_field, caption)
        return self._folder / name


def _print_answers(
    client: Client, paths: Sequence[Path], overlays: _Overlays | None, args: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Classifies the files and prints answers as they arrive.

    Returns:
      The problems of the images without an answer, and the model's distinct remarks.
    """
    width = max(4, *(len(str(path)) for path in paths))
    top = args.top
    problems: list[str] = []
    remarks: dict[str, None] = {}  # a set that keeps its order
    answered = 0
    progress = tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None, leave=False)
    try:
        with progress:
            for result in _classify_files(client, paths, args.concurrency, bool(overlays)):
                path, answer = result.path, result.answer
                progress.update()
                if answer is None:
                    problems.append(result.problem)
                    if args.json:
                        _print(json.dumps({"file": str(path), "problem": result.problem}))
                    continue
                if not answered and not args.json:
                    top = min(top, len(answer.classes))
                    _print_table_head(top, width)
                answered += 1
                if answer.remark:
                    remarks[answer.remark] = None
                overlay = overlays.save(path, answer) if overlays else None
                if args.json:
                    _print_json_line(path, answer, top, overlay)
                else:
                    _print_table_row(path, answer, top, width)
    except ServingError as error:
        failed = paths[answered + len(problems) :][:MAX_IMAGES_PER_REQUEST]
        raise _locate_error(error, failed, answered, len(paths)) from None
    return problems, [*remarks]


def _locate_error(
    error: ServingError, failed: Sequence[Path], answered: int, total: int
) -> ServingError:
    """Adds to an error the files of its request, if one may be to blame, and the progress."""
    where = ""
    if error.code is grpc.StatusCode.INVALID_ARGUMENT and not is_unknown_label(str(error)):
        one = len(failed) == 1
        where = f"{failed[0]}: " if one else f"One of {failed[0]} to {failed[-1]}: "
    so_far = f" {answered} of {total} images were answered." if answered else ""
    return ServingError(f"{where}{error}{so_far}", error.code)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description="Classify leukocyte images with a served model.",
        epilog=RESEARCH_NOTE,
    )
    parser.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="PNG, JPEG or TIFF file, or a folder with such files",
    )
    parser.add_argument(
        "--top",
        type=parse_positive_int,
        default=3,
        help="number of classes to print per image (default: 3)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per image")
    parser.add_argument(
        "--saliency",
        type=Path,
        metavar="DIR",
        help="also compute saliency maps; save each over its image as DIR/NAME_saliency.png",
    )
    parser.add_argument(
        "--concurrency",
        type=parse_positive_int,
        default=CONCURRENCY,
        metavar="N",
        help=f"number of requests at once, each of up to {MAX_IMAGES_PER_REQUEST} images (default:"
        f" {CONCURRENCY})",
    )
    add_options(parser)
    return parser.parse_args()


def main() -> None:
    """Runs the command. The exit status is 1 if any image has no answer."""
    args = _parse_arguments()
    # First what needs no server, so that these errors open no connection.
    paths = find_image_files(args.images)
    overlays = _Overlays(args.saliency) if args.saliency else None
    with Client(
        args.address,
        args.model,
        version=args.model_version,
        label=args.label,
        timeout_s=args.deadline,
        tls=make_tls(args),
    ) as client:
        problems, remarks = _print_answers(client, paths, overlays, args)
    print(*remarks, RESEARCH_NOTE, sep="\n", file=sys.stderr)
    if problems:
        count = f"{len(problems)} of {len(paths)} images have no answer:"
        raise UserError("\n  ".join([count, *problems]))


if __name__ == "__main__":
    # End quietly, as other filters do, on Ctrl-C and when `head` closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    run(main)
