"""Load test of a served model: `python -m serving.loadtest --closed 4 --seconds 30`.

There are two kinds of load:

- closed loop (`--closed N`): N clients; each sends its next request when its last one is
  answered. It measures throughput. Its latencies flatter a slow server, because a slower server
  is asked less often ("coordinated omission").
- open loop (`--open RATE`): requests arrive at random moments (a Poisson process of that rate),
  whether or not earlier ones are answered, as from many independent users. A latency counts from
  the moment when the request was due, so it includes waiting.

No request is retried: each failure is counted by its code. Measured answers are not inspected;
before the measurement one answer to each request is. TensorFlow is not imported.
"""

import argparse
import io
import itertools
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from leuko_tf.cli import parse_positive_int, parse_positive_number, run, write_json
from serving.answers import EXPLAIN_SIGNATURE, PREDICT, SIGNATURE, make_request, unpack_answers
from serving.connection import (
    RESEARCH_NOTE,
    ServingError,
    add_options,
    make_tls,
    open_channel,
)
from serving.grpc_client import MAX_IMAGES_PER_REQUEST, Client
from serving.images import ImageError, find_image_files, read_image
from serving.load_report import OK, Sample, compute_summary, format_table, format_title, plot

ARRAYS_SIGNATURE = "serving_default"
TIMEOUT_S = 10.0
SEED = 1

# Several images in turn, so that no cache answers and file sizes differ.
RANDOM_IMAGES = 8
RANDOM_SIDE = 400  # pixels, as in the data set
MAX_FILES = 256  # of a folder, evenly spaced; all are kept in memory

# An open loop keeps every unanswered request in memory. At this limit further requests are not
# sent, but counted as NOT_SENT.
MAX_UNANSWERED = 1000
NOT_SENT = "NOT_SENT"


def make_random_images(number: int = RANDOM_IMAGES, side: int = RANDOM_SIDE) -> list[bytes]:
    """Makes square images that load a server like cells: as large, and as hard to decode.

    Returns:
      PNG files: smooth colours with noise, about 200 kB each at 400 pixels.
    """
    rng = np.random.default_rng(SEED)
    files = []
    for _ in range(number):
        colours = Image.fromarray(rng.integers(32, 224, (4, 4, 3), dtype=np.uint8))
        smooth = np.asarray(colours.resize((side, side), Image.Resampling.BICUBIC))
        noise = rng.integers(0, 8, (side, side, 3), dtype=np.uint8)
        png = io.BytesIO()
        Image.fromarray(smooth // 8 * 8 + noise).save(png, "PNG")
        files.append(png.getvalue())
    return files


def read_images(path: Path) -> list[bytes]:
    """Reads an image or at most `MAX_FILES` images of a folder."""
    files = find_image_files([path])
    step = -(-len(files) // MAX_FILES)
    return [read_image(file) for file in files[::step]]


def make_inputs(images: Sequence[bytes], batch: int, signature: str) -> list[Any]:
    """Groups PNG or JPEG files into inputs of requests, each with `batch` images.

    The last one is filled up with the first images.

    Returns:
      Lists of files; for `serving_default` decoded, as uint8 arrays [batch, height, width, 3].

    Raises:
      ImageError: the signature takes arrays, and the images differ in size.
    """
    items: list[Any] = list(images)
    if signature == ARRAYS_SIGNATURE:
        items = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
        if len({array.shape for array in items}) > 1:
            raise ImageError(f"{ARRAYS_SIGNATURE} needs images of one size.")
    turns = itertools.cycle(items)
    groups = [[next(turns) for _ in range(batch)] for _ in range(-(-len(items) // batch))]
    return [np.stack(group) for group in groups] if signature == ARRAYS_SIGNATURE else groups


def check_inputs(client: Client, signature: str, inputs: Sequence[Any]) -> int:
    """Makes each request once, which also warms up the server; returns the model's version.

    Raises:
      ServingError: see `Client.send`; or the server cannot read one of the images.
    """
    version = 0
    for images in inputs:
        response = client.send(signature, images)
        for answer in unpack_answers(response, len(images), signature == EXPLAIN_SIGNATURE):
            version = answer.model_version
            if answer.problem:
                raise ServingError(f"The server marks an image as invalid. {answer.problem}")
    return version


def run_closed_loop(
    send: Callable[[], str], concurrency: int, seconds: float, clock: Callable[[], float]
) -> list[Sample]:
    """Keeps `concurrency` requests under way; none begins after `seconds`.

    Args:
      send: Makes a request and returns its code when it has ended; called by several threads.
      clock: The time since the start, in seconds.

    Returns:
      The requests in the order in which they ended.
    """
    samples: list[Sample] = []

    def run_client(_: int) -> None:
        while (begin := clock()) < seconds:
            code = send()
            samples.append(Sample(begin, clock() - begin, code))

    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(run_client, range(concurrency)))
    return samples


def draw_arrivals(rate: float, seconds: float, rng: np.random.Generator) -> list[float]:
    """Draws the moments of a Poisson process with `rate` events per second, in rising order."""
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds))).tolist()


def run_open_loop(
    begin: Callable[[Callable[[str], None]], None],
    due: Sequence[float],
    clock: Callable[[], float],
) -> tuple[list[Sample], float]:
    """Begins each request when it is due, however many are unanswered.

    Args:
      begin: Begins a request; calls its argument with the code when the request has ended.
      due, clock: Rising times, and the present time, in seconds from the start.

    Returns:
      The requests in the order in which they ended, and the longest delay in seconds with which
      one was begun (a weakness of the test, not of the server).
    """
    samples: list[Sample] = []
    ended = threading.Condition()
    longest_delay = 0.0

    def end(moment: float, code: str) -> None:
        with ended:
            samples.append(Sample(moment, clock() - moment, code))
            ended.notify()

    for number, moment in enumerate(due):
        time.sleep(max(0.0, moment - clock()))
        longest_delay = max(longest_delay, clock() - moment)
        if number - len(samples) < MAX_UNANSWERED:
            begin(partial(end, moment))
        else:
            end(moment, NOT_SENT)
    with ended:
        ended.wait_for(lambda: len(samples) == len(due))
    return samples, longest_delay


def _measure(
    args: argparse.Namespace, messages: Sequence[bytes]
) -> tuple[list[Sample], dict[str, Any]]:
    """Runs the requested load. Returns the requests and a description of the load."""
    turns = itertools.cycle(messages)
    with open_channel(args.address, make_tls(args)) as channel:
        # Without (de)serialisation: the test may share its machine with the server.
        predict: Any = channel.unary_unary(PREDICT, None, None)
        try:  # connects now, so that the first latency does not include it
            grpc.channel_ready_future(channel).result(timeout=args.deadline)
        except grpc.FutureTimeoutError:
            text = f"took no second connection within {args.deadline:g} s."
            raise ServingError(f"The server at {args.address} {text}") from None
        start = time.perf_counter()

        def clock() -> float:
            return time.perf_counter() - start

        def send() -> str:
            try:
                predict(next(turns), timeout=args.deadline)
            except grpc.RpcError as error:
                return error.code().name
            return OK

        def begin(end: Callable[[str], None]) -> None:
            call: Any = predict.future(next(turns), timeout=args.deadline)
            call.add_done_callback(lambda done: end(done.code().name))

        if args.closed:
            samples = run_closed_loop(send, args.closed, args.seconds, clock)
            return samples, {"loop": "closed", "concurrency": args.closed}
        due = draw_arrivals(args.open, args.seconds, np.random.default_rng(SEED))
        samples, late_s = run_open_loop(begin, due, clock)
        load = {"loop": "open", "rate_per_s": args.open, "seed": SEED}
        return samples, {**load, "sent_late_ms": round(1000 * late_s, 3)}


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.loadtest",
        description="Put load on a served model; measure latencies, throughput and errors.",
        epilog=RESEARCH_NOTE,
    )
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument(
        "--closed",
        type=parse_positive_int,
        metavar="CONCURRENCY",
        help="closed loop: this many clients, each waiting for its answer",
    )
    load.add_argument(
        "--open",
        type=parse_positive_number,
        metavar="RATE",
        help="open loop: this many requests per second on average, at random moments",
    )
    parser.add_argument(
        "--seconds", type=parse_positive_number, default=10.0, help="duration (default: 10)"
    )
    parser.add_argument(
        "--signature",
        choices=(SIGNATURE, EXPLAIN_SIGNATURE, ARRAYS_SIGNATURE),
        default=SIGNATURE,
        help=f"signature to call (default: {SIGNATURE})",
    )
    parser.add_argument(
        "--batch",
        type=parse_positive_int,
        default=1,
        metavar="N",
        help="images in a request (default: 1; with serving/config/batching.config at most"
        f" {MAX_IMAGES_PER_REQUEST})",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help=f"image or folder to send (default: {RANDOM_IMAGES} random images of"
        f" {RANDOM_SIDE}x{RANDOM_SIDE} pixels)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for loadtest.json and loadtest.png"
    )
    add_options(parser, TIMEOUT_S)
    return parser.parse_args()


def main() -> None:
    """Runs the command. The exit status is 1 if no request succeeded."""
    args = _parse_arguments()
    if args.out:
        # Fail before the load if the package is missing or the folder cannot be made.
        import matplotlib.figure  # noqa: F401

        args.out.mkdir(parents=True, exist_ok=True)
    images = read_images(args.images) if args.images else make_random_images()
    inputs = make_inputs(images, args.batch, args.signature)
    which = {"version": args.model_version, "label": args.label}
    with Client(
        args.address, args.model, **which, timeout_s=args.deadline, tls=make_tls(args)
    ) as client:
        version = check_inputs(client, args.signature, inputs)
    messages = [
        make_request(args.model, args.signature, each, **which).SerializeToString()
        for each in inputs
    ]

    started = datetime.now(UTC).isoformat(timespec="seconds")
    samples, load = _measure(args, messages)
    result = {
        "started": started,
        "address": args.address,
        "model": args.model,
        "model_version": version,
        "signature": args.signature,
        "batch": args.batch,
        "images": str(args.images) if args.images else f"random, {RANDOM_SIDE}x{RANDOM_SIDE}",
        "request_bytes": round(sum(map(len, messages)) / len(messages)),
        "deadline_s": args.deadline,
        **load,
        **compute_summary(samples, args.batch),
    }
    print(format_table(result))
    if args.out:
        plot(samples, format_title(result), args.out / "loadtest.png")
        write_json(args.out / "loadtest.json", result)
        print(f"  written to    {args.out / 'loadtest.json'}, {args.out / 'loadtest.png'}")
    if not result["ok"]:
        raise ServingError("No request succeeded.")


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    run(main)
