"""What computes a network's answers: TensorFlow, or OpenVINO, which is faster on a CPU.

OpenVINO gets the network as TensorFlow would run it, at float32. What it makes of it is compared
with TensorFlow before it is used. It takes one image after the other, at a fixed shape: batches
were no faster.

The trade: a larger installation (`pip install leuko_tf[openvino]`, 180 MB), a conversion of one to
three seconds at each start, CPUs alone; and answers that differ in the sixth digit or so.
docs/benchmark.md has the speeds.
"""

import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError

if TYPE_CHECKING:
    import keras
    import numpy as np
    import openvino
    import tensorflow as tf

TENSORFLOW, OPENVINO = "tensorflow", "openvino"
RUNTIMES = (TENSORFLOW, OPENVINO)

# Of probabilities; more, and it is another network.
TOLERANCE = 1e-4

# OpenVINO's names. It would take bfloat16 by itself where the processor has it.
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


def make_predictor(
    model: "keras.Model", runtime: str = TENSORFLOW, symmetries: bool = False
) -> "Callable[[np.ndarray], np.ndarray]":
    """The function from images to probabilities, as a runtime computes it.

    Args:
      model: a model of this project, float32.
      runtime: of `RUNTIMES`.
      symmetries: whether to average the probabilities over the image's eight turns and mirrorings,
        at eight times the work: a cell on a slide has no upper side.

    Returns:
      A function from uint8 or float images [n, height, width, 3] in 0 to 255, of any size, to
      float32 probabilities [n, 15].

    Raises:
      UserError: if OpenVINO is not installed, or cannot convert the model faithfully.
    """
    import numpy as np

    from leuko_tf.network.resnext import SCALING
    from leuko_tf.network.view import to_network_input

    folded = copy_with_folded_norms(model)
    if runtime == TENSORFLOW:
        network = make_tensorflow_network(extract_network(folded))
    else:
        network = make_openvino_network(extract_network(folded))
    scaling = model.get_layer(SCALING)

    def answer(images: "np.ndarray") -> "np.ndarray":
        # As the model's first layer would; OpenVINO has no resizing with antialiasing.
        cells = np.asarray(to_network_input(images, scaling.field, scaling.size))
        if not symmetries:
            return network(cells)
        return np.mean([network(cells) for cells in iterate_symmetries(cells)], axis=0)

    return answer


def iterate_symmetries(images: "np.ndarray") -> "Iterator[np.ndarray]":
    """Images [n, size, size, 3] under the eight symmetries of the square, the first unchanged."""
    import numpy as np

    for mirrored in (images, images[:, :, ::-1]):
        for quarters in range(4):
            yield np.ascontiguousarray(np.rot90(mirrored, quarters, axes=(1, 2)))


def copy_with_folded_norms(model: "keras.Model") -> "keras.Model":
    """The same model with its batch norms in its convolutions; the one given stays as it is."""
    import keras

    from leuko_tf.network.folding import fold_batch_norms

    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    fold_batch_norms(copy)
    return copy


def extract_network(model: "keras.Model") -> "tf.types.experimental.ConcreteFunction":
    """A model as a graph of what it sees (`leuko_tf.network.view.to_network_input`) to probabilities.

    It takes float32 images [n, size, size, 3] in 0 to 255.
    """
    import tensorflow as tf

    from leuko_tf.network.resnext import SCALING, strip_scaling

    size, network = model.get_layer(SCALING).size, strip_scaling(model)
    spec = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")
    graph = tf.function(
        lambda images: network(images / 255.0, training=False)
    ).get_concrete_function(spec)
    graph.of = model  # by itself a graph does not keep its variables alive
    return graph


def make_tensorflow_network(
    network: "tf.types.experimental.ConcreteFunction",
) -> "Callable[[np.ndarray], np.ndarray]":
    """A network with its weights as constants: oneDNN then brings them into its order only once.

    Args:
      network: see `openvino_network`.

    Returns:
      As of `openvino_network`.
    """
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    frozen = convert_variables_to_constants_v2(network)
    return lambda images: frozen(tf.constant(np.asarray(images, np.float32)))[0].numpy()


def make_openvino_network(
    network: "tf.types.experimental.ConcreteFunction",
) -> "Callable[[np.ndarray], np.ndarray]":
    """Converts a network for OpenVINO, and checks it against TensorFlow.

    Args:
      network: as of `network_of`. From a loaded SavedModel it is
        `loaded.network.concrete_functions[0]`; keep `loaded` meanwhile.

    Returns:
      A function from images [n, size, size, 3] in 0 to 255 to float32 probabilities [n, 15]. It
      may be called from several threads; they wait for each other.

    Raises:
      UserError: if OpenVINO is not installed, cannot convert the network, or gives probabilities
        that differ by more than `TOLERANCE`.
    """
    import numpy as np
    import tensorflow as tf

    converted = compile_for_openvino(convert_for_openvino(network))
    images = _draw_probe(size=network.inputs[0].shape[1])
    difference = float(np.abs(converted(images) - network(tf.constant(images)).numpy()).max())
    if not difference <= TOLERANCE:  # nor is it, if it is no number
        raise UserError(
            f"OpenVINO's probabilities differ from TensorFlow's by {difference:.1e}, more than "
            f"{TOLERANCE:g}. Use --runtime {TENSORFLOW}."
        )
    return converted


def convert_for_openvino(network: "tf.types.experimental.ConcreteFunction") -> "openvino.Model":
    """The network in OpenVINO's form, for one image.

    Args:
      network: as of `openvino_network`.

    Raises:
      UserError: if OpenVINO is not installed, or cannot convert the network.
    """
    library = import_openvino()
    size, channels = network.inputs[0].shape[2:]
    try:
        # By default the weights stay TensorFlow's, who frees them with the network: garbage then.
        converted = library.convert_model(network, share_weights=False)
        converted.reshape([1, size, size, channels])
    except Exception as error:  # each of its parts raises its own
        raise UserError(
            f"OpenVINO cannot convert this network: {error}. Use --runtime {TENSORFLOW}."
        ) from error
    return converted


def compile_for_openvino(
    converted: "openvino.Model", precision: str = "float32"
) -> "Callable[[np.ndarray], np.ndarray]":
    """What `convert` returned as a function, unchecked; see `openvino_network`.

    Args:
      converted: the network, for one image.
      precision: of `PRECISIONS`. bfloat16 needs a processor that has it.
    """
    import numpy as np

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
    free = threading.Lock()

    def answer(images: "np.ndarray") -> "np.ndarray":
        images = np.asarray(images, np.float32)
        probabilities = np.empty((len(images), outputs), np.float32)
        with free:
            for i in range(len(images)):
                probabilities[i] = request.infer([images[i : i + 1]])[0]
        return probabilities

    return answer


def import_openvino() -> ModuleType:
    """Imports OpenVINO without its telemetry.

    As installed it reports, unasked, each import and each conversion to its maker through Google
    Analytics. Where images of patients are looked at nothing may call out; and it needs nothing
    of this to work.

    Raises:
      UserError: if it is not installed.
    """
    switched_off: Any = None  # what Python takes for a module that cannot be imported
    sys.modules.setdefault("openvino_telemetry", switched_off)
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            f"--runtime {OPENVINO} needs OpenVINO: pip install leuko_tf[openvino] ({error})"
        ) from error
    return openvino


def _draw_probe(size: int) -> "np.ndarray":
    """float32 [15, size, size, 3]: drawn cells, a class each.

    Of noise a trained network is so sure that its probabilities are 0 and 1, whatever the weights.
    """
    import numpy as np
    import tensorflow as tf

    from tfds_aml.synthetic_smear.drawing import draw_cell

    cells = [draw_cell(code, np.random.default_rng(0))[0][..., :3] for code in CODES]
    return tf.image.resize(np.stack(cells), (size, size), antialias=True).numpy()
