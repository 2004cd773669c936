"""Figures from a table of predictions. Nothing here needs a model, an image or TensorFlow."""

from leuko_tf.metrics.comparison import compare
from leuko_tf.metrics.summary import compute_metrics

__all__ = ["compare", "compute_metrics"]
