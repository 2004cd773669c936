"""One version of a model, loaded as TensorFlow Serving loads it, and what it answers.

Status codes and texts follow the real server, so that a client cannot tell the two apart.
"""

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
from serving.server.batching import Entrance, add_batched, can_batch
from serving.server.configs import BatchingParameters
from serving.server.errors import RequestError, invalid_argument
from serving.server.openvino_runtime import OpenVINOSignatures

DEFAULT_SIGNATURE = "serving_default"
CLASSIFY_METHOD = "tensorflow/serving/classify"
WARM_UP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"
# TensorFlow Serving refuses a file with more.
MAX_WARM_UP_RECORDS = 1000
# A TensorProto can stand for more than it holds: one value, to be repeated. No more than a message
# of the largest size can hold.
MAX_TENSOR_BYTES = 2**26
# Rows of a request: an image file of few bytes becomes an array of 2 MB at 400 pixels.
MAX_ROWS = 128
NEVER = math.inf


class Servable:
    """One version of a model, loaded.

    It is loaded into a session, the path that TensorFlow Serving takes: whatever does not load
    there does not load here, and closing the session frees all that the version held.

    Args:
      name: str. The name that requests give.
      folder: Path. The version's folder, named by an integer, which holds `saved_model.pb`.
      entrance: Entrance. What is not computed in batches waits there for its turn.
      batching: BatchingParameters, to join requests; None computes each one for itself.
      runtime: str. `openvino` computes the network of `serving_default` and `encoded` by OpenVINO,
        image after image; everything else is TensorFlow's. Defaults to `tensorflow`.

    Raises:
      Exception: whatever TensorFlow raises for a folder that is not a loadable SavedModel.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        entrance: Entrance,
        batching: BatchingParameters | None = None,
        runtime: str = TENSORFLOW,
    ):
        self.name = name
        self.version = int(folder.name)
        # Until it is warm it passes by the entrance, where requests for other versions wait.
        self._entrance = Entrance(running=1, limit=1)
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
                # How a SavedModel stores its initialisation.
                if not key.startswith("__")
            }
            self._batched = {
                key: add_batched(graph, definition, batching)
                for key, definition in self.definitions.items()
                if batching and can_batch(definition)
            }
            graph.finalize()
            self._replaced = OpenVINOSignatures(folder) if runtime == OPENVINO else None
            self._warm_up(folder / WARM_UP_FILE)
            self._entrance = entrance
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Frees the version's memory; no request may be running."""
        self._session.close()
        del self._session
        self._batched = {}
        self._replaced = None
        gc.collect()  # graphs are full of cycles

    def _warm_up(self, file: Path) -> None:
        """Answers the requests that were exported with the model, so that the first is not slow.

        Those with more rows than this server takes are left out.
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
                rows = max(map(_rows, request.inputs.values()), default=0)
            elif kind == "classify_log":
                request, answer = log.classify_log.request, self.classify
                rows = len(_examples(request.input)[1])
            else:
                raise ValueError(f"{file}: only predict and classify are warmed. Received: {kind}")
            key = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if rows <= (self._batch_rows if key in self._batched else MAX_ROWS):
                answer(request)

    def predict(self, request: Any, deadline: float = NEVER) -> Any:
        """Runs a signature.

        Args:
          request: PredictRequest.
          deadline: float. Seconds since the epoch; a request whose turn comes later is refused.

        Returns:
          PredictResponse.

        Raises:
          RequestError: the request does not fit the signature, or is late.
          tf.errors.OpError: the graph failed.
        """
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        definition = self.definition(key)
        _check_names(definition, request.inputs)
        wanted = _wanted_outputs(definition, request.output_filter)
        arrays = {
            name: _array(name, position, info, request.inputs[name])
            for position, (name, info) in enumerate(sorted(definition.inputs.items()))
        }
        outputs = self.run(key, arrays, deadline)
        response = predict_pb2.PredictResponse(model_spec=self._spec(signature_name=key))
        for name in wanted:
            response.outputs[name].CopyFrom(_tensor_proto(outputs[name]))
        return response

    def classify(self, request: Any, deadline: float = NEVER) -> Any:
        """Runs a classification: ClassificationRequest to -Response; as `predict` otherwise."""
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if key not in self.definitions:
            raise invalid_argument(f"No signature was found with the name: {key}")
        definition = self.definitions[key]
        if definition.method_name != CLASSIFY_METHOD:
            raise invalid_argument(
                f"Expected classification signature method_name to be {CLASSIFY_METHOD}."
                f" Was: {definition.method_name}"
            )
        rows = _serialized_examples(request.input)
        if not rows:
            raise invalid_argument("Input is empty.")
        outputs = self.run(key, {"inputs": np.array(rows, dtype=object)}, deadline)
        response = classification_pb2.ClassificationResponse(
            model_spec=self._spec(signature_name=key)
        )
        for labels, scores in zip(outputs["classes"], outputs["scores"], strict=True):
            classes = response.result.classifications.add().classes
            for label, score in zip(labels, scores, strict=True):
                classes.add(label=label, score=score)
        return response

    def metadata(self) -> Any:
        """The signatures, as a GetModelMetadataResponse."""
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self.definitions)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._spec())
        response.metadata["signature_def"].Pack(signatures)
        return response

    def definition(self, key: str) -> Any:
        """The SignatureDef of a signature; raises RequestError if there is none."""
        if key not in self.definitions:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.'
            )
        return self.definitions[key]

    def run(self, key: str, arrays: dict[str, np.ndarray], deadline: float) -> dict[str, Any]:
        """Runs a signature.

        Args:
          key: str. The signature's name.
          arrays: dict of str to numpy.ndarray. Every input, of its type; strings are objects.
          deadline: float. Seconds since the epoch.

        Returns:
          dict of str to numpy.ndarray: every output.

        Raises:
          RequestError, tf.errors.OpError: as `predict`.
        """
        definition = self.definitions[key]
        inputs = sorted(definition.inputs.items())
        outputs = sorted(definition.outputs.items())
        # The real server leaves a wrong shape to the graph, which fails in whichever operation
        # meets it first; here it is refused before, with the same code and a text that says why.
        for name, info in inputs:
            _check_rows(name, arrays[name].shape)
            shape = tf.TensorShape(info.tensor_shape)
            if not shape.is_compatible_with(arrays[name].shape):
                raise invalid_argument(
                    f"input {name} must have shape {shape},"
                    f" received {tf.TensorShape(arrays[name].shape)}"
                )
        if self._replaced and key in self._replaced:
            with self._entrance.turn(deadline):
                return self._replaced.run(key, arrays)
        ordered = [arrays[name] for name, _ in inputs]
        batched = self._batched.get(key)
        try:
            if batched and len(ordered[0]):  # without rows there is nothing to join
                results = batched.run(self._session, ordered, deadline)
            else:
                feed = {info.name: array for (_, info), array in zip(inputs, ordered, strict=True)}
                with self._entrance.turn(deadline):
                    results = self._session.run([info.name for _, info in outputs], feed)
        except UnicodeDecodeError as error:
            # An operation's message quotes bytes of the request; TensorFlow fails to pass it on.
            text = bytes(error.object).decode(errors="replace")
            raise invalid_argument(_without_places(text)) from None
        return {
            # A string without dimensions comes as bytes.
            name: np.array(result, object) if isinstance(result, bytes) else result
            for (name, _), result in zip(outputs, results, strict=True)
        }

    def _spec(self, **fields: str) -> Any:
        spec = model_pb2.ModelSpec(name=self.name, **fields)
        spec.version.value = self.version
        return spec


def _check_names(definition: Any, sent: Any) -> None:
    """A RequestError unless the request's tensors are the signature's inputs."""
    expected, given = sorted(definition.inputs), sorted(sent)
    if len(given) != len(expected):
        extra = [name for name in given if name not in definition.inputs]
        missing = [name for name in expected if name not in sent]
        raise invalid_argument(
            f"input size does not match signature: {len(given)}!={len(expected)}"
            f" len({{{','.join(given)}}}) != len({{{','.join(expected)}}})."
            f" Sent extra: {{{','.join(extra)}}}."
            f" Missing but required: {{{','.join(missing)}}}."
        )
    for name in expected:
        if name not in sent:
            raise invalid_argument(
                f"Signature input alias: {name}(feed name: {definition.inputs[name].name}) not"
                " found in request and no default value provided. Inputs expected to be in the"
                f" request {{{','.join(given)}}}, or default input alias set: "
            )


def _array(name: str, position: int, info: Any, proto: Any) -> np.ndarray:
    """The array of a TensorProto that has the type which the signature's TensorInfo asks for."""
    if proto.dtype != info.dtype:
        raise invalid_argument(
            f"Expects arg[{position}] to be {type_name(info.dtype)}"
            f" but {type_name(proto.dtype)} is provided"
        )
    shape = proto.tensor_shape
    sizes = [dim.size for dim in shape.dim]
    if shape.unknown_rank or any(size < 0 for size in sizes):
        raise invalid_argument(f"tensor parsing error: {name}")
    _check_rows(name, sizes)
    _check_bytes(name, _size(proto, math.prod(sizes)))
    try:
        return tf.make_ndarray(proto)
    except (TypeError, ValueError, OverflowError):
        raise invalid_argument(f"tensor parsing error: {name}") from None


def _rows(proto: Any) -> int:
    """The size of a TensorProto's first dimension."""
    return proto.tensor_shape.dim[0].size if proto.tensor_shape.dim else 0


def _check_rows(name: str, sizes: Sequence[int]) -> None:
    if sizes and sizes[0] > MAX_ROWS:
        raise invalid_argument(f"{sizes[0]} rows in {name}: at most {MAX_ROWS} in a request")


def _check_bytes(name: str, size: int) -> None:
    if size > MAX_TENSOR_BYTES:
        raise invalid_argument(f"tensor of more than {MAX_TENSOR_BYTES} bytes: {name}")


def _size(proto: Any, count: int) -> int:
    """The bytes of a TensorProto's `count` values, once the last of them is repeated."""
    size = count * tf.as_dtype(proto.dtype).size  # of strings, their places
    lengths = [len(value) for value in proto.string_val]
    if lengths:
        size += sum(lengths) + lengths[-1] * (count - len(lengths))
    return size


def type_name(dtype: int) -> str:
    """A data type's name in TensorFlow's own messages, such as `uint8` or `float`."""
    if dtype not in types_pb2.DataType.values():
        return f"unknown dtype enum ({dtype})"
    return types_pb2.DataType.Name(dtype).removeprefix("DT_").lower()


def _wanted_outputs(definition: Any, output_filter: Any) -> list[str]:
    """The outputs to answer with: all, or those that the request names."""
    names: list[str] = []
    for name in output_filter:
        if name not in definition.outputs:
            expected = ",".join(sorted(definition.outputs))
            raise invalid_argument(
                f"output tensor alias not found in signature: {name}"
                f" Outputs expected to be in the set {{{expected}}}."
            )
        if name in names:
            raise invalid_argument(f"duplicate output tensor alias: {name}")
        names.append(name)
    return names or sorted(definition.outputs)


def _examples(given: Any) -> tuple[bytes, Any]:
    """What the tf.Examples of an Input message share, serialized; and the tf.Examples."""
    if given.WhichOneof("kind") == "example_list_with_context":
        listed = given.example_list_with_context
        return listed.context.SerializeToString(), listed.examples
    return b"", given.example_list.examples


def _serialized_examples(given: Any) -> list[bytes]:
    """The serialized tf.Examples of an Input message, a shared context merged into each."""
    context, examples = _examples(given)
    _check_rows("inputs", [len(examples)])
    _check_bytes("inputs", len(context) * len(examples))
    # Messages merge where their bytes are joined.
    return [context + example.SerializeToString() for example in examples]


def _tensor_proto(array: np.ndarray) -> Any:
    """A TensorProto whose floats come one by one in `float_val`, as the real server sends them."""
    if array.dtype != np.float32:
        return tf.make_tensor_proto(array, tf.string if array.dtype == object else None)
    return tensor_pb2.TensorProto(
        dtype=types_pb2.DT_FLOAT,
        tensor_shape=tf.TensorShape(array.shape).as_proto(),
        float_val=array.ravel(),
    )


def operation_text(error: Any) -> str:
    """The operation's own message, without the places in the graph that TensorFlow adds to it."""
    text = error.message.removeprefix("Graph execution error:\n\n")
    return _without_places(re.sub(r"(?s)^Detected at node .*?\nNode: [^\n]*\n", "", text))


def _without_places(text: str) -> str:
    return text.partition("\n\t [[")[0]
