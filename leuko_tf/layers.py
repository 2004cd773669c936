"""Layers that Keras lacks, or has slower: grouped convolution, batch norm, the input scaling."""

import functools
from typing import Any

import keras

_PACKAGE = "leuko_tf"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class GroupedConv2D(keras.layers.Conv2D):
    """Grouped 2D convolution, usable on a CPU and in a served model.

    Keras compiles every grouped convolution with XLA on TensorFlow: on a CPU its gradient is
    some hundred times slower than it need be, and TensorFlow Serving refuses the exported graph.
    This layer is `keras.layers.Conv2D` in every respect but the operation it runs.

    Arguments, shapes and dtypes are those of `keras.layers.Conv2D` (channels last); `groups` is
    the cardinality. Kernel: [rows, columns, channels / groups, filters], which equals the
    kernels of `groups` separate convolutions joined on the last axis.

    Attributes:
      portable: bool. Set it before tracing a graph that others will run: only operations that
        every TensorFlow has are used then. Defaults to False.
    """

    portable = False

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if keras.backend.backend() != "tensorflow" or self.data_format != "channels_last":
            return super().convolution_op(inputs, kernel)
        dtype = keras.backend.standardize_dtype(inputs.dtype)
        if self.portable or not _has_grouped_kernels(dtype):
            convolve = _block_diagonal_convolution
        else:
            convolve = _native_convolution
        strides = self.strides
        if self.padding == "same":
            # Over one row or column a stride changes nothing; but TensorFlow 2.21 with oneDNN
            # gives garbage for the kernel's gradient there in bfloat16, dense or grouped.
            sizes = inputs.shape[1:3]
            strides = tuple(1 if n == 1 else s for n, s in zip(sizes, strides, strict=True))
        return convolve(
            inputs, kernel, self.groups, strides, self.padding.upper(), self.dilation_rate
        )


@functools.cache
def _has_grouped_kernels(dtype: str) -> bool:
    """Whether this TensorFlow convolves in groups and differentiates it: a GPU, or oneDNN.

    oneDNN can be off by its environment variable, by the processor or by the build, and it takes
    float32 and, on newer processors, bfloat16; nothing public tells, so one tiny gradient is
    tried, which fails without it.
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


def _native_convolution(inputs, kernel, groups, strides, padding, dilations):
    """TensorFlow's own: groups follow from the shapes of inputs and kernel."""
    import tensorflow as tf

    return tf.nn.conv2d(inputs, kernel, strides, padding, dilations=dilations)


def _block_diagonal_convolution(inputs, kernel, groups, strides, padding, dilations):
    """The same by dense convolutions, each over several groups, with zeros between the groups.

    Blocks of at least 16 channels, at most 16 of them, were the fastest of 1 to 32 blocks at
    ResNeXt's sizes on a CPU (forward 1.4 to 3 times the native one's time, against 2 to 4
    times for a convolution a group).
    """
    import tensorflow as tf

    rows, columns, depth, filters = kernel.shape
    blocks = _largest_divisor(groups, at_most=min(16, max(1, depth * groups // 16)))
    per_block = groups // blocks
    # [rows, columns, group within block (input), depth, block, group within block (output), ...]
    diagonal = tf.reshape(
        tf.eye(per_block, dtype=kernel.dtype), (1, 1, per_block, 1, 1, per_block, 1)
    )
    spread = tf.reshape(kernel, (rows, columns, 1, depth, blocks, per_block, filters // groups))
    dense = tf.reshape(
        spread * diagonal, (rows, columns, per_block * depth, blocks, filters // blocks)
    )
    outputs = [
        tf.nn.conv2d(part, block_kernel, strides, padding, dilations=dilations)
        for part, block_kernel in zip(
            tf.split(inputs, blocks, axis=-1), tf.unstack(dense, axis=3), strict=True
        )
    ]
    return tf.concat(outputs, axis=-1)


def _largest_divisor(number: int, at_most: int) -> int:
    return max(d for d in range(1, at_most + 1) if number % d == 0)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CellScaling(keras.layers.Layer):
    """Brings images of any size to the network's input: resized, and scaled from 0-255 to 0-1.

    Scaling by 1/255 and nothing else is the paper's; at 400 px its images are not resized.
    Resizing is bilinear with antialiasing and changes nothing at equal size. Always computes in
    float32: bfloat16 would round the pixels.

    Args:
      size: int. Side of the square output, in pixels.

    Call arguments:
      images: uint8 or float tensor [batch, height, width, 3], 0 to 255.

    Returns:
      float32 tensor [batch, size, size, 3], 0 to 1.
    """

    def __init__(self, size: int, name: str | None = None):
        super().__init__(name=name, dtype="float32", trainable=False)
        self.size = size

    def call(self, images):
        images = keras.ops.cast(images, "float32")
        if tuple(images.shape[1:3]) != (self.size, self.size):
            images = keras.ops.image.resize(
                images, (self.size, self.size), interpolation="bilinear", antialias=True
            )
        return images / 255.0

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self):
        return {"name": self.name, "size": self.size}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis of images, in one operation on TensorFlow.

    Keras computes it from a dozen operations, and in float32 whatever comes in: with it a training
    step of ResNeXt-50 on a CPU took twice as long. Arguments, weights, shapes and results are those
    of `keras.layers.BatchNormalization`, moving averages included.

    Attributes:
      folded: bool. Set by `leuko_tf.folding`, which moves its numbers into the convolution before
        it: the layer then hands its inputs on as they are. Defaults to False.
    """

    folded = False

    def call(self, inputs, training=None, mask=None):
        if self.folded:
            return inputs
        if keras.backend.backend() != "tensorflow" or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        learns = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[] if learns else self.moving_mean,
            variance=[] if learns else self.moving_variance,
            epsilon=self.epsilon,
            is_training=learns,
        )
        if learns:
            # TensorFlow gives the variance as an estimate for more images, Keras that of the batch.
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
            variance *= (count - 1) / count
            kept = self.momentum
            self.moving_mean.assign(self.moving_mean * kept + mean * (1 - kept))
            self.moving_variance.assign(self.moving_variance * kept + variance * (1 - kept))
        return outputs


@keras.saving.register_keras_serializable(package=_PACKAGE)
class LeakyReLU(keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU`, which can be kept from a wrong fusion.

    Attributes:
      folded: bool. Set by `leuko_tf.folding`. TensorFlow 2.21 with oneDNN fuses convolution, bias,
        sum and LeakyReLU into one operation, and forgets the slope: it takes 0.2, whatever it is.
        As the larger of x and slope times x it stays right, and no slower. Defaults to False.
    """

    folded = False

    def call(self, inputs):
        if self.folded and 0 <= self.negative_slope <= 1:
            return keras.ops.maximum(inputs, self.negative_slope * inputs)
        return super().call(inputs)
