"""Runs a network on TensorFlow or on OpenVINO, which is faster on a CPU.

OpenVINO converts the float32 network of TensorFlow; its probabilities are compared with
TensorFlow's before use. It takes one image at a time, at a fixed shape: batches were no faster.

The costs: a larger installation (`pip install leuko_tf[openvino]`, 180 MB), one to three seconds of
conversion at each start, CPUs only, and probabilities that differ in about the sixth digit.
docs/benchmark.md has the speeds.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError

if TYPE_CHECKING:
    import keras
    import openvino
    from tensorflow.types.experimental import ConcreteFunction

Predictor = Callable[[np.ndarray], np.ndarray]

TENSORFLOW, OPENVINO = "tensorflow", "openvino"
RUNTIMES = (TENSORFLOW, OPENVINO)

# Largest difference of probabilities; above it, the conversion has failed.
TOLERANCE = 1e-4

# OpenVINO's names. By default it would take bfloat16 if the processor has it.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def make_predictor(
    model: "keras.Model", runtime: str = TENSORFLOW, symmetries: bool = False
) -> Predictor:
    """Makes a function that computes probabilities from images.

    Args:
      model: A float32 model of this project.
      runtime: One of `RUNTIMES`.
      symmetries: Whether to average the probabilities over the eight rotations and reflections of
        each image, at eight times the cost: a cell on a slide has no upper side.

    Returns:
      A function from uint8 or float images [n, height, width, 3] in 0 to 255, of any size, to
      float32 probabilities [n, 15].

    Raises:
      UserError: if OpenVINO is not installed, or fails to convert the model.
    """
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.network.view import to_network_input

    folded = copy_with_folded_norms(model)
    if runtime == TENSORFLOW:
        network = make_tensorflow_network(extract_network(folded))
    else:
        network = make_openvino_network(extract_network(folded))
    scaling = model.get_layer(SCALING)

    def predict(images: np.ndarray) -> np.ndarray:
        # As the model's first layer does; OpenVINO cannot resize with antialiasing.
        cells = np.asarray(to_network_input(images, scaling.field, scaling.size))
        if not symmetries:
            return network(cells)
        return np.mean([network(cells) for cells in iterate_symmetries(cells)], axis=0)

    return predict


def iterate_symmetries(images: np.ndarray) -> Iterator[np.ndarray]:
    """Yields images [n, size, size, 3] under the eight symmetries of the square; first as given."""
    for mirrored in (images, images[:, :, ::-1]):
        for quarters in range(4):
            yield np.ascontiguousarray(np.rot90(mirrored, quarters, axes=(1, 2)))


def copy_with_folded_norms(model: "keras.Model") -> "keras.Model":
    """Copies a model and folds the batch norms of the copy into its convolutions."""
    import keras

    from leuko_tf.network.folding import fold_batch_norms

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    fold_batch_norms(copy)
    return copy


def extract_network(model: "keras.Model") -> "ConcreteFunction":
    """Extracts a graph from the network's input to probabilities.

    The input is that of `leuko_tf.network.view.to_network_input`: float32 [n, size, size, 3] in 0
    to 255.
    """
    import tensorflow as tf

    from leuko_tf.network.resnext import SCALING, strip_scaling

    size, network = model.get_layer(SCALING).size, strip_scaling(model)
    spec = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")
    graph = tf.function(
        lambda images: network(images / 255.0, training=False)
    ).get_concrete_function(spec)
    graph.of = model  # keeps the variables alive, which a graph alone does not
    return graph


def make_tensorflow_network(network: "ConcreteFunction") -> Predictor:
    """Turns a network's weights into constants, which oneDNN then reorders only once.

    See `make_openvino_network` for arguments and result.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    frozen = convert_variables_to_constants_v2(network)
    return lambda images: frozen(tf.constant(np.asarray(images, np.float32)))[0].numpy()


def make_openvino_network(network: "ConcreteFunction") -> Predictor:
    """Converts a network for OpenVINO and compares it with TensorFlow.

    Args:
      network: From `extract_network`; or `loaded.network.concrete_functions[0]` of a loaded
        SavedModel, with `loaded` kept alive during the call.

    Returns:
      A function from images [n, size, size, 3] in 0 to 255 to float32 probabilities [n, 15].
      Several threads may call it; they wait for each other.

    Raises:
      UserError: if OpenVINO is not installed, cannot convert the network, or computes
        probabilities that differ by more than `TOLERANCE`.
    """
    import tensorflow as tf

    converted = compile_for_openvino(convert_for_openvino(network))
    images = _draw_probe(size=network.inputs[0].shape[1])
    difference = float(np.abs(converted(images) - network(tf.constant(images)).numpy()).max())
    if not difference <= TOLERANCE:  # true for NaN, too
        raise UserError(
            f"OpenVINO's probabilities differ from TensorFlow's by {difference:.1e}, more than "
            f"{TOLERANCE:g}. Use --runtime {TENSORFLOW}."
        )
    return converted


def convert_for_openvino(network: "ConcreteFunction") -> "openvino.Model":
    """Converts a network of `extract_network` to OpenVINO's form, for one image.

    Raises:
      UserError: if OpenVINO is not installed, or cannot convert the network.
    """
    library = import_openvino()
    size, channels = network.inputs[0].shape[2:]
    try:
        # By default OpenVINO would share the weights, which TensorFlow frees with the network.
        converted = library.convert_model(network, share_weights=False)
        converted.reshape([1, size, size, channels])
    except Exception as error:  # of many types
        raise UserError(
            f"OpenVINO cannot convert this network: {error}. Use --runtime {TENSORFLOW}."
        ) from error
    return converted


def compile_for_openvino(converted: "openvino.Model", precision: str = "float32") -> Predictor:
    """Compiles a converted network, unchecked, to the function of `make_openvino_network`.

    Args:
      converted: From `convert_for_openvino`.
      precision: A key of `PRECISIONS`. bfloat16 needs a processor that has it.
    """
    compiled_model = import_openvino().compile_model(
        converted,
        "CPU",
        {
            "PERFORMANCE_HINT": "LATENCY",  # one image on all cores
            "INFERENCE_PRECISION_HINT": PRECISIONS[precision],
        },
    )
    outputs = compiled_model.output(0).shape[1]
    request = compiled_model.create_infer_request()
    lock = threading.Lock()

    def predict(images: np.ndarray) -> np.ndarray:
        images = np.asarray(images, np.float32)
        probabilities = np.empty((len(images), outputs), np.float32)
        with lock:
            for i in range(len(images)):
                probabilities[i] = request.infer([images[i : i + 1]])[0]
        return probabilities

    return predict


def import_openvino() -> ModuleType:
    """Imports OpenVINO without its telemetry.

    By default it reports each import and each conversion to its maker through Google Analytics. A
    program that looks at images of patients must not do that, and OpenVINO works without it.

    Raises:
      UserError: if it is not installed.
    """
    blocked: Any = None  # with None in `sys.modules`, Python cannot import the module
    sys.modules.setdefault("openvino_telemetry", blocked)
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"--runtime {OPENVINO} needs OpenVINO: pip install leuko_tf[openvino] ({error})"
        ) from error
    return openvino


def _draw_probe(size: int) -> np.ndarray:
    """Draws one cell per class: float32 [15, size, size, 3].

    Noise would not do: a trained network answers it with probabilities of 0 and 1.
    """
    import tensorflow as tf

    from tfds_aml.synthetic_smear.drawing import draw_cell

    cells = [draw_cell(code, np.random.default_rng(0))[0][..., :3] for code in CODES]
    return tf.image.resize(np.stack(cells), (size, size), antialias=True).numpy()
