"""How many requests a server stands: `python -m serving.loadtest --closed 4 --seconds 30`.

Two kinds of load:

- closed loop (`--closed N`): N clients, each of which sends its next request when the last one is
  answered. It measures throughput. Its latencies flatter a slow server, which is asked less often
  the slower it is ("coordinated omission").
- open loop (`--open RATE`): requests arrive at random moments (a Poisson process of that rate),
  whether earlier ones are answered or not, as they do from many independent users. A latency
  counts from the moment when the request was due, so that waiting is seen.

Nothing is tried again: each failure is counted by its code. The measured answers are not looked
into; one answer for each request is, before the measurement. TensorFlow is not imported.
"""

import argparse
import io
import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from serving.client import (
    EXPLAIN_SIGNATURE,
    MAX_IMAGES_PER_REQUEST,
    PREDICT,
    PROBLEM,
    SIGNATURE,
    VALID,
    Client,
    predict_request,
)
from serving.connection import (
    RESEARCH_NOTE,
    ServingError,
    add_options,
    open_channel,
    positive,
    positive_number,
    tls_of,
)
from serving.images import ImageError, image_files, read_image
from serving.load_report import OK, Sample, plot, summary
from serving.messages import to_array

ARRAYS_SIGNATURE = "serving_default"
TIMEOUT_S = 10.0
SEED = 1

# Images that are sent in turn, so that no cache answers and not all have one size in bytes.
RANDOM_IMAGES = 8
RANDOM_SIDE = 400  # pixels, as in the data set
MAX_FILES = 256  # of a folder, evenly chosen; they are kept in memory

# An open loop holds every request that is not answered; the rest is not sent, and counted so.
MAX_UNANSWERED = 1000
NOT_SENT = "NOT_SENT"


def random_images(number: int = RANDOM_IMAGES, side: int = RANDOM_SIDE) -> list[bytes]:
    """Makes images that cost a server what cells cost: as large, and as hard to decode.

    Args:
      number: int. How many.
      side: int. Height and width in pixels.

    Returns:
      list of PNG files: a smooth field of colours with noise, some 200 kB at 400 pixels.
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
    """Reads an image or a folder of images, of which `MAX_FILES` are chosen at most."""
    files = image_files([path])
    chosen = files[:: -(-len(files) // MAX_FILES)]
    return [read_image(file) for file in chosen]


def requests(images: Sequence[bytes], batch: int, signature: str) -> list[Any]:
    """Divides the images into the inputs of requests, all of one size.

    Args:
      images: sequence of byte strings. PNG or JPEG files.
      batch: int. Images in a request; taken from the beginning again where they run out.
      signature: str. With `serving_default`, the files are decoded.

    Returns:
      list of inputs: each a list of `batch` byte strings, or a uint8 array [batch, height, width,
      3]. Together they hold every image.

    Raises:
      ImageError: arrays are asked for, and the images are not all of one size.
    """
    items: list[Any] = list(images)
    if signature == ARRAYS_SIGNATURE:
        items = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
        if len({array.shape for array in items}) > 1:
            raise ImageError(f"Images of one size are needed for {ARRAYS_SIGNATURE}.")
    turns = itertools.cycle(items)
    groups = [[next(turns) for _ in range(batch)] for _ in range(-(-len(items) // batch))]
    return [np.stack(group) for group in groups] if signature == ARRAYS_SIGNATURE else groups


def check(client: Client, signature: str, inputs: Sequence[Any]) -> int:
    """Makes each request once, which also warms the server.

    Args:
      client: Client.
      signature: str. The signature that will be measured.
      inputs: sequence of what `requests` made.

    Returns:
      int. The model version that answered.

    Raises:
      ServingError: see `Client.send`; or the server cannot read one of the images.
    """
    version = 0
    for images in inputs:
        response = client.send(signature, images)
        version = response.model_spec.version.value
        if VALID in response.outputs and not to_array(response.outputs[VALID]).all():
            problems = to_array(response.outputs[PROBLEM]) if PROBLEM in response.outputs else ()
            texts = {text.decode(errors="replace") for text in problems} - {""}
            raise ServingError(f"The server marks images as invalid. {' '.join(sorted(texts))}")
    return version


def closed_loop(
    send: Callable[[], str], concurrency: int, seconds: float, clock: Callable[[], float]
) -> list[Sample]:
    """Keeps `concurrency` requests under way.

    Args:
      send: callable. Makes a request and returns its code when it has ended; called by several
        threads at once.
      concurrency: int. Number of threads.
      seconds: float. No request begins later.
      clock: callable. The time since the start, in seconds.

    Returns:
      list of Sample, in the order of their ends.
    """
    samples: list[Sample] = []

    def client() -> None:
        while (begin := clock()) < seconds:
            code = send()
            samples.append(Sample(begin, clock() - begin, code))

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return samples


def arrivals(rate: float, seconds: float, rng: random.Random) -> list[float]:
    """Draws the moments of a Poisson process.

    Args:
      rate: float. Mean number a second.
      seconds: float. Length.
      rng: random.Random.

    Returns:
      list of float, rising: seconds from the start.
    """
    due: list[float] = []
    moment = rng.expovariate(rate)
    while moment < seconds:
        due.append(moment)
        moment += rng.expovariate(rate)
    return due


def open_loop(
    begin: Callable[[Callable[[str], None]], None],
    due: Sequence[float],
    clock: Callable[[], float],
) -> tuple[list[Sample], float]:
    """Begins each request when it is due, however many are unanswered.

    Args:
      begin: callable. Begins a request; calls what it is given with the code when it has ended.
      due: sequence of float, rising. When to begin them, in seconds from the start.
      clock: callable. The time since the start, in seconds.

    Returns:
      The list of Samples, in the order of their ends, and by how many seconds the latest request
      was begun too late, which is the test's own doing.
    """
    samples: list[Sample] = []
    ended = threading.Condition()
    latest = 0.0

    def end(moment: float, code: str) -> None:
        with ended:
            samples.append(Sample(moment, clock() - moment, code))
            ended.notify()

    for number, moment in enumerate(due):
        time.sleep(max(0.0, moment - clock()))
        latest = max(latest, clock() - moment)
        if number - len(samples) < MAX_UNANSWERED:
            begin(partial(end, moment))
        else:
            end(moment, NOT_SENT)
    with ended:
        ended.wait_for(lambda: len(samples) == len(due))
    return samples, latest


def _measure(args: argparse.Namespace, messages: Sequence[bytes]) -> tuple[list[Sample], float]:
    """Runs the load that the arguments ask for; see `open_loop` for what it returns."""
    turns = itertools.cycle(messages)
    with open_channel(args.address, tls_of(args)) as channel:
        # Serialised before and not parsed after: the test shares its machine with the server.
        predict: Any = channel.unary_unary(PREDICT, None, None)
        _connect(channel, args)
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
            return closed_loop(send, args.closed, args.seconds, clock), 0.0
        due = arrivals(args.open, args.seconds, random.Random(SEED))
        return open_loop(begin, due, clock)


def _connect(channel: grpc.Channel, args: argparse.Namespace) -> None:
    """Connects, so that the first request's latency is that of a request."""
    try:
        grpc.channel_ready_future(channel).result(timeout=args.deadline)
    except grpc.FutureTimeoutError:
        raise ServingError(
            f"The server at {args.address} took no second connection within {args.deadline:g} s."
        ) from None


def _table(result: dict[str, Any]) -> str:
    latency = result["latency_ms"]
    errors = ", ".join(f"{code} {number:,}" for code, number in result["errors"].items())
    latencies = "none" if latency is None else "  ".join(f"{k} {v:.1f}" for k, v in latency.items())
    lines = [
        _title(result),
        f"  answered      {result['ok']:,} of {result['requests']:,} requests in"
        f" {result['seconds']:.1f} s",
        f"  throughput    {result['requests_per_s']:.1f} requests/s,"
        f" {result['images_per_s']:.1f} images/s",
        f"  errors        {errors or 'none'}",
        f"  latency (ms)  {latencies}",
    ]
    if result["loop"] == "open":
        lines.append(f"  sent late by  at most {result['sent_late_ms']:.1f} ms")
    return "\n".join(lines)


def _title(result: dict[str, Any]) -> str:
    load = (
        f"closed loop, {result['concurrency']} at once"
        if result["loop"] == "closed"
        else f"open loop, {result['rate_per_s']:g} a second"
    )
    return (
        f"{load}; {result['signature']}, images in a request: {result['batch']};"
        f" {result['model']} version {result['model_version']} at {result['address']}"
    )


def _write(out: Path, result: dict[str, Any], samples: Sequence[Sample]) -> None:
    aside = out / f".{os.getpid()}.loadtest.json"
    try:
        aside.write_text(json.dumps(result, indent=2, allow_nan=False) + "\n")
        plot(samples, _title(result), out / "loadtest.png")
        aside.replace(out / "loadtest.json")
    finally:
        aside.unlink(missing_ok=True)


def _run(args: argparse.Namespace) -> int:
    if args.out:
        # Before the load, not after it: a missing package or a folder that cannot be made.
        import matplotlib.figure  # noqa: F401

        args.out.mkdir(parents=True, exist_ok=True)
    images = read_images(args.images) if args.images else random_images()
    inputs = requests(images, args.batch, args.signature)
    which = {"version": args.model_version, "label": args.label}
    with Client(
        args.address, args.model, **which, timeout_s=args.deadline, tls=tls_of(args)
    ) as client:
        version = check(client, args.signature, inputs)
    messages = [
        predict_request(args.model, args.signature, each, **which).SerializeToString()
        for each in inputs
    ]

    started = datetime.now(UTC).isoformat(timespec="seconds")
    samples, sent_late_s = _measure(args, messages)
    if args.closed:
        load = {"loop": "closed", "concurrency": args.closed}
    else:
        late_ms = round(1000 * sent_late_s, 3)
        load = {"loop": "open", "rate_per_s": args.open, "seed": SEED, "sent_late_ms": late_ms}
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
        **summary(samples, args.batch),
    }
    print(_table(result))
    if args.out:
        _write(args.out, result, samples)
        print(f"  written to    {args.out / 'loadtest.json'}, {args.out / 'loadtest.png'}")
    return 0 if result["ok"] else 1


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.loadtest",
        description="Put load on a served model; measure latencies, throughput and errors.",
        epilog=RESEARCH_NOTE,
    )
    load = parser.add_mutually_exclusive_group(required=True)
    load.add_argument(
        "--closed",
        type=positive,
        metavar="CONCURRENCY",
        help="closed loop: this many clients, each waiting for its answer",
    )
    load.add_argument(
        "--open",
        type=positive_number,
        metavar="RATE",
        help="open loop: this many requests a second on average, at random moments",
    )
    parser.add_argument(
        "--seconds", type=positive_number, default=10.0, help="how long (default: 10)"
    )
    parser.add_argument(
        "--signature",
        choices=(SIGNATURE, EXPLAIN_SIGNATURE, ARRAYS_SIGNATURE),
        default=SIGNATURE,
        help=f"what to ask for (default: {SIGNATURE})",
    )
    parser.add_argument(
        "--batch",
        type=positive,
        default=1,
        metavar="N",
        help=f"images in a request (default: 1; servers take {MAX_IMAGES_PER_REQUEST} and more)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="PATH",
        help=f"image or folder to send (default: {RANDOM_IMAGES} random images of"
        f" {RANDOM_SIDE}x{RANDOM_SIDE} pixels)",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="write loadtest.json and loadtest.png there"
    )
    add_options(parser, TIMEOUT_S)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
      int, the exit code: 0, or 1 if no request succeeded or after an error that it has explained.
    """
    args = _parse(argv)
    try:
        return _run(args)
    except (ImageError, ServingError, OSError) as error:
        print(f"serving.loadtest: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(main())
