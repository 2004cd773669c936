"""The network of `leuko_tf.network.resnext` in PyTorch, for comparison.

The same in every detail that costs time or changes a number: biases, strides, projections, batch
norms' epsilon, LeakyReLU 0.3, scaling of 0-255 to 0-1 in the network. Layers have the names that
Keras' have, so that weights are carried over by name.
"""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from leuko_tf.config import ModelConfig

EPSILON = 1e-3
NEGATIVE_SLOPE = 0.3
PARAMETERS = 23_112_975  # with 15 outputs; moving averages counted, as Keras does

TENSORFLOW, SYMMETRIC = "tensorflow", "symmetric"


class ResNeXt(nn.Module):
    """ResNeXt as Matek et al. 2019 built it.

    Args:
      config: sizes of the network; `input_size` is not used, images come at their size.
      num_outputs: classes.
      padding: `TENSORFLOW` pads strided convolutions as TensorFlow's SAME does, at an even size by
        one pixel more at the end than at the beginning: equal outputs, for a copy of the map.
        `SYMMETRIC` is what PyTorch's users write: the same amount of work, other outputs.

    Call arguments:
      images: uint8 or float [batch, 3, height, width], 0 to 255.

    Returns:
      Logits, [batch, num_outputs].
    """

    def __init__(self, config: ModelConfig, num_outputs: int = 15, padding: str = TENSORFLOW):
        super().__init__()
        self._asymmetric = padding == TENSORFLOW
        self._blocks: list[str] = []
        self.layers = nn.ModuleDict()
        self._add_convolution("stem_conv", "stem_norm", 3, config.stem_width, 7, stride=2)
        channels = config.stem_width
        for stage, count in enumerate(config.blocks, 1):
            inner = config.width * 2 ** (stage - 1)
            for block in range(1, count + 1):
                stride = 2 if block == 1 and stage > 1 else 1
                self._add_block(
                    f"stage{stage}_block{block}", channels, inner, stride, config.cardinality
                )
                channels = 2 * inner
        self.layers["probabilities"] = nn.Linear(channels, num_outputs)

    def _add_block(self, name: str, channels: int, inner: int, stride: int, groups: int) -> None:
        project = name.endswith("_block1")
        self._add_convolution(f"{name}_conv1", f"{name}_1_norm", channels, inner, 1)
        self._add_convolution(
            f"{name}_conv2", f"{name}_2_norm", inner, inner, 3, stride=stride, groups=groups
        )
        self._add_convolution(f"{name}_conv3", f"{name}_3_norm", inner, 2 * inner, 1)
        if project:
            self._add_convolution(
                *(f"{name}_projection", f"{name}_projection_norm"),
                *(channels, 2 * inner, 1),
                stride=stride,
            )
        self._blocks.append(name)

    def _add_convolution(
        self,
        name: str,
        norm: str,
        channels: int,
        filters: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        self.layers[name] = nn.Conv2d(
            channels, filters, kernel, stride, padding=kernel // 2, groups=groups
        )
        self.layers[norm] = nn.BatchNorm2d(filters, eps=EPSILON)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images.float() / 255.0
        x = self._activated(self._normalised(x, "stem_conv", "stem_norm"))
        x = self._pooled(x)
        for name in self._blocks:
            y = self._activated(self._normalised(x, f"{name}_conv1", f"{name}_1_norm"))
            y = self._activated(self._normalised(y, f"{name}_conv2", f"{name}_2_norm"))
            y = self._normalised(y, f"{name}_conv3", f"{name}_3_norm")
            if f"{name}_projection" in self.layers:
                x = self._normalised(x, f"{name}_projection", f"{name}_projection_norm")
            x = self._activated(x + y)
        return self.layers["probabilities"](x.mean((2, 3)))

    def _normalised(self, x: torch.Tensor, name: str, norm: str) -> torch.Tensor:
        convolution = self.layers[name]
        if self._asymmetric and convolution.kernel_size[0] > 1:
            x = self._convolved(x, convolution)
        else:
            x = convolution(x)
        return self.layers[norm](x)

    @staticmethod
    def _convolved(x: torch.Tensor, convolution: nn.Conv2d) -> torch.Tensor:
        """With TensorFlow's SAME padding; a copy of `x` only where that is not symmetric."""
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        rows = _same_padding(x.shape[2], kernel, stride)
        columns = _same_padding(x.shape[3], kernel, stride)
        if rows[0] == rows[1] and columns[0] == columns[1]:
            padding = (rows[0], columns[0])
        else:
            x, padding = functional.pad(x, (*columns, *rows)), (0, 0)
        return functional.conv2d(
            x,
            convolution.weight,
            convolution.bias,
            convolution.stride,
            padding,
            groups=convolution.groups,
        )

    def _pooled(self, x: torch.Tensor) -> torch.Tensor:
        if self._asymmetric and x.shape[2] % 2 == 0 and x.shape[3] % 2 == 0:
            # A window that hangs over the end is TensorFlow's padding at an even size.
            return functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return functional.max_pool2d(x, 3, 2, padding=1)

    @staticmethod
    def _activated(x: torch.Tensor) -> torch.Tensor:
        return functional.leaky_relu(x, NEGATIVE_SLOPE)


class Answering(nn.Module):
    """The network as it is asked: uint8 [batch, height, width, 3] to probabilities."""

    def __init__(self, network: ResNeXt):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # Images that lie with channels last stay so: the permutation moves nothing.
        logits = self.network(images.permute(0, 3, 1, 2))
        return torch.softmax(logits.float(), dim=1)


def count_parameters(network: nn.Module) -> int:
    """As Keras counts: weights and moving averages, without the batch norms' step counters."""
    numbers = [*network.parameters(), *network.buffers()]
    return sum(t.numel() for t in numbers if t.is_floating_point())


def resnext50(padding: str) -> ResNeXt:
    """The paper's network with 15 outputs.

    Raises:
      ValueError: if it does not have the number of parameters that the Keras network has.
    """
    network = ResNeXt(ModelConfig(), padding=padding)
    if count_parameters(network) != PARAMETERS:
        raise ValueError(f"the PyTorch network has {count_parameters(network):,} parameters")
    return network


def load_keras_weights(network: ResNeXt, weights: Mapping[str, np.ndarray]) -> None:
    """Takes over the weights of the Keras network of the same configuration.

    Args:
      network: to be filled.
      weights: `<layer>/<number>` to array, numbered as Keras' `layer.weights`; see
        `benchmarks.inference.preparation.keras_weights`.

    Raises:
      KeyError: if a layer has no weights there.
      ValueError: if there are weights of layers that the network does not have.
    """
    used = set()
    for name, layer in network.layers.items():
        targets = [layer.weight, layer.bias]
        if isinstance(layer, nn.BatchNorm2d):
            targets += [layer.running_mean, layer.running_var]
        for k, target in enumerate(targets):
            used.add(f"{name}/{k}")
            numbers = torch.from_numpy(np.array(weights[f"{name}/{k}"]))
            if numbers.ndim == 4:
                numbers = numbers.permute(3, 2, 0, 1)
            elif numbers.ndim == 2:
                numbers = numbers.T
            with torch.no_grad():
                target.copy_(numbers.reshape(target.shape))
    if set(weights) != used:
        raise ValueError(f"weights of other layers: {sorted(set(weights) - used)}")


def _same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's: pixels before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
