"""ResNeXt (Xie et al. 2017, arXiv 1611.05431) as Matek et al. 2019 built it."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace

import keras

from leuko_tf.classes import CODES
from leuko_tf.cli import UserError
from leuko_tf.config import ModelConfig
from leuko_tf.network.layers import BatchNorm, CellScaling, Conv2D, LeakyReLU
from leuko_tf.network.view import FIELD

# Keras 2.2.4's defaults, with which the paper's network was made.
BATCH_NORM_EPSILON = 1e-3
BATCH_NORM_MOMENTUM = 0.99
NEGATIVE_SLOPE = 0.3

OUTPUT_NAME = "probabilities"
LAST_FEATURE_MAP = "last_feature_map"
SCALING = "scaling"


def build_resnext(
    input_size: int = 400,
    field: int = FIELD,
    num_outputs: int = len(CODES),
    blocks: Sequence[int] = (3, 4, 6, 3),
    stem_width: int = 64,
    width: int = 128,
    cardinality: int = 32,
    activation: str = "leaky_relu",
    batch_norm_momentum: float = BATCH_NORM_MOMENTUM,
) -> keras.Model:
    """Builds the network; the defaults are the paper's ResNeXt-50 (32x4d).

    Every convolution has a bias, the first block of every stage has a projection, and the grouped
    3x3 convolution has the stride. With 15 outputs the network has 23,112,975 parameters, with 16
    (the paper's two erythroblast outputs) 23,115,024.

    The arguments are those of `leuko_tf.config.ModelConfig`. Each stage doubles `width`; its outer
    channels are twice its inner ones.

    Returns:
      A Keras model from `images`, uint8 or float [batch, height, width, 3] in 0 to 255, to
      `probabilities`, float32 [batch, num_outputs], rows summing to 1.

    Raises:
      ValueError: if `cardinality` does not divide `width`.
    """
    if width % cardinality:
        raise ValueError(f"cardinality={cardinality} must divide width={width}")

    def normalise(x, name: str):
        momentum = batch_norm_momentum
        return BatchNorm(momentum=momentum, epsilon=BATCH_NORM_EPSILON, name=f"{name}_norm")(x)

    def activate(x, name: str):
        if activation == "leaky_relu":
            return LeakyReLU(NEGATIVE_SLOPE, name=f"{name}_act")(x)
        return keras.layers.Activation(activation, name=f"{name}_act")(x)

    def add_bottleneck(x, inner: int, stride: int, project: bool, name: str):
        """Adds 1x1, grouped 3x3 and 1x1, each with a batch norm; the last activates after the sum.

        Layers are created in the order of the published weight file: a projection comes last.
        """
        grouped = {"strides": stride, "padding": "same", "groups": cardinality}
        y = Conv2D(inner, 1, name=f"{name}_conv1")(x)
        y = activate(normalise(y, f"{name}_1"), f"{name}_1")
        y = Conv2D(inner, 3, **grouped, name=f"{name}_conv2")(y)
        y = activate(normalise(y, f"{name}_2"), f"{name}_2")
        y = Conv2D(2 * inner, 1, name=f"{name}_conv3")(y)
        y = normalise(y, f"{name}_3")
        if project:
            x = Conv2D(2 * inner, 1, strides=stride, name=f"{name}_projection")(x)
            x = normalise(x, f"{name}_projection")
        return activate(keras.layers.Add(name=f"{name}_sum")([x, y]), name)

    images = keras.Input((None, None, 3), name="images")
    x = CellScaling(input_size, field, name=SCALING)(images)
    x = Conv2D(stem_width, 7, strides=2, padding="same", name="stem_conv")(x)
    x = activate(normalise(x, "stem"), "stem")
    x = keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, count in enumerate(blocks, 1):
        for block in range(1, count + 1):
            stride = 2 if block == 1 and stage > 1 else 1
            inner, name = width * 2 ** (stage - 1), f"stage{stage}_block{block}"
            x = add_bottleneck(x, inner, stride, project=block == 1, name=name)
    x = keras.layers.Activation("linear", name=LAST_FEATURE_MAP)(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    # The last layer computes in float32 even in mixed precision: bfloat16 has three digits.
    probabilities = keras.layers.Dense(
        num_outputs, activation="softmax", dtype="float32", name=OUTPUT_NAME
    )(x)
    return keras.Model(images, probabilities, name="resnext")


def from_config(config: ModelConfig, precision: str) -> keras.Model:
    """Builds the network of a configuration.

    Args:
      precision: Name of a Keras dtype policy, such as `"mixed_bfloat16"`.

    Raises:
      UserError: if Keras does not have the activation.
    """
    try:
        keras.activations.get(config.activation)
    except ValueError as error:
        raise UserError(
            "model.activation must be leaky_relu or the name of a Keras activation. "
            f"Received: {config.activation}"
        ) from error
    with use_dtype_policy(precision):
        return build_resnext(**asdict(config))


def from_model(model: keras.Model, config: ModelConfig, precision: str) -> keras.Model:
    """Copies a model with its weights, to train it further.

    Args:
      model: A float32 model of this project.
      config: The training's description of the network, which must be the same; but the momentum
        of the batch norms is taken from here.
      precision: Name of a Keras dtype policy.

    Raises:
      UserError: if `config` describes another network, or `build_resnext` did not build the model.
    """
    actual = asdict(replace(_read_config(model), batch_norm_momentum=config.batch_norm_momentum))
    different = {k: actual[k] for k, v in asdict(config).items() if v != actual[k]}
    if different:
        settings = " ".join(f"model.{k}={v}".replace(" ", "") for k, v in different.items())
        raise UserError(
            "The network of train.initial_model differs from that of the configuration. To train "
            f"it, set: {settings}"
        )

    def copy_layer(layer: keras.Layer) -> keras.Layer:
        settings = layer.get_config()
        if layer.name not in (SCALING, OUTPUT_NAME):  # these are float32 in every precision
            settings["dtype"] = precision
        if isinstance(layer, keras.layers.BatchNormalization):
            settings["momentum"] = config.batch_norm_momentum
        return type(layer).from_config(settings)

    with use_dtype_policy(precision):
        copy = keras.models.clone_model(model, clone_function=copy_layer)
    copy.set_weights(model.get_weights())
    return copy


def strip_scaling(model: keras.Model) -> keras.Model:
    """Makes a model without the scaling layer, which shares the other layers with `model`.

    Its input is that of `leuko_tf.network.view.to_network_input` in 0 to 1.
    """
    return keras.Model(model.get_layer(SCALING).output, model.outputs[0])


def _read_config(model: keras.Model) -> ModelConfig:
    """Reads the configuration of a network from its layers."""
    sums = (re.fullmatch(r"(stage\d+)_block\d+_sum", layer.name) for layer in model.layers)
    blocks = Counter(match[1] for match in sums if match)
    try:
        scaling, activation = model.get_layer(SCALING), model.get_layer("stem_act")
        name = "leaky_relu"
        if not isinstance(activation, keras.layers.LeakyReLU):
            name = keras.activations.serialize(activation.activation)
        return ModelConfig(
            input_size=scaling.size,
            field=scaling.field,
            blocks=list(blocks.values()),
            stem_width=model.get_layer("stem_conv").filters,
            width=model.get_layer("stage1_block1_conv1").filters,
            cardinality=model.get_layer("stage1_block1_conv2").groups,
            activation=name,
            batch_norm_momentum=model.get_layer("stem_norm").momentum,
        )
    except (ValueError, AttributeError) as error:
        raise UserError(f"train.initial_model is not a ResNeXt of this project: {error}") from error


@contextmanager
def use_dtype_policy(name: str) -> Iterator[None]:
    """Sets Keras' default dtype policy inside a `with`; layers made there keep it."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
