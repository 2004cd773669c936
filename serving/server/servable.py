"""Loads one version of a model and runs its signatures; status codes are TensorFlow Serving's."""

import gc
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2, types_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    model_pb2,
    predict_pb2,
    prediction_log_pb2,
)

from leuko_tf.network.runtimes import OPENVINO, TENSORFLOW
from serving.server.batching import AdmissionControl, add_batched_signature, can_batch
from serving.server.configs import BatchingParameters
from serving.server.errors import RequestError, invalid_argument
from serving.server.openvino_runtime import OpenVINOSignatures

DEFAULT_SIGNATURE = "serving_default"
CLASSIFY_METHOD = "tensorflow/serving/classify"
WARM_UP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# TensorFlow Serving's limit.
MAX_WARM_UP_RECORDS = 1000
# A TensorProto may repeat its last value, so that few bytes stand for a huge tensor. This limit is
# the size of the largest message.
MAX_TENSOR_BYTES = 2**26
# Limits a request: an image file of a few bytes becomes an array of 2 MB at 400 pixels.
MAX_ROWS = 128
NEVER = math.inf


class Servable:
    """One version of a model, loaded.

    It is loaded into a session, as TensorFlow Serving does: both load the same exports, and closing
    the session frees all memory of the version.

    Args:
      name: The name that requests give.
      folder: Named by an integer; contains `saved_model.pb`.
      admission: Gives turns to requests that are not batched.
      batching: How to join requests into batches; None runs each request alone.
      runtime: `openvino` runs the network of `serving_default` and `encoded` with OpenVINO, image
        by image. TensorFlow runs everything else.

    Raises:
      Exception: any that TensorFlow raises for a SavedModel that does not load.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        admission: AdmissionControl,
        batching: BatchingParameters | None = None,
        runtime: str = TENSORFLOW,
    ):
        self.name = name
        self.version = int(folder.name)
        # Warm-up requests must not wait for requests to other versions.
        self._admission = AdmissionControl(running=1, limit=1)
        self._batch_rows = min(MAX_ROWS, batching.max_batch_size) if batching else MAX_ROWS
        graph = tf.Graph()
        self._session = tf.compat.v1.Session(graph=graph)
        try:
            with graph.as_default():
                loaded = tf.compat.v1.saved_model.loader.load(
                    self._session, [tf.saved_model.SERVING], str(folder)
                )
            self.definitions = {
                key: definition
                for key, definition in loaded.signature_def.items()
                if not key.startswith("__")  # __saved_model_init_op
            }
            self._batched = {
                key: add_batched_signature(graph, definition, batching)
                for key, definition in self.definitions.items()
                if batching and can_batch(definition)
            }
            graph.finalize()
            self._openvino = OpenVINOSignatures(folder) if runtime == OPENVINO else None
            self._warm_up(folder / WARM_UP_FILE)
            self._admission = admission
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the version's memory. No request may be running."""
        self._session.close()
        del self._session
        self._batched = {}
        self._openvino = None
        gc.collect()  # graphs contain reference cycles

    def _warm_up(self, file: Path) -> None:
        """Answers the export's warm-up requests, so that the first real one is not slow.

        Skips requests with more rows than this server takes.
        """
        if not file.is_file():
            return
        records = tf.data.TFRecordDataset(str(file)).take(MAX_WARM_UP_RECORDS + 1)
        for number, record in enumerate(records.as_numpy_iterator()):
            if number == MAX_WARM_UP_RECORDS:
                raise ValueError(f"{file} holds more than {MAX_WARM_UP_RECORDS} records.")
            log = prediction_log_pb2.PredictionLog.FromString(record)
            kind = log.WhichOneof("log_type")
            if kind == "predict_log":
                request, answer = log.predict_log.request, self.predict
                shapes = [tensor.tensor_shape.dim for tensor in request.inputs.values()]
                rows = max((dims[0].size for dims in shapes if dims), default=0)
            elif kind == "classify_log":
                request, answer = log.classify_log.request, self.classify
                rows = len(_split_examples(request.input)[1])
            else:
                raise ValueError(
                    f"{file}: only predict and classify requests can warm up. Received: {kind}"
                )
            key = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if rows <= (self._batch_rows if key in self._batched else MAX_ROWS):
                answer(request)

    def predict(self, request: Any, deadline: float = NEVER) -> Any:
        """Answers a PredictRequest with a PredictResponse.

        Raises:
          RequestError: the request does not fit the signature, or its turn comes after the
            deadline (Unix time).
          tf.errors.OpError: the graph failed.
        """
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        definition = self.get_definition(key, grpc.StatusCode.FAILED_PRECONDITION)
        expected, given = ",".join(sorted(definition.inputs)), ",".join(sorted(request.inputs))
        if given != expected:
            raise invalid_argument(
                f"The signature takes the inputs {{{expected}}}, not {{{given}}}."
            )
        names = _select_outputs(definition, request.output_filter)
        arrays = {
            name: _to_array(name, info, request.inputs[name])
            for name, info in definition.inputs.items()
        }
        outputs = self.run(key, arrays, deadline)
        response = predict_pb2.PredictResponse(model_spec=self._make_spec(signature_name=key))
        for name in names:
            response.outputs[name].CopyFrom(_to_tensor_proto(outputs[name]))
        return response

    def classify(self, request: Any, deadline: float = NEVER) -> Any:
        """Answers a ClassificationRequest with a ClassificationResponse; see `predict`."""
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        definition = self.get_definition(key, grpc.StatusCode.INVALID_ARGUMENT)
        if definition.method_name != CLASSIFY_METHOD:
            raise invalid_argument(f'Signature "{key}" is not for classification: use Predict.')
        rows = _serialize_examples(request.input)
        if not rows:
            raise invalid_argument("The request holds no examples.")
        outputs = self.run(key, {"inputs": np.array(rows, dtype=object)}, deadline)
        response = classification_pb2.ClassificationResponse(
            model_spec=self._make_spec(signature_name=key)
        )
        for labels, scores in zip(outputs["classes"], outputs["scores"], strict=True):
            classes = response.result.classifications.add().classes
            for label, score in zip(labels, scores, strict=True):
                classes.add(label=label, score=score)
        return response

    def get_metadata(self) -> Any:
        """Returns the signatures in a GetModelMetadataResponse."""
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.definitions)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._make_spec())
        response.metadata["signature_def"].Pack(signatures)
        return response

    def get_definition(self, key: str, code: grpc.StatusCode) -> Any:
        """Returns a signature's SignatureDef; raises RequestError(code) if there is none."""
        if key not in self.definitions:
            raise RequestError(code, f'Signature "{key}" not found.')
        return self.definitions[key]

    def run(self, key: str, arrays: dict[str, np.ndarray], deadline: float) -> dict[str, Any]:
        """Runs a signature on all of its inputs and returns all outputs; raises as `predict` does.

        The inputs must have the signature's types; strings come as objects.
        """
        definition = self.definitions[key]
        inputs = sorted(definition.inputs.items())
        outputs = sorted(definition.outputs.items())
        # TensorFlow Serving does not check shapes: the graph fails in some operation. Here the
        # code is the same, and the message says why.
        for name, info in inputs:
            _check_rows(name, arrays[name].shape)
            wanted, given = tf.TensorShape(info.tensor_shape), tf.TensorShape(arrays[name].shape)
            if not wanted.is_compatible_with(given):
                raise invalid_argument(f"Input {name} must have shape {wanted}, not {given}.")
        if self._openvino and key in self._openvino:
            with self._admission.take_turn(deadline):
                return self._openvino.run(key, arrays)
        ordered = [arrays[name] for name, _ in inputs]
        batched = self._batched.get(key)
        try:
            if batched and len(ordered[0]):  # without rows there is nothing to join
                results = batched.run(self._session, ordered, deadline)
            else:
                feed = {info.name: array for (_, info), array in zip(inputs, ordered, strict=True)}
                with self._admission.take_turn(deadline):
                    results = self._session.run([info.name for _, info in outputs], feed)
        except UnicodeDecodeError as error:
            # TensorFlow fails to decode an error message that quotes bytes of the request.
            text = bytes(error.object).decode(errors="replace")
            raise invalid_argument(_strip_node_names(text)) from None
        return {
            # A scalar string comes as bytes.
            name: np.array(result, object) if isinstance(result, bytes) else result
            for (name, _), result in zip(outputs, results, strict=True)
        }

    def _make_spec(self, **fields: str) -> Any:
        spec = model_pb2.ModelSpec(name=self.name, **fields)
        spec.version.value = self.version
        return spec


def _to_array(name: str, info: Any, proto: Any) -> np.ndarray:
    """Converts a TensorProto to an array; it must have the type that the TensorInfo gives."""
    if proto.dtype != info.dtype:
        raise invalid_argument(f"Input {name} must be of type {tf.as_dtype(info.dtype).name}.")
    shape = proto.tensor_shape
    sizes = [dim.size for dim in shape.dim]
    if shape.unknown_rank or any(size < 0 for size in sizes):
        raise invalid_argument(f"Input {name} is not a valid tensor.")
    _check_rows(name, sizes)
    # The last value may be repeated. Strings count with their pointers.
    count, lengths = math.prod(sizes), [len(value) for value in proto.string_val] or [0]
    strings = sum(lengths) + lengths[-1] * (count - len(lengths))
    _check_bytes(name, count * tf.as_dtype(proto.dtype).size + strings)
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError):
        raise invalid_argument(f"Input {name} is not a valid tensor.") from None


def _check_rows(name: str, sizes: Sequence[int]) -> None:
    if sizes and sizes[0] > MAX_ROWS:
        raise invalid_argument(f"Input {name} has {sizes[0]} rows; a request may have {MAX_ROWS}.")


def _check_bytes(name: str, size: int) -> None:
    if size > MAX_TENSOR_BYTES:
        raise invalid_argument(f"Input {name} is larger than {MAX_TENSOR_BYTES} bytes.")


def _select_outputs(definition: Any, output_filter: Any) -> list[str]:
    """Returns the outputs that the request names, or all."""
    names = list(output_filter)
    for name in names:
        if name not in definition.outputs:
            expected = ",".join(sorted(definition.outputs))
            raise invalid_argument(f"Output {name} not found. The outputs are {{{expected}}}.")
        if names.count(name) > 1:
            raise invalid_argument(f"output_filter has {name} more than once.")
    return names or sorted(definition.outputs)


def _split_examples(given: Any) -> tuple[bytes, Any]:
    """Returns an Input message's shared context, serialized, and its tf.Examples."""
    shared = given.example_list_with_context  # empty if the message has an example_list
    return shared.context.SerializeToString(), shared.examples or given.example_list.examples


def _serialize_examples(given: Any) -> list[bytes]:
    """Serializes the tf.Examples of an Input message, each merged with the shared context."""
    context, examples = _split_examples(given)
    _check_rows("inputs", [len(examples)])
    _check_bytes("inputs", len(context) * len(examples))
    # Joining serialized messages merges them.
    return [context + example.SerializeToString() for example in examples]


def _to_tensor_proto(array: np.ndarray) -> Any:
    """Makes a TensorProto with floats in `float_val`, as TensorFlow Serving sends them."""
    if array.dtype != np.float32:
        return tf.make_tensor_proto(array, tf.string if array.dtype == object else None)
    return tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT,
        tensor_shape=tf.TensorShape(array.shape).as_proto(),
        float_val=array.ravel(),
    )


def format_operation_error(error: tf.errors.OpError) -> str:
    """Returns the operation's message without the graph nodes that TensorFlow adds."""
    text = error.message.removeprefix("Graph execution error:\n\n")
    return _strip_node_names(re.sub(r"(?s)^Detected at node .*?\nNode: [^\n]*\n", "", text))


def _strip_node_names(text: str) -> str:
    return text.partition("\n\t [[")[0]
