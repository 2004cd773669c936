"""A SavedModel that answers as TensorFlow Serving does: the services behind the local server.

Status codes and texts follow the real server, so that a client cannot tell the two apart. Left
out, as nothing here needs them: several models or versions at once, labels, batching, Classify,
Regress and MultiInference.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import grpc
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    status_pb2,
)

DEFAULT_SIGNATURE = "serving_default"
METADATA_FIELD = "signature_def"
# TensorFlow's error codes are gRPC's.
_STATUS_CODES = {code.value[0]: code for code in grpc.StatusCode}


class RequestError(Exception):
    """A request that is answered with an error.

    Attributes:
      code: grpc.StatusCode.
      text: str. The status' details, worded as TensorFlow Serving words them.
    """

    def __init__(self, code: Any, text: str):
        super().__init__(text)
        self.code = code
        self.text = text


def _invalid(text: str) -> RequestError:
    return RequestError(grpc.StatusCode.INVALID_ARGUMENT, text)


class Servable:
    """One version of a model, loaded.

    Args:
      name: str. The name that requests give.
      folder: Path. The version's folder, named by an integer, which holds `saved_model.pb`.

    Raises:
      Exception: whatever TensorFlow raises for a folder that is not a loadable SavedModel.
    """

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.version = int(folder.name)
        self._model = tf.saved_model.load(str(folder))
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        graph = next(graph for graph in saved.meta_graphs if "serve" in graph.meta_info_def.tags)
        self._definitions = graph.signature_def

    def predict(self, request: Any) -> Any:
        """Runs a signature: PredictRequest to PredictResponse; raises RequestError, OpError."""
        self._check_spec(request)
        key = request.model_spec.signature_name or DEFAULT_SIGNATURE
        if key not in self._model.signatures:
            raise RequestError(
                grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.'
            )
        definition = self._definitions[key]
        inputs = _inputs(definition, request.inputs)
        wanted = _wanted_outputs(definition, request.output_filter)
        outputs = self._model.signatures[key](**inputs)
        response = predict_pb2.PredictResponse(model_spec=self._spec(signature_name=key))
        for name in wanted:
            response.outputs[name].CopyFrom(_tensor_proto(outputs[name]))
        return response

    def metadata(self, request: Any) -> Any:
        """Lists signatures: GetModelMetadataRequest to -Response; raises RequestError."""
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        if not request.metadata_field:
            raise _invalid("GetModelMetadataRequest must specify at least one metadata_field")
        for field in request.metadata_field:
            if field != METADATA_FIELD:
                raise _invalid(f"Metadata field {field} is not supported")
        self._check_spec(request)
        signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=self._definitions)
        response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=self._spec())
        response.metadata[METADATA_FIELD].Pack(signatures)
        return response

    def status(self, request: Any) -> Any:
        """Tells the version's state: GetModelStatusRequest to -Response; raises RequestError."""
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        spec = request.model_spec
        if spec.HasField("version"):
            found = (spec.name, spec.version.value) == (self.name, self.version)
            unknown = f"Could not find version {spec.version.value} of model {spec.name}"
        else:
            found = spec.name == self.name
            unknown = f"Could not find any versions of model {spec.name}"
        if not found:
            raise RequestError(grpc.StatusCode.NOT_FOUND, unknown)
        response = get_model_status_pb2.GetModelStatusResponse()
        response.model_version_status.add(
            version=self.version,
            state=get_model_status_pb2.ModelVersionStatus.AVAILABLE,
            status=status_pb2.StatusProto(error_code=0),
        )
        return response

    def _spec(self, **fields: str) -> Any:
        spec = model_pb2.ModelSpec(name=self.name, **fields)
        spec.version.value = self.version
        return spec

    def _check_spec(self, request: Any) -> None:
        """A RequestError unless the request is for this model and version."""
        if not request.HasField("model_spec"):
            raise _invalid("Missing ModelSpec")
        spec = request.model_spec
        if not spec.name:
            raise _invalid("ModelSpec has no name specified.")
        if spec.HasField("version_label"):
            raise _invalid(f"Unrecognized servable version label: {spec.version_label}")
        if spec.HasField("version"):
            found = (spec.name, spec.version.value) == (self.name, self.version)
            wanted = f"Specific({spec.name}, {spec.version.value})"
        else:
            found = spec.name == self.name
            wanted = f"Latest({spec.name})"
        if not found:
            raise RequestError(
                grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {wanted}"
            )


def _inputs(definition: Any, sent: Any) -> dict[str, Any]:
    """The request's tensors by input name; a RequestError unless they fit the signature."""
    expected, given = sorted(definition.inputs), sorted(sent)
    if len(given) != len(expected):
        extra = [name for name in given if name not in definition.inputs]
        missing = [name for name in expected if name not in sent]
        raise _invalid(
            f"input size does not match signature: {len(given)}!={len(expected)}"
            f" len({{{','.join(given)}}}) != len({{{','.join(expected)}}})."
            f" Sent extra: {{{','.join(extra)}}}."
            f" Missing but required: {{{','.join(missing)}}}."
        )
    tensors = {}
    for position, name in enumerate(expected):
        info = definition.inputs[name]
        if name not in sent:
            raise _invalid(
                f"Signature input alias: {name}(feed name: {info.name}) not found in request and"
                " no default value provided. Inputs expected to be in the request"
                f" {{{','.join(given)}}}, or default input alias set: "
            )
        tensors[name] = _parse_tensor(name, position, info, sent[name])
    return tensors


def _parse_tensor(name: str, position: int, info: Any, proto: Any) -> Any:
    """A tensor of the type and rank that the signature's TensorInfo asks for."""
    try:
        dtype = tf.as_dtype(proto.dtype)
        tensor = tf.io.parse_tensor(proto.SerializeToString(), dtype)
    except (tf.errors.OpError, TypeError):
        raise _invalid(f"tensor parsing error: {name}") from None
    wanted = tf.as_dtype(info.dtype)
    if dtype != wanted:
        raise _invalid(f"Expects arg[{position}] to be {wanted.name} but {dtype.name} is provided")
    # The real server leaves a wrong shape to the graph, which fails in whichever operation meets
    # it first; here it is refused before, with the same code and a text that says why.
    shape = tf.TensorShape(info.tensor_shape)
    if not shape.is_compatible_with(tensor.shape):
        raise _invalid(f"input {name} must have shape {shape}, received {tensor.shape}")
    return tensor


def _wanted_outputs(definition: Any, output_filter: Any) -> list[str]:
    """The outputs to answer with: all, or those that the request names."""
    names: list[str] = []
    for name in output_filter:
        if name not in definition.outputs:
            expected = ",".join(sorted(definition.outputs))
            raise _invalid(
                f"output tensor alias not found in signature: {name}"
                f" Outputs expected to be in the set {{{expected}}}."
            )
        if name in names:
            raise _invalid(f"duplicate output tensor alias: {name}")
        names.append(name)
    return names or sorted(definition.outputs)


def _tensor_proto(tensor: Any) -> Any:
    """A TensorProto whose floats come one by one in `float_val`, as the real server sends them."""
    if tensor.dtype != tf.float32:
        return tf.make_tensor_proto(tensor.numpy(), dtype=tensor.dtype)
    return tensor_pb2.TensorProto(
        dtype=tf.float32.as_datatype_enum,
        tensor_shape=tensor.shape.as_proto(),
        float_val=tensor.numpy().ravel(),
    )


def _operation_text(error: Any) -> str:
    """The operation's own message, without the preamble that TensorFlow's Python side adds."""
    text = error.message.rpartition("<stack traces unavailable>\n")[2]
    return text.removeprefix("Graph execution error:\n\n")


def _answer(function: Callable[[Any], Any], request: Any, context: Any) -> Any:
    try:
        return function(request)
    except RequestError as error:
        context.abort(error.code, error.text)
    except tf.errors.OpError as error:
        context.abort(_STATUS_CODES[error.error_code], _operation_text(error))


def _unimplemented(request: Any, context: Any) -> NoReturn:
    context.abort(grpc.StatusCode.UNIMPLEMENTED, "The local server does not have this method.")
    raise AssertionError("abort returned")


class PredictionService(prediction_service_pb2_grpc.PredictionServiceServicer):
    """TensorFlow Serving's PredictionService over one Servable."""

    Classify = Regress = MultiInference = staticmethod(_unimplemented)

    def __init__(self, servable: Servable):
        self._servable = servable

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802 (the protocol's name)
        """PredictRequest to PredictResponse."""
        return _answer(self._servable.predict, request, context)

    def GetModelMetadata(self, request: Any, context: Any) -> Any:  # noqa: N802
        """GetModelMetadataRequest to GetModelMetadataResponse."""
        return _answer(self._servable.metadata, request, context)


class ModelService(model_service_pb2_grpc.ModelServiceServicer):
    """TensorFlow Serving's ModelService over one Servable."""

    HandleReloadConfigRequest = staticmethod(_unimplemented)

    def __init__(self, servable: Servable):
        self._servable = servable

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        """GetModelStatusRequest to GetModelStatusResponse."""
        return _answer(self._servable.status, request, context)
