"""Writes the requests that TensorFlow Serving sends to a new version before it serves it.

It reads them from assets.extra/tf_serving_warmup_requests. Without them the first real request of
each kind would wait until TensorFlow has prepared the graph.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from leuko_tf.savedmodel.signatures import EXAMPLE_FEATURE

FILE = "tf_serving_warmup_requests"
GREY = 128


def write_warmup_requests(file: Path, size: int, batch_sizes: tuple[int, ...]) -> None:
    """Writes a TFRecord file with a PredictionLog of grey images for each signature and batch size.

    Args:
      size: Side of the images in pixels: that of the network's input.
    """
    png = tf.io.encode_png(tf.fill((size, size, 3), tf.constant(GREY, tf.uint8))).numpy()
    with tf.io.TFRecordWriter(str(file)) as records:
        for count in batch_sizes:
            for log in _make_requests(png, size, count):
                records.write(log.SerializeToString(deterministic=True))


def _make_requests(png: bytes, size: int, count: int) -> Iterator[PredictionLog]:
    # One value suffices: the last value of a TensorProto fills the rest of the tensor.
    pixels = tf.make_tensor_proto(GREY, tf.uint8, (count, size, size, 3))
    files = tf.make_tensor_proto([png] * count)
    images = {"serving_default": pixels, "encoded": files, "explain": files, "embed": files}
    for signature, tensor in images.items():
        request = {"model_spec": {"signature_name": signature}, "inputs": {"images": tensor}}
        yield PredictionLog(predict_log={"request": request})
    feature = {EXAMPLE_FEATURE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[png]))}
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    examples = {"example_list": {"examples": [example] * count}}
    request = {"model_spec": {"signature_name": "classify"}, "input": examples}
    yield PredictionLog(classify_log={"request": request})
