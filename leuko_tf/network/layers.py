"""Layers that Keras lacks or computes more slowly."""

from typing import Any

import keras

from leuko_tf.network import convolution
from leuko_tf.network.view import FIELD, to_network_input


@keras.saving.register_keras_serializable(package="leuko_tf")
class Conv2D(keras.layers.Conv2D):
    """`keras.layers.Conv2D` (channels last) with the fastest operations of TensorFlow.

    Keras compiles every grouped convolution with XLA on TensorFlow. On a CPU this makes its
    gradient about a hundred times slower than necessary, and TensorFlow Serving refuses the
    exported graph. This layer differs only in its operations: see `leuko_tf.network.convolution`.

    The kernel, [rows, columns, channels / groups, filters], is that of `groups` separate
    convolutions concatenated on the last axis.

    Attributes:
      portable: Whether to use only operations that every TensorFlow has; to set before tracing a
        graph for other programs.
      normalised: Whether the outputs go only to a batch norm that trains. It cancels the bias,
        whose gradient is then set to zeros; the kernel's is computed in a faster way.
    """

    portable = False
    normalised = False

    def call(self, inputs: Any) -> Any:
        if not self.normalised or not self._runs_on_tensorflow() or not self.use_bias:
            return super().call(inputs)
        window = (self.groups, *self._get_window(inputs))
        outputs = convolution.convolve_before_norm(inputs, self.kernel, self.bias, *window)
        return self.activation(outputs)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if not self._runs_on_tensorflow():
            return super().convolution_op(inputs, kernel)
        window = (self.groups, *self._get_window(inputs))
        return convolution.convolve(inputs, kernel, *window, portable=self.portable)

    def _runs_on_tensorflow(self) -> bool:
        return keras.backend.backend() == "tensorflow" and self.data_format == "channels_last"

    def _get_window(self, inputs: Any) -> tuple[tuple[int, ...], str, tuple[int, ...]]:
        """Returns strides, padding and dilations as TensorFlow takes them."""
        strides = self.strides
        if self.padding == "same":
            # A stride over a single row or column has no effect, but with it TensorFlow 2.21 with
            # oneDNN computes a wrong kernel gradient in bfloat16, dense or grouped.
            sizes = inputs.shape[1:3]
            strides = tuple(1 if n == 1 else s for n, s in zip(sizes, strides, strict=True))
        return strides, self.padding.upper(), self.dilation_rate


@keras.saving.register_keras_serializable(package="leuko_tf")
class CellScaling(keras.layers.Layer):
    """Converts images of any size to the network's input, scaled from 0-255 to 0-1.

    See `leuko_tf.network.view.to_network_input`. Scaling by 1/255 alone is the paper's; its images
    of 400 px are not resized. Always computes in float32: bfloat16 would round the pixels.

    Args:
      size: Side of the square output in pixels.
      field: Side of the centred square to crop from an image, in the image's pixels.
      pixel_size_um: Side in micrometres of the pixels that the network was trained on; None if
        unknown. Images of another magnification are resampled to it before this layer.
      trained: JSON-like facts about the training (`leuko_tf.provenance.ModelFacts`). The layer only
        stores them, so that they travel with the model.
    """

    def __init__(
        self,
        size: int,
        field: int = FIELD,
        pixel_size_um: float | None = None,
        trained: dict[str, Any] | None = None,
        name: str | None = None,
    ):
        super().__init__(name=name, dtype="float32", trainable=False)
        self.size, self.field = size, field
        self.pixel_size_um, self.trained = pixel_size_um, trained

    def call(self, images):
        return to_network_input(images, self.field, self.size) / 255.0

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self):
        settings = ("name", "size", "field", "pixel_size_um", "trained")
        return {name: getattr(self, name) for name in settings}


@keras.saving.register_keras_serializable(package="leuko_tf")
class BatchNorm(keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` over the last axis, in one operation on TensorFlow.

    Keras takes a dozen operations, always in float32: a training step of ResNeXt-50 on a CPU took
    twice as long. Weights and results are the same, moving averages included.

    Attributes:
      folded: Whether `leuko_tf.network.folding` has moved the numbers of this layer into the
        convolution before it. The layer then returns its inputs.
    """

    folded = False

    def call(self, inputs, training=None, mask=None):
        if self.folded:
            return inputs
        if keras.backend.backend() != "tensorflow" or len(inputs.shape) != 4 or mask is not None:
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        is_learning = bool(training) and self.trainable
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=self.gamma,
            offset=self.beta,
            mean=[] if is_learning else self.moving_mean,
            variance=[] if is_learning else self.moving_variance,
            epsilon=self.epsilon,
            is_training=is_learning,
        )
        if is_learning:
            # TensorFlow returns the unbiased estimate of the variance, Keras uses the batch's own.
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1], variance.dtype)
            variance *= (count - 1) / count
            kept = self.momentum
            self.moving_mean.assign(self.moving_mean * kept + mean * (1 - kept))
            self.moving_variance.assign(self.moving_variance * kept + variance * (1 - kept))
        return outputs


@keras.saving.register_keras_serializable(package="leuko_tf")
class LeakyReLU(keras.layers.LeakyReLU):
    """`keras.layers.LeakyReLU` that avoids a wrong fusion of operations.

    Attributes:
      folded: Set by `leuko_tf.network.folding`. TensorFlow 2.21 with oneDNN fuses convolution,
        bias, sum and LeakyReLU into one operation that always takes 0.2 as the slope. The larger of
        x and slope times x is not fused, and no slower.
    """

    folded = False

    def call(self, inputs):
        if self.folded and 0 <= self.negative_slope <= 1:
            return keras.ops.maximum(inputs, self.negative_slope * inputs)
        return super().call(inputs)


@keras.saving.register_keras_serializable(package="leuko_tf")
class MergingDense(keras.layers.Dense):
    """A dense layer that merges its last unit into another one: two units for one class.

    The logits a and b of the two units become one logit, log(exp a + exp b). After a softmax their
    class has exactly the sum of the two probabilities of a softmax over all units; the other
    probabilities do not change.

    It maps [batch, channels] to [batch, units - 1].

    Args:
      units: Number of units, the merged one included.
      into: Unit that the last one is merged into, 0 to units - 2.
      settings: Other arguments of `keras.layers.Dense`; there is always a bias.
    """

    def __init__(self, units: int, into: int, **settings: Any):
        super().__init__(units, **settings)
        self.into = into

    def call(self, inputs, training=None):
        logits = keras.ops.matmul(inputs, self.kernel) + self.bias
        pair = keras.ops.stack([logits[:, self.into], logits[:, -1]], axis=-1)
        merged = keras.ops.logsumexp(pair, axis=-1, keepdims=True)
        before, after = logits[:, : self.into], logits[:, self.into + 1 : -1]
        return self.activation(keras.ops.concatenate([before, merged, after], axis=-1))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units - 1)

    def get_config(self):
        return {**super().get_config(), "into": self.into}
