"""A small server of TensorFlow Serving's protocol, for machines without its binary.

    python -m serving.local_server --model-base-path exports/leuko [--port 8500] [--rest-port 8501]

It serves exported models by gRPC and REST, takes up new versions as they appear, and reads
TensorFlow Serving's configuration files: enough for development, tests and a single workstation.
For more, run TensorFlow Serving itself (compose.yaml). It asks nobody for a password: let others
than this machine reach it only with TLS and client certificates. Research use only.
"""

import argparse
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

# TensorFlow takes seconds to import, so it and all that needs it wait until the arguments are
# right (inside functions).
from leuko_tf.cli import UserError, import_tensorflow_quietly
from leuko_tf.network.runtimes import OPENVINO, RUNTIMES, TENSORFLOW, import_openvino
from serving.server.configs import (
    BatchingParameters,
    ConfigError,
    ModelConfig,
    read_batching,
    read_models,
    read_ssl,
)
from serving.server.folders import version_folders

if TYPE_CHECKING:
    from serving.server.versions import Models

# One image keeps all cores busy; more requests than this wait their turn...
RUNNING = 4
# ...and more than this are refused: some 10 s of work for two cores, one image a request.
WAITING = 64
# Threads beside those of the requests that run or wait: for status, health and refusals.
SPARE_THREADS = 8
# With batching every request that waits has a thread, however large the batches are.
MAX_THREADS = 1024
# gRPC's own limit of 4 MiB is less than 16 images; without any, one request could take all memory.
MAX_MESSAGE_BYTES = 64 * 2**20
# Time that running requests get to finish when the server is asked to stop.
GRACE_S = 10.0
# Time after that for the clients of those that did not finish to be told.
TELL_S = 1.0
# How often a model that is still being copied is looked at, before the start.
RECHECK_S = 0.2
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
BATCHING_FILE = Path(__file__).with_name("config") / "batching.config"


class StartError(Exception):
    """A reason not to start, in words for people."""


def _serve(args: argparse.Namespace) -> None:
    """Loads the models, serves them until told to stop, then lets running requests finish."""
    configs = _models(args)
    for config in configs:
        version_folders(config)  # what has no model is told before TensorFlow's import
    batching = None
    if args.enable_batching:
        batching = read_batching(args.batching_parameters_file or BATCHING_FILE)
    tls = read_ssl(args.ssl_config_file) if args.ssl_config_file else None
    credentials, context = (tls.grpc_credentials(), tls.http_context()) if tls else (None, None)

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # gRPC's lines about refused clients
    import_tensorflow_quietly()
    from serving.server.metrics import Metrics
    from serving.server.rest import RestServer
    from serving.server.servable import Servable
    from serving.server.services import Requests, grpc_server
    from serving.server.versions import Models

    if args.runtime == OPENVINO:
        import_openvino()  # rather told now than by every version
    entrance = _entrance(batching)
    models = Models(lambda name, folder: Servable(name, folder, entrance, batching, args.runtime))
    while not models.start(configs):
        if signal.sigtimedwait(STOP_SIGNALS, RECHECK_S):
            return
    requests = Requests(models, entrance, Metrics())
    server, health = grpc_server(requests, SPARE_THREADS, args.grpc_max_message_bytes)
    port = _listen(server, args, credentials)
    try:
        rest = RestServer(
            (args.host, args.rest_port), requests, args.grpc_max_message_bytes, context
        )
    except OSError:
        raise _port_taken(args.host, args.rest_port, "--rest-port") from None
    _watch(models, args.file_system_poll_wait_seconds)
    server.start()
    rest.start()
    served = ", ".join(f"{name} version {number}" for name, number in models.newest().items())
    scheme = "https" if tls else "http"
    print(
        f"leuko_tf local server: model {served} ready on {args.host}:{port}\n"
        f"leuko_tf local server: REST and metrics on {scheme}://{args.host}:{rest.server_port}",
        flush=True,
    )
    signal.sigwait(STOP_SIGNALS)
    _let_signals_end_it()
    end = time.monotonic() + GRACE_S + TELL_S
    health.enter_graceful_shutdown()
    stopped = server.stop(GRACE_S)
    rest.stop(GRACE_S)
    # Not for ever: TensorFlow may be stuck in a request.
    stopped.wait(max(0.0, end - time.monotonic()))


def _let_signals_end_it() -> None:
    """From now on a signal ends the program at once: for those who do not want to wait."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _models(args: argparse.Namespace) -> list[ModelConfig]:
    if args.model_config_file is None:
        return [ModelConfig(args.model_name, args.model_base_path)]
    configs = read_models(args.model_config_file)
    if not configs:
        raise StartError(f"{args.model_config_file} lists no model.")
    return configs


def _entrance(batching: BatchingParameters | None) -> Any:
    from serving.server.batching import Entrance

    limit = RUNNING + WAITING
    if batching is not None:
        # Room for what TensorFlow's own queue takes if each request is one row; it refuses more.
        batches = batching.max_enqueued_batches + batching.num_batch_threads
        limit = min(batches * batching.max_batch_size + 1, MAX_THREADS)
    return Entrance(RUNNING, limit)


def _listen(server: Any, args: argparse.Namespace, credentials: Any) -> int:
    """Opens the gRPC port, and the socket if there is to be one; gives the port's number."""
    address = f"{args.host}:{args.port}"
    try:
        if credentials is None:
            port = server.add_insecure_port(address)
        else:
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise _port_taken(args.host, args.port, "--port") from None
    if args.grpc_socket_path is not None:
        try:
            # Without TLS: the file's permissions say who may connect.
            server.add_insecure_port(f"unix:{args.grpc_socket_path}")
        except RuntimeError:
            raise StartError(
                f"Cannot listen on {args.grpc_socket_path} (--grpc-socket-path): the folder must"
                " exist and be writable, and the whole path be shorter than 108 characters."
            ) from None
    return port


def _port_taken(host: str, port: int, option: str) -> StartError:
    return StartError(
        f"Cannot listen on {host}:{port}: another server may hold the port, or the host may be"
        f" none of this machine's. Choose with {option} (0 for any that is free) and --host."
    )


def _watch(models: "Models", wait_s: float) -> None:
    """Looks for new versions from now on, in a thread of its own; never if `wait_s` is 0."""

    def watch() -> None:
        while not never.wait(wait_s):
            try:
                models.poll()
            except Exception:  # such as of a file system that is away: the next look may succeed
                logging.getLogger(__name__).exception("Cannot look for new versions.")

    never = threading.Event()
    if wait_s:
        threading.Thread(target=watch, daemon=True).start()


def _port(text: str) -> int:
    # gRPC would quietly listen on 99999 modulo 65536.
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a whole number from 0 to 65535 is needed, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"a number from 0 up is needed, not {text!r}")
    return seconds


def _bytes(text: str) -> int:
    # gRPC counts in 32 bits.
    if not text.isdecimal() or not 0 < int(text) < 2**31:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to 2147483647 is needed: {text!r}")
    return int(text)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
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
        help="folder that holds one model's version folders, such as exports/leuko; the newest"
        " version is served",
    )
    what.add_argument(
        "--model-config-file",
        type=Path,
        metavar="FILE",
        help="models, versions and labels to serve, as TensorFlow Serving's models.config",
    )
    parser.add_argument("--model-name", default="leuko", help="name in requests (default: leuko)")
    parser.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, this machine only")
    parser.add_argument(
        "--port", type=_port, default=8500, help="of gRPC (default: 8500; 0: any free port)"
    )
    parser.add_argument(
        "--rest-port",
        type=_port,
        help="of REST and metrics (default: 8501, with --port 0 any free port; 0: any free port)",
    )
    parser.add_argument(
        "--grpc-socket-path", type=Path, metavar="PATH", help="gRPC on a Unix socket, too"
    )
    parser.add_argument(
        "--ssl-config-file",
        type=Path,
        metavar="FILE",
        help="keys and certificates as TensorFlow Serving's SSLConfig; here for REST, too",
    )
    parser.add_argument(
        "--enable-batching", action="store_true", help="compute concurrent requests together"
    )
    parser.add_argument(
        "--batching-parameters-file",
        type=Path,
        metavar="FILE",
        help="as TensorFlow Serving's (default: serving/config/batching.config)",
    )
    parser.add_argument(
        "--file-system-poll-wait-seconds",
        type=_seconds,
        default=1.0,
        metavar="S",
        help="pause between looks for new versions (default: 1; 0: none after the start)",
    )
    parser.add_argument(
        "--grpc-max-message-bytes",
        type=_bytes,
        default=MAX_MESSAGE_BYTES,
        metavar="N",
        help=f"largest request and answer (default: {MAX_MESSAGE_BYTES}, 64 MiB)",
    )
    parser.add_argument(
        "--runtime",
        choices=RUNTIMES,
        default=TENSORFLOW,
        help="what computes serving_default and encoded: openvino is faster on CPUs, converts for"
        " some seconds at each load, takes image after image, and its probabilities differ by less"
        " than 1e-4 (default: tensorflow)",
    )
    args = parser.parse_args(argv)
    if args.rest_port is None:
        args.rest_port = 8501 if args.port else 0
    if args.batching_parameters_file and not args.enable_batching:
        parser.error("--batching-parameters-file supplied without --enable-batching")
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command until SIGINT or SIGTERM; returns its exit code, 1 if it could not start."""
    args = _parse(argv)
    # Blocked, in this thread and all that it will start, and waited for: with a handler that sets
    # an event, a signal just before the wait for that event begins is not noticed until the next.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        _serve(args)
    except (StartError, ConfigError, UserError) as error:
        print(f"serving.local_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by sys.exit: it would wait for requests that never end, and abort if a thread is still in
    # TensorFlow, such as one that loads a version.
    os._exit(status)
