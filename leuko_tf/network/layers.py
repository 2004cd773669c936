"""Layers that Keras lacks, or has slower: convolution, batch norm, scaling, merged outputs."""

from typing import Any

import keras

from leuko_tf.network import convolution
from leuko_tf.network.view import FIELD, to_network_input

_PACKAGE = "leuko_tf"


@keras.saving.register_keras_serializable(package=_PACKAGE)
class Conv2D(keras.layers.Conv2D):
    """2D convolution, grouped or not, by the fastest operations that TensorFlow has for it.

    Keras compiles every grouped convolution with XLA on TensorFlow: on a CPU its gradient is
    some hundred times slower than it need be, and TensorFlow Serving refuses the exported graph.
    This layer is `keras.layers.Conv2D` in every respect but the operations it runs, which
    `leuko_tf.network.convolution` chooses.

    Arguments, shapes and dtypes are those of `keras.layers.Conv2D` (channels last); `groups` is
    the cardinality. Kernel: [rows, columns, channels / groups, filters], which equals the
    kernels of `groups` separate convolutions joined on the last axis.

    Attributes:
      portable: bool. Set it before tracing a graph that others will run: only operations that
        every TensorFlow has are used then. Defaults to False.
      normalised: bool. Set it before training where a batch norm that learns takes the outputs,
        and nothing else does: the bias, which that batch norm takes away again, then gets a
        gradient of zeros, which is its true one, and the kernel gets its gradient by the fastest
        way. Defaults to False.
    """

    portable = False
    normalised = False

    def call(self, inputs: Any) -> Any:
        if not self.normalised or not self._on_tensorflow() or not self.use_bias:
            return super().call(inputs)
        outputs = convolution.convolve_before_norm(
            inputs, self.kernel, self.bias, self.groups, *self._window(inputs)
        )
        return self.activation(outputs)

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if not self._on_tensorflow():
            return super().convolution_op(inputs, kernel)
        return convolution.convolve(
            inputs, kernel, self.groups, *self._window(inputs), portable=self.portable
        )

    def _on_tensorflow(self) -> bool:
        return keras.backend.backend() == "tensorflow" and self.data_format == "channels_last"

    def _window(self, inputs: Any) -> tuple[tuple[int, ...], str, tuple[int, ...]]:
        """Strides, padding and dilations, as TensorFlow wants them."""
        strides = self.strides
        if self.padding == "same":
            # Over one row or column a stride changes nothing; but TensorFlow 2.21 with oneDNN
            # gives garbage for the kernel's gradient there in bfloat16, dense or grouped.
            sizes = inputs.shape[1:3]
            strides = tuple(1 if n == 1 else s for n, s in zip(sizes, strides, strict=True))
        return strides, self.padding.upper(), self.dilation_rate


@keras.saving.register_keras_serializable(package=_PACKAGE)
class CellScaling(keras.layers.Layer):
    """Brings images of any size to the network's input: `seen`, and scaled from 0-255 to 0-1.

    Scaling by 1/255 and nothing else is the paper's; its images, of 400 px, are seen as they are.
    Always computes in float32: bfloat16 would round the pixels.

    Args:
      size: int. Side of the square output, in pixels.
      field: int. Side of the square in the middle of an image that the network looks at, in the
        image's pixels. Defaults to 400.
      pixel_size_um: float or None. Side in micrometres of the pixels that the network was trained
        on; None where it is not known. Images of another magnification are resampled to it.
      trained: dict or None. JSON-like facts about the training (`leuko_tf.provenance.ModelFacts`),
        which so travel with the model; the layer does not use them.

    Call arguments:
      images: uint8 or float tensor [batch, height, width, 3], 0 to 255.

    Returns:
      float32 tensor [batch, size, size, 3], 0 to 1.
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
        self.size = size
        self.field = field
        self.pixel_size_um = pixel_size_um
        self.trained = trained

    def call(self, images):
        return to_network_input(images, self.field, self.size) / 255.0

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.size, self.size, input_shape[-1])

    def get_config(self):
        settings = ("name", "size", "field", "pixel_size_um", "trained")
        return {name: getattr(self, name) for name in settings}


@keras.saving.register_keras_serializable(package=_PACKAGE)
class BatchNorm(keras.layers.BatchNormalization):
    """Batch normalisation over the last axis of images, in one operation on TensorFlow.

    Keras computes it from a dozen operations, and in float32 whatever comes in: with it a training
    step of ResNeXt-50 on a CPU took twice as long. Arguments, weights, shapes and results are those
    of `keras.layers.BatchNormalization`, moving averages included.

    Attributes:
      folded: bool. Set by `leuko_tf.network.folding`, which moves its numbers into the convolution before
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
      folded: bool. Set by `leuko_tf.network.folding`. TensorFlow 2.21 with oneDNN fuses convolution, bias,
        sum and LeakyReLU into one operation, and forgets the slope: it takes 0.2, whatever it is.
        As the larger of x and slope times x it stays right, and no slower. Defaults to False.
    """

    folded = False

    def call(self, inputs):
        if self.folded and 0 <= self.negative_slope <= 1:
            return keras.ops.maximum(inputs, self.negative_slope * inputs)
        return super().call(inputs)


@keras.saving.register_keras_serializable(package=_PACKAGE)
class MergingDense(keras.layers.Dense):
    """A dense layer whose last unit is merged into another one: two units for one class.

    The two logits a and b become log(exp a + exp b), one logit in the place of the other one. A
    softmax after it gives their class exactly the sum of the probabilities that a softmax over all
    units would give the two, and leaves the others as they are.

    Arguments are those of `keras.layers.Dense`, with a bias, and `into`.

    Args:
      units: int. Number of units, the merged one included.
      into: int. Unit that the last one is merged into, 0 to units - 2.

    Call arguments:
      inputs: float tensor [batch, channels].

    Returns:
      float tensor [batch, units - 1].
    """

    def __init__(self, units: int, into: int, **settings: Any):
        super().__init__(units, **settings)
        self.into = into

    def call(self, inputs, training=None):
        logits = keras.ops.matmul(inputs, self.kernel) + self.bias
        two = keras.ops.stack([logits[:, self.into], logits[:, -1]], axis=-1)
        merged = keras.ops.logsumexp(two, axis=-1, keepdims=True)
        before, after = logits[:, : self.into], logits[:, self.into + 1 : -1]
        return self.activation(keras.ops.concatenate([before, merged, after], axis=-1))

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units - 1)

    def get_config(self):
        return {**super().get_config(), "into": self.into}
