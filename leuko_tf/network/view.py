"""How the network sees an image: the square in its middle, resized to the network's input."""

from typing import Any

import keras

FIELD = 400  # side of the data set's images, in pixels: the paper's network looks at all of them


def crop_center(images: Any, side: int) -> Any:
    """The square in the middle of images; what lies outside of an image mirrors its inside.

    So the scale of the pixels stays what it is. The square begins at (length - side) / 2, rounded
    down, whether it lies inside of the image or reaches out of it.

    Args:
      images: tensor [batch, height, width, channels].
      side: int. Of the square, in pixels.

    Returns:
      Tensor [batch, side, side, channels] of the same dtype.
    """
    for axis in (1, 2):
        if images.shape[axis] == side:
            continue
        length = keras.ops.shape(images)[axis]
        first = (length - side) // 2
        places = (keras.ops.arange(side, dtype="int32") + first) % (2 * length)
        places = keras.ops.minimum(places, 2 * length - 1 - places)
        images = keras.ops.take(images, places, axis=axis)
    return images


def to_network_input(images: Any, field: int, size: int) -> Any:
    """What the network sees of images: the middle, at the network's size.

    The one way in which images of any size become the network's input, in training, evaluation,
    prediction and serving: the square of `field` pixels in their middle (`crop_center`), resized to
    `size`, bilinear with antialiasing.

    Args:
      images: uint8 or float tensor [batch, height, width, 3], 0 to 255.
      field: int. Side of the square that the network looks at, in the images' pixels.
      size: int. Side of the network's input, in pixels.

    Returns:
      float32 tensor [batch, size, size, 3], 0 to 255.
    """
    images = keras.ops.cast(crop_center(images, field), "float32")
    if field == size:
        return images
    return keras.ops.image.resize(images, (size, size), interpolation="bilinear", antialias=True)
