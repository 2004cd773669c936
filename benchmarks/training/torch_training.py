"""The same network in PyTorch."""

import torch
from torch import nn

from benchmarks.torch_peer import SYMMETRIC, resnext50
from benchmarks.worker import Work

LEARNING_RATE, ADAM_EPSILON = 1e-3, 1e-7  # as in Keras


def training(size: int, batch: int, precision: str, compiled: bool, channels_last: bool) -> Work:
    """Optimizer steps on a fixed batch.

    Args:
      size: side of the images in pixels.
      batch: images a step.
      precision: `float32`, or `bfloat16` by autocast.
      compiled: whether by `torch.compile`.
      channels_last: layout of images and weights.
    """
    torch.manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = resnext50(SYMMETRIC).to(memory_format=layout).train()
    run = torch.compile(network) if compiled else network
    images = (torch.rand(batch, 3, size, size) * 255).to(memory_format=layout)
    labels = torch.randint(0, 15, (batch,))
    loss_of = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(
        network.parameters(), lr=LEARNING_RATE, eps=ADAM_EPSILON, fused=True
    )

    def step() -> int:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            loss = loss_of(run(images), labels)
        loss.backward()
        optimizer.step()
        loss.item()
        return batch

    return Work(step)
