"""Serves an exported model: TensorFlow Serving's configuration, a client and a local server."""

import sys

from leuko_tf.extras import explain_missing_packages

# Python sets this while `python -m serving.x` looks for its module: a command, not an import.
if sys.argv[:1] == ["-m"]:
    explain_missing_packages()
