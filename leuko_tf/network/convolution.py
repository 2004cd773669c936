"""Computes 2D convolutions, grouped or not, by the fastest TensorFlow operations.

Shapes in all functions: inputs [batch, rows, columns, channels], kernel [rows, columns,
channels / groups, filters], bias [filters]; one floating dtype. `strides` and `dilations` are
pairs, `padding` is `"SAME"` or `"VALID"`.

Measured in ResNeXt-50 32x4d at 224 px and batch 8, on two CPU cores with oneDNN (docs/benchmark.md
has the whole step):

  forward, gradient of the inputs   oneDNN is fastest, grouped or not; dense blocks of several
                                    groups and matrix products are no faster
  gradient of the bias              costs a third of the kernel's in float32, and is zero if a
                                    batch norm follows
  gradient of a 1x1 kernel          a matrix product takes .6 to .9 of oneDNN's time
  gradient of a kernel with 4 or    in dense blocks of 16 channels, keeping their diagonal: .65
    8 channels a group              (float32) and .45 to .6 (bfloat16) of the time
"""

import functools
from typing import Any

# Channels of a block for which oneDNN computes kernel gradients fastest: a vector register.
_BLOCK = 16


def convolve(inputs, kernel, groups, strides, padding, dilations, portable=False) -> Any:
    """Convolves without a bias; `portable` uses only operations that every TensorFlow has."""
    import tensorflow as tf

    if groups == 1 or (not portable and _has_grouped_kernels(inputs.dtype.name)):
        return tf.nn.conv2d(inputs, kernel, strides, padding, dilations=dilations)
    return _convolve_in_blocks(inputs, kernel, groups, strides, padding, dilations)


def convolve_before_norm(inputs, kernel, bias, groups, strides, padding, dilations) -> Any:
    """Convolves and adds the bias, before a batch norm that subtracts the outputs' mean.

    The gradient of the bias is therefore set to zeros.
    """
    import tensorflow as tf

    # Use our gradient only where it was measured to be faster.
    is_faster = (
        (groups == 1 or _has_grouped_kernels(inputs.dtype.name))
        and tuple(dilations) == (1, 1)
        and not tf.config.list_physical_devices("GPU")
    )

    @tf.custom_gradient
    def apply(inputs, kernel, bias):
        outputs = convolve(inputs, kernel, groups, strides, padding, dilations)
        outputs = tf.nn.bias_add(outputs, bias)

        def gradients(upstream):
            input_gradient = tf.raw_ops.Conv2DBackpropInput(
                input_sizes=tf.shape(inputs),
                filter=kernel,
                out_backprop=upstream,
                strides=(1, *strides, 1),
                padding=padding,
            )
            window = (groups, strides, padding)
            kernel_gradient = _compute_kernel_gradient(inputs, kernel.shape, upstream, *window)
            return input_gradient, kernel_gradient, tf.zeros_like(bias)

        return outputs, gradients

    kernel, bias = tf.convert_to_tensor(kernel), tf.convert_to_tensor(bias)
    if is_faster:
        return apply(inputs, kernel, bias)
    # `tf.stop_gradient` would give None.
    without_gradient = tf.custom_gradient(lambda v: (tf.identity(v), tf.zeros_like))
    outputs = convolve(inputs, kernel, groups, strides, padding, dilations)
    return tf.nn.bias_add(outputs, without_gradient(bias))


def _compute_kernel_gradient(inputs, shape, upstream, groups, strides, padding):
    """Computes the gradient of a kernel of this shape from that of the outputs."""
    import tensorflow as tf

    rows, columns, depth, filters = shape
    if (rows, columns, *strides, groups) == (1, 1, 1, 1, 1):
        pixels, errors = tf.reshape(inputs, (-1, depth)), tf.reshape(upstream, (-1, filters))
        return tf.reshape(tf.matmul(pixels, errors, transpose_a=True), shape)
    merged = 1
    if groups > 1 and max(strides) == 1:
        merged = _find_largest_divisor(groups, at_most=max(1, _BLOCK // depth))
    gradient = tf.raw_ops.Conv2DBackpropFilter(
        input=inputs,
        filter_sizes=(rows, columns, merged * depth, filters),
        out_backprop=upstream,
        strides=(1, *strides, 1),
        padding=padding,
    )
    if merged == 1:
        return gradient
    # [row and column, group within block (input), depth, block, group within block (output), ...]
    blocks = (rows * columns, merged, depth, groups // merged, merged, filters // groups)
    gradient = tf.reshape(gradient, blocks)
    diagonal = tf.stack([gradient[:, k, :, :, k] for k in range(merged)], axis=3)
    return tf.reshape(diagonal, shape)


@functools.cache
def _has_grouped_kernels(dtype: str) -> bool:
    """Whether this TensorFlow has gradients of grouped convolutions: by a GPU or by oneDNN.

    oneDNN may be disabled by its environment variable, the processor or the build. It supports
    float32 and, on newer processors, bfloat16. No public function reports this, so we try one
    tiny gradient, which fails without oneDNN.
    """
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        return True
    with tf.init_scope(), tf.device("CPU"):
        try:
            tf.raw_ops.Conv2DBackpropInput(
                input_sizes=(1, 4, 4, 4),
                filter=tf.zeros((3, 3, 2, 4), dtype),
                out_backprop=tf.zeros((1, 4, 4, 4), dtype),
                strides=(1, 1, 1, 1),
                padding="SAME",
            )
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError):
            return False
    return True


def _convolve_in_blocks(inputs, kernel, groups, strides, padding, dilations):
    """Convolves by dense convolutions over several groups each, with zeros between the groups.

    At most 16 blocks, of at least 16 channels each, were fastest among 1 to 32 blocks at ResNeXt's
    sizes on a CPU: the forward pass takes 1.4 to 3 times the native one's time, one convolution per
    group 2 to 4 times.
    """
    import numpy as np
    import tensorflow as tf

    rows, columns, depth, filters = kernel.shape
    blocks = _find_largest_divisor(groups, at_most=min(16, max(1, depth * groups // _BLOCK)))
    per_block = groups // blocks
    # [rows, columns, group within block (input), depth, block, group within block (output), ...]
    # A constant, because OpenVINO cannot convert the operations of `tf.eye`.
    diagonal = tf.constant(np.eye(per_block)[:, None, None, :, None], kernel.dtype)
    spread = tf.reshape(kernel, (rows, columns, 1, depth, blocks, per_block, filters // groups))
    shape = (rows, columns, per_block * depth, blocks, filters // blocks)
    kernels = tf.unstack(tf.reshape(spread * diagonal, shape), axis=3)
    outputs = [
        tf.nn.conv2d(part, block_kernel, strides, padding, dilations=dilations)
        for part, block_kernel in zip(tf.split(inputs, blocks, axis=-1), kernels, strict=True)
    ]
    return tf.concat(outputs, axis=-1)


def _find_largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, at_most + 1) if number % d == 0)
