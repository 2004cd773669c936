"""Decodes image files inside a TensorFlow graph, so that a bad file does not affect the others.

A graph has no `try`: an operation that fails makes the whole call fail. A tf.data pipeline,
however, can skip elements on which it failed, and can run inside an exported graph.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from leuko_tf.network.view import to_network_input

# Larger images are refused by their header. This is 26 times the area of the data set's images
# (400 x 400 px); a cell at the highest magnification fills less than a tenth of it. It takes 12 MB.
MAX_PIXELS = 2048 * 2048
# Encoders write about ten scans. A scan can have few bytes and still cost a pass over all pixels: a
# JPEG of 1 MB could keep a processor busy for minutes.
MAX_JPEG_SCANS = 100

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\0\0\0\rIHDR"  # width and height follow, 4 bytes each
JPEG_START = b"\xff\xd8\xff"
JPEG_SCAN = b"\xff\xda"


def decode(files: tf.Tensor, field: int, size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes PNG and JPEG files to the network's input (`leuko_tf.network.view.to_network_input`).

    The pixels are those of Pillow's `convert("RGB")`: alpha is dropped, not blended; grey, palette
    and CMYK become RGB; an orientation in the EXIF data is ignored. Samples of 16 bits are cut to
    their higher byte (Pillow clips 16-bit grey at 255). Of an animation only the first image is
    decoded. The size is read from the header before anything is decoded.

    Args:
      files: string tensor [n], each a whole file.
      field: Side in pixels of the square that the network looks at.
      size: Side in pixels of the network's input.

    Returns:
      The images, float32 [n, size, size, 3], 0 to 255, zeros where not valid; `valid`, bool [n];
      and `problem`, string [n]: what is wrong in one sentence, empty where valid.
    """
    with tf.device("CPU"):
        (images, problems), succeeded = attempt(lambda file: _decode_one(file, field, size), files)
        failure = tf.where(
            _starts_with(files, PNG_SIGNATURE),
            "damaged PNG",
            tf.where(_starts_with(files, JPEG_START), "damaged JPEG", "not a PNG or JPEG image"),
        )
        problems = tf.where(succeeded, problems, failure)
        return images, problems == "", problems


def attempt(function: Callable[[Any], Any], elements: tf.Tensor) -> tuple[Any, tf.Tensor]:
    """Applies a function to each element, and continues where it fails.

    Args:
      function: From one element to a structure of tensors with known shapes.
      elements: Tensor [n, ...].

    Returns:
      The structure with tensors [n, ...], zeros or empty strings where it failed; and whether it
      succeeded, bool [n].
    """
    count = tf.shape(elements)[0]
    attempts = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), elements))
        .map(
            lambda index, element: (index, function(element)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .ignore_errors()
    )
    # One more element, cut off again, so that the batch is never empty.
    blank = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), attempts.element_spec[1])
    attempts = attempts.concatenate(tf.data.Dataset.from_tensors((count, blank)))
    batch = attempts.batch(tf.cast(count, tf.int64) + 1).get_single_element()
    indices, outputs = tf.nest.map_structure(lambda values: values[:-1], batch)
    succeeded = scatter(tf.ones_like(indices), indices, count) > 0
    return scatter(outputs, indices, count), succeeded


def scatter(outputs: Any, indices: tf.Tensor, count: tf.Tensor) -> Any:
    """Moves rows of a structure of tensors to their places among so many rows of zeros."""

    def scatter_rows(values: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[count], tf.shape(values, indices.dtype)[1:]], axis=0)
        scattered = tf.scatter_nd(indices[:, tf.newaxis], values, shape)
        return tf.ensure_shape(scattered, [None, *values.shape[1:]])

    return tf.nest.map_structure(scatter_rows, outputs)


def _starts_with(files: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.strings.substr(files, 0, len(start)) == start


def _decode_one(file: tf.Tensor, field: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The image, float32 [size, size, 3], and its problem; fails if the file is damaged."""
    is_png = _starts_with(file, PNG_START)
    # Checked first, because libjpeg prints a line for each file that is not a JPEG.
    with tf.control_dependencies([tf.Assert(is_png | _starts_with(file, JPEG_START), [""])]):
        file = tf.identity(file)
    width, height = tf.unstack(
        tf.cond(is_png, lambda: _read_png_size(file), lambda: _read_jpeg_size(file))
    )
    scans = tf.cond(is_png, lambda: 1, lambda: tf.size(tf.strings.split(file, JPEG_SCAN)) - 1)

    def decode_pixels() -> tf.Tensor:
        image = tf.cond(
            is_png,
            lambda: tf.io.decode_png(file, channels=3),
            # libjpeg's exact cosine transform, which Pillow uses as well.
            lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
        )
        return to_network_input(image[tf.newaxis], field, size)[0]

    size_text = tf.strings.format("{}x{}", (width, height))
    problem = tf.where(
        width > MAX_PIXELS // tf.maximum(height, 1),  # their product may overflow
        size_text + f" pixels are more than the limit of {MAX_PIXELS}",
        tf.where(scans > MAX_JPEG_SCANS, f"JPEG of more than {MAX_JPEG_SCANS} scans", ""),
    )
    image = tf.cond(problem == "", decode_pixels, lambda: tf.zeros((size, size, 3)))
    return tf.ensure_shape(image, (size, size, 3)), problem


def _read_png_size(file: tf.Tensor) -> tf.Tensor:
    """Width and height, int64 [2]."""
    numbers = tf.io.decode_raw(
        tf.strings.substr(file, len(PNG_START), 8), tf.int32, little_endian=False
    )
    return tf.ensure_shape(tf.cast(numbers, tf.int64) % 2**32, [2])  # unsigned


def _read_jpeg_size(file: tf.Tensor) -> tf.Tensor:
    """Width and height, int64 [2]."""
    shape = tf.io.extract_jpeg_shape(file, tf.int32)
    return tf.cast(tf.gather(shape, [1, 0]), tf.int64)
