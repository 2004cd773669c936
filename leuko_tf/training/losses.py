"""Cross-entropy, and with it the adjustment for classes of very different size."""

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="leuko_tf")
class AdjustedCrossentropy(keras.losses.Loss):
    """Cross-entropy of probabilities weighed by how frequent each class is.

    While it trains, the network's probabilities are multiplied by the classes' shares and made to
    sum to 1 again; adding the logarithm of the share to each logit is the same. What the network
    learns is then the probability of a class where all are equally frequent, and frequent classes
    no longer win for being frequent: logit adjustment (Menon et al. 2021, arXiv 2007.07314,
    equation 10 with tau = 1).

    Args:
      shares: classes' shares among the samples, 0 to 1; classes without any weigh 1, so that
        they are learned to be the least likely.
      label_smoothing: float, 0 to below 1, as in `keras.losses.CategoricalCrossentropy`.

    Call arguments:
      y_true: float [batch, classes], one-hot.
      y_pred: float [batch, classes], probabilities.
    """

    def __init__(self, shares: list[float], label_smoothing: float = 0.0, **others: Any):
        super().__init__(**others)
        self.shares = [float(share) for share in shares]
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        shares = np.array(self.shares)
        weights = np.where(shares > 0, shares, 1.0)
        weighed = y_pred * keras.ops.convert_to_tensor(weights, y_pred.dtype)
        # Keras divides by the sum.
        return keras.losses.categorical_crossentropy(
            y_true, weighed, label_smoothing=self.label_smoothing
        )

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "shares": self.shares,
            "label_smoothing": self.label_smoothing,
        }
