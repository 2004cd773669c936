"""The signatures of an exported model, and the graph functions that they are made of."""

import keras
import tensorflow as tf

from leuko_tf.classes import ATYPICAL, BLAST, CODES, INDEX
from leuko_tf.network.folding import fold_batch_norms
from leuko_tf.network.layers import Conv2D
from leuko_tf.network.resnext import OUTPUT_NAME, SCALING
from leuko_tf.network.view import to_network_input
from leuko_tf.savedmodel import decoding

EXAMPLE_FEATURE = "image/encoded"
# Keeps a map of zeros from dividing by zero; the value of tf-keras-vis, for equal maps.
EPSILON = 1e-7


class ServedModel(tf.Module):
    """A model's graph functions.

    The graph has no function marked for XLA, which TensorFlow Serving refuses, and no operation
    that needs oneDNN.

    Args:
      model: Cannot be used afterwards: its grouped convolutions are made portable, its batch norms
        are folded into the convolutions before them, and its softmax is removed.
      temperature: Divides the logits; above 0.
      remark: Comes with every answer.

    Attributes:
      field: Side in pixels of the square in an image's middle that the network looks at.
      pixel_size_um: Side in micrometres of the pixels that it was trained on, or None.
      size: Side in pixels of the network's input.
      resized: Function from uint8 [n, height, width, 3] to float32 [n, size, size, 3], 0 to 255.
      decoded: Function from PNG or JPEG files, string [n], to the same images, `valid` (bool [n])
        and `problem` (string [n]); see `leuko_tf.savedmodel.decoding.decode`.
      network: Function from float32 [n, size, size, 3], 0 to 255, to probabilities after the
        temperature, float32 [n, 15]. Of fixed size and without resizing, so that other runtimes
        can convert it.
      answered: Function from probabilities to the named outputs. A row of zeros stands for an
        invalid image and has empty strings for classes.
      endpoints: Signature to function, see `leuko_tf.export`.
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
        # Not the layers themselves: with them the graph loads in Python, but not in TensorFlow's
        # C++ loader.
        self._weights = [variable.value for variable in model.variables]
        scaling = model.get_layer(SCALING)
        self.size = size = scaling.size
        self.field = field = scaling.field
        self.pixel_size_um = scaling.pixel_size_um

        def embed_input(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(features(images / 255.0), tf.float32)

        def classify_embedding(embedding: tf.Tensor) -> tf.Tensor:
            return tf.nn.softmax(last(embedding) / temperature)

        def explain_image(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            batch = image[tf.newaxis]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(batch)
                embedding = embed_input(batch)
                top_logit = tf.reduce_max(last(embedding), axis=1)
            gradient = tf.abs(tape.gradient(top_logit, batch))
            saliency = tf.reduce_max(gradient[0], axis=-1)
            return classify_embedding(embedding)[0], _scale_to_uint8(saliency)

        def explain_input(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            """Probabilities and saliency, image by image: at 400 px each takes about 1 GB."""
            return tf.map_fn(
                explain_image,
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
        examples = tf.TensorSpec((None,), tf.string, name="inputs")
        self.network = _compile(lambda images: classify_embedding(embed_input(images)), pixels)
        self.resized = _compile(lambda images: to_network_input(images, field, size), tensors)
        self.decoded = _compile(lambda images: decoding.decode(images, field, size), files)
        self.answered = _compile(lambda scores: _make_answer(scores, remark), scores)
        network_of_any_size = _compile(lambda images: self.network(self.resized(images)), tensors)

        def serving_default(images: tf.Tensor) -> dict[str, tf.Tensor]:
            return self.answered(_apply_unless_empty(network_of_any_size, images))

        def apply_to_files(function, images: tf.Tensor):
            decoded, valid, problem = self.decoded(images)
            outputs = _apply_to_valid(function, decoded, valid)
            return outputs, {"valid": valid, "problem": problem}

        def encoded(images: tf.Tensor) -> dict[str, tf.Tensor]:
            scores, checked = apply_to_files(self.network, images)
            return self.answered(scores) | checked

        def explain(images: tf.Tensor) -> dict[str, tf.Tensor]:
            (scores, saliency), checked = apply_to_files(_compile(explain_input, pixels), images)
            maps = {"saliency": saliency, "field": tf.where(checked["valid"], field, 0)}
            return self.answered(scores) | checked | maps

        def embed(images: tf.Tensor) -> dict[str, tf.Tensor]:
            embedding, checked = apply_to_files(_compile(embed_input, pixels), images)
            return {"embedding": embedding} | checked

        def classify(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
            answer = encoded(_read_examples(inputs))
            scores = tf.sort(answer["probabilities"], direction="DESCENDING")
            return {"classes": answer["classes"], "scores": scores}

        self.endpoints = {
            "serving_default": _compile(serving_default, tensors),
            "encoded": _compile(encoded, files),
            "explain": _compile(explain, files),
            "embed": _compile(embed, files),
            "classify": _compile(classify, examples),
        }


def _compile(function, signature: tf.TensorSpec):
    return tf.function(function, input_signature=[signature], autograph=False)


def _apply_to_valid(function, images: tf.Tensor, valid: tf.Tensor):
    """Applies a function to the valid images; its outputs [n, ...] are zero for the others."""
    indices = tf.where(valid)[:, 0]
    outputs = _apply_unless_empty(function, tf.gather(images, indices))
    return decoding.scatter(outputs, indices, tf.shape(valid, tf.int64)[0])


def _apply_unless_empty(function, images: tf.Tensor):
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


def _make_answer(probabilities: tf.Tensor, remark: str) -> dict[str, tf.Tensor]:
    order = tf.argsort(probabilities, direction="DESCENDING", stable=True)
    is_answer = tf.reduce_any(probabilities > 0, axis=1, keepdims=True)
    return {
        "probabilities": probabilities,
        "classes": tf.where(is_answer, tf.gather(tf.constant(CODES), order), ""),
        "blast_score": _sum_classes(probabilities, BLAST),
        "atypical_score": _sum_classes(probabilities, ATYPICAL),
        "remark": tf.fill(tf.shape(probabilities)[:1], remark),
    }


def _sum_classes(probabilities: tf.Tensor, codes: tuple[str, ...]) -> tf.Tensor:
    return tf.reduce_sum(tf.gather(probabilities, [INDEX[c] for c in codes], axis=1), axis=1)


def _scale_to_uint8(saliency: tf.Tensor) -> tf.Tensor:
    """Scales a map of any range to 0 to 255."""
    lowest, highest = tf.reduce_min(saliency), tf.reduce_max(saliency)
    shares = (saliency - lowest) / (highest - lowest + EPSILON)
    return tf.cast(tf.round(255 * shares), tf.uint8)


def _read_examples(examples: tf.Tensor) -> tf.Tensor:
    """The image files in serialized tf.Examples, string [n]; empty where there is none."""
    features = {EXAMPLE_FEATURE: tf.io.FixedLenFeature((), tf.string)}
    with tf.device("CPU"):
        files, _ = decoding.attempt(
            lambda example: tf.io.parse_single_example(example, features)[EXAMPLE_FEATURE],
            examples,
        )
    return files
