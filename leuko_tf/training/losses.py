"""Cross-entropy adjusted for classes of very different size."""

from typing import Any

import keras


@keras.saving.register_keras_serializable(package="leuko_tf")
class AdjustedCrossentropy(keras.losses.Loss):
    """Cross-entropy with logit adjustment (Menon et al. 2021, arXiv 2007.07314, eq. 10, tau = 1).

    In training, the network's probabilities are multiplied by the classes' shares and normalised
    again, which equals adding log(share) to each logit. So the network learns the probabilities
    for equally frequent classes, and frequent classes have no advantage.

    Args:
      shares: Shares of the classes among the samples, 0 to 1. A class without samples has the
        weight 1, so that the network learns that it is the least likely.
      label_smoothing: 0 to below 1, as in `keras.losses.CategoricalCrossentropy`. Likewise the
        call arguments are one-hot labels and probabilities, [batch, classes].
    """

    def __init__(self, shares: list[float], label_smoothing: float = 0.0, **others: Any):
        super().__init__(**others)
        self.shares = [float(share) for share in shares]
        self.label_smoothing = label_smoothing

    def call(self, y_true: Any, y_pred: Any) -> Any:
        weights = [share if share > 0 else 1.0 for share in self.shares]
        weighted = y_pred * keras.ops.convert_to_tensor(weights, y_pred.dtype)
        # Keras divides the probabilities by their sum.
        smoothing = self.label_smoothing
        return keras.losses.categorical_crossentropy(y_true, weighted, label_smoothing=smoothing)

    def get_config(self) -> dict[str, Any]:
        own = {"shares": self.shares, "label_smoothing": self.label_smoothing}
        return {**super().get_config(), **own}
