"""A small server of TensorFlow Serving's protocol, for machines without its binary.

    python -m serving.local_server --model-base-path exports/leuko [--port 8500]

It serves the newest version of one exported model: enough for development, tests and a single
workstation. For more, run TensorFlow Serving itself (compose.yaml). Research use only.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

# TensorFlow takes seconds to import, so it waits (inside `_serve`) until the arguments are right.

# One image keeps all cores busy; more requests than this wait their turn.
WORKERS = 4
# Time that running requests get to finish when the server is asked to stop.
GRACE_S = 10.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StartError(Exception):
    """A reason not to start, in words for people."""


def newest_version(base: Path) -> Path:
    """Finds the version folder to serve.

    Args:
      base: Path. The folder that holds a model's versions, each a folder named by an integer.

    Returns:
      Path. The folder of the highest number that holds a `saved_model.pb`.

    Raises:
      StartError: there is none.
    """
    if not base.is_dir():
        raise StartError(f"{base} is not a folder: export a model first (leuko_tf.export).")
    versions = [
        folder
        for folder in base.iterdir()
        if folder.name.isascii() and folder.name.isdecimal() and is_saved_model(folder)
    ]
    if not versions:
        raise StartError(
            f"{base} holds no model: a folder named by its version number, such as"
            f" {base / '1'}, with a saved_model.pb in it is needed (see leuko_tf.export)."
        )
    return max(versions, key=lambda folder: int(folder.name))


def is_saved_model(folder: Path) -> bool:
    """Whether the folder holds a SavedModel and not, say, a copy that has just begun."""
    return (folder / "saved_model.pb").is_file()


def _serve(name: str, base: Path, host: str, port: int) -> None:
    """Loads the model, serves it until told to stop, then lets running requests finish."""
    folder = newest_version(base)

    import grpc
    from tensorflow_serving.apis import model_service_pb2_grpc, prediction_service_pb2_grpc

    from serving.servable import ModelService, PredictionService, Servable

    try:
        servable = Servable(name, folder)
    except Exception as error:  # TensorFlow raises many kinds of exception for damaged exports.
        raise StartError(f"Cannot load the model in {folder}: {error}") from None

    server = grpc.server(
        futures.ThreadPoolExecutor(WORKERS),
        options=[
            # As the real server: the client decides how large a message may be.
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
            # Or a second server on the same port would start and take half the requests.
            ("grpc.so_reuseport", 0),
        ],
    )
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(
        PredictionService(servable), server
    )
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelService(servable), server)
    try:
        port = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise StartError(
            f"Cannot listen on {host}:{port}: another server may hold the port, or the host may be"
            " none of this machine's. Choose with --port (0 for any that is free) and --host."
        ) from None
    server.start()
    print(
        f"leuko_tf local server: model {name} version {servable.version} ready on {host}:{port}",
        flush=True,
    )
    signal.sigwait(STOP_SIGNALS)
    server.stop(GRACE_S).wait()


def _port(text: str) -> int:
    # gRPC would quietly listen on 99999 modulo 65536.
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 65535 is needed, not {text!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m serving.local_server",
        description="Serve the newest version of an exported model over gRPC.",
        epilog="research use only, not a diagnosis",
    )
    parser.add_argument(
        "--model-base-path",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder that holds the model's version folders, such as exports/leuko",
    )
    parser.add_argument("--model-name", default="leuko", help="name in requests (default: leuko)")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument("--port", type=_port, default=8500, help="default: 8500; 0: any free port")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command until SIGINT or SIGTERM; returns its exit code, 1 if it could not start."""
    args = _parse(argv)
    # Blocked, in this thread and all that it will start, and waited for: with a handler that sets
    # an event, a signal just before the wait for that event begins is not noticed until the next.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        _serve(args.model_name, args.model_base_path, args.host, args.port)
    except StartError as error:
        print(f"serving.local_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
