"""How samples differ from the images that they are of: place, colour, and the order.

Everything random about an epoch (which images, in which order, at which angle, flipped or not) is
drawn beforehand by NumPy from the seed and the epoch's number alone, so that the batches of epoch 7
are the same whether the training ran through or was resumed, on any machine.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from skimage.color import rgb_from_hed

from leuko_tf.config import Config
from leuko_tf.network.view import FIELD

# Haematoxylin, eosin and a third stain, a row each, as optical densities of red, green and blue:
# Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291). The stains of a blood smear are
# eosin and azures, whose blue is near haematoxylin's; for shaking colours that is near enough.
STAINS = rgb_from_hed
# Natural optical density of a grey level; 1 is added so that black has one.
_DENSITIES = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


@dataclass(frozen=True)
class EpochPlan:
    """All that is random about one epoch.

    Attributes:
      indices: int64 array [n], the cell of each sample.
      transforms: float32 array [n, 2, 3], the affine transform of each sample, from output
        coordinates (x, y, 1) to those of the cell, which has a `margin` around it.
      colours: float32 array [n, 3, 4], the affine transform of each sample's optical densities
        (red, green, blue, 1); of `restained`.
    """

    indices: np.ndarray
    transforms: np.ndarray
    colours: np.ndarray


def compute_margin(config: Config) -> int:
    """Pixels that are kept around the network's input, so that a turn finds them in its corners.

    As many as the farthest corner of a sample can need, as far as images of 400 pixels have them,
    and such that the input's own pixels are those that it has without a margin.
    """
    size, field, settings = config.model.input_size, config.model.field, config.data
    if field >= FIELD:
        return 0
    reach = (2**0.5 if settings.rotate else 1) * (1 + settings.zoom) / 2 + settings.shift
    step = size // math.gcd(size, field)  # for so many, the field's pixels are a whole number
    largest = min((reach - 0.5) * size, (FIELD - field) * size / field / 2)
    return int(largest // step) * step


def plan_epoch(labels: np.ndarray, config: Config, epoch: int) -> EpochPlan:
    """Draws the samples of one epoch.

    With `samples_per_class` every class that has images gives that many: each image equally often,
    up to one, rare ones again and again. Each sample is then flipped, turned and zoomed about its
    centre, shifted, and stained anew.

    Args:
      labels: int array [n] of the training cells.
      config: sampling, augmentation, image size and seed.
      epoch: int, 0 for the first.

    Returns:
      The plan; the same for the same arguments.
    """
    rng = np.random.default_rng([config.train.seed, 1, epoch])
    per_class = config.data.samples_per_class
    if per_class is None:
        indices = rng.permutation(len(labels))
    else:
        draws = []
        for label in np.unique(labels):
            members = np.flatnonzero(labels == label)
            rounds = -(-per_class // len(members))
            draws.append(
                np.concatenate([rng.permutation(members) for _ in range(rounds)])[:per_class]
            )
        indices = rng.permutation(np.concatenate(draws))
    number = len(indices)
    angles = rng.uniform(0, 2 * np.pi, number) if config.data.rotate else np.zeros(number)
    flips = rng.choice([-1.0, 1.0], (number, 2)) if config.data.flip else np.ones((number, 2))
    size, zoom = config.model.input_size, np.log1p(config.data.zoom)
    scales = np.exp(rng.uniform(-zoom, zoom, number))
    shifts = rng.uniform(-1, 1, (number, 2)) * config.data.shift * size
    transforms = draw_affine_transforms(angles, flips, size, compute_margin(config), scales, shifts)
    amounts = 1 + rng.uniform(-1, 1, (number, 3)) * config.data.stain
    light = rng.uniform(-1, 1, (number, 3)) * config.data.stain
    return EpochPlan(indices, transforms, draw_stain_transforms(amounts, light))


def rotate_batch(images: np.ndarray, transforms: np.ndarray, size: int) -> np.ndarray:
    """Applies a transform an image; corners that a turn lays bare are filled by reflection.

    OpenCV turns uint8 images some seven times as fast as TensorFlow's ImageProjectiveTransform
    does float32 ones, and needs no copy of them in float32.

    Args:
      images: uint8 array [n, side, side, 3].
      transforms: float array [n, 2, 3], from output to input coordinates.
      size: side of the output in pixels.

    Returns:
      uint8 array [n, size, size, 3], bilinearly interpolated.
    """
    outputs = np.empty((len(images), size, size, 3), np.uint8)
    for image, transform, output in zip(images, transforms, outputs, strict=True):
        cv2.warpAffine(
            image,
            transform,
            (size, size),
            dst=output,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
    return outputs


def draw_affine_transforms(
    angles: np.ndarray,
    flips: np.ndarray,
    size: int,
    around: int = 0,
    scales: np.ndarray | float = 1.0,
    shifts: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Flips, turns and zooms about the image's centre, and shifts; one gather does it all.

    Args:
      angles: float array [n], radians, counter-clockwise.
      flips: float array [n, 2] of 1 or -1 for (horizontal, vertical).
      size: side of the output in pixels.
      around: margin of the input, in pixels.
      scales: float array [n], pixels of the input that one of the output covers.
      shifts: float array [n, 2], of the place looked at, in the input's x and y pixels.

    Returns:
      float32 array [n, 2, 3].
    """
    centre = (size - 1) / 2
    cos, sin = scales * np.cos(angles), scales * np.sin(angles)
    right, down = np.broadcast_to(shifts + around, (len(angles), 2)).T
    horizontal, vertical = flips.T
    # Input x and y as linear functions of output x and y, both counted from the centre.
    xx, xy = horizontal * cos, -horizontal * sin
    yx, yy = vertical * sin, vertical * cos
    rows = (
        (xx, xy, right + centre * (1 - xx - xy)),
        (yx, yy, down + centre * (1 - yx - yy)),
    )
    return np.stack([np.stack(row, axis=1) for row in rows], axis=1).astype(np.float32)


def augment_stain(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Applies an affine transform of optical densities to each image.

    Args:
      images: uint8 array [n, height, width, 3].
      colours: float array [n, 3, 4], from (red, green, blue, 1) of natural optical densities.

    Returns:
      uint8 array of the same shape.
    """
    outputs = np.empty_like(images)
    for image, colour, output in zip(images, colours, outputs, strict=True):
        densities = cv2.transform(_DENSITIES[image], colour)
        output[...] = np.clip(np.round(256 * cv2.exp(-densities) - 1), 0, 255)
    return outputs


def draw_stain_transforms(amounts: np.ndarray, light: np.ndarray) -> np.ndarray:
    """More or less of each stain, and light of another brightness and colour.

    Args:
      amounts: float array [n, 3], by which the density of each of `STAINS` is multiplied.
      light: float array [n, 3], added to the optical densities of red, green and blue.

    Returns:
      float32 array [n, 3, 4].
    """
    # Densities are row vectors there: to stains, times the amounts, and back. OpenCV multiplies
    # columns from the left.
    stains = np.linalg.inv(STAINS) @ (amounts[:, :, np.newaxis] * STAINS)
    return np.concatenate([stains.swapaxes(1, 2), light[..., np.newaxis]], 2).astype(np.float32)
