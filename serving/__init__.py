"""Serving of an exported model: TensorFlow Serving's configuration, a client and a local server."""
