"""Serves an exported model: TensorFlow Serving's configuration, a client and a local server."""

import leuko_tf  # noqa: F401  # prepares commands: `leuko_tf.startup`
