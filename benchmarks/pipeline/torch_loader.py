"""A torch DataLoader: Pillow decodes, one of three libraries turns, worker processes do both."""

import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks import material
from benchmarks.worker import Work, die_with_parent

TIFF, PNG, MEMORY = "TIFF", "PNG", "uint8 array in memory"


def batches(work: str, size: int, batch: int, source: str, turn: str) -> Work:
    """Augmented batches, float32 [batch, 3, size, size] in 0 to 255.

    Args:
      work: folder with the smear and its PNGs.
      size: side of the images in pixels.
      batch: images a step.
      source: `TIFF`, `PNG` or `MEMORY`.
      turn: a key of `TURNS`.
    """
    files = material.tiffs(Path(work)) if source == TIFF else material.pngs(Path(work))
    loader = torch.utils.data.DataLoader(
        _Cells(files, size, in_memory=source == MEMORY, turn=turn),
        batch_size=batch,
        sampler=_EndlessEpochs(len(files)),
        num_workers=len(os.sched_getaffinity(0)),
        persistent_workers=True,
        pin_memory=False,
        worker_init_fn=_begin_worker,
    )
    iterator = iter(loader)

    def step() -> int:
        images, _ = next(iterator)
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float()
        return len(images)

    return Work(step)


class _Cells(torch.utils.data.Dataset):
    """Cells, each decoded, resized and turned when it is asked for."""

    def __init__(self, files: list[Path], size: int, in_memory: bool, turn: str):
        self._files = files
        self._size = size
        self._turn = TURNS[turn]
        # Made before the workers are forked, which share it.
        self._decoded = [np.asarray(self._read(f)) for f in files] if in_memory else None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        if self._decoded is None:
            image = self._read(self._files[index])
        else:
            image = Image.fromarray(self._decoded[index])
        angle = float(torch.rand(()) * 360)
        flips = [bool(flip) for flip in torch.rand(2) < 0.5]
        return self._turn(image, angle, flips), index % 15

    def _read(self, file: Path) -> Image.Image:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if image.size == (self._size, self._size):
            return image
        return image.resize((self._size, self._size), Image.Resampling.BILINEAR)


class _EndlessEpochs(torch.utils.data.Sampler):
    """Epoch after epoch, each in a new order."""

    def __init__(self, number: int):
        self._number = number

    def __iter__(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(self._number).tolist()


def _turned_by_pillow(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """uint8 [height, width, 3]; corners are black."""
    image = image.rotate(angle, Image.Resampling.BILINEAR)
    if flips[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flips[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return torch.from_numpy(np.array(image))


def _turned_by_opencv(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """uint8 [height, width, 3]; corners are filled by reflection, one gather does all."""
    pixels = np.asarray(image)
    centre = (image.width - 1) / 2
    linear = _linear(angle, flips)
    shift = centre - linear @ np.array([centre, centre])
    turned = cv2.warpAffine(
        pixels,
        np.column_stack([linear, shift]),
        image.size,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT,
    )
    return torch.from_numpy(turned)


def _turned_by_torch(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """float32 [3, height, width]; corners are filled by reflection, one gather does all."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    linear = _linear(angle, flips)
    theta = torch.tensor(np.column_stack([linear, [0, 0]])[None], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    turned = torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return turned[0]


def _linear(angle: float, flips: list[bool]) -> np.ndarray:
    """Input x and y as linear functions of output x and y, counted from the centre."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    horizontal, vertical = (-1.0 if flip else 1.0 for flip in flips)
    return np.array([[horizontal * cos, -horizontal * sin], [vertical * sin, vertical * cos]])


def _begin_worker(_: int) -> None:
    die_with_parent()
    cv2.setNumThreads(0)  # the processes are the threads


TURNS = {
    "opencv": _turned_by_opencv,
    "pillow": _turned_by_pillow,
    "grid_sample": _turned_by_torch,
}
