"""Imports the network of Matek et al. 2019 from its published weights.

  python -m leuko_tf.import_2019 weights.hdf5 --out network2019.keras

The file, `weights.hdf5` of the paper's Code Ocean capsule, is of Keras 2.2.4, and today's Keras
cannot load it. It is no part of this project. Only its numbers are read: nothing in it is run, no
link in it is followed, and attributes, which may be absent, are not looked at. The layers lie at
the root or, in the file of a whole model, under `model_weights`.

Two things differ from the network of 2019, and neither changes its answers:

- A grouped convolution is one layer. In 2019 it was 32 slices, 32 convolutions and a
  concatenation; their kernels and biases, joined on the last axis, are those of the one layer.
- There is one output for erythroblasts. In 2019 there were two, EBO and EBO2, whose probabilities
  readers of the network add up. Here the two logits a and b become log(exp a + exp b), which gives
  the softmax over 15 outputs exactly that sum. As it happens before the softmax, a temperature,
  saliency and training act on the one class.
"""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leuko_tf.classes import CODES, INDEX
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_aside

if TYPE_CHECKING:
    import h5py
    import keras
    import numpy as np

# The outputs of 2019, in the order of the file.
# Of the images that the network was trained on; sources in tfds_aml.aml_cytomorphology_lmu.
PIXEL_SIZE_UM = 0.0725
OUTPUTS = (
    "BAS", "EBO", "EBO2", "EOS", "KSC", "LYA", "LYT", "MMZ",
    "MOB", "MON", "MYB", "MYO", "NGB", "NGS", "PMB", "PMO",
)  # fmt: skip
GROUPS = 32
FEATURES = 2048  # inputs of the last layer

# Layers with weights: Keras' name for the kind, how many there are, and their weights in the order
# of `set_weights`.
CONVOLUTION, BATCH_NORM, DENSE = "conv2d", "batch_normalization", "dense"
NUMBERS = {CONVOLUTION: 549, BATCH_NORM: 53, DENSE: 1}
WEIGHTS = {
    CONVOLUTION: ("kernel", "bias"),
    BATCH_NORM: ("gamma", "beta", "moving_mean", "moving_variance"),
    DENSE: ("kernel", "bias"),
}
_NAMED = 3  # layers at most that a message names

Weights = dict[str, "list[np.ndarray]"]


@dataclass(frozen=True)
class Convolution:
    """A convolution of the network, and the batch norm that follows it.

    Attributes:
      name: str. Of the layer in `leuko_tf.network.resnext`.
      norm: str. Of its batch norm there.
      kernel: tuple of int. Shape of the kernel of one group.
      groups: int. Convolutions of the file that make up this one.
    """

    name: str
    norm: str
    kernel: tuple[int, int, int, int]
    groups: int = 1


@dataclass(frozen=True)
class Layer:
    """A layer of the file.

    Attributes:
      name: str. As in the file.
      datasets: dict of weight to its open dataset.
    """

    name: str
    datasets: "dict[str, h5py.Dataset]"

    def read(self, weight: str, shape: tuple[int, ...]) -> "np.ndarray":
        """A weight as float32 array of this shape; `UserError` if it is something else."""
        import numpy as np

        dataset = self.datasets[weight]
        if dataset.external or dataset.is_virtual:
            raise UserError(f"{self.name}: {weight} lies in another file, which is not read")
        if dataset.shape != shape:
            raise UserError(
                f"{self.name}: {weight} has the shape {dataset.shape}, where {shape} was expected"
            )
        if dataset.dtype.kind != "f":
            raise UserError(f"{self.name}: {weight} holds {dataset.dtype}, no floating numbers")
        values = np.asarray(dataset[...], np.float32)
        if not np.isfinite(values).all():
            raise UserError(f"{self.name}: {weight} holds numbers that are not finite")
        return values


def import_network(file: Path | str, raw_outputs: bool = False) -> "keras.Model":
    """Makes the network of 2019 from its weight file.

    Args:
      file: the HDF5 file of Keras 2, of weights or of a whole model.
      raw_outputs: whether to keep the 16 outputs, in the order of `OUTPUTS`, for a look at the
        two erythroblast outputs. The project's commands take only models of 15.

    Returns:
      A float32 Keras model from images, uint8 or float [batch, height, width, 3] in 0 to 255, to
      probabilities, float32 [batch, 15] in the order of `leuko_tf.classes.CODES`. It looks at
      them at 400 px.

    Raises:
      UserError: as `read_weights`.
    """
    return build_network(read_weights(Path(file)), raw_outputs)


def build_network(weights: Weights, raw_outputs: bool = False) -> "keras.Model":
    """Makes the network of 2019 from what `read_weights` returned; see `import_network`."""
    import keras
    import numpy as np

    from leuko_tf.network.layers import MergingDense
    from leuko_tf.network.resnext import OUTPUT_NAME, SCALING, build_resnext

    model = build_resnext(num_outputs=len(OUTPUTS))
    model.get_layer(SCALING).pixel_size_um = PIXEL_SIZE_UM
    for name, arrays in weights.items():
        model.get_layer(OUTPUT_NAME if name == DENSE else name).set_weights(arrays)
    if raw_outputs:
        return model
    # The project's order, and then the second erythroblast output.
    order = [OUTPUTS.index(code) for code in (*CODES, "EBO2")]
    last = MergingDense(
        len(OUTPUTS), into=INDEX["EBO"], activation="softmax", dtype="float32", name=OUTPUT_NAME
    )
    outputs = last(model.get_layer(OUTPUT_NAME).input)
    last.set_weights([np.take(array, order, axis=-1) for array in weights[DENSE]])
    return keras.Model(model.input, outputs, name=model.name)


def read_weights(file: Path) -> Weights:
    """Reads the weights of the network of 2019, without TensorFlow.

    Args:
      file: the HDF5 file of Keras 2, of weights or of a whole model.

    Returns:
      Dict of layer to float32 arrays in the order of its `set_weights`. The layers are the
      convolutions and batch norms of `leuko_tf.network.resnext`, by their names there, and `dense`, the
      last layer, with 16 outputs in the order of `OUTPUTS`.

    Raises:
      UserError: if the file is missing, damaged or no HDF5; or a layer is missing, extra or
        misshapen, which the message names.
    """
    import h5py

    if not file.is_file():
        raise UserError(f"No weight file {file}")
    file.open("rb").close()  # what may not be read is told as that
    if not h5py.is_hdf5(file):
        raise UserError(f"{file} is no HDF5 file, which the weights of 2019 are")
    try:
        with h5py.File(file, "r") as content:
            return _join_weights(_sort_layers(content))
    except UserError as error:
        raise UserError(f"{file} does not hold the network of 2019: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py's
        raise UserError(f"{file} is damaged or cut short; get it again ({error})") from error


def list_convolutions() -> Iterator[Convolution]:
    """The convolutions of the network, in the order in which the code of 2019 created them."""
    yield Convolution("stem_conv", "stem_norm", (7, 7, 3, 64))
    incoming = 64
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        inner, outer = 64 * 2**stage, 128 * 2**stage
        depth = inner // GROUPS
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            yield Convolution(f"{name}_conv1", f"{name}_1_norm", (1, 1, incoming, inner))
            yield Convolution(f"{name}_conv2", f"{name}_2_norm", (3, 3, depth, depth), GROUPS)
            yield Convolution(f"{name}_conv3", f"{name}_3_norm", (1, 1, inner, outer))
            if block == 1:
                projection = f"{name}_projection"
                yield Convolution(projection, f"{projection}_norm", (1, 1, incoming, outer))
            incoming = outer


def _join_weights(layers: dict[str, list[Layer]]) -> Weights:
    """Reads the layers of the file, given in order by kind, and joins the groups."""
    import numpy as np

    weights: Weights = {}
    small, norms = iter(layers[CONVOLUTION]), iter(layers[BATCH_NORM])
    for convolution in list_convolutions():
        channels = convolution.kernel[-1]
        groups = [
            (layer.read("kernel", convolution.kernel), layer.read("bias", (channels,)))
            for layer in islice(small, convolution.groups)
        ]
        weights[convolution.name] = [
            np.concatenate(arrays, axis=-1) for arrays in zip(*groups, strict=True)
        ]
        norm, shape = next(norms), (channels * convolution.groups,)
        weights[convolution.norm] = [norm.read(weight, shape) for weight in WEIGHTS[BATCH_NORM]]
        if weights[convolution.norm][-1].min() < 0:
            raise UserError(f"{norm.name}: moving_variance holds numbers below zero")
    (dense,) = layers[DENSE]
    shapes = ((FEATURES, len(OUTPUTS)), (len(OUTPUTS),))
    weights[DENSE] = [dense.read(w, s) for w, s in zip(WEIGHTS[DENSE], shapes, strict=True)]
    return weights


def _sort_layers(content: "h5py.File") -> dict[str, list[Layer]]:
    """The layers with weights, by kind, each in the order of the number in its name.

    Raises:
      UserError: if there are others than the network has, or too few, or one of them has other
        weights than its kind.
    """
    by_kind: dict[str, dict[int, Layer]] = {kind: {} for kind in NUMBERS}
    problems = []
    for name, datasets in _find_datasets(content).items():
        named = re.fullmatch(rf"({'|'.join(NUMBERS)})(?:_([1-9][0-9]*))?", name)
        if not named:
            problems.append(name)
            continue
        # The first layer of a kind has no number in some versions of Keras.
        by_kind[named[1]][int(named[2] or 0)] = Layer(name, datasets)
    problems = [f"it has {_listed(problems)}, which that network has not"] if problems else []
    for kind, layers in by_kind.items():
        problems += _check_count(kind, layers)
    if problems:
        raise UserError("; ".join(problems))
    for kind, layers in by_kind.items():
        for layer in layers.values():
            if {*layer.datasets} != {*WEIGHTS[kind]}:
                raise UserError(
                    f"{layer.name} has the weights {', '.join(sorted(layer.datasets))}, where "
                    f"{', '.join(WEIGHTS[kind])} were expected"
                )
    return {kind: [layers[n] for n in sorted(layers)] for kind, layers in by_kind.items()}


def _find_datasets(content: "h5py.File") -> "dict[str, dict[str, h5py.Dataset]]":
    """The datasets of a file by layer and weight: `<layer>/.../<weight>:0`."""
    import h5py

    base = content
    if isinstance(content.get("model_weights", getlink=True), h5py.HardLink):
        base = content["model_weights"]
    if not isinstance(base, h5py.Group):
        raise UserError("its model_weights are no group of layers")
    found: dict[str, dict[str, h5py.Dataset]] = {}

    def note(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, rest = path.partition("/")
            weight = rest.rpartition("/")[2].removesuffix(":0")
            if weight in found.setdefault(layer, {}):
                raise UserError(f"{layer} has the weight {weight} twice")
            found[layer][weight] = item

    # It follows no soft or external link, and comes to each object once.
    base.visititems(note)
    return found


def _check_count(kind: str, layers: dict[int, Layer]) -> list[str]:
    """What is missing or too many among the layers of a kind, as sentences; empty if nothing is."""
    number = NUMBERS[kind]
    if len(layers) == number:
        return []
    # Numbers count on where a session of Keras had made other networks before.
    from_one = 0 not in layers and max(layers, default=0) <= number
    first = 1 if from_one else min(layers)
    expected = range(first, first + number)
    missing = [f"{kind}_{n}" for n in expected if n not in layers]
    extra = [layer.name for n, layer in sorted(layers.items()) if n not in expected]
    faults = [f"{_listed(missing)} missing"] if missing else []
    faults += [f"{_listed(extra)} too many"] if extra else []
    return [f"it has {len(layers)} layers {kind}_*, not {number}: {', '.join(faults)}"]


def _format_names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.import_2019",
        description="Make a model of this project from the published weights of the network of "
        "2019 (weights.hdf5 of the paper's Code Ocean capsule).",
    )
    parser.add_argument("weights", type=Path, metavar="weights.hdf5", help="of Keras 2")
    parser.add_argument("--out", required=True, type=Path, help="the .keras file to write")
    parser.add_argument(
        "--raw-outputs",
        action="store_true",
        help="keep the 16 outputs of 2019, with two for erythroblasts, in the order of the file: "
        f"{' '.join(OUTPUTS)}. Other commands take only models of {len(CODES)} outputs",
    )
    arguments = parser.parse_args()
    if arguments.out.suffix != ".keras":
        raise UserError(f"--out must end in .keras. Received: {arguments.out}")
    weights = read_weights(arguments.weights)

    import_tensorflow_quietly()
    model = build_network(weights, arguments.raw_outputs)
    with write_aside(arguments.out) as aside:
        model.save(aside)
    print(
        f"imported {NUMBERS[CONVOLUTION]} convolutions and {NUMBERS[BATCH_NORM]} batch norms, "
        f"{model.count_params():,} parameters: {arguments.out}"
    )


if __name__ == "__main__":
    run(main)
