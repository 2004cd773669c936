"""The network of `leuko_tf.network.resnext` in PyTorch on the CPU: training, inference, ONNX file.

It is the same in every detail that costs time or changes a number: biases, strides, projections,
batch norms' epsilon, LeakyReLU 0.3, scaling of 0-255 to 0-1 in the network. Layers have the names
of Keras' layers, by which weights are copied.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.builders.answers import Answer, add_scores, build_asking
from benchmarks.stages.inference import ONNX, SIZE, WEIGHTS
from benchmarks.worker import Work
from leuko_tf.classes import CODES
from leuko_tf.config import ModelConfig

EPSILON = 1e-3
PARAMETERS = 23_112_975  # with 15 outputs; with moving averages, as Keras counts
OPSET = 17

activate = partial(functional.leaky_relu, negative_slope=0.3)


def build_training(
    size: int, batch: int, precision: str, compiled: bool, channels_last: bool
) -> Work:
    """Optimizer steps on a fixed batch; bfloat16 by autocast, compiled by `torch.compile`."""
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = make_resnext50(symmetric=True).to(memory_format=layout).train()
    run = torch.compile(network) if compiled else network
    images = (torch.rand(batch, 3, size, size) * 255).to(memory_format=layout)
    labels = torch.randint(0, len(CODES), (batch,))
    compute_loss = nn.CrossEntropyLoss()
    optimizer = make_adam(network)

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = compute_loss(run(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        return batch

    return Work(step)


def build_inference(work: str, batch: int, precision: str, mode: str) -> Work:
    """PyTorch itself; bfloat16 by autocast.

    Args:
      mode: `eager`, `compiled`, or `frozen`: compiled with its weights as constants.
    """
    network = _load_classifier(work).to(memory_format=torch.channels_last)
    if mode == "frozen":
        torch._inductor.config.freezing = True
    run = network if mode == "eager" else torch.compile(network)

    def ask(images: np.ndarray) -> Answer:
        with (
            torch.inference_mode(),
            torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
        ):
            return add_scores(run(torch.from_numpy(images)).numpy())

    return build_asking(work, batch, precision, ask)


def make_adam(network: nn.Module) -> torch.optim.Optimizer:
    """Makes PyTorch's fastest Adam, with Keras' learning rate and epsilon."""
    return torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7, fused=True)


def make_onnx(work: str) -> Work:
    """Writes the network as `ONNX`: uint8 images [batch, 400, 400, 3] to probabilities."""
    example = torch.zeros((1, SIZE, SIZE, 3), dtype=torch.uint8)
    torch.onnx.export(
        _load_classifier(work),
        (example,),
        str(Path(work, ONNX)),
        input_names=["images"],
        output_names=["probabilities"],
        dynamic_axes={"images": {0: "batch"}, "probabilities": {0: "batch"}},
        opset_version=OPSET,
        dynamo=False,  # the other exporter needs onnxscript, and writes the same operations
    )
    return Work()


class ResNeXt(nn.Module):
    """ResNeXt as Matek et al. 2019 built it.

    Args:
      config: Sizes of the network; `input_size` is not used, images have any size.
      symmetric: Whether strided convolutions are padded as PyTorch's users do: the same amount of
        work, other outputs. Else they are padded as TensorFlow's SAME does, at an even size one
        pixel more at the end than at the beginning. Outputs are equal, for a copy of the map.

    Call arguments:
      images: uint8 or float [batch, 3, side, side], 0 to 255.

    Returns:
      Logits, [batch, 15].
    """

    def __init__(self, config: ModelConfig, symmetric: bool = False):
        super().__init__()
        self._symmetric = symmetric
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
        self.layers["probabilities"] = nn.Linear(channels, len(CODES))

    def _add_block(self, name: str, channels: int, inner: int, stride: int, groups: int) -> None:
        self._add_convolution(f"{name}_conv1", f"{name}_1_norm", channels, inner, 1)
        self._add_convolution(f"{name}_conv2", f"{name}_2_norm", inner, inner, 3, stride, groups)
        self._add_convolution(f"{name}_conv3", f"{name}_3_norm", inner, 2 * inner, 1)
        if name.endswith("_block1"):
            projection = f"{name}_projection"
            self._add_convolution(projection, f"{projection}_norm", channels, 2 * inner, 1, stride)
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
        x = activate(self._convolve(x, "stem_conv", "stem_norm"))
        x = self._pool(x)
        for name in self._blocks:
            y = activate(self._convolve(x, f"{name}_conv1", f"{name}_1_norm"))
            y = activate(self._convolve(y, f"{name}_conv2", f"{name}_2_norm"))
            y = self._convolve(y, f"{name}_conv3", f"{name}_3_norm")
            if f"{name}_projection" in self.layers:
                x = self._convolve(x, f"{name}_projection", f"{name}_projection_norm")
            x = activate(x + y)
        return self.layers["probabilities"](x.mean((2, 3)))

    def _convolve(self, x: torch.Tensor, name: str, norm: str) -> torch.Tensor:
        """Convolution and batch norm."""
        convolution = self.layers[name]
        (half, _), (stride, _) = convolution.padding, convolution.stride
        if half and stride == 2 and self._is_asymmetric(x):
            x = functional.pad(x, (half - 1, half, half - 1, half))
            weight, bias, groups = convolution.weight, convolution.bias, convolution.groups
            x = functional.conv2d(x, weight, bias, stride, groups=groups)
        else:
            x = convolution(x)
        return self.layers[norm](x)

    def _is_asymmetric(self, x: torch.Tensor) -> bool:
        """Whether TensorFlow pads square maps with one pixel more at the end, at a stride of 2."""
        return not self._symmetric and x.shape[2] % 2 == 0

    def _pool(self, x: torch.Tensor) -> torch.Tensor:
        if self._is_asymmetric(x):
            # At an even size TensorFlow's padding equals a window that extends past the end.
            return functional.max_pool2d(x, 3, 2, ceil_mode=True)
        return functional.max_pool2d(x, 3, 2, padding=1)


class Classifier(nn.Module):
    """The network with images as users have them: uint8 [n, height, width, 3] to probabilities."""

    def __init__(self, network: ResNeXt):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        # With channels last in memory, the permutation copies nothing.
        logits = self.network(images.permute(0, 3, 1, 2))
        return torch.softmax(logits.float(), dim=1)


def make_resnext50(symmetric: bool = False) -> ResNeXt:
    """Makes the paper's network; raises ValueError if it has not as many parameters as Keras'."""
    network = ResNeXt(ModelConfig(), symmetric)
    if count_parameters(network) != PARAMETERS:
        raise ValueError(f"the PyTorch network has {count_parameters(network):,} parameters")
    return network


def count_parameters(network: nn.Module) -> int:
    """Counts as Keras does: weights and moving averages, not the batch norms' step counters."""
    numbers = [*network.parameters(), *network.buffers()]
    return sum(t.numel() for t in numbers if t.is_floating_point())


def load_keras_weights(network: ResNeXt, weights: Mapping[str, np.ndarray]) -> None:
    """Copies the weights of the Keras network of the same configuration into a network.

    Args:
      weights: `<layer>/<number>` to array, see `builders.inference.get_keras_weights`.

    Raises:
      KeyError: if a layer has no weights there.
      ValueError: if there are weights of other layers.
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


def _load_classifier(work: str) -> Classifier:
    network = make_resnext50()
    with np.load(Path(work, WEIGHTS)) as weights:
        load_keras_weights(network, weights)
    return Classifier(network).eval()
