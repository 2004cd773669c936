"""Runs a network on TensorFlow or on OpenVINO, which is faster on a CPU.

OpenVINO converts the float32 network of TensorFlow; its probabilities are compared with
TensorFlow's before use. It takes one image at a time, at a fixed shape: batches were no faster.

The costs: a larger installation (`pip install leuko_tf[openvino]`, 180 MB), one to three seconds of
conversion at each start, CPUs only, and probabilities that differ in about the sixth digit.
docs/benchmark.md has the speeds.
"""

import sys
import threading
from collections.abc import Callable
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

# OpenVINO's names.
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
    import keras

    from leuko_tf.network.folding import fold_batch_norms
    from leuko_tf.network.resnext import SCALING
    from leuko_tf.network.view import to_network_input

    scaling, folded = model.get_layer(SCALING), keras.models.clone_model(model)
    folded.set_weights(model.get_weights())
    fold_batch_norms(folded)
    make_network = make_tensorflow_network if runtime == TENSORFLOW else make_openvino_network
    network = make_network(extract_network(folded))

    def predict(images: np.ndarray) -> np.ndarray:
        # As the model's first layer does; OpenVINO cannot resize with antialiasing.
        cells = np.asarray(to_network_input(images, scaling.field, scaling.size))
        if not symmetries:
            return network(cells)
        probabilities = [
            network(np.ascontiguousarray(np.rot90(mirrored, quarters, axes=(1, 2))))
            for mirrored in (cells, cells[:, :, ::-1])
            for quarters in range(4)
        ]
        return np.mean(probabilities, axis=0)

    return predict


def extract_network(model: "keras.Model") -> "ConcreteFunction":
    """Extracts a graph from the network's input to probabilities.

    The input is that of `leuko_tf.network.view.to_network_input`: float32 [n, size, size, 3] in 0
    to 255.
    """
    import tensorflow as tf

    from leuko_tf.network.resnext import SCALING, strip_scaling

    size, network = model.get_layer(SCALING).size, strip_scaling(model)
    spec = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")
    run = tf.function(lambda images: network(images / 255.0, training=False))
    graph = run.get_concrete_function(spec)
    graph.of = model  # keeps the variables alive, which a graph alone does not
    return graph


def make_tensorflow_network(network: "ConcreteFunction") -> Predictor:
    """As `make_openvino_network`; makes the weights constants, which oneDNN reorders only once."""
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    frozen = convert_to_constants.convert_variables_to_constants_v2(network)
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
    """Converts a network of `extract_network` for one image; raises as `make_openvino_network`."""
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
    options = {
        "PERFORMANCE_HINT": "LATENCY",  # one image on all cores
        "INFERENCE_PRECISION_HINT": PRECISIONS[precision],  # by default bfloat16 where possible
    }
    compiled_model = import_openvino().compile_model(converted, "CPU", options)
    outputs = compiled_model.output(0).shape[1]
    request = compiled_model.create_infer_request()
    lock = threading.Lock()

    def predict(images: np.ndarray) -> np.ndarray:
        probabilities = np.empty((len(images), outputs), np.float32)
        with lock:
            for i, image in enumerate(np.asarray(images, np.float32)):
                probabilities[i] = request.infer([image[np.newaxis]])[0]
        return probabilities

    return predict


def import_openvino() -> ModuleType:
    """Imports OpenVINO without its telemetry.

    By default it reports each import and each conversion to its maker through Google Analytics. A
    program that looks at images of patients must not do that, and OpenVINO works without it.
    Raises `UserError` if it is not installed.
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
    """Draws one cell per class, [15, size, size, 3]; for noise, probabilities are 0 or 1."""
    import tensorflow as tf

    from tfds_aml.synthetic_smear.drawing import draw_cell

    cells = [draw_cell(code, np.random.default_rng(0))[0][..., :3] for code in CODES]
    return tf.image.resize(np.stack(cells), (size, size), antialias=True).numpy()
