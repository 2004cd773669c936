"""A gRPC client for an exported model behind TensorFlow Serving or the local server.

    python -m serving.client IMAGE... [--address HOST:PORT] [--model leuko] [--top 3] [--json]

It needs grpcio, protobuf, NumPy and Pillow, and never imports TensorFlow: a microscope's computer
can run it. Research use only, not a diagnosis.
"""

import argparse
import io
import json
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image, UnidentifiedImageError

from serving.messages import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelVersionStatus,
    PredictRequest,
    PredictResponse,
    to_array,
    to_tensor,
)

ADDRESS_VARIABLE = "LEUKO_SERVING_ADDRESS"
DEFAULT_ADDRESS = "127.0.0.1:8500"
RESEARCH_NOTE = "research use only, not a diagnosis"

SIGNATURE = "encoded"
INPUT = "images"
OUTPUTS = ("probabilities", "classes", "blast_score", "atypical_score")

# Not above `max_batch_size` in config/batching.config.
MAX_IMAGES_PER_REQUEST = 16
# gRPC's own limit of 4 MiB is less than 16 images (tensorflow/serving issue 1382).
MAX_MESSAGE_BYTES = 64 * 2**20
# What a request's message holds beside the images: names, shape, length prefixes.
_MESSAGE_OVERHEAD_BYTES = 4096
TIMEOUT_S = 60.0


class ServingError(Exception):
    """A request that failed, in words for people.

    Attributes:
      code: grpc.StatusCode, or None where the server answered but not as an export of this
        project does.
    """

    def __init__(self, message: str, code: Any = None):
        super().__init__(message)
        self.code = code


class ImageError(Exception):
    """A file that cannot be sent, in words for people."""


@dataclass(frozen=True)
class Answer:
    """The model's answer for one image.

    Attributes:
      classes: tuple of str. All class codes, most probable first.
      probabilities: tuple of float, 0 to 1, in the order of `classes`.
      blast_score: float, 0 to 1. Summed probability of the blast classes.
      atypical_score: float, 0 to 1. Summed probability of the atypical classes.
      model_version: int. The version that answered.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    blast_score: float
    atypical_score: float
    model_version: int


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

    Args:
      address: str. `HOST:PORT` of the server's gRPC port (TensorFlow Serving: 8500, not 8501).
      model: str. The model's name on the server. Defaults to "leuko".
      timeout_s: float. Deadline of one request, in seconds. Defaults to 60.
      max_message_bytes: int. Largest request and answer, in bytes. Defaults to 64 MiB.
    """

    def __init__(
        self,
        address: str,
        model: str = "leuko",
        timeout_s: float = TIMEOUT_S,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ):
        self.address = address
        self.model = model
        self.timeout_s = timeout_s
        self.max_message_bytes = max_message_bytes
        self._channel = grpc.insecure_channel(
            address,
            options=[
                ("grpc.max_send_message_length", max_message_bytes),
                ("grpc.max_receive_message_length", max_message_bytes),
            ],
        )
        self._predict = self._channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            request_serializer=PredictRequest.SerializeToString,
            response_deserializer=PredictResponse.FromString,
        )
        self._status = self._channel.unary_unary(
            "/tensorflow.serving.ModelService/GetModelStatus",
            request_serializer=GetModelStatusRequest.SerializeToString,
            response_deserializer=GetModelStatusResponse.FromString,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._channel.close()

    def predict(self, encoded_images: Sequence[bytes], version: int | None = None) -> list[Answer]:
        """Classifies images, a few per request.

        Args:
          encoded_images: sequence of N byte strings. PNG or JPEG files of any size.
          version: int. The model's version. Defaults to the newest that the server has loaded.

        Returns:
          list of N Answers, in the order of the images.

        Raises:
          ServingError: no server, an unknown model or version, an image the server cannot
            decode, a deadline missed, or an answer that is not one of this project's exports.
        """
        answers: list[Answer] = []
        for batch in _batches(encoded_images, self.max_message_bytes - _MESSAGE_OVERHEAD_BYTES):
            request = PredictRequest()
            request.model_spec.name = self.model
            request.model_spec.signature_name = SIGNATURE
            if version is not None:
                request.model_spec.version.value = version
            request.inputs[INPUT].CopyFrom(to_tensor(batch))
            answers += _answers(self._call(self._predict, request), len(batch))
        return answers

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

    def _call(self, method: Any, request: Any) -> Any:
        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise ServingError(self._explain(error), error.code()) from None

    def _explain(self, error: Any) -> str:
        """One line for people: what happened, where, and what to do."""
        details = " ".join((error.details() or "").split())
        match error.code():
            case grpc.StatusCode.UNAVAILABLE:
                return (
                    f"No answer from a server at {self.address}: {details}. Start one (python -m"
                    " serving.local_server --model-base-path exports/leuko) or name another with"
                    f" --address or {ADDRESS_VARIABLE} (TensorFlow Serving's gRPC port is 8500);"
                    " if it is only busy, try again."
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
            case grpc.StatusCode.FAILED_PRECONDITION:
                return (
                    f"The model '{self.model}' at {self.address} does not take encoded images:"
                    f" serve an export of leuko_tf.export. ({details})"
                )
            case grpc.StatusCode.RESOURCE_EXHAUSTED:
                return (
                    f"The server at {self.address} is busy, or a message is over its size limit"
                    f" (here {self.max_message_bytes} bytes): try again, or send smaller images."
                    f" ({details})"
                )
            case code:
                return f"The server at {self.address} answered {code.name}: {details}"


def _batches(images: Sequence[bytes], max_bytes: int) -> Iterator[list[bytes]]:
    """Splits the images into requests that keep to the number and the size allowed."""
    batch: list[bytes] = []
    for image in images:
        total = sum(map(len, batch)) + len(image)
        if batch and (len(batch) == MAX_IMAGES_PER_REQUEST or total > max_bytes):
            yield batch
            batch = []
        batch.append(image)
    if batch:
        yield batch


def _answers(response: Any, count: int) -> list[Answer]:
    """Unpacks a PredictResponse for `count` images; a ServingError if it is not as agreed."""
    missing = [name for name in OUTPUTS if name not in response.outputs]
    if missing:
        raise ServingError(
            f"The model's answer lacks {', '.join(missing)}: serve an export of leuko_tf.export."
        )
    try:
        probabilities, classes, blast, atypical = (
            to_array(response.outputs[name]) for name in OUTPUTS
        )
    except ValueError as error:
        raise ServingError(f"The model's answer cannot be read. {error}") from None
    agreed = classes.dtype == object and classes.ndim == 2 and probabilities.shape == classes.shape
    if not agreed or not (classes.shape[:1] == blast.shape == atypical.shape == (count,)):
        raise ServingError(
            f"The model's answer for {count} images has classes of shape {classes.shape},"
            f" probabilities {probabilities.shape}, blast_score {blast.shape} and atypical_score"
            f" {atypical.shape}: serve an export of leuko_tf.export."
        )
    # Classes come most probable first, probabilities in the model's order: sorted, they align.
    ranked = -np.sort(-probabilities, axis=1)
    return [
        Answer(
            classes=tuple(code.decode() for code in classes[i]),
            probabilities=tuple(ranked[i].tolist()),
            blast_score=float(blast[i]),
            atypical_score=float(atypical[i]),
            model_version=response.model_spec.version.value,
        )
        for i in range(count)
    ]


def read_image(path: str | Path) -> bytes:
    """Reads an image file as bytes that the model's `encoded` signature takes.

    PNG and JPEG files pass through unchanged. TIFF, which TensorFlow cannot decode, becomes PNG
    without loss; an alpha channel is dropped, not blended.

    Args:
      path: str or Path. A PNG or JPEG file, or a TIFF file of one 8-bit RGB or RGBA image.

    Returns:
      bytes. The PNG or JPEG file.

    Raises:
      ImageError: no such file, no permission, a folder, another format, or a damaged image.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder: name the image files in it.")
    try:
        encoded = path.read_bytes()
    except OSError as error:
        raise ImageError(f"Cannot read {path}: {error.strerror}.") from None
    try:
        with Image.open(io.BytesIO(encoded), formats=("PNG", "JPEG", "TIFF")) as image:
            # Decoded here, although the server will do it again: it would refuse the whole
            # request without saying which of its images is damaged.
            image.load()
            return _tiff_to_png(image, path) if image.format == "TIFF" else encoded
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError(f"{path} is not a PNG, JPEG or TIFF image.") from None
    except Exception as error:  # Pillow raises many kinds of exception for damaged files.
        raise ImageError(f"Cannot decode {path}: {error}.") from None


def _tiff_to_png(image: Any, path: Path) -> bytes:
    bits_per_sample = 258
    eight_bit = set(image.tag_v2.get(bits_per_sample, (1,))) == {8}
    if image.n_frames != 1 or image.mode not in ("RGB", "RGBA") or not eight_bit:
        raise ImageError(f"{path} is not a TIFF of one 8-bit RGB or RGBA image.")
    png = io.BytesIO()
    image.convert("RGB").save(png, "PNG")
    return png.getvalue()


def _print_table_head(top: int, width: int) -> None:
    ranks = "".join(f"{f'top {rank}':<11}" for rank in range(1, top + 1))
    print(f"{'file':<{width}}  {ranks}{'blast':>5}  {'atypical':>8}")


def _print_table_row(path: str, answer: Answer, top: int, width: int) -> None:
    best = list(zip(answer.classes, answer.probabilities, strict=True))[:top]
    ranks = "".join(f"{code:<4}{probability:.3f}  " for code, probability in best)
    scores = f"{answer.blast_score:5.3f}  {answer.atypical_score:8.3f}"
    print(f"{path:<{width}}  {ranks:<{11 * top}}{scores}")


def _print_json_line(path: str, answer: Answer, top: int) -> None:
    line = {
        "file": path,
        "classes": answer.classes[:top],
        "probabilities": [round(p, 6) for p in answer.probabilities[:top]],
        "blast_score": round(answer.blast_score, 6),
        "atypical_score": round(answer.atypical_score, 6),
        "model_version": answer.model_version,
    }
    print(json.dumps(line))


def _classify(client: Client, paths: Sequence[str], top: int, as_json: bool) -> None:
    """Prints answers as they come, so that an error keeps those of the images before it."""
    width = max(4, *map(len, paths))
    for start in range(0, len(paths), MAX_IMAGES_PER_REQUEST):
        group = paths[start : start + MAX_IMAGES_PER_REQUEST]
        images = [read_image(path) for path in group]
        try:
            answers = client.predict(images)
        except ServingError as error:
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                which = group[0] if len(group) == 1 else f"One of {group[0]} to {group[-1]}"
                raise ServingError(f"{which}: {error}", error.code) from None
            raise
        # The model decides how many classes there are; a table has no more columns than that.
        top = min(top, len(answers[0].classes))
        if start == 0 and not as_json:
            _print_table_head(top, width)
        for path, answer in zip(group, answers, strict=True):
            if as_json:
                _print_json_line(path, answer, top)
            else:
                _print_table_row(path, answer, top, width)
        sys.stdout.flush()


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"a whole number from 1 up is needed, not {text!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.client",
        description="Classify leukocyte images with a served model.",
        epilog=RESEARCH_NOTE,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG, JPEG or TIFF file")
    parser.add_argument(
        "--address",
        metavar="HOST:PORT",
        default=os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS,
        help=f"the server's gRPC port (default: {ADDRESS_VARIABLE}, else {DEFAULT_ADDRESS})",
    )
    parser.add_argument("--model", default="leuko", help="the model's name (default: leuko)")
    parser.add_argument(
        "--top", type=_positive, default=3, help="classes to show for an image (default: 3)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object an image")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit code: 0, or 1 after an error that it has explained."""
    args = _parse(argv)
    try:
        with Client(args.address, args.model) as client:
            _classify(client, args.images, args.top, args.json)
    except (ImageError, ServingError) as error:
        print(f"serving.client: {error}", file=sys.stderr)
        return 1
    print(RESEARCH_NOTE, file=sys.stderr)
    return 0


if __name__ == "__main__":
    # End quietly, as other filters do, on Ctrl-C and when `head` closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main())
