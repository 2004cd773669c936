"""The TFDS features that all data sets share, and a feature for JPEG images."""

import tensorflow as tf
import tensorflow_datasets as tfds

from leuko_tf.classes import CODES, REANNOTATIONS


class JpegImage(tfds.features.Image):
    """Stores JPEG files byte for byte, and decodes them to the same pixels as Pillow and OpenCV.

    TFDS' own feature stores the same bytes, but TensorFlow then decodes them with libjpeg's fast
    transform (tensorflow/tensorflow issues 11623 and 102996): of 400 Barcelona images, none matched
    Pillow; two values in three differed, by up to 5 grey levels. PNGs of the decoded pixels would
    be exact as well, but nine times as large and six times as slow to read.
    """

    def __init__(self, *, shape=(None, None, 3), encoding_format="jpeg", **kwargs):
        super().__init__(shape=shape, encoding_format=encoding_format, **kwargs)

    def decode_example(self, example: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_jpeg(example, channels=3, dct_method="INTEGER_ACCURATE")
        image.set_shape(self.shape)
        return image


def make_features(image: tfds.features.Image) -> tfds.features.FeaturesDict:
    """Returns the features of a cell; `image` is the feature that stores its pixels."""
    reannotation = tfds.features.ClassLabel(names=list(REANNOTATIONS))
    return tfds.features.FeaturesDict(
        {
            "image": image,
            "label": tfds.features.ClassLabel(names=list(CODES)),
            "id": tfds.features.Text(doc="path within the download"),
            "reannotation_1": reannotation,
            "reannotation_2": reannotation,
        }
    )
