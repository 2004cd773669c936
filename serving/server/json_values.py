"""Converts JSON of the REST interface to arrays and tf.Examples and back, as TensorFlow Serving."""

import base64
import json
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.example import example_pb2

from serving.server.errors import invalid_argument

# More than any signature has, and below numpy's limit.
MAX_DIMENSIONS = 16


def rows_to_columns(instances: Any, infos: Any) -> dict[str, list[Any]]:
    """Converts `instances`, a list of rows, to a list of values for each input."""
    if not isinstance(instances, list) or not instances:
        raise invalid_argument(f"'instances' must be a list of rows, not {abbreviate(instances)}")
    named = [isinstance(instance, dict) and not _is_bytes(instance) for instance in instances]
    if not any(named):
        return {_find_only_input(infos, "instances"): instances}
    for position, instance in enumerate(instances):
        if not named[position] or set(instance) != set(infos):
            raise invalid_argument(
                f"Element {position} of 'instances' must be an object with the keys"
                f" {','.join(sorted(infos))}, not {abbreviate(instance)}"
            )
    return {name: [instance[name] for instance in instances] for name in infos}


def inputs_to_columns(inputs: Any, infos: Any) -> dict[str, Any]:
    """Converts `inputs`, an object of values or the value of the only input, to such an object."""
    if not isinstance(inputs, dict) or _is_bytes(inputs):
        return {_find_only_input(infos, "inputs"): inputs}
    for name in infos:
        if name not in inputs:
            raise invalid_argument(f"'inputs' lacks {name}.")
    return {name: inputs[name] for name in infos}


def _find_only_input(infos: Any, key: str) -> str:
    if len(infos) > 1:
        raise invalid_argument(f"'{key}' must name the inputs: {','.join(sorted(infos))}")
    (name,) = infos
    return name


def _is_bytes(value: Any) -> bool:
    return isinstance(value, dict) and list(value) == ["b64"] and isinstance(value["b64"], str)


def to_array(value: Any, name: str, dtype: int) -> np.ndarray:
    """Converts JSON lists to an input's array; raises RequestError if the type is wrong."""
    kinds: tuple[type, ...]
    wanted = tf.as_dtype(dtype)
    if wanted == tf.string:
        kinds = (str, dict)
    elif wanted == tf.bool:
        kinds = (bool,)
    else:
        kinds = (int,) if wanted.is_integer else (int, float)
    nested = np.array(value, object)
    if nested.ndim > MAX_DIMENSIONS:
        raise invalid_argument(f"Input {name} has more than {MAX_DIMENSIONS} dimensions.")
    if any(isinstance(leaf, list) for leaf in nested.flat):
        raise invalid_argument(f"The lists of input {name} must have equal lengths and depths.")
    for leaf in nested.flat:
        if not isinstance(leaf, kinds) or (isinstance(leaf, bool) and wanted != tf.bool):
            raise invalid_argument(f"Input {name} takes {wanted.name}, not {abbreviate(leaf)}")
    if wanted == tf.string:
        return np.array([_to_bytes(leaf) for leaf in nested.flat], object).reshape(nested.shape)
    try:
        return np.array(value, wanted.as_numpy_dtype)
    except OverflowError:
        raise invalid_argument(
            f"A value of input {name} is out of {wanted.name}'s range."
        ) from None


def _to_bytes(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode(errors="surrogatepass")
    try:
        if _is_bytes(value):
            return base64.b64decode(value["b64"], validate=True)
    except ValueError:
        pass  # refused below
    raise invalid_argument(f'Bytes must be {{"b64": BASE64}}, not {abbreviate(value)}')


def to_json(array: Any, name: str) -> Any:
    """Converts an output to nested lists; bytes to base64 if the name ends in `_bytes`."""
    if array.dtype == object:
        return _to_texts(array.tolist(), name.endswith("_bytes"))
    if array.dtype == np.float32:
        # Shortest decimal form of each float: 0.1, not 0.10000000149.
        array = array.astype(str).astype(np.float64)
    return array.tolist()


def _to_texts(value: Any, as_base64: bool) -> Any:
    """Converts the byte strings of nested lists."""
    if isinstance(value, list):
        return [_to_texts(item, as_base64) for item in value]
    if as_base64:
        return {"b64": base64.b64encode(value).decode()}
    return value.decode(errors="replace")


def to_example(features: Any) -> Any:
    """Converts a JSON object of features to a tf.Example."""
    if not isinstance(features, dict):
        raise invalid_argument(f"An example must be a JSON object, not {abbreviate(features)}")
    example = example_pb2.Example()
    for name, given in features.items():
        values = given if isinstance(given, list) else [given]
        feature = example.features.feature[name]
        try:
            if all(isinstance(value, str | dict) for value in values):
                feature.bytes_list.value.extend(map(_to_bytes, values))
            elif all(isinstance(value, int) for value in values):
                feature.int64_list.value.extend(map(int, values))
            elif all(isinstance(value, float) for value in values):
                feature.float_list.value.extend(values)
            else:
                raise invalid_argument(f"Feature {name} must hold values of one type.")
        except ValueError:
            raise invalid_argument(f"A value of feature {name} is out of range.") from None
    return example


def abbreviate(value: Any) -> str:
    """Formats a JSON value for an error message, cut after 200 characters."""
    text = ""
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > 200:
            return f"{text[:200]}..."
    return text
