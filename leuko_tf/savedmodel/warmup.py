"""Requests that TensorFlow Serving sends to a new version before it serves it.

It finds them in assets.extra/tf_serving_warmup_requests. Without them the first real request of
each kind would wait for TensorFlow to prepare the graph.
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
    """Writes a request to each signature in each batch size, of grey images.

    Args:
      file: TFRecord file of PredictionLog messages to write.
      size: side in pixels of the images; that of the network's input.
      batch_sizes: numbers of images.
    """
    png = tf.io.encode_png(tf.fill((size, size, 3), tf.constant(GREY, tf.uint8))).numpy()
    with tf.io.TFRecordWriter(str(file)) as records:
        for count in batch_sizes:
            for log in _requests(png, size, count):
                records.write(log.SerializeToString(deterministic=True))


def _requests(png: bytes, size: int, count: int) -> Iterator[prediction_log_pb2.PredictionLog]:
    # One number stands for all pixels: a tensor's last number fills the rest of it.
    pixels = tf.make_tensor_proto(GREY, tf.uint8, (count, size, size, 3))
    yield _predict("serving_default", pixels)
    for signature in ("encoded", "explain", "embed"):
        yield _predict(signature, tf.make_tensor_proto([png] * count))
    log = prediction_log_pb2.PredictionLog()
    log.classify_log.request.model_spec.signature_name = "classify"
    for _ in range(count):
        example = log.classify_log.request.input.example_list.examples.add()
        example.features.feature[EXAMPLE_FEATURE].bytes_list.value.append(png)
    yield log


def _predict(signature: str, images: tensor_pb2.TensorProto) -> prediction_log_pb2.PredictionLog:
    log = prediction_log_pb2.PredictionLog()
    log.predict_log.request.model_spec.signature_name = signature
    log.predict_log.request.inputs["images"].CopyFrom(images)
    return log
