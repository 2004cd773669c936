"""Errors that a request is answered with."""

import grpc


class RequestError(Exception):
    """A request that is answered with a gRPC status code and a message."""

    def __init__(self, code: grpc.StatusCode, text: str):
        super().__init__(text)
        self.code = code
        self.text = text


def deadline_error() -> RequestError:
    """Returns DEADLINE_EXCEEDED."""
    return RequestError(
        grpc.StatusCode.DEADLINE_EXCEEDED, "The deadline passed while the request was queued."
    )


def invalid_argument(text: str) -> RequestError:
    """Returns INVALID_ARGUMENT."""
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, text)
