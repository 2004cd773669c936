"""JSON of the REST interface to arrays and tf.Examples, and back, as TensorFlow Serving has it."""

import base64
import binascii
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2

from serving.server.errors import invalid_argument
from serving.server.servable import type_name

# More than any signature's, and fewer than numpy's limit or Python's of nested calls.
MAX_DIMENSIONS = 16
_KINDS = {bool: "Bool", dict: "Object", list: "Array", str: "String", type(None): "Null"}


def columns_of_rows(instances: Any, infos: Any) -> dict[str, list[Any]]:
    """Each input's rows, from a list of rows."""
    if not isinstance(instances, list):
        raise invalid_argument(
            f"JSON Value: {short(instances)} Excepting 'instances' to be an list/array"
        )
    if not instances:
        raise invalid_argument(f"JSON Value: {short(instances)} No values in 'instances' array")
    named = [isinstance(instance, dict) and not _is_bytes(instance) for instance in instances]
    if not any(named):
        if len(infos) > 1:
            raise invalid_argument(
                "instances is a plain list, but expecting list of objects as multiple input tensors"
                " required as per tensorinfo_map"
            )
        (name,) = infos
        return {name: instances}
    if not all(named):
        raise invalid_argument(
            f"Expecting object but got list at item {named.index(False)} of input list"
            if named[0]
            else f"Expecting value/list but got object at item {named.index(True)} of input list"
        )
    for position, instance in enumerate(instances):
        if set(instance) != set(infos):
            raise invalid_argument(
                f"Failed to process element: {position} of 'instances' list. JSON object:"
                f" {short(instance)} keys must be equal to: {','.join(sorted(infos))}"
            )
    return {name: [instance[name] for instance in instances] for name in infos}


def columns_of_inputs(inputs: Any, infos: Any) -> dict[str, Any]:
    """Each input's value, from an object of values, or from the value of the only input."""
    if not isinstance(inputs, dict) or _is_bytes(inputs):
        if len(infos) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors"
                " required as per tensorinfo_map"
            )
        (name,) = infos
        return {name: inputs}
    for name in infos:
        if name not in inputs:
            raise invalid_argument(f"Missing named input: {name} in 'inputs' object.")
    return {name: inputs[name] for name in infos}


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def to_array(value: Any, name: str, dtype: int) -> np.ndarray:
    """An array of an input's type from JSON lists; a RequestError if it is of another."""
    kinds: tuple[type, ...]
    wanted = tf.as_dtype(dtype)
    if wanted == tf.string:
        kinds = (str, dict)
    elif wanted == tf.bool:
        kinds = (bool,)
    else:
        kinds = (int,) if wanted.is_integer else (int, float)
    shape = _shape(value, name)
    leaves = list(_leaves(value, shape, name))
    for leaf in leaves:
        if not isinstance(leaf, kinds) or (isinstance(leaf, bool) and wanted != tf.bool):
            kind = _KINDS.get(type(leaf), "Number")
            raise invalid_argument(
                f"JSON Value: {short(leaf)} Type: {kind} is not of expected type:"
                f" {type_name(dtype)}"
            )
    if wanted == tf.string:
        array = np.empty(len(leaves), object)
        array[:] = [_bytes(leaf) for leaf in leaves]
        return array.reshape(shape)
    try:
        return np.array(leaves, wanted.as_numpy_dtype).reshape(shape)
    except OverflowError:
        raise invalid_argument(
            f"A value of input {name} is too large for {type_name(dtype)}."
        ) from None


def _shape(value: Any, name: str) -> list[int]:
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        if len(shape) > MAX_DIMENSIONS:
            raise invalid_argument(f"Input {name} has more than {MAX_DIMENSIONS} dimensions.")
        value = value[0] if value else None
    return shape


def _leaves(value: Any, shape: list[int], name: str) -> Iterator[Any]:
    """The values of nested lists; a RequestError unless they fill the shape."""
    if not isinstance(value, list):
        if shape:
            raise invalid_argument(
                f"JSON Value: {short(value)} of input {name} stands where a list is expected"
            )
        yield value
        return
    if not shape:
        raise invalid_argument(f"Encountered list at unexpected level in input {name}")
    if len(value) != shape[0]:
        raise invalid_argument(
            f"Encountered list at unexpected size: {len(value)} in input {name}"
            f" expected size: {shape[0]}"
        )
    if len(shape) == 1 and not any(isinstance(item, list) for item in value):
        yield from value
        return
    for item in value:
        yield from _leaves(item, shape[1:], name)


def _bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    if not _is_bytes(value):
        raise invalid_argument(
            f"JSON Value: {short(value)} not formatted correctly for base64 data"
        )
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def to_json(array: Any, name: str) -> Any:
    """Nested lists of an output; bytes in base64 where the output's name ends in `_bytes`."""
    if array.dtype == object:
        if name.endswith("_bytes"):
            values = [{"b64": base64.b64encode(item).decode()} for item in array.ravel()]
        else:
            values = [item.decode(errors="replace") for item in array.ravel()]
        nested = np.empty(len(values), object)
        nested[:] = values
        return nested.reshape(array.shape).tolist()
    if array.dtype == np.float32:
        # The shortest numbers that are these floats: not 0.10000000149 for 0.1.
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def to_example(features: Any) -> Any:
    """A tf.Example from a JSON object of features."""
    if not isinstance(features, dict):
        kind = _KINDS.get(type(features), "Number")
        raise invalid_argument(f"Example must be JSON object but got JSON {kind}")
    example = example_pb2.Example()
    for name, given in features.items():
        values = given if isinstance(given, list) else [given]
        feature = example.features.feature[name]
        try:
            if all(isinstance(value, str | dict) for value in values):
                feature.bytes_list.value.extend(map(_bytes, values))
            elif all(isinstance(value, int) for value in values):
                feature.int64_list.value.extend(map(int, values))
            elif all(isinstance(value, float) for value in values):
                feature.float_list.value.extend(values)
            else:
                raise invalid_argument(f"Unexpected element type in feature: {name}")
        except ValueError:
            raise invalid_argument(f"A value of feature {name} is out of range.") from None
    return example


def short(value: Any) -> str:
    """A JSON value for an error's text, cut where it is long."""
    text = ""
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > 200:
            return f"{text[:200]}..."
    return text
