"""Ends a command with one message when a package is missing; it names the extra to install.

Modules import packages at their top, before any code of the command runs. Only `sys.excepthook`
sees all of these errors.
"""

import sys
from types import TracebackType

# The commands of the extra `client`, and the packages that it installs, by import name.
CLIENT_COMMANDS = ("serving.client", "serving.loadtest")
CLIENT_PACKAGES = ("google", "grpc", "numpy", "PIL", "tqdm")
OWN_PACKAGES = ("leuko_tf", "serving", "tfds_aml")


def explain_missing_packages() -> None:
    """Prints a message instead of a stack trace for every missing package from now on."""
    sys.excepthook = _print_missing_package


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
