"""Serving of an exported model: TensorFlow Serving's configuration, a client and a local server."""

import sys

from leuko_tf.extras import explain_missing_packages

# Python's sign that `python -m serving.x` is looking for its module: a command, not an import.
if sys.argv[:1] == ["-m"]:
    explain_missing_packages()
