"""The declared messages agree with the real ones, and tensors survive the round trip."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import get_model_status_pb2, model_pb2, predict_pb2, status_pb2

from serving import messages

REAL_MESSAGES = [
    tensor_pb2.TensorProto,
    tensor_shape_pb2.TensorShapeProto,
    tensor_shape_pb2.TensorShapeProto.Dim,
    model_pb2.ModelSpec,
    predict_pb2.PredictRequest,
    predict_pb2.PredictRequest.InputsEntry,
    predict_pb2.PredictResponse,
    predict_pb2.PredictResponse.OutputsEntry,
    get_model_status_pb2.GetModelStatusRequest,
    get_model_status_pb2.GetModelStatusResponse,
    get_model_status_pb2.ModelVersionStatus,
    status_pb2.StatusProto,
]
REAL_ENUMS = [types_pb2.DataType, get_model_status_pb2.ModelVersionStatus.State]


def _fields(descriptor) -> dict:
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return {
        f.name: (
            f.number,
            f.type,
            f.label,
            f.type_name,
            proto.oneof_decl[f.oneof_index].name if f.HasField("oneof_index") else None,
        )
        for f in proto.field
    }


def _full_names(descriptors):
    for descriptor in descriptors:
        yield descriptor.full_name
        yield from _full_names(descriptor.nested_types)


def test_every_declared_message_is_compared():
    packages = ("tensorflow", "tensorflow.serving")
    files = [messages.POOL.FindFileByName(f"leuko/{package}.proto") for package in packages]
    declared = {name for f in files for name in _full_names(f.message_types_by_name.values())}
    assert declared == {m.DESCRIPTOR.full_name for m in REAL_MESSAGES}


@pytest.mark.parametrize("real", REAL_MESSAGES, ids=lambda m: m.DESCRIPTOR.full_name)
def test_fields_are_the_real_ones(real):
    ours = messages.POOL.FindMessageTypeByName(real.DESCRIPTOR.full_name)
    real_fields = _fields(real.DESCRIPTOR)
    assert ours.GetOptions().map_entry == real.DESCRIPTOR.GetOptions().map_entry
    for name, field in _fields(ours).items():
        assert field == real_fields[name], name


@pytest.mark.parametrize("real", REAL_ENUMS, ids=lambda e: e.DESCRIPTOR.full_name)
def test_enum_values_are_the_real_ones(real):
    ours = messages.POOL.FindEnumTypeByName(real.DESCRIPTOR.full_name)
    for name, value in ours.values_by_name.items():
        assert value.number == real.Value(name)


@pytest.mark.parametrize(
    ("dtype", "value_field"),
    [
        ("f4", "float_val"),
        ("f8", "double_val"),
        ("i4", "int_val"),
        ("u1", "int_val"),
        ("i8", "int64_val"),
        ("?", "bool_val"),
    ],
)
def test_arrays_are_read_and_written_as_tensorflow_does(dtype, value_field):
    array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
    sent = tensor_pb2.TensorProto.FromString(messages.to_tensor(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(sent), array)

    one_by_one = tensor_pb2.TensorProto(
        dtype=sent.dtype, tensor_shape=sent.tensor_shape, **{value_field: array.ravel()}
    )
    for real in (tf.make_tensor_proto(array), one_by_one):
        ours = messages.to_array(messages.TensorProto.FromString(real.SerializeToString()))
        assert ours.dtype == array.dtype
        np.testing.assert_array_equal(ours, array)


def test_byte_strings_are_read_and_written_as_tensorflow_does():
    sent = messages.to_tensor([b"one", b"", b"\x00\xff"]).SerializeToString()
    real = tensor_pb2.TensorProto.FromString(sent)
    assert tf.make_ndarray(real).tolist() == [b"one", b"", b"\x00\xff"]

    matrix = tf.make_tensor_proto([[b"a", b"b"]]).SerializeToString()
    assert messages.to_array(messages.TensorProto.FromString(matrix)).tolist() == [[b"a", b"b"]]


@pytest.mark.parametrize("shape", [(0, 15), (0,), (1,), ()])
def test_small_shapes_are_kept(shape):
    array = np.zeros(shape, np.float32)
    assert messages.to_array(messages.to_tensor(array)).shape == shape


def test_values_that_do_not_fill_the_shape_are_refused():
    tensor = messages.to_tensor(np.zeros((2, 3), np.float32))
    tensor.tensor_shape.dim[0].size = 3
    with pytest.raises(ValueError, match="holds 6 values"):
        messages.to_array(tensor)
    tensor.tensor_content = tensor.tensor_content[:-1]
    with pytest.raises(ValueError, match="multiple of element size"):
        messages.to_array(tensor)


def test_unknown_shapes_and_types_are_refused():
    tensor = messages.to_tensor(np.zeros(1, np.float32))
    tensor.tensor_shape.dim[0].size = -1
    with pytest.raises(ValueError, match="shape is not known"):
        messages.to_array(tensor)
    with pytest.raises(ValueError, match="not supported"):
        messages.to_array(messages.TensorProto(dtype=types_pb2.DT_COMPLEX64))
    with pytest.raises(ValueError, match="float16"):
        messages.to_tensor(np.zeros(1, np.float16))
