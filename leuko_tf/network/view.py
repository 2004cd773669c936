"""Converts images to the network's input: crops the centred square and resizes it."""

from typing import Any

FIELD = 400  # side of the data set's images in pixels: the paper's network takes whole images


def crop_center(images: Any, side: int) -> Any:
    """Crops the centred square from images, and mirrors the edges of smaller images outwards.

    The pixels keep their scale. The square begins at (length - side) / 2, rounded down, which is
    negative for smaller images.

    Args:
      images: tensor [batch, height, width, channels]; the result has the same dtype.
      side: Side of the square in pixels.
    """
    from keras import ops  # not above: the import of Keras registers layers, which import this file

    for axis in (1, 2):
        if images.shape[axis] == side:
            continue
        length = ops.shape(images)[axis]
        first = (length - side) // 2
        indices = (ops.arange(side, dtype="int32") + first) % (2 * length)
        indices = ops.minimum(indices, 2 * length - 1 - indices)
        images = ops.take(images, indices, axis=axis)
    return images


def to_network_input(images: Any, field: int, size: int) -> Any:
    """Crops the centred square (`crop_center`) and resizes it, bilinear with antialiasing.

    Training, evaluation, prediction and serving all convert images in this way.

    Args:
      images: uint8 or float tensor [batch, height, width, 3], 0 to 255.
      field: Side of the square in the images' pixels.
      size: Side of the network's input in pixels.

    Returns:
      float32 tensor [batch, size, size, 3], 0 to 255.
    """
    from keras import ops

    images = ops.cast(crop_center(images, field), "float32")
    if field == size:
        return images
    return ops.image.resize(images, (size, size), interpolation="bilinear", antialias=True)
