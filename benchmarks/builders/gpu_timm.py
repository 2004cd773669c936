"""timm's network of the same shape, compiled by PyTorch."""

import timm
import torch
from torch import nn

from benchmarks.builders.torch_cpu import make_adam
from benchmarks.stages.gpu import repeat_steps
from benchmarks.worker import Work

OUTPUTS = 15


def build_training(size: int, batch: int, mode: str) -> Work:
    """Optimizer steps on a batch that lies on the device. `mode`: of `torch.compile`."""
    network = _make_network().train()
    images = _draw_images(size, batch)
    labels = torch.randint(0, OUTPUTS, (batch,), device="cuda")
    optimizer = make_adam(network)
    cross_entropy = nn.CrossEntropyLoss()

    @torch.compile(mode=mode)
    def compute_loss() -> torch.Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return cross_entropy(network(_scale(images)), labels)

    def run() -> torch.Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = compute_loss()
        loss.backward()
        optimizer.step()
        return loss

    return repeat_steps(run, _wait_for, batch)


def build_inference(size: int, batch: int, mode: str) -> Work:
    """Probabilities of a batch that lies on the device. `mode`: of `torch.compile`."""
    network = _make_network().eval().bfloat16()
    images = _draw_images(size, batch)

    @torch.compile(mode=mode)
    def predict() -> torch.Tensor:
        return torch.softmax(network(_scale(images).bfloat16()).float(), dim=1)

    def run() -> torch.Tensor:
        with torch.inference_mode():
            return predict()

    return repeat_steps(run, _wait_for, batch)


def _make_network() -> nn.Module:
    if not torch.cuda.is_available():
        raise RuntimeError("this PyTorch sees no GPU")
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    network = timm.create_model("resnext50_32x4d", num_classes=OUTPUTS)
    return network.to("cuda", memory_format=torch.channels_last)


def _draw_images(size: int, batch: int) -> torch.Tensor:
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device="cuda")
    return images.contiguous(memory_format=torch.channels_last)


def _scale(images: torch.Tensor) -> torch.Tensor:
    return images.float() / 255.0


def _wait_for(result: torch.Tensor) -> None:
    result.detach().cpu()
