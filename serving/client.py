"""A gRPC client for an exported model behind TensorFlow Serving or the local server.

    python -m serving.client IMAGE_OR_FOLDER... [--address HOST:PORT] [--json] [--saliency DIR]

It needs grpcio, protobuf, NumPy, Pillow and tqdm (`pip install leuko_tf[client]`), and never
imports TensorFlow: a microscope's computer can run it. Research use only, not a diagnosis.
"""

import argparse
import json
import logging
import random
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from tqdm import tqdm

from serving.connection import (
    ADDRESS_VARIABLE,
    DEFAULT_ADDRESS,
    DEFAULT_MODEL,
    MAX_MESSAGE_BYTES,
    RESEARCH_NOTE,
    TIMEOUT_S,
    ServingError,
    Tls,
    add_options,
    open_channel,
    positive,
    tls_of,
)
from serving.images import ImageError, image_files, read_image, save_overlay
from serving.messages import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    to_array,
    to_tensor,
)

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

PREDICT = "/tensorflow.serving.PredictionService/Predict"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"

SIGNATURE = "encoded"
EXPLAIN_SIGNATURE = "explain"
INPUT = "images"
OUTPUTS = ("probabilities", "classes", "blast_score", "atypical_score")
# Exports from before the first two refuse a whole request for one image that they cannot decode.
VALID, PROBLEM, REMARK = "valid", "problem", "remark"
SALIENCY = "saliency"
FIELD = "field"  # which older exports do not have: they look at the whole image

# Not above `max_batch_size` in config/batching.config.
MAX_IMAGES_PER_REQUEST = 16
# The server explains images one by one, each some three times as long as it classifies one.
MAX_EXPLAINED_PER_REQUEST = 4
# Requests under way at once: enough for the server to work on one while others travel.
CONCURRENCY = 4
# What a request's message holds beside the images: names, shape, length prefixes.
_MESSAGE_OVERHEAD_BYTES = 4096

# The two codes by which a server says "not now". A prediction changes nothing on the server, so
# that it can be asked for twice.
RETRY_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED)
FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0
# How long a server is waited for that was never reached: the address may be wrong.
FIRST_CONTACT_S = 5.0
# gRPC's words for a message over a size limit, which has RESOURCE_EXHAUSTED, too, and for good.
_TOO_LARGE = "larger than max"
# TensorFlow Serving's words for a label that no version has.
_NO_LABEL = "version label"

_log = logging.getLogger("serving.client")


@dataclass(frozen=True)
class Answer:
    """The model's answer for one image.

    Attributes:
      classes: tuple of str. All class codes, most probable first.
      probabilities: tuple of float, 0 to 1, in the order of `classes`.
      blast_score: float, 0 to 1. Summed probability of the blast classes.
      atypical_score: float, 0 to 1. Summed probability of the atypical classes.
      model_version: int. The version that answered.
      remark: str. What to know of the model, such as that it learned from synthetic cells; mostly
        empty.
      problem: str. Why the server could not read the image; the other attributes then mean
        nothing. Empty if it could.
      saliency: numpy.ndarray, uint8 [s, s], s the model's input size; how much the answer depends
        on each place, 255 for the most. None if it was not asked for.
      saliency_field: int. Side in pixels of the square in the image's middle that the map covers
        (mirrored outwards, where the image is smaller); 0 stands for the whole image.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    blast_score: float
    atypical_score: float
    model_version: int
    remark: str = ""
    problem: str = ""
    saliency: np.ndarray | None = field(default=None, compare=False, repr=False)
    saliency_field: int = field(default=0, compare=False, repr=False)


@dataclass(frozen=True)
class VersionStatus:
    """The state of one version of the model on the server.

    Attributes:
      version: int.
      state: str. `AVAILABLE` when it answers requests, else START, LOADING, UNLOADING or END.
      message: str. Why loading failed; empty if it did not.
    """

    version: int
    state: str
    message: str


class Client:
    """A connection to one model on one server; use it in a `with` statement or call `close`.

    Where the server is not there or too busy (UNAVAILABLE, RESOURCE_EXHAUSTED), a request is
    tried again, after pauses that double from 0.1 s to 2 s and are cut by a random factor, so
    that many clients do not return at once ("full jitter", Brooker 2015, AWS Architecture Blog),
    until its deadline; a server that was never reached gets 5 s. The first such failure is logged
    as a warning. gRPC's own retries would
    end after five attempts, a second or two, while a server takes longer to start anew; and they
    never repeat a request above 256 KiB, which is one image.

    Args:
      address: str. `HOST:PORT` of the server's gRPC port (TensorFlow Serving: 8500, not 8501).
      model: str. The model's name on the server. Defaults to "leuko".
      version: int. The model's version. Defaults to the newest that the server has loaded.
      label: str. Instead of `version`, the label that it carries on the server.
      timeout_s: float. Deadline of one request with all its attempts, in seconds. Defaults to 60.
      max_message_bytes: int. Largest request and answer, in bytes. Defaults to 64 MiB.
      tls: Tls. Files of an encrypted connection. Defaults to no encryption.

    Raises:
      ValueError: a version and a label are given.
      ServingError: a file of `tls` is missing or wrong.
    """

    def __init__(
        self,
        address: str,
        model: str = DEFAULT_MODEL,
        *,
        version: int | None = None,
        label: str | None = None,
        timeout_s: float = TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        tls: Tls | None = None,
    ):
        if version is not None and label is not None:
            raise ValueError("Give a version or a label, not both.")
        self.address = address
        self.model = model
        self.version = version
        self.label = label
        self.timeout_s = timeout_s
        self.max_message_bytes = max_message_bytes
        self._channel = open_channel(address, tls, max_message_bytes)
        self._predict = self._channel.unary_unary(
            PREDICT,
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            STATUS,
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )
        self._closed = threading.Event()
        self._was_reached = threading.Event()
        self._channel.subscribe(self._watch)
        self._has_warned = False

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection and gives up what is still under way."""
        self._closed.set()
        self._channel.close()

    def predict(self, encoded_images: Iterable[bytes], *, saliency: bool = False) -> list[Answer]:
        """Classifies images, a few per request, one request after the other.

        Args:
          encoded_images: iterable of N byte strings. PNG or JPEG files of any size.
          saliency: bool. Whether to ask for saliency maps, too (signature `explain`).

        Returns:
          list of N Answers, in the order of the images.

        Raises:
          ServingError: see `classify_many`.
        """
        return list(self.classify_many(encoded_images, concurrency=1, saliency=saliency))

    def classify_many(
        self,
        encoded_images: Iterable[bytes],
        *,
        concurrency: int = CONCURRENCY,
        saliency: bool = False,
    ) -> Iterator[Answer]:
        """Classifies a stream of images, several requests at once.

        Images are taken from the iterable as they are needed, so that it may be endless: no more
        than `concurrency` + 2 requests' worth of them are in memory.

        Args:
          encoded_images: iterable of byte strings. PNG or JPEG files of any size.
          concurrency: int, from 1. Requests under way at once. Defaults to 4.
          saliency: bool. Whether to ask for saliency maps, too (signature `explain`).

        Yields:
          Answer, one an image, in the order of the images.

        Raises:
          ServingError: no server, an unknown model or version, a deadline missed, or an answer
            that is not one of this project's exports; with exports from before `problem`, an
            image that the server cannot decode. All answers to earlier requests were yielded.
        """
        max_images = MAX_EXPLAINED_PER_REQUEST if saliency else MAX_IMAGES_PER_REQUEST
        max_bytes = self.max_message_bytes - _MESSAGE_OVERHEAD_BYTES
        waiting: deque[Future[list[Answer]]] = deque()
        pool = ThreadPoolExecutor(concurrency)
        try:
            for batch in _batches(encoded_images, max_images, max_bytes):
                waiting.append(pool.submit(self._ask, batch, saliency))
                while waiting and (len(waiting) > concurrency or waiting[0].done()):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def status(self) -> list[VersionStatus]:
        """Asks which versions of the model the server has.

        Returns:
          list of VersionStatus, one a version that the server knows.

        Raises:
          ServingError: no server, an unknown model, or a deadline missed.
        """
        request = GetModelStatusRequest()
        request.model_spec.name = self.model
        names = ModelVersionStatus.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
        return [
            VersionStatus(s.version, names[s.state].name, s.status.error_message)
            for s in self._call(self._status, request).model_version_status
        ]

    def send(self, signature: str, images: np.ndarray | Sequence[bytes]) -> Any:
        """Makes one request of any signature, and hands over the answer as it comes.

        Args:
          signature: str. See `predict_request`.
          images: sequence of byte strings or numpy.ndarray. See `predict_request`.

        Returns:
          PredictResponse.

        Raises:
          ServingError: no server, an unknown model, version or signature, inputs that the server
            refuses, or a deadline missed.
        """
        request = predict_request(self.model, signature, images, self.version, self.label)
        return self._call(self._predict, request)

    def _ask(self, images: list[bytes], saliency: bool) -> list[Answer]:
        response = self.send(EXPLAIN_SIGNATURE if saliency else SIGNATURE, images)
        return _answers(response, len(images), saliency)

    def _watch(self, state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            self._was_reached.set()

    def _patience_s(self) -> float:
        """How long after its beginning a request is tried again."""
        if self._was_reached.is_set():
            return self.timeout_s
        return min(FIRST_CONTACT_S, self.timeout_s)

    def _call(self, method: Any, request: Any) -> Any:
        """Makes a request until it is answered or refused for good, or its time is over."""
        begin = time.monotonic()
        longest_pause = FIRST_PAUSE_S
        while True:
            try:
                return method(request, timeout=max(0.0, begin + self.timeout_s - time.monotonic()))
            except grpc.RpcError as error:
                pause = random.uniform(0, longest_pause)
                is_over = time.monotonic() + pause >= begin + self._patience_s()
                if is_over or not _is_worth_a_retry(error):
                    raise ServingError(self._explain(error), error.code()) from None
                self._warn_once(error)
            if self._closed.wait(pause):
                raise ServingError("The connection was closed.", grpc.StatusCode.CANCELLED)
            longest_pause = min(2 * longest_pause, MAX_PAUSE_S)

    def _warn_once(self, error: Any) -> None:
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "no answer yet from %s (%s); trying again for up to %g s",
                self.address,
                _details(error),
                self._patience_s(),
            )

    def _explain(self, error: Any) -> str:
        """One line for people: what happened, where, and what to do."""
        details = _details(error)
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return (
                    f"No answer from a server at {self.address} in {self._patience_s():g} s:"
                    f" {details}. Start one (python -m serving.local_server --model-base-path"
                    f" exports/leuko) or name another with --address or {ADDRESS_VARIABLE}"
                    " (TensorFlow Serving's gRPC port is 8500; one that encrypts needs"
                    " --ca-certificate); if it is only busy, try again."
                )
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                return (
                    f"The server at {self.address} did not answer within {self.timeout_s:g} s."
                    " It may be busy or still loading: try again."
                )
            case grpc.StatusCode.NOT_FOUND:
                return (
                    f"The server at {self.address} does not have this version of model"
                    f" '{self.model}', or no such model. Check its name and version. ({details})"
                )
            case grpc.StatusCode.INVALID_ARGUMENT if _NO_LABEL in details:
                return f"Model '{self.model}' at {self.address} has no such label. ({details})"
            case grpc.StatusCode.FAILED_PRECONDITION:
                return (
                    f"The model '{self.model}' at {self.address} does not take encoded images, or"
                    f" makes no saliency maps: serve an export of leuko_tf.export. ({details})"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED if _TOO_LARGE in details:
                return (
                    f"A message to or from the server at {self.address} is over its size limit"
                    f" (here {self.max_message_bytes} bytes): send smaller images. ({details})"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return (
                    f"The server at {self.address} was too busy for {self.timeout_s:g} s: try"
                    f" again later. ({details})"
                )
            case code:
                return f"The server at {self.address} answered {code.name}: {details}"


def _details(error: Any) -> str:
    return " ".join((error.details() or "").split()).rstrip(".")


def _is_worth_a_retry(error: Any) -> bool:
    return error.code() in RETRY_CODES and _TOO_LARGE not in _details(error)


def predict_request(
    model: str,
    signature: str,
    images: np.ndarray | Sequence[bytes],
    version: int | None = None,
    label: str | None = None,
) -> Any:
    """Makes a PredictRequest.

    Args:
      model: str. The model's name on the server.
      signature: str. `encoded` and `explain` take files, `serving_default` takes arrays.
      images: sequence of N byte strings, or numpy.ndarray, uint8 [N, height, width, 3].
      version: int. The model's version. Defaults to the newest.
      label: str. Instead of `version`, the label that it carries on the server.

    Returns:
      PredictRequest.
    """
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs[INPUT].CopyFrom(to_tensor(images))
    return request


def _batches(images: Iterable[bytes], max_images: int, max_bytes: int) -> Iterator[list[bytes]]:
    """Splits the images into requests that keep to the number and the size allowed."""
    batch: list[bytes] = []
    total = 0
    for image in images:
        if batch and (len(batch) == max_images or total + len(image) > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(image)
        total += len(image)
    if batch:
        yield batch


def _answers(response: Any, count: int, saliency: bool) -> list[Answer]:
    """Unpacks a PredictResponse for `count` images; a ServingError if it is not as agreed."""
    wanted = (*OUTPUTS, SALIENCY) if saliency else OUTPUTS
    missing = [name for name in wanted if name not in response.outputs]
    if missing:
        raise ServingError(
            f"The model's answer lacks {', '.join(missing)}: serve an export of leuko_tf.export."
        )
    known = {*wanted, VALID, PROBLEM, REMARK, FIELD} & set(response.outputs)
    try:
        outputs = {name: to_array(response.outputs[name]) for name in known}
    except ValueError as error:
        raise ServingError(f"The model's answer cannot be read. {error}") from None
    if not _is_as_agreed(outputs, count):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(outputs.items()))
        raise ServingError(
            f"The model's answer for {count} images has shapes {shapes}: serve an export of"
            " leuko_tf.export."
        )
    classes = outputs["classes"]
    # Classes come most probable first, probabilities in the model's order: sorted, they align.
    ranked = -np.sort(-outputs["probabilities"], axis=1)
    return [
        Answer(
            classes=tuple(code.decode() for code in classes[i]),
            probabilities=tuple(ranked[i].tolist()),
            blast_score=float(outputs["blast_score"][i]),
            atypical_score=float(outputs["atypical_score"][i]),
            model_version=response.model_spec.version.value,
            remark=_text(outputs, REMARK, i),
            problem=_problem(outputs, i),
            saliency=outputs[SALIENCY][i] if saliency else None,
            saliency_field=int(outputs[FIELD][i]) if FIELD in outputs else 0,
        )
        for i in range(count)
    ]


def _is_as_agreed(outputs: dict[str, np.ndarray], count: int) -> bool:
    classes, probabilities = outputs["classes"], outputs["probabilities"]
    per_image = [a for name, a in outputs.items() if name not in ("classes", "probabilities")]
    saliency = outputs.get(SALIENCY, np.empty((count, 0, 0), np.uint8))
    return (
        classes.dtype == object
        and classes.ndim == 2
        and probabilities.shape == classes.shape
        and len(classes) == count
        and all(a.shape == (count,) for a in per_image if a is not outputs.get(SALIENCY))
        and (saliency.dtype, saliency.ndim, len(saliency)) == (np.uint8, 3, count)
    )


def _problem(outputs: dict[str, np.ndarray], i: int) -> str:
    if VALID not in outputs or outputs[VALID][i]:
        return ""
    return _text(outputs, PROBLEM, i) or "The server cannot read the image."


def _text(outputs: dict[str, np.ndarray], name: str, i: int) -> str:
    """Of an output that older exports do not have."""
    return outputs[name][i].decode(errors="replace") if name in outputs else ""


def _print_table_head(top: int, width: int) -> None:
    ranks = "".join(f"{f'top {rank}':<11}" for rank in range(1, top + 1))
    _print(f"{'file':<{width}}  {ranks}{'blast':>5}  {'atypical':>8}")


def _print_table_row(path: Path, answer: Answer, top: int, width: int) -> None:
    best = list(zip(answer.classes, answer.probabilities, strict=True))[:top]
    ranks = "".join(f"{code:<4}{probability:.3f}  " for code, probability in best)
    scores = f"{answer.blast_score:5.3f}  {answer.atypical_score:8.3f}"
    _print(f"{path!s:<{width}}  {ranks:<{11 * top}}{scores}")


def _print_json_line(path: Path, answer: Answer, top: int, saliency: Path | None) -> None:
    line: dict[str, Any] = {
        "file": str(path),
        "classes": answer.classes[:top],
        "probabilities": [round(p, 6) for p in answer.probabilities[:top]],
        "blast_score": round(answer.blast_score, 6),
        "atypical_score": round(answer.atypical_score, 6),
        "model_version": answer.model_version,
    }
    if saliency:
        line["saliency"] = str(saliency)
    if answer.remark:
        line["remark"] = answer.remark
    _print(json.dumps(line))


def _print(line: str) -> None:
    """Prints a line at once, above the progress bar where there is one."""
    tqdm.write(line, file=sys.stdout)
    sys.stdout.flush()


@dataclass(frozen=True)
class _Outcome:
    """What came of one file: an answer, or the problem that kept it from having one."""

    path: Path
    answer: Answer | None = None
    problem: str = ""


def _outcomes(
    client: Client, paths: Sequence[Path], concurrency: int, saliency: bool
) -> Iterator[_Outcome]:
    """The outcome of each file, in their order."""
    read: deque[_Outcome] = deque()

    def images() -> Iterator[bytes]:
        for path in paths:
            try:
                image = read_image(path)
            except ImageError as error:
                read.append(_Outcome(path, problem=str(error)))
            else:
                read.append(_Outcome(path))
                yield image

    for answer in client.classify_many(images(), concurrency=concurrency, saliency=saliency):
        while read[0].problem:
            yield read.popleft()
        path = read.popleft().path
        if answer.problem:
            yield _Outcome(path, problem=f"{path}: {answer.problem}")
        else:
            yield _Outcome(path, answer)
    yield from read


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
        while name in self._names:  # files of one name in several folders
            copies += 1
            name = f"{path.stem}_saliency_{copies}.png"
        self._names.add(name)
        caption = f"{path.name}: {answer.classes[0]} {answer.probabilities[0]:.3f}; {RESEARCH_NOTE}"
        save_overlay(self._folder / name, path, answer.saliency, answer.saliency_field, caption)
        return self._folder / name


def _classify(
    client: Client, paths: Sequence[Path], overlays: _Overlays | None, args: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Prints answers as they come.

    Returns:
      The problems of the images that have none, and the model's remarks, each once.
    """
    width = max(4, *(len(str(path)) for path in paths))
    top = args.top
    problems: list[str] = []
    remarks: dict[str, None] = {}  # a set that keeps its order
    answered = 0
    progress = tqdm(total=len(paths), unit="image", file=sys.stderr, disable=None, leave=False)
    try:
        with progress:
            for outcome in _outcomes(client, paths, args.concurrency, bool(overlays)):
                path, answer = outcome.path, outcome.answer
                progress.update()
                if answer is None:
                    problems.append(outcome.problem)
                    if args.json:
                        _print(json.dumps({"file": str(path), "problem": outcome.problem}))
                    continue
                if not answered and not args.json:
                    # The model decides how many classes there are; no more columns than that.
                    top = min(top, len(answer.classes))
                    _print_table_head(top, width)
                answered += 1
                if answer.remark:
                    remarks[answer.remark] = None
                saved = overlays.save(path, answer) if overlays else None
                if args.json:
                    _print_json_line(path, answer, top, saved)
                else:
                    _print_table_row(path, answer, top, width)
    except ServingError as error:
        group = paths[answered + len(problems) :][:MAX_IMAGES_PER_REQUEST]
        where = ""
        if error.code is grpc.StatusCode.INVALID_ARGUMENT and _NO_LABEL not in str(error):
            where = f"{group[0]}: " if len(group) == 1 else f"One of {group[0]} to {group[-1]}: "
        so_far = f" {answered} of {len(paths)} images were answered." if answered else ""
        raise ServingError(f"{where}{error}{so_far}", error.code) from None
    return problems, [*remarks]


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
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
        "--top", type=positive, default=3, help="classes to show for an image (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")
    parser.add_argument(
        "--saliency",
        type=Path,
        metavar="DIR",
        help="ask for saliency maps, too, and save each over its image as DIR/NAME_saliency.png",
    )
    parser.add_argument(
        "--concurrency",
        type=positive,
        default=CONCURRENCY,
        metavar="N",
        help=f"requests of up to {MAX_IMAGES_PER_REQUEST} images under way at once (default:"
        f" {CONCURRENCY})",
    )
    add_options(parser)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Returns:
      int, the exit code: 0, or 1 after errors that it has explained, be it of a single image.
    """
    args = _parse(argv)
    try:
        # What needs no server comes first: these errors then never open a connection.
        paths = image_files(args.images)
        overlays = _Overlays(args.saliency) if args.saliency else None
        with Client(
            args.address,
            args.model,
            version=args.model_version,
            label=args.label,
            timeout_s=args.deadline,
            tls=tls_of(args),
        ) as client:
            problems, remarks = _classify(client, paths, overlays, args)
    except (ImageError, ServingError) as error:
        print(f"serving.client: {error}", file=sys.stderr)
        return 1
    if problems:
        print(
            f"serving.client: {len(problems)} of {len(paths)} images have no answer:",
            *problems,
            sep="\n  ",
            file=sys.stderr,
        )
    print(*remarks, RESEARCH_NOTE, sep="\n", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    # End quietly, as other filters do, on Ctrl-C and when `head` closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
