"""What an exported model computes: its signatures, and the pieces that they are made of."""

import keras
import tensorflow as tf

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.network.folding import fold_batch_norms
from leuko_tf.network.layers import Conv2D
from leuko_tf.network.resnext import OUTPUT_NAME, SCALING
from leuko_tf.network.view import to_network_input
from leuko_tf.savedmodel import decoding

EXAMPLE_FEATURE = "image/encoded"
# As tf-keras-vis, so that the maps are the same: it keeps a map of zeros from dividing by zero.
EPSILON = 1e-7


class ServedModel(tf.Module):
    """A model's graph functions.

    The graph has no function marked for XLA, which TensorFlow Serving refuses, and no operation
    that needs oneDNN.

    Args:
      model: a model of this project, spent by this: its grouped convolutions become portable
        ones, its batch norms are folded into the convolutions before them, and its softmax is
        taken off.
      temperature: divides the logits; above 0.
      remark: comes with every answer.

    Attributes:
      field: int. Side in pixels of the square in an image's middle that the network looks at.
      pixel_size_um: float or None. Side in micrometres of the pixels that it was trained on.
      size: int. Side in pixels of the network's input.
      resized: function. uint8 [n, height, width, 3] to float32 [n, size, size, 3], 0 to 255.
      decoded: function. string [n], PNG or JPEG files, to the same images, `valid` (bool [n]) and
        `problem` (string [n]); see `leuko_tf.savedmodel.decoding.decode`.
      network: function. float32 [n, size, size, 3], 0 to 255, to probabilities, float32 [n, 15],
        after the temperature. Of fixed size and without resizing, for other runtimes to convert.
      answered: function. probabilities to the named outputs; a row of zeros, which stands for an
        image that was not valid, has empty strings for classes.
      endpoints: dict of signature to function, as `leuko_tf.export` tells.
    """

    def __init__(self, model: keras.Model, temperature: float = 1.0, remark: str = ""):
        super().__init__()
        for layer in model.layers:
            if isinstance(layer, Conv2D):
                layer.portable = True
        fold_batch_norms(model)
        last = model.get_layer(OUTPUT_NAME)
        last.activation = keras.activations.linear
        features = keras.Model(model.get_layer(SCALING).output, last.input)
        # Not the layers themselves: with them the graph loads in Python and fails in TensorFlow's
        # C++ loader.
        self._weights = [variable.value for variable in model.variables]
        self.size = size = model.get_layer(SCALING).size
        self.field = field = model.get_layer(SCALING).field
        self.pixel_size_um = model.get_layer(SCALING).pixel_size_um

        def embedded(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(features(images / 255.0), tf.float32)

        def probabilities(embedding: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(last(embedding) / temperature)

        def explained(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Probabilities and saliency, image by image: at 400 px each takes about 1 GB."""

            def explain(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                batch = image[tf.newaxis]
                with tf.GradientTape(watch_accessed_variables=False) as tape:
                    tape.watch(batch)
                    embedding = embedded(batch)
                    top_logit = tf.reduce_max(last(embedding), axis=1)
                gradient = tf.abs(tape.gradient(top_logit, batch))
                saliency = tf.reduce_max(gradient[0], axis=-1)
                return probabilities(embedding)[0], _scaled(saliency)

            return tf.map_fn(
                explain,
                images,
                parallel_iterations=1,
                fn_output_signature=(
                    tf.TensorSpec((len(CODES),), tf.float32),
                    tf.TensorSpec((size, size), tf.uint8),
                ),
            )

        pixels = tf.TensorSpec((None, size, size, 3), tf.float32, name="images")
        tensors = tf.TensorSpec((None, None, None, 3), tf.uint8, name="images")
        files = tf.TensorSpec((None,), tf.string, name="images")
        scores = tf.TensorSpec((None, len(CODES)), tf.float32, name="probabilities")
        self.network = _function(lambda images: probabilities(embedded(images)), pixels)
        self.resized = _function(lambda images: to_network_input(images, field, size), tensors)
        self.decoded = _function(lambda images: decoding.decode(images, field, size), files)
        self.answered = _function(lambda scores: _answered(scores, remark), scores)

        network_of_any_size = _function(lambda images: self.network(self.resized(images)), tensors)

        def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.answered(_unless_empty(network_of_any_size, images))

        def encoded(images: tf.Tensor) -> dict[str, tf.Tensor]:
            decoded, valid, problem = self.decoded(images)
            scores = _of_valid(self.network, decoded, valid)
            return {**self.answered(scores), "valid": valid, "problem": problem}

        def explain(images: tf.Tensor) -> dict[str, tf.Tensor]:
            decoded, valid, problem = self.decoded(images)
            scores, saliency = _of_valid(_function(explained, pixels), decoded, valid)
            answer = self.answered(scores)
            fields = tf.where(valid, field, 0)
            maps = {"saliency": saliency, "field": fields}
            return {**answer, "valid": valid, "problem": problem, **maps}

        def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
            decoded, valid, problem = self.decoded(images)
            embedding = _of_valid(_function(embedded, pixels), decoded, valid)
            return {"embedding": embedding, "valid": valid, "problem": problem}

        def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            answer = encoded(_files_of_examples(inputs))
            scores = tf.sort(answer["probabilities"], direction="DESCENDING")
            return {"classes": answer["classes"], "scores": scores}

        examples = tf.TensorSpec((None,), tf.string, name="inputs")
        self.endpoints = {
            "serving_default": _function(serving_default, tensors),
            "encoded": _function(encoded, files),
            "explain": _function(explain, files),
            "embed": _function(embed, files),
            "classify": _function(classify, examples),
        }


def _function(function, *signature: tf.TensorSpec):
    return tf.function(function, input_signature=signature, autograph=False)


def _of_valid(function, images: tf.Tensor, valid: tf.Tensor):
    """Applies a function to the valid images only; its outputs [n, ...] are zero for the others."""
    where = tf.where(valid)

    def in_place(values: tf.Tensor) -> tf.Tensor:
        shape = tf.concat([tf.shape(valid, tf.int64), tf.shape(values, tf.int64)[1:]], axis=0)
        return tf.ensure_shape(tf.scatter_nd(where, values, shape), [None, *values.shape[1:]])

    outputs = _unless_empty(function, tf.gather(images, where[:, 0]))
    return tf.nest.map_structure(in_place, outputs)


def _unless_empty(function, images: tf.Tensor):
    """Applies a function to images, if there are any.

    TensorFlow 2.21 with oneDNN fails on fused convolutions of no images: it takes the channels of
    the network's input for those of the layer's.
    """
    outputs = function.get_concrete_function().structured_outputs
    return tf.cond(
        tf.shape(images)[0] > 0,
        lambda: function(images),
        lambda: tf.nest.map_structure(lambda o: tf.zeros((0, *o.shape[1:]), o.dtype), outputs),
    )


def _answered(probabilities: tf.Tensor, remark: str) -> dict[str, tf.Tensor]:
    order = tf.argsort(probabilities, direction="DESCENDING", stable=True)
    is_answer = tf.reduce_any(probabilities > 0, axis=1, keepdims=True)
    return {
        "probabilities": probabilities,
        "classes": tf.where(is_answer, tf.gather(tf.constant(CODES), order), ""),
        "blast_score": _summed(probabilities, BLAST),
        "atypical_score": _summed(probabilities, ATYPICAL),
        "remark": tf.fill(tf.shape(probabilities)[:1], remark),
    }


def _summed(probabilities: tf.Tensor, codes: tuple[str, ...]) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(probabilities, [INDEX[c] for c in codes], axis=1), axis=1)


def _scaled(saliency: tf.Tensor) -> tf.Tensor:
    """A map of any range to uint8, 0 to 255."""
    lowest, highest = tf.reduce_min(saliency), tf.reduce_max(saliency)
    shares = (saliency - lowest) / (highest - lowest + EPSILON)
    return tf.cast(tf.round(255 * shares), tf.uint8)


def _files_of_examples(examples: tf.Tensor) -> tf.Tensor:
    """The image files in serialized tf.Examples, string [n]; empty where there is none."""
    features = {EXAMPLE_FEATURE: tf.io.FixedLenFeature((), tf.string)}
    with tf.device("CPU"):
        files, _ = decoding.attempt(
            lambda example: tf.io.parse_single_example(example, features)[EXAMPLE_FEATURE],
            examples,
        )
    return files
