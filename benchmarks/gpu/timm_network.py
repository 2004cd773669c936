"""timm's network of the same shape, compiled by PyTorch."""

from collections.abc import Callable

import timm
import torch
from torch import nn

from benchmarks.gpu import STEPS_A_TURN
from benchmarks.worker import Work

NAME = "resnext50_32x4d"
OUTPUTS = 15


def training(size: int, batch: int, mode: str) -> Work:
    """Optimizer steps on a batch that lies on the device.

    Args:
      size: side of the images in pixels.
      batch: images a step.
      mode: of `torch.compile`.
    """
    network = _network().train()
    images = _images(size, batch)
    labels = torch.randint(0, OUTPUTS, (batch,), device="cuda")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, eps=1e-7, fused=True)
    loss_of = nn.CrossEntropyLoss()

    @torch.compile(mode=mode)
    def loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return loss_of(network(_scaled(images)), labels)

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        value = loss()
        value.backward()
        optimizer.step()
        return value

    return _repeated(run, batch)


def inference(size: int, batch: int, mode: str) -> Work:
    """Probabilities of a batch that lies on the device.

    Args:
      size: side of the images in pixels.
      batch: images a step.
      mode: of `torch.compile`.
    """
    network = _network().eval().bfloat16()
    images = _images(size, batch)

    @torch.compile(mode=mode)
    def answer() -> torch.Tensor:
        return torch.softmax(network(_scaled(images).bfloat16()).float(), dim=1)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return answer()

    return _repeated(run, batch)


def _network() -> nn.Module:
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    network = timm.create_model(NAME, num_classes=OUTPUTS)
    return network.to("cuda", memory_format=torch.channels_last)


def _images(size: int, batch: int) -> torch.Tensor:
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device="cuda")
    return images.contiguous(memory_format=torch.channels_last)


def _scaled(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255.0


def _repeated(run: Callable[[], torch.Tensor], batch: int) -> Work:
    """Several steps in a row, then one look at the last one's result."""

    def step() -> int:
        for _ in range(STEPS_A_TURN):
            result = run()
        result.detach().cpu()
        return STEPS_A_TURN * batch

    return Work(step)
