"""What a batch norm saves the convolution before it.

With its moving averages a batch norm is a scale and an offset of each channel, and so part of the
convolution that feeds it: for inference the two become one. While it learns it takes the mean away,
and with it the bias of that convolution, which then needs no gradient.
"""

import keras

from leuko_tf.network.layers import BatchNorm, Conv2D, LeakyReLU


def spare_bias_gradients(model: keras.Model) -> int:
    """Tells each convolution whether a batch norm that learns takes its bias away again.

    To be called before training, and again after a batch norm was frozen or unfrozen.

    Args:
      model: a model of this project; Keras' own layers stay as they are.

    Returns:
      The number of convolutions whose bias gets no gradient.
    """
    norms = [n for n in model.layers if isinstance(n, BatchNorm) and n.trainable]
    spared = {id(_find_convolution_before(norm, model)) for norm in norms}
    convolutions = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    for convolution in convolutions:
        convolution.normalised = id(convolution) in spared
    return sum(convolution.normalised for convolution in convolutions)


def fold_batch_norms(model: keras.Model) -> int:
    """Folds, in place, every `leuko_tf.network.layers.BatchNorm` that follows a convolution alone.

    The model is for inference afterwards: it must not be trained or saved. Keras' own batch norms,
    those of models from before, stay as they are.

    Args:
      model: a built, float32 model.

    Returns:
      The number of batch norms that were folded.
    """
    norms = [layer for layer in model.layers if isinstance(layer, BatchNorm) and not layer.folded]
    foldable = [(n, c) for n in norms if (c := _find_convolution_before(n, model)) is not None]
    for norm, convolution in foldable:
        scale = norm.gamma / keras.ops.sqrt(norm.moving_variance + norm.epsilon)
        convolution.kernel.assign(convolution.kernel * scale)
        convolution.bias.assign((convolution.bias - norm.moving_mean) * scale + norm.beta)
        norm.folded = True
    for layer in model.layers:
        if isinstance(layer, LeakyReLU):
            layer.folded = True
    return len(foldable)


def _find_convolution_before(norm: BatchNorm, model: keras.Model) -> keras.layers.Conv2D | None:
    """The convolution whose outputs go to this batch norm and nowhere else, as they are."""
    layer = norm.input._keras_history.operation
    is_convolution = isinstance(layer, keras.layers.Conv2D) and layer.use_bias
    if not is_convolution or layer.activation is not keras.activations.linear:
        return None
    shared = len(layer._outbound_nodes) > 1 or any(layer.output is o for o in model.outputs)
    return None if shared else layer
