"""leuko_tf recognises leukocytes in blood smears with TensorFlow and Keras. Research use only.

    import leuko_tf

    model = leuko_tf.load_model("runs/small/best.keras")
    table = leuko_tf.predict(model, "cells/")

The import is light: `load_model`, `read_image`, `predict`, `explain` and `CODES` come from
`leuko_tf.api` at first use. Once Keras is imported, the project's layers are registered, so that
`keras.models.load_model` can load a model, too.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from leuko_tf.startup import prepare_command

if TYPE_CHECKING:
    from leuko_tf.api import CODES, explain, load_model, predict, read_image

__all__ = ["CODES", "__version__", "explain", "load_model", "predict", "read_image"]
__version__ = "0.1.0"

# Python sets this while `python -m leuko_tf.x` looks for its module: a command, not an import.
if sys.argv[:1] == ["-m"]:
    prepare_command()


def __getattr__(name: str) -> Any:
    if name == "CODES":
        return importlib.import_module("leuko_tf.classes").CODES
    if name in __all__:
        importlib.import_module("leuko_tf.cli").import_tensorflow_quietly()
        return getattr(importlib.import_module("leuko_tf.api"), name)
    raise AttributeError(f"module 'leuko_tf' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _register_layers(_keras: object) -> None:
    importlib.import_module("leuko_tf.network.layers")


wrapt.register_post_import_hook(_register_layers, "keras")
