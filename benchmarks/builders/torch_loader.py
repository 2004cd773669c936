"""A torch DataLoader: worker processes decode by Pillow and rotate by one of three libraries."""

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from benchmarks.machine import count_cores
from benchmarks.stages.pipeline import MEMORY, TIFF, find_pngs, find_tiffs
from benchmarks.worker import Work, die_with_parent


def build_loader(work: str, size: int, batch: int, source: str, rotation: str) -> Work:
    """Augmented batches, float32 [batch, 3, size, size] in 0 to 255.

    Args:
      source: `TIFF`, `PNG` or `MEMORY` of `stages.pipeline`.
      rotation: A key of `ROTATIONS`.
    """
    files = find_tiffs(Path(work)) if source == TIFF else find_pngs(Path(work))
    loader = torch.utils.data.DataLoader(
        _Cells(files, size, in_memory=source == MEMORY, rotation=rotation),
        batch_size=batch,
        sampler=_draw_endless_epochs(len(files)),
        num_workers=count_cores(),
        persistent_workers=True,
        pin_memory=False,
        worker_init_fn=_begin_worker,
    )
    iterator = iter(loader)

    def step() -> int:
        images = next(iterator)
        if images.dtype == torch.uint8:
            images = images.permute(0, 3, 1, 2).float()
        return len(images)

    return Work(step)


class _Cells(torch.utils.data.Dataset):
    """Cells; each is decoded, resized and rotated when it is asked for."""

    def __init__(self, files: list[Path], size: int, in_memory: bool, rotation: str):
        self._files, self._size, self._rotate = files, size, ROTATIONS[rotation]
        # Made before the worker processes are forked, so they share it.
        self._decoded = [np.asarray(self._read(f)) for f in files] if in_memory else None

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> torch.Tensor:
        if self._decoded is None:
            image = self._read(self._files[index])
        else:
            image = Image.fromarray(self._decoded[index])
        angle = float(torch.rand(()) * 360)
        flips = [bool(flip) for flip in torch.rand(2) < 0.5]
        return self._rotate(image, angle, flips)

    def _read(self, file: Path) -> Image.Image:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
        if image.size == (self._size, self._size):
            return image
        return image.resize((self._size, self._size), Image.Resampling.BILINEAR)


def _draw_endless_epochs(number: int) -> Iterator[int]:
    """Indices of epoch after epoch, each in a new order."""
    while True:
        yield from torch.randperm(number).tolist()


def _rotate_by_pillow(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """uint8 [height, width, 3]; corners are black."""
    image = image.rotate(angle, Image.Resampling.BILINEAR)
    if flips[0]:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if flips[1]:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return torch.from_numpy(np.array(image))


def _rotate_by_opencv(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """uint8 [height, width, 3]; corners are filled by reflection, one gather does all."""
    centre = (image.width - 1) / 2
    linear = _compute_linear(angle, flips)
    matrix = np.column_stack([linear, centre - linear @ np.array([centre, centre])])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    border = cv2.BORDER_REFLECT
    rotated = cv2.warpAffine(np.asarray(image), matrix, image.size, flags=how, borderMode=border)
    return torch.from_numpy(rotated)


def _rotate_by_torch(image: Image.Image, angle: float, flips: list[bool]) -> torch.Tensor:
    """float32 [3, height, width]; corners are filled by reflection, one gather does all."""
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    linear = _compute_linear(angle, flips)
    theta = torch.tensor(np.column_stack([linear, [0, 0]])[None], dtype=torch.float32)
    grid = torch.nn.functional.affine_grid(theta, list(pixels.shape), align_corners=False)
    rotated = torch.nn.functional.grid_sample(
        pixels, grid, mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return rotated[0]


def _compute_linear(angle: float, flips: list[bool]) -> np.ndarray:
    """Matrix from output x and y to input x and y, both relative to the centre."""
    cos, sin = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    horizontal, vertical = (-1.0 if flip else 1.0 for flip in flips)
    return np.array([[horizontal * cos, -horizontal * sin], [vertical * sin, vertical * cos]])


def _begin_worker(_: int) -> None:
    die_with_parent()
    cv2.setNumThreads(0)  # there are as many processes as cores


ROTATIONS = {
    "opencv": _rotate_by_opencv,
    "pillow": _rotate_by_pillow,
    "grid_sample": _rotate_by_torch,
}
