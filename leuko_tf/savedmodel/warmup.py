"""Writes the requests that TensorFlow Serving sends to a new version before it serves it.

It reads them from assets.extra/tf_serving_warmup_requests. Without them the first real request of
each kind would wait until TensorFlow has prepared the graph.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import prediction_log_pb2

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


def _make_requests(png: bytes, size: int, count: int) -> Iterator[prediction_log_pb2.PredictionLog]:
    # One value suffices: the last value of a TensorProto fills the rest of the tensor.
    pixels = tf.make_tensor_proto(GREY, tf.uint8, (count, size, size, 3))
    yield _make_predict_log("serving_default", pixels)
    for signature in ("encoded", "explain", "embed"):
        yield _make_predict_log(signature, tf.make_tensor_proto([png] * count))
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classify"
    for _ in range(count):
        example = log.classify_log.request.input.example_list.examples.add()
        example.features.feature[EXAMPLE_FEATURE].bytes_list.value.append(png)
    yield log


def _make_predict_log(
    signature: str, images: tensor_pb2.TensorProto
) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["images"].CopyFrom(images)
    return log
