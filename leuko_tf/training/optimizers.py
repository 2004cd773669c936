"""Adam and AdamW in one operation per weight."""

from typing import Any

import keras


class _FusedUpdate:
    """Updates a weight by TensorFlow's ResourceApplyAdam.

    Keras takes a dozen operations that each read and write the whole weight: 50 of 850 ms in a
    training step of ResNeXt-50 on two cores. The formula is the same (Kingma and Ba 2015, arXiv
    1412.6980, in the efficient order of its section 2).
    """

    def update_step(self: Any, gradient: Any, variable: Any, learning_rate: Any) -> None:
        if keras.backend.backend() != "tensorflow" or self.amsgrad:
            super().update_step(gradient, variable, learning_rate)  # type: ignore[misc]
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        weight, momentum, velocity = (
            v.value if isinstance(v, keras.Variable) else v
            for v in (variable, self._momentums[index], self._velocities[index])
        )
        dtype = weight.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.constant(self.beta_1, dtype), tf.constant(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=weight.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=beta_1**step,
            beta2_power=beta_2**step,
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.constant(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )


@keras.saving.register_keras_serializable(package="leuko_tf")
class Adam(_FusedUpdate, keras.optimizers.Adam):
    """`keras.optimizers.Adam`, faster, with the same arguments and results."""


@keras.saving.register_keras_serializable(package="leuko_tf")
class AdamW(_FusedUpdate, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, faster, with the same arguments and results."""
