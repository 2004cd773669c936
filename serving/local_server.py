"""A small server of TensorFlow Serving's protocol, for machines without its binary.

    python -m serving.local_server --model-base-path exports/leuko [--port 8500] [--rest-port 8501]

It serves exported models over gRPC and REST, loads new versions as they appear, and reads
TensorFlow Serving's configuration files: enough for development, tests and a single workstation.
For more, run TensorFlow Serving itself (compose.yaml). It asks for no password: open it to other
machines only with TLS and client certificates. It logs its start, changes of versions and its end
to stderr. Research use only.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Functions import TensorFlow, numpy and modules that need them: TensorFlow takes seconds, and numpy
# starts threads, which must inherit the blocked signals (see main).
from leuko_tf.cli import UserError, import_tensorflow_quietly, run
from serving.server.configs import (
    BatchingParameters,
    ModelConfig,
    SslConfig,
    read_batching,
    read_models,
    read_ssl,
)
from serving.server.folders import find_version_folders

if TYPE_CHECKING:
    from serving.server.batching import AdmissionControl
    from serving.server.versions import Models

# One image keeps all cores busy; further requests are queued...
RUNNING = 4
# ...up to this many, about 10 s of work for two cores with one image a request.
WAITING = 64
# Threads for status, health and refusals, in addition to those of queued and running requests.
SPARE_THREADS = 8
# Limits the threads with batching, where each queued request holds one.
MAX_THREADS = 1024
# gRPC's default of 4 MiB is less than 16 images; without a limit one request could fill the memory.
MAX_MESSAGE_BYTES = 64 * 2**20
# How long running requests may take to finish when the server stops.
GRACE_S = 10.0
# How long the clients of unfinished requests have after that to receive an error.
CANCEL_S = 1.0
# How often to check, before the start, a model that is still being copied.
RECHECK_S = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
BATCHING_FILE = Path(__file__).with_name("config") / "batching.config"


# Not __name__, which is __main__ here.
_LOG = logging.getLogger("serving.local_server")


def _configure_logging() -> None:
    """Logs with time to stderr, only for this package: gRPC would log each malformed request."""
    form = logging.Formatter(
        "%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S%z"
    )
    handler = logging.StreamHandler()
    handler.setFormatter(form)
    logger = logging.getLogger("serving")
    logger.addHandler(handler)
    logger.propagate = False  # OpenVINO adds a handler to the root logger
    logger.setLevel(logging.INFO)
    # gRPC's core would print a line for each client that it refuses.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def _serve(args: argparse.Namespace) -> None:
    """Loads the models, serves them until a signal comes, and lets running requests finish."""
    start = time.monotonic()
    configs = _read_configs(args)
    for config in configs:
        find_version_folders(config)  # reports a missing model before TensorFlow is imported
    batching = None
    if args.enable_batching:
        batching = read_batching(args.batching_parameters_file or BATCHING_FILE)
    tls = read_ssl(args.ssl_config_file) if args.ssl_config_file else None
    context = tls.make_http_context() if tls else None

    import_tensorflow_quietly()
    from leuko_tf.network.runtimes import OPENVINO, import_openvino
    from serving.server.metrics import Metrics
    from serving.server.rest import RestServer
    from serving.server.servable import Servable
    from serving.server.services import Requests, make_grpc_server
    from serving.server.versions import Models

    if args.runtime == OPENVINO:
        import_openvino()  # fails here once, not for every version
    admission = _make_admission_control(batching)
    models = Models(lambda name, folder: Servable(name, folder, admission, batching, args.runtime))
    while not models.start(configs):
        if signal.sigtimedwait(STOP_SIGNALS, RECHECK_S):
            return
    requests = Requests(models, admission, Metrics())
    max_bytes = args.grpc_max_message_bytes
    server, health = make_grpc_server(requests, SPARE_THREADS, max_bytes)
    port = _listen(server, args, tls)
    try:
        rest = RestServer((args.host, args.rest_port), requests, max_bytes, context)
    except OSError:
        raise _port_error(args.host, args.rest_port, "--rest-port") from None
    _watch(models, args.file_system_poll_wait_seconds)
    server.start()
    rest.start()
    served = ", ".join(f"{name} version {number}" for name, number in models.find_newest().items())
    url = f"{'https' if tls else 'http'}://{args.host}:{rest.server_port}"
    print(f"leuko_tf local server: model {served} ready on {args.host}:{port}")
    print(f"leuko_tf local server: REST and metrics on {url}", flush=True)
    _LOG.info("Server started after %.1f s", time.monotonic() - start)
    number = signal.sigwait(STOP_SIGNALS)
    _LOG.info("Server stopping on %s", signal.Signals(number).name)
    _restore_signals()
    end = time.monotonic() + GRACE_S + CANCEL_S
    health.enter_graceful_shutdown()
    stopped = server.stop(GRACE_S)
    rest.stop(GRACE_S)
    # A request may hang in TensorFlow, so the wait is limited.
    stopped.wait(max(0.0, end - time.monotonic()))
    _LOG.info("Server stopped")


def _restore_signals() -> None:
    """Lets a further signal end the program at once."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _read_configs(args: argparse.Namespace) -> list[ModelConfig]:
    if args.model_config_file is None:
        return [ModelConfig(args.model_name, args.model_base_path)]
    configs = read_models(args.model_config_file)
    if not configs:
        raise UserError(f"{args.model_config_file} lists no model.")
    return configs


def _make_admission_control(batching: BatchingParameters | None) -> "AdmissionControl":
    from serving.server.batching import AdmissionControl

    limit = RUNNING + WAITING
    if batching is not None:
        # As many one-row requests as TensorFlow's own queue takes; that queue refuses more.
        batches = batching.max_enqueued_batches + batching.num_batch_threads
        limit = min(batches * batching.max_batch_size + 1, MAX_THREADS)
    return AdmissionControl(RUNNING, limit)


def _listen(server: Any, args: argparse.Namespace, tls: SslConfig | None) -> int:
    """Opens the gRPC port and the Unix socket, if any; returns the port's number."""
    address = f"{args.host}:{args.port}"
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, tls.make_grpc_credentials())
    except RuntimeError:
        raise _port_error(args.host, args.port, "--port") from None
    if args.grpc_socket_path is not None:
        try:
            # Without TLS: the file's permissions control who may connect.
            server.add_insecure_port(f"unix:{args.grpc_socket_path}")
        except RuntimeError:
            raise UserError(
                f"Cannot listen on {args.grpc_socket_path} (--grpc-socket-path): the folder must"
                " exist and be writable, and the path must be shorter than 108 characters."
            ) from None
    return port


def _port_error(host: str, port: int, option: str) -> UserError:
    return UserError(
        f"Cannot listen on {host}:{port}: the port may be in use, or the host may not be an address"
        f" of this machine. Choose others with {option} (0 for any free port) and --host."
    )


def _watch(models: "Models", wait_s: float) -> None:
    """Looks for new versions every `wait_s` seconds in a background thread; 0: never."""

    def watch() -> None:
        while True:
            time.sleep(wait_s)
            try:
                models.poll()
            except Exception:  # the file system may be unavailable for a while
                _LOG.exception("Cannot look for new versions")

    if wait_s:
        threading.Thread(target=watch, daemon=True).start()


def _parse_integer(text: str, lowest: int, highest: int) -> int:
    if not text.isdecimal() or not lowest <= int(text) <= highest:
        raise argparse.ArgumentTypeError(f"not an integer from {lowest} to {highest}: {text!r}")
    return int(text)


_parse_port = partial(_parse_integer, lowest=0, highest=65535)
_parse_bytes = partial(_parse_integer, lowest=1, highest=2**31 - 1)  # gRPC's limits


def _parse_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"not a number from 0 up: {text!r}")
    return seconds


def _parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    from leuko_tf.network.runtimes import RUNTIMES, TENSORFLOW

    parser = argparse.ArgumentParser(
        prog="python -m serving.local_server",
        description="Serve exported models over gRPC and REST.",
        epilog="research use only, not a diagnosis",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--model-base-path",
        type=Path,
        metavar="FOLDER",
        help="folder with the versions of one model, such as exports/leuko; serves the newest",
    )
    what.add_argument(
        "--model-config-file",
        type=Path,
        metavar="FILE",
        help="models, versions and labels to serve, in TensorFlow Serving's format",
    )
    parser.add_argument(
        "--model-name", default="leuko", help="model name in requests (default: leuko)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument(
        "--port", type=_parse_port, default=8500, help="gRPC port (default: 8500; 0: any free port)"
    )
    parser.add_argument(
        "--rest-port",
        type=_parse_port,
        help="port of REST and metrics (default: 8501, or any free port with --port 0; 0: any)",
    )
    parser.add_argument(
        "--grpc-socket-path", type=Path, metavar="PATH", help="also serve gRPC on a Unix socket"
    )
    parser.add_argument(
        "--ssl-config-file",
        type=Path,
        metavar="FILE",
        help="keys and certificates in TensorFlow Serving's format; encrypts gRPC and REST",
    )
    parser.add_argument(
        "--enable-batching", action="store_true", help="join concurrent requests into batches"
    )
    parser.add_argument(
        "--batching-parameters-file",
        type=Path,
        metavar="FILE",
        help="in TensorFlow Serving's format (default: serving/config/batching.config)",
    )
    parser.add_argument(
        "--file-system-poll-wait-seconds",
        type=_parse_seconds,
        default=1.0,
        metavar="S",
        help="seconds between checks for new versions (default: 1; 0: only at the start)",
    )
    parser.add_argument(
        "--grpc-max-message-bytes",
        type=_parse_bytes,
        default=MAX_MESSAGE_BYTES,
        metavar="N",
        help=f"size limit of requests and answers (default: {MAX_MESSAGE_BYTES}, 64 MiB)",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=TENSORFLOW,
        help="what runs serving_default and encoded: openvino is faster on CPUs, needs some seconds"
        " to convert each version, runs image by image, and its probabilities differ by less than"
        " 1e-4 (default: tensorflow)",
    )
    args = parser.parse_args(argv)
    if args.rest_port is None:
        args.rest_port = 8501 if args.port else 0
    if args.batching_parameters_file and not args.enable_batching:
        parser.error("--batching-parameters-file requires --enable-batching")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the command until SIGINT or SIGTERM."""
    # Blocked in all threads and taken by sigwait: with a handler that sets an event, a signal just
    # before the wait for the event would go unnoticed until the next one.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    args = _parse_arguments(argv)
    _configure_logging()
    _serve(args)


if __name__ == "__main__":
    run(main)
    sys.stdout.flush()
    sys.stderr.flush()
    # sys.exit would wait for hanging requests, and abort if a thread is still in TensorFlow.
    os._exit(0)
