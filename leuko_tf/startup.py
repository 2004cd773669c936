"""What every command does first, before the packages that it needs are imported."""

import os
import sys
from types import TracebackType

# The commands of the extra `client`, and the packages that it installs, by import name.
CLIENT_COMMANDS = ("serving.client", "serving.loadtest")
CLIENT_PACKAGES = ("google", "grpc", "numpy", "PIL", "tqdm")
OWN_PACKAGES = ("leuko_tf", "serving", "tfds_aml")


def prepare_command() -> None:
    """Prepares this process to run `python -m <one of our modules>`.

    A missing package ends it with one message that names the extra to install: modules import
    packages at their top, so that only `sys.excepthook` sees all of these errors. And progress bars
    write to a log file every half minute, not ten times a second; tqdm reads that at its import.
    """
    sys.excepthook = _print_missing_package
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "30")


def _print_missing_package(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    package = (getattr(error, "name", None) or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in ("", *OWN_PACKAGES):
        sys.__excepthook__(kind, error, trace)
        return
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    command = spec.name.removesuffix(".__main__") if spec else "error"
    is_client = command in CLIENT_COMMANDS and package in CLIENT_PACKAGES
    extra = "client" if is_client else "full"
    print(
        f"{command}: the Python package '{package}' is not installed."
        f" Install all that this command needs: pip install 'leuko_tf[{extra}]' (in a clone:"
        f" pip install '.[{extra}]').",
        file=sys.stderr,
    )
