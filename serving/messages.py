"""The messages of TensorFlow Serving's protocol that the client needs, without TensorFlow.

They are declared here by field number instead of imported, because the published stubs import the
whole of TensorFlow (tensorflow/serving issue 2140) and generated code is tied to the protobuf
version that generated it (issue 2138). They live in a descriptor pool of their own, so that the
real messages can be loaded in the same process; a test compares every field with the real one.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "bool": _Field.TYPE_BOOL,
    "bytes": _Field.TYPE_BYTES,
    "double": _Field.TYPE_DOUBLE,
    "float": _Field.TYPE_FLOAT,
    "int32": _Field.TYPE_INT32,
    "int64": _Field.TYPE_INT64,
    "string": _Field.TYPE_STRING,
}


def _field(name: str, number: int, kind: str, *, many: bool = False, one_of: bool = False) -> Any:
    """A field; `kind` is a scalar's name, `enum .full.Name` or a message's `.full.Name`."""
    field = _Field(name=name, number=number)
    field.label = _Field.LABEL_REPEATED if many else _Field.LABEL_OPTIONAL
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type = _Field.TYPE_ENUM if kind.startswith("enum ") else _Field.TYPE_MESSAGE
        field.type_name = kind.removeprefix("enum ")
    if one_of:
        field.oneof_index = 0
    return field


def _message(name: str, *fields: Any, nested: Sequence[Any] = (), one_of: str = "") -> Any:
    message = descriptor_pb2.DescriptorProto(name=name, field=fields, nested_type=nested)
    if one_of:
        message.oneof_decl.add(name=one_of)
    return message


def _map_entry(name: str, value_kind: str) -> Any:
    """The hidden message behind a `map<string, value_kind>` field."""
    entry = _message(name, _field("key", 1, "string"), _field("value", 2, value_kind))
    entry.options.map_entry = True
    return entry


def _enum(name: str, **numbers: int) -> Any:
    values = [
        descriptor_pb2.EnumValueDescriptorProto(name=key, number=number)
        for key, number in numbers.items()
    ]
    return descriptor_pb2.EnumDescriptorProto(name=name, value=values)


def _file(package: str, *, needs: Sequence[str] = (), messages: Any = (), enums: Any = ()) -> Any:
    return descriptor_pb2.FileDescriptorProto(
        name=f"leuko/{package}.proto",
        package=package,
        syntax="proto3",
        dependency=needs,
        message_type=messages,
        enum_type=enums,
    )


# Enumerations list only the values that this module names: proto3 keeps unknown numbers as they
# are, so an answer that holds another one still parses.
_ERRORS = _file("tensorflow.error", enums=[_enum("Code", OK=0)])

_TENSORS = _file(
    "tensorflow",
    enums=[
        _enum(
            "DataType",
            DT_INVALID=0,
            DT_FLOAT=1,
            DT_DOUBLE=2,
            DT_INT32=3,
            DT_UINT8=4,
            DT_STRING=7,
            DT_INT64=9,
            DT_BOOL=10,
        )
    ],
    messages=[
        _message(
            "TensorShapeProto",
            _field("dim", 2, ".tensorflow.TensorShapeProto.Dim", many=True),
            _field("unknown_rank", 3, "bool"),
            nested=[_message("Dim", _field("size", 1, "int64"))],
        ),
        _message(
            "TensorProto",
            _field("dtype", 1, "enum .tensorflow.DataType"),
            _field("tensor_shape", 2, ".tensorflow.TensorShapeProto"),
            _field("tensor_content", 4, "bytes"),
            _field("float_val", 5, "float", many=True),
            _field("double_val", 6, "double", many=True),
            _field("int_val", 7, "int32", many=True),
            _field("string_val", 8, "bytes", many=True),
            _field("int64_val", 10, "int64", many=True),
            _field("bool_val", 11, "bool", many=True),
        ),
    ],
)

_model_version_status = _message(
    "ModelVersionStatus",
    _field("version", 1, "int64"),
    _field("state", 2, "enum .tensorflow.serving.ModelVersionStatus.State"),
    _field("status", 3, ".tensorflow.serving.StatusProto"),
)
_model_version_status.enum_type.append(
    _enum("State", UNKNOWN=0, START=10, LOADING=20, AVAILABLE=30, UNLOADING=40, END=50)
)

_SERVING = _file(
    "tensorflow.serving",
    needs=[_ERRORS.name, _TENSORS.name, wrappers_pb2.DESCRIPTOR.name],
    messages=[
        _message(
            "ModelSpec",
            _field("name", 1, "string"),
            _field("version", 2, ".google.protobuf.Int64Value", one_of=True),
            _field("version_label", 4, "string", one_of=True),
            _field("signature_name", 3, "string"),
            one_of="version_choice",
        ),
        _message(
            "PredictRequest",
            _field("model_spec", 1, ".tensorflow.serving.ModelSpec"),
            _field("inputs", 2, ".tensorflow.serving.PredictRequest.InputsEntry", many=True),
            _field("output_filter", 3, "string", many=True),
            nested=[_map_entry("InputsEntry", ".tensorflow.TensorProto")],
        ),
        _message(
            "PredictResponse",
            _field("outputs", 1, ".tensorflow.serving.PredictResponse.OutputsEntry", many=True),
            _field("model_spec", 2, ".tensorflow.serving.ModelSpec"),
            nested=[_map_entry("OutputsEntry", ".tensorflow.TensorProto")],
        ),
        _message("GetModelStatusRequest", _field("model_spec", 1, ".tensorflow.serving.ModelSpec")),
        _message(
            "GetModelStatusResponse",
            _field("model_version_status", 1, ".tensorflow.serving.ModelVersionStatus", many=True),
        ),
        _model_version_status,
        _message(
            "StatusProto",
            _field("error_code", 1, "enum .tensorflow.error.Code"),
            _field("error_message", 2, "string"),
        ),
    ],
)

POOL = descriptor_pool.DescriptorPool()
POOL.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
for _declared in (_ERRORS, _TENSORS, _SERVING):
    POOL.AddSerializedFile(_declared.SerializeToString())


def _message_class(full_name: str) -> Any:
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(full_name))


TensorProto = _message_class("tensorflow.TensorProto")
ModelSpec = _message_class("tensorflow.serving.ModelSpec")
PredictRequest = _message_class("tensorflow.serving.PredictRequest")
PredictResponse = _message_class("tensorflow.serving.PredictResponse")
GetModelStatusRequest = _message_class("tensorflow.serving.GetModelStatusRequest")
GetModelStatusResponse = _message_class("tensorflow.serving.GetModelStatusResponse")
ModelVersionStatus = _message_class("tensorflow.serving.ModelVersionStatus")

_STRING = POOL.FindEnumTypeByName("tensorflow.DataType").values_by_name["DT_STRING"].number
# DataType number: (NumPy type, the field that carries its values one by one). `tensor_content`
# carries them all at once, little-endian.
_NUMBERS: dict[int, tuple[np.dtype, str]] = {
    1: (np.dtype("<f4"), "float_val"),
    2: (np.dtype("<f8"), "double_val"),
    3: (np.dtype("<i4"), "int_val"),
    4: (np.dtype("u1"), "int_val"),
    9: (np.dtype("<i8"), "int64_val"),
    10: (np.dtype("?"), "bool_val"),
}


def to_tensor(values: np.ndarray | Sequence[bytes]) -> Any:
    """Packs an array or a list of byte strings into a TensorProto.

    Args:
      values: numpy.ndarray of float32, float64, int32, uint8, int64 or bool, any shape; or a
        sequence of N byte strings, which becomes a string tensor [N].

    Returns:
      TensorProto.

    Raises:
      ValueError: the array's type is none of these.
    """
    tensor = TensorProto()
    if isinstance(values, np.ndarray):
        for number, (dtype, _) in _NUMBERS.items():
            if values.dtype == dtype:
                tensor.dtype = number
                tensor.tensor_content = values.tobytes()
                break
        else:
            raise ValueError(f"No tensor is made of this array type. Received: {values.dtype}")
        shape: tuple[int, ...] = values.shape
    else:
        tensor.dtype = _STRING
        tensor.string_val.extend(values)
        shape = (len(values),)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


def to_array(tensor: Any) -> np.ndarray:
    """Unpacks a TensorProto, whether its values came one by one or as one block.

    Args:
      tensor: TensorProto.

    Returns:
      numpy.ndarray of the tensor's shape: float32, float64, int32, uint8, int64 or bool, or
      object (byte strings) for a string tensor.

    Raises:
      ValueError: another data type, an unknown shape, or values that do not fill the shape.
    """
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    if tensor.tensor_shape.unknown_rank or any(size < 0 for size in shape):
        raise ValueError("The tensor's shape is not known.")
    if tensor.dtype == _STRING:
        values = np.empty(len(tensor.string_val), dtype=object)
        values[:] = list(tensor.string_val)
    elif tensor.dtype in _NUMBERS:
        dtype, field = _NUMBERS[tensor.dtype]
        if tensor.tensor_content:
            if len(tensor.tensor_content) % dtype.itemsize:
                raise ValueError(f"The tensor's bytes do not divide into {dtype} values.")
            values = np.frombuffer(tensor.tensor_content, dtype)
        else:
            values = np.array(getattr(tensor, field), dtype)
    else:
        raise ValueError(f"The tensor's data type is not supported. Received: {tensor.dtype}")
    if values.size != math.prod(shape):
        raise ValueError(f"The tensor holds {values.size} values, its shape is {shape}.")
    return values.reshape(shape)
