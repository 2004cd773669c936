"""leuko_tf: leukocytes in blood smears, recognised with TensorFlow and Keras. Research use only.

The import is light. It makes the project's layers known to Keras at the moment Keras is imported
(at once, if it already is), so that in a notebook `import leuko_tf` is all that
`keras.models.load_model` needs, while evaluation and `--help` never wait for TensorFlow.
"""

import importlib
import sys

import wrapt

from leuko_tf.extras import explain_missing_packages

__version__ = "0.1.0"

# Python's sign that `python -m leuko_tf.x` is looking for its module: a command, not an import.
if sys.argv[:1] == ["-m"]:
    explain_missing_packages()


def _register_layers(_keras: object) -> None:
    importlib.import_module("leuko_tf.network.layers")


wrapt.register_post_import_hook(_register_layers, "keras")
