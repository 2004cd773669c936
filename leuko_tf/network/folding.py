"""Folds batch norms into the convolutions before them, and skips useless bias gradients.

At inference a batch norm only scales and shifts each channel, so it can be folded into the
convolution before it. In training it subtracts the mean, and with it the bias of that convolution:
the bias needs no gradient.
"""

import keras

from leuko_tf.network.layers import BatchNorm, Conv2D, LeakyReLU


def spare_bias_gradients(model: keras.Model) -> int:
    """Skips the bias gradient of each convolution before a batch norm that trains.

    Call it before training, and again after freezing or unfreezing a batch norm. Keras' own layers
    are not changed. Returns the number of convolutions whose bias gets no gradient.
    """
    norms = (n for n in model.layers if isinstance(n, BatchNorm) and n.trainable)
    spared = {id(_find_convolution_before(norm, model)) for norm in norms}
    convolutions = [layer for layer in model.layers if isinstance(layer, Conv2D)]
    for convolution in convolutions:
        convolution.normalised = id(convolution) in spared
    return sum(convolution.normalised for convolution in convolutions)


def fold_batch_norms(model: keras.Model) -> int:
    """Folds in place every `BatchNorm` that is the only consumer of a convolution.

    Afterwards the model, which must be float32, is for inference only: do not train or save it.
    Keras' own batch norms, as in models of older versions, are not changed. Returns the number of
    folded batch norms.
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
    """Finds the convolution that feeds only this batch norm, without an activation."""
    layer = norm.input._keras_history.operation
    is_convolution = isinstance(layer, keras.layers.Conv2D) and layer.use_bias
    if not is_convolution or layer.activation is not keras.activations.linear:
        return None
    shared = len(layer._outbound_nodes) > 1 or any(layer.output is o for o in model.outputs)
    return None if shared else layer
