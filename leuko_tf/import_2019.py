"""Imports the network of Matek et al. 2019 from its published weights.

  python -m leuko_tf.import_2019 weights.hdf5 --out network2019.keras

The file is `weights.hdf5` of the paper's Code Ocean capsule. It is not part of this project. Keras
2.2.4 wrote it, and today's Keras cannot load it. This module reads only its numbers: it runs
nothing, follows no links, and ignores attributes, which may be missing. The layers are at the root
or, in the file of a whole model, under `model_weights`.

The result differs from the network of 2019 in two ways; neither changes the probabilities:

- A grouped convolution is one layer. In 2019 it was 32 slices, 32 convolutions and a
  concatenation. Their kernels and biases are concatenated on the last axis.
- There is one output for erythroblasts. In 2019 there were two, EBO and EBO2, whose probabilities
  have to be added. Here the two logits a and b become log(exp a + exp b), so the softmax over 15
  outputs gives exactly that sum. Because they are merged before the softmax, a temperature,
  saliency and training act on one class.
"""

import argparse
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from leuko_tf.classes import CODES, INDEX
from leuko_tf.cli import UserError, import_tensorflow_quietly, run, write_aside

if TYPE_CHECKING:
    import keras

# Pixel size of the network's training images; for sources see tfds_aml.aml_cytomorphology_lmu.
PIXEL_SIZE_UM = 0.0725
# The outputs of 2019 in the order of the file.
OUTPUTS = (
    "BAS", "EBO", "EBO2", "EOS", "KSC", "LYA", "LYT", "MMZ",
    "MOB", "MON", "MYB", "MYO", "NGB", "NGS", "PMB", "PMO",
)  # fmt: skip
GROUPS = 32
FEATURES = 2048  # inputs of the last layer

# Keras' names of the layers with weights, and their numbers.
CONVOLUTION, BATCH_NORM, DENSE = "conv2d", "batch_normalization", "dense"
NUMBERS = {CONVOLUTION: 549, BATCH_NORM: 53, DENSE: 1}
NORM_WEIGHTS = ("gamma", "beta", "moving_mean", "moving_variance")
_MAX_NAMES = 3  # layers that a message names at most

Weights = dict[str, list[np.ndarray]]
Layer = tuple[str, dict[str, h5py.Dataset]]  # its name in the file, its datasets by weight


def import_network(file: Path | str, raw_outputs: bool = False) -> "keras.Model":
    """Builds the network of 2019 from its weight file; see `read_weights` and `build_network`."""
    return build_network(read_weights(Path(file)), raw_outputs)


def build_network(weights: Weights, raw_outputs: bool = False) -> "keras.Model":
    """Builds the network of 2019.

    Args:
      weights: From `read_weights`.
      raw_outputs: Whether to keep the 16 outputs in the order of `OUTPUTS`, to study the two
        erythroblast outputs. The project's commands take only models with 15.

    Returns:
      A float32 Keras model from images, uint8 or float [batch, height, width, 3] in 0 to 255, to
      probabilities, float32 [batch, 15] in the order of `leuko_tf.classes.CODES`. Its input size
      is 400 px.
    """
    import keras

    from leuko_tf.network.layers import MergingDense
    from leuko_tf.network.resnext import OUTPUT_NAME, SCALING, build_resnext

    model = build_resnext(num_outputs=len(OUTPUTS))
    model.get_layer(SCALING).pixel_size_um = PIXEL_SIZE_UM
    for name, arrays in weights.items():
        model.get_layer(OUTPUT_NAME if name == DENSE else name).set_weights(arrays)
    if raw_outputs:
        return model
    # The project's order, then the second erythroblast output.
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
      file: HDF5 file of Keras 2, of weights or of a whole model.

    Returns:
      Dict of layer to float32 arrays in the order of its `set_weights`. The layers are the
      convolutions and batch norms of `leuko_tf.network.resnext`, by their names there, and the last
      layer, `dense`, with 16 outputs in the order of `OUTPUTS`.

    Raises:
      UserError: if the file is missing, damaged or not HDF5; or a layer is missing, unknown or of
        another shape. The message names the layer.
    """
    if not file.is_file():
        raise UserError(f"No weight file {file}")
    file.open("rb").close()  # raises PermissionError here, not "not HDF5" below
    if not h5py.is_hdf5(file):
        raise UserError(f"{file} is not an HDF5 file, as the weights of 2019 are")
    try:
        with h5py.File(file, "r") as content:
            return _join_weights(_sort_layers(content))
    except UserError as error:
        raise UserError(f"{file} does not hold the network of 2019: {error}") from error
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:  # h5py's
        raise UserError(f"{file} is damaged or truncated; get it again ({error})") from error


def _list_convolutions() -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """Lists the network's convolutions in the order in which the code of 2019 created them.

    Yields:
      Its name and that of the batch norm that follows it, both as in `leuko_tf.network.resnext`;
      the shape of the kernel of one group; and the number of groups, each a layer of the file.
    """
    yield "stem_conv", "stem_norm", (7, 7, 3, 64), 1
    incoming = 64
    for stage, blocks in enumerate((3, 4, 6, 3), 1):
        inner, outer = 64 * 2**stage, 128 * 2**stage
        depth = inner // GROUPS
        for block in range(1, blocks + 1):
            name = f"stage{stage}_block{block}"
            yield f"{name}_conv1", f"{name}_1_norm", (1, 1, incoming, inner), 1
            yield f"{name}_conv2", f"{name}_2_norm", (3, 3, depth, depth), GROUPS
            yield f"{name}_conv3", f"{name}_3_norm", (1, 1, inner, outer), 1
            if block == 1:
                projection = f"{name}_projection"
                yield projection, f"{projection}_norm", (1, 1, incoming, outer), 1
            incoming = outer


def _join_weights(layers: dict[str, list[Layer]]) -> Weights:
    """Reads the layers, ordered by kind, and joins the groups of each convolution."""
    weights: Weights = {}
    parts, norms = iter(layers[CONVOLUTION]), iter(layers[BATCH_NORM])
    for name, norm_name, kernel, number in _list_convolutions():
        channels = kernel[-1]
        shapes = {"kernel": kernel, "bias": (channels,)}
        groups = [_read_layer(layer, shapes) for layer in islice(parts, number)]
        weights[name] = [np.concatenate(arrays, axis=-1) for arrays in zip(*groups, strict=True)]
        norm = next(norms)
        shapes = dict.fromkeys(NORM_WEIGHTS, (channels * number,))
        weights[norm_name] = _read_layer(norm, shapes)
        if weights[norm_name][-1].min() < 0:
            raise UserError(f"{norm[0]}: moving_variance holds numbers below zero")
    shapes = {"kernel": (FEATURES, len(OUTPUTS)), "bias": (len(OUTPUTS),)}
    weights[DENSE] = _read_layer(layers[DENSE][0], shapes)
    return weights


def _read_layer(layer: Layer, shapes: dict[str, tuple[int, ...]]) -> list[np.ndarray]:
    """Reads a layer's weights as float32 arrays; refuses other weights, shapes and types."""
    name, datasets = layer
    if {*datasets} != {*shapes}:
        raise UserError(
            f"{name} has the weights {', '.join(sorted(datasets))}, where {', '.join(shapes)} were "
            "expected"
        )
    arrays = []
    for weight, shape in shapes.items():
        dataset = datasets[weight]
        if dataset.external or dataset.is_virtual:
            raise UserError(f"{name}: {weight} is in another file, which is not read")
        if dataset.shape != shape:
            raise UserError(f"{name}: {weight} has the shape {dataset.shape}, not {shape}")
        if dataset.dtype.kind != "f":
            raise UserError(f"{name}: {weight} holds {dataset.dtype}, not floating-point")
        arrays.append(np.asarray(dataset[...], np.float32))
        if not np.isfinite(arrays[-1]).all():
            raise UserError(f"{name}: {weight} holds numbers that are not finite")
    return arrays


def _sort_layers(content: h5py.File) -> dict[str, list[Layer]]:
    """Sorts the layers with weights by kind and number; refuses unknown, missing and surplus."""
    found = _find_datasets(content)
    by_kind: dict[str, dict[int, str]] = {kind: {} for kind in NUMBERS}
    unknown = []
    for name in found:
        match = re.fullmatch(rf"({'|'.join(NUMBERS)})(?:_([1-9][0-9]*))?", name)
        if match:
            # The first layer of a kind has no number in some versions of Keras.
            by_kind[match[1]][int(match[2] or 0)] = name
        else:
            unknown.append(name)
    problems = [f"it has {_format_names(unknown)}, which that network has not"] if unknown else []
    problems += [
        _describe_count(kind, names)
        for kind, names in by_kind.items()
        if len(names) != NUMBERS[kind]
    ]
    if problems:
        raise UserError("; ".join(problems))
    return {
        kind: [(names[n], found[names[n]]) for n in sorted(names)]
        for kind, names in by_kind.items()
    }


def _find_datasets(content: h5py.File) -> dict[str, dict[str, h5py.Dataset]]:
    """Finds the datasets of a file by layer and weight: `<layer>/.../<weight>:0`."""
    is_whole_model = isinstance(content.get("model_weights", getlink=True), h5py.HardLink)
    base = content["model_weights"] if is_whole_model else content
    if not isinstance(base, h5py.Group):
        raise UserError("its model_weights are not a group of layers")
    found: dict[str, dict[str, h5py.Dataset]] = {}

    def add(path: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            layer, _, rest = path.partition("/")
            weight = rest.rpartition("/")[2].removesuffix(":0")
            if weight in found.setdefault(layer, {}):
                raise UserError(f"{layer} has the weight {weight} twice")
            found[layer][weight] = item

    # `visititems` follows no soft or external links, and visits each object once.
    base.visititems(add)
    return found


def _describe_count(kind: str, names: dict[int, str]) -> str:
    """Describes missing and surplus layers of a kind, given the names by number."""
    # If the session of Keras had made other networks before, the numbers go on from there.
    from_one = 0 not in names and max(names, default=0) <= NUMBERS[kind]
    first = 1 if from_one else min(names)
    expected = range(first, first + NUMBERS[kind])
    missing = [f"{kind}_{n}" for n in expected if n not in names]
    extra = [names[n] for n in sorted(names) if n not in expected]
    faults = [f"{_format_names(missing)} missing"] if missing else []
    faults += [f"{_format_names(extra)} too many"] if extra else []
    return f"it has {len(names)} layers {kind}_*, not {NUMBERS[kind]}: {', '.join(faults)}"


def _format_names(names: list[str]) -> str:
    """Formats the first few names, and how many more there are."""
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m leuko_tf.import_2019",
        description="Convert the published weights of the network of 2019 (weights.hdf5 of the "
        "paper's Code Ocean capsule) into a model of this project.",
    )
    parser.add_argument("weights", type=Path, metavar="weights.hdf5", help="file of Keras 2")
    parser.add_argument("--out", required=True, type=Path, help="the .keras file to write")
    parser.add_argument(
        "--raw-outputs",
        action="store_true",
        help="keep the 16 outputs of 2019, with two for erythroblasts, in the order of the file: "
        f"{' '.join(OUTPUTS)}. Other commands take only models with {len(CODES)} outputs",
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
