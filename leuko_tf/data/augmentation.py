"""Sampling and augmentation: order, geometry and colours of an epoch's samples.

NumPy draws everything random about an epoch in advance, from the seed and the epoch's number alone.
So epoch 7 has the same batches in an unbroken and in a resumed training, on any machine.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
from skimage.color import rgb_from_hed

from leuko_tf.config import Config
from leuko_tf.network.view import FIELD

# Haematoxylin, eosin and a third stain, one per row, as optical densities of red, green and blue:
# Ruifrok and Johnston 2001 (Anal Quant Cytol Histol 23:291). A blood smear is stained with eosin
# and azures; their blue is close enough to haematoxylin's for augmentation.
STAINS = rgb_from_hed
# Natural optical density of each grey level; 1 is added to keep black finite.
_DENSITIES = -np.log((np.arange(256) + 1) / 256).astype(np.float32)


class EpochPlan(NamedTuple):
    """Everything that is random about one epoch.

    Attributes:
      indices: int64 array [n], the cell of each sample.
      transforms: float32 array [n, 2, 3], affine transforms from output coordinates (x, y, 1) to
        those of the cell with its margin; see `rotate_batch`.
      colours: float32 array [n, 3, 4], affine transforms of the optical densities
        (red, green, blue, 1); see `augment_stain`.
    """

    indices: np.ndarray
    transforms: np.ndarray
    colours: np.ndarray


def compute_margin(config: Config) -> int:
    """Computes how many pixels around the network's input are kept to fill rotated corners.

    This is what the farthest corner can need, limited to what images of 400 pixels have, and
    rounded down so that the input itself has the same pixels as without a margin.
    """
    size, field, settings = config.model.input_size, config.model.field, config.data
    if field >= FIELD:
        return 0
    reach = (2**0.5 if settings.rotate else 1) * (1 + settings.zoom) / 2 + settings.shift
    step = size // math.gcd(size, field)  # these many are a whole number of the image's pixels
    largest = min((reach - 0.5) * size, (FIELD - field) * size / field / 2)
    return int(largest // step) * step


def plan_epoch(labels: np.ndarray, config: Config, epoch: int) -> EpochPlan:
    """Draws the samples of one epoch; the same arguments give the same plan.

    With `samples_per_class` every class that has images gives that many samples. Within a class,
    the uses of two images differ by at most one. Each sample gets its own flip, rotation, zoom,
    shift and stain.

    Args:
      labels: int array [n], labels of the training cells.
      config: Sampling, augmentation, image size and seed.
      epoch: 0 for the first.
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
            repeated = np.concatenate([rng.permutation(members) for _ in range(rounds)])
            draws.append(repeated[:per_class])
        indices = rng.permutation(np.concatenate(draws))
    number = len(indices)
    angles = rng.uniform(0, 2 * np.pi, number) if config.data.rotate else np.zeros(number)
    flips = rng.choice([-1.0, 1.0], (number, 2)) if config.data.flip else np.ones((number, 2))
    size, margin, zoom = config.model.input_size, compute_margin(config), np.log1p(config.data.zoom)
    scales = np.exp(rng.uniform(-zoom, zoom, number))
    shifts = rng.uniform(-1, 1, (number, 2)) * config.data.shift * size
    transforms = compute_affine_transforms(angles, flips, size, margin, scales, shifts)
    amounts = 1 + rng.uniform(-1, 1, (number, 3)) * config.data.stain
    light = rng.uniform(-1, 1, (number, 3)) * config.data.stain
    return EpochPlan(indices, transforms, compute_stain_transforms(amounts, light))


def rotate_batch(images: np.ndarray, transforms: np.ndarray, size: int) -> np.ndarray:
    """Applies one affine transform per image and fills empty corners by reflection.

    OpenCV does this with uint8 images about seven times as fast as TensorFlow's
    ImageProjectiveTransform with float32 images, which would also need a float32 copy.

    Args:
      images: uint8 array [n, side, side, 3].
      transforms: float array [n, 2, 3], from output to input coordinates.
      size: Side of the output in pixels.

    Returns:
      uint8 array [n, size, size, 3], bilinearly interpolated.
    """
    outputs = np.empty((len(images), size, size, 3), np.uint8)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    for image, transform, output in zip(images, transforms, outputs, strict=True):
        cv2.warpAffine(image, transform, (size, size), output, flags, cv2.BORDER_REFLECT)
    return outputs


def compute_affine_transforms(
    angles: np.ndarray,
    flips: np.ndarray,
    size: int,
    around: int = 0,
    scales: np.ndarray | float = 1.0,
    shifts: np.ndarray | float = 0.0,
) -> np.ndarray:
    """Combines flip, rotation, zoom (all about the centre) and shift into one transform each.

    Args:
      angles: float array [n], radians, counter-clockwise.
      flips: float array [n, 2] of 1 or -1 for (horizontal, vertical).
      size: Side of the output in pixels.
      around: Margin of the input in pixels.
      scales: float array [n], input pixels per output pixel.
      shifts: float array [n, 2], shift of the centre in input pixels (x, y).

    Returns:
      float32 array [n, 2, 3].
    """
    centre = (size - 1) / 2
    cos, sin = scales * np.cos(angles), scales * np.sin(angles)
    right, down = np.broadcast_to(shifts + around, (len(angles), 2)).T
    horizontal, vertical = flips.T
    # Input x and y as linear functions of output x and y, relative to the centre.
    xx, xy = horizontal * cos, -horizontal * sin
    yx, yy = vertical * sin, vertical * cos
    across, along = right + centre * (1 - xx - xy), down + centre * (1 - yx - yy)
    return np.stack([xx, xy, across, yx, yy, along], 1).reshape(-1, 2, 3).astype(np.float32)


def augment_stain(images: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Applies one affine transform of the optical densities per image.

    Args:
      images: uint8 array [n, height, width, 3]; the result has the same shape and type.
      colours: float array [n, 3, 4], for natural optical densities (red, green, blue, 1).
    """
    outputs = np.empty_like(images)
    for image, colour, output in zip(images, colours, outputs, strict=True):
        densities = cv2.transform(_DENSITIES[image], colour)
        output[...] = np.clip(np.round(256 * cv2.exp(-densities) - 1), 0, 255)
    return outputs


def compute_stain_transforms(amounts: np.ndarray, light: np.ndarray) -> np.ndarray:
    """Computes transforms for `augment_stain`.

    Args:
      amounts: float array [n, 3], factors for the density of each of `STAINS`.
      light: float array [n, 3], added to the optical densities of red, green and blue.
    """
    # STAINS takes densities as row vectors: convert to stains, multiply by the amounts, convert
    # back. OpenCV takes columns, hence the transposition.
    stains = np.linalg.inv(STAINS) @ (amounts[:, :, np.newaxis] * STAINS)
    return np.concatenate([stains.swapaxes(1, 2), light[..., np.newaxis]], 2).astype(np.float32)
