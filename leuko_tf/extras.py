"""A missing package ends a command in one message that names the extra to install.

Packages are imported at the top of modules, before any command's own code runs; only a hook sees
every such error.
"""

import sys
from types import TracebackType

# The commands of the extra `client`, and the packages that it installs, by import name.
CLIENT_COMMANDS = ("serving.client", "serving.loadtest")
CLIENT_PACKAGES = ("google", "grpc", "numpy", "PIL", "tqdm")
OWN_PACKAGES = ("leuko_tf", "serving", "tfds_aml")


def explain_missing_packages() -> None:
    """Replaces the stack trace of a package that is not installed, until the process ends."""
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
    light = command in CLIENT_COMMANDS and package in CLIENT_PACKAGES
    extra = "client" if light else "full"
    print(
        f"{command}: this needs the Python package '{package}', which is not installed."
        f" pip install 'leuko_tf[{extra}]' gives all it needs (in a clone: pip install"
        f" '.[{extra}]').",
        file=sys.stderr,
    )
