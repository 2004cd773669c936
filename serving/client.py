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
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
from tqdm import tqdm

from leuko_tf.cli import UserError, parse_positive_int, run
from serving.answers import Answer
from serving.connection import (
    RESEARCH_NOTE,
    ServingError,
    Tls,
    add_options,
    make_tls,
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
    "MAX_IMAGES_PER_REQUEST",
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


def _classify_files(
    client: Client, paths: Sequence[Path], concurrency: int, saliency: bool
) -> Iterator[tuple[Path, Answer | None, str]]:
    """Yields each file in order with its answer, or with None and the problem."""
    started: deque[tuple[Path, None, str]] = deque()  # read, and sent unless there is a problem

    def read_images() -> Iterator[bytes]:
        for path in paths:
            try:
                image = read_image(path)
            except ImageError as error:
                started.append((path, None, str(error)))
            else:
                started.append((path, None, ""))
                yield image

    for answer in client.classify_many(read_images(), concurrency=concurrency, saliency=saliency):
        while started[0][2]:
            yield started.popleft()
        path = started.popleft()[0]
        if answer.problem:
            yield path, None, f"{path}: {answer.problem}"
        else:
            yield path, answer, ""
    yield from started


class _Overlays:
    """Writes overlays into a folder, named after the images' files."""

    def __init__(self, folder: Path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ImageError(f"Cannot make the folder {folder}: {error.strerror}.") from None
        self._folder = folder
        self._counts: Counter[str] = Counter()

    def save(self, path: Path, answer: Answer) -> Path:
        """Writes the overlay of one image and returns its path."""
        assert answer.saliency is not None
        self._counts[path.stem] += 1  # files with the same name in several folders
        copy = f"_{self._counts[path.stem]}" if self._counts[path.stem] > 1 else ""
        overlay = self._folder / f"{path.stem}_saliency{copy}.png"
        caption = f"{path.name}: {answer.classes[0]} {answer.probabilities[0]:.3f}; {RESEARCH_NOTE}"
        save_overlay(overlay, path, answer.saliency, answer.saliency_field, caption)
        return overlay


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
            results = _classify_files(client, paths, args.concurrency, bool(overlays))
            for path, answer, problem in results:
                progress.update()
                if answer is None:
                    problems.append(problem)
                    if args.json:
                        _print(json.dumps({"file": str(path), "problem": problem}))
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
