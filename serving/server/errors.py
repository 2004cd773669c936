"""Errors that a request is answered with."""

from typing import Any

import grpc


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
      code: grpc.StatusCode.
      text: str. The status' details, worded as TensorFlow Serving words them.
    """

    def __init__(self, code: Any, text: str):
        super().__init__(text)
        self.code = code
        self.text = text


def deadline_error() -> RequestError:
    """The error of a request that waited longer than its client would."""
    return RequestError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline passed before the request's turn came."
    )


def invalid_argument(text: str) -> RequestError:
    """The error of a request that no state of the server would make right."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, text)
