"""Image files to pixels inside a TensorFlow graph, where one bad file must not spoil the rest.

A graph has no `try`: an operation that fails, fails the call. A tf.data pipeline, however, can
leave out the elements on which it failed, and can run inside a graph, wherever that is loaded.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from leuko_tf.network.view import to_network_input

# Images above it are refused by their header. 26 times the area of the data set's 400 x 400 px; a
# cell at the highest magnification does not fill a tenth of it. Its pixels take 12 MB.
MAX_PIXELS = 2048 * 2048
# Encoders write some ten scans. Each scan may be a few bytes that cost a pass over all pixels, so
# that a JPEG of 1 MB could keep a processor busy for minutes.
MAX_JPEG_SCANS = 100

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_START = PNG_SIGNATURE + b"\0\0\0\rIHDR"  # width and height follow, 4 bytes each
JPEG_START = b"\xff\xd8\xff"
JPEG_SCAN = b"\xff\xda"


def decode(files: tf.Tensor, field: int, size: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Decodes PNG and JPEG files, to what the network sees of them (`leuko_tf.network.view.to_network_input`).

    The pixels are those that Pillow's `convert("RGB")` gives: alpha is dropped, not blended; grey
    and palette become RGB, as does CMYK; an orientation in the EXIF data is ignored. Samples of 16
    bits are cut to their higher byte (where Pillow clips 16-bit grey at 255). Of an animation it
    is the first image. The size is read from the header, before anything is decoded.

    Args:
      files: string tensor [n], each a whole file.
      field: side in pixels of the square that the network looks at.
      size: side in pixels of the network's input.

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
    """Applies a function to each element, and goes on where it fails.

    Args:
      function: makes of one element a structure of tensors whose shapes are known.
      elements: tensor [n, ...].

    Returns:
      The structure with tensors [n, ...], zeros or empty strings where it failed; and whether it
      succeeded, bool [n].
    """
    count = tf.shape(elements)[0]
    tried = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), elements))
        .map(
            lambda index, element: (index, function(element)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        .ignore_errors()
    )
    # There is always one more element, cut off at the end, so that one batch is never empty.
    blank = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), tried.element_spec[1])
    tried = tried.concatenate(tf.data.Dataset.from_tensors((count, blank)))
    indices, outputs = tried.batch(tf.cast(count, tf.int64) + 1).get_single_element()

    def in_place(values: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([[count + 1], tf.shape(values)[1:]], axis=0)
        placed = tf.scatter_nd(indices[:, tf.newaxis], values, shape)
        return tf.ensure_shape(placed, [None, *values.shape[1:]])[:count]

    succeeded = in_place(tf.ones_like(indices)) > 0
    return tf.nest.map_structure(in_place, outputs), succeeded


def _starts_with(files: tf.Tensor, start: bytes) -> tf.Tensor:
    return tf.strings.substr(files, 0, len(start)) == start


def _decode_one(file: tf.Tensor, field: int, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """An image float32 [size, size, 3], and a problem; fails where the file is damaged."""
    is_png = _starts_with(file, PNG_START)
    # libjpeg would print a line about each file that is none of its own.
    with tf.control_dependencies([tf.Assert(is_png | _starts_with(file, JPEG_START), [""])]):
        file = tf.identity(file)
    width, height = tf.unstack(tf.cond(is_png, lambda: _png_size(file), lambda: _jpeg_size(file)))
    scans = tf.cond(is_png, lambda: 1, lambda: tf.size(tf.strings.split(file, JPEG_SCAN)) - 1)

    def decoded() -> tf.Tensor:
        image = tf.cond(
            is_png,
            lambda: tf.io.decode_png(file, channels=3),
            # The exact one of libjpeg's cosine transforms, which Pillow takes, too.
            lambda: tf.io.decode_jpeg(file, channels=3, dct_method="INTEGER_ACCURATE"),
        )
        return to_network_input(image[tf.newaxis], field, size)[0]

    size_text = tf.strings.format("{}x{}", (width, height))
    problem = tf.where(
        width > MAX_PIXELS // tf.maximum(height, 1),  # their product may overflow
        size_text + f" pixels are more than the limit of {MAX_PIXELS}",
        tf.where(scans > MAX_JPEG_SCANS, f"JPEG of more than {MAX_JPEG_SCANS} scans", ""),
    )
    image = tf.cond(problem == "", decoded, lambda: tf.zeros((size, size, 3)))
    return tf.ensure_shape(image, (size, size, 3)), problem


def _png_size(file: tf.Tensor) -> tf.Tensor:
    """Width and height, int64 [2]."""
    numbers = tf.io.decode_raw(
        tf.strings.substr(file, len(PNG_START), 8), tf.int32, little_endian=False
    )
    return tf.ensure_shape(tf.cast(numbers, tf.int64) % 2**32, [2])  # they are unsigned


def _jpeg_size(file: tf.Tensor) -> tf.Tensor:
    """Width and height, int64 [2]."""
    shape = tf.io.extract_jpeg_shape(file, tf.int32)
    return tf.cast(tf.gather(shape, [1, 0]), tf.int64)
