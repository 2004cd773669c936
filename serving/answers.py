"""Predict requests to an exported model, and its answers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.connection import ServingError
from serving.messages import PredictRequest, to_array, to_tensor

PREDICT = "/tensorflow.serving.PredictionService/Predict"

SIGNATURE = "encoded"
EXPLAIN_SIGNATURE = "explain"
INPUT = "images"
OUTPUTS = ("probabilities", "classes", "blast_score", "atypical_score")
SALIENCY = "saliency"  # of the signature `explain`
# Outputs that older exports lack. Without VALID and PROBLEM an export refuses a whole request for
# one image that it cannot decode; without FIELD the network looks at the whole image.
VALID, PROBLEM, REMARK, FIELD = "valid", "problem", "remark", "field"


@dataclass(frozen=True)
class Answer:
    """The model's answer for one image.

    Attributes:
      classes: All class codes, most probable first.
      probabilities: 0 to 1, in the order of `classes`.
      blast_score: Summed probability of the blast classes.
      atypical_score: Summed probability of the atypical classes.
      model_version: The version that answered.
      remark: A note about the model, such as that it was trained on synthetic cells; often empty.
      problem: Why the server could not read the image; empty if it could. With a problem the
        other attributes mean nothing.
      saliency: uint8 [s, s], s the model's input size; how much the answer depends on each place,
        255 for the most. None unless requested.
      saliency_field: Side in pixels of the square in the image's middle that the map covers
        (mirrored outwards where the image is smaller); 0 stands for the whole image.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    blast_score: float
    atypical_score: float
    model_version: int
    remark: str = ""
    problem: str = ""
    saliency: np.ndarray | None = field(default=None, compare=False, repr=False)
    saliency_field: int = field(default=0, compare=False, repr=False)


def make_request(
    model: str,
    signature: str,
    images: np.ndarray | Sequence[bytes],
    version: int | None = None,
    label: str | None = None,
) -> Any:
    """Makes a PredictRequest.

    Args:
      model: The model's name on the server.
      signature: `encoded` and `explain` take files, `serving_default` takes arrays.
      images: PNG or JPEG files, or a uint8 array [N, height, width, 3].
      version, label: Number or label of the model's version. Defaults to the newest.
    """
    request = PredictRequest()
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    if label is not None:
        request.model_spec.version_label = label
    request.inputs[INPUT].CopyFrom(to_tensor(images))
    return request


def unpack_answers(response: Any, count: int, saliency: bool) -> list[Answer]:
    """Unpacks a PredictResponse for `count` images.

    Raises:
      ServingError: the response lacks outputs, or their types or shapes are not those of an
        export of this project.
    """
    outputs = _read_outputs(response, count, saliency)
    if not _have_export_shapes(outputs, count):
        shapes = ", ".join(f"{name} {array.shape}" for name, array in sorted(outputs.items()))
        raise ServingError(
            f"The model's answer for {count} images has the shapes {shapes}: serve an export of"
            " leuko_tf.export."
        )
    # Classes come most probable first, probabilities in the model's order: sorted, they align.
    ranked = -np.sort(-outputs["probabilities"], axis=1)
    problems = [
        "" if valid else text.decode(errors="replace") or "The server cannot read the image."
        for valid, text in zip(outputs[VALID], outputs[PROBLEM], strict=True)
    ]
    return [
        Answer(
            classes=tuple(code.decode() for code in outputs["classes"][i]),
            probabilities=tuple(ranked[i].tolist()),
            blast_score=float(outputs["blast_score"][i]),
            atypical_score=float(outputs["atypical_score"][i]),
            model_version=response.model_spec.version.value,
            remark=outputs[REMARK][i].decode(errors="replace"),
            problem=problems[i],
            saliency=outputs[SALIENCY][i] if saliency else None,
            saliency_field=int(outputs[FIELD][i]),
        )
        for i in range(count)
    ]


def _read_outputs(response: Any, count: int, saliency: bool) -> dict[str, np.ndarray]:
    """Unpacks the outputs; those that older exports lack get neutral values."""
    required = (*OUTPUTS, SALIENCY) if saliency else OUTPUTS
    missing = [name for name in required if name not in response.outputs]
    if missing:
        raise ServingError(
            f"The model's answer lacks {', '.join(missing)}: serve an export of leuko_tf.export."
        )
    no_texts = np.full(count, b"", object)
    outputs = {VALID: np.ones(count, bool), PROBLEM: no_texts, REMARK: no_texts}
    outputs[FIELD] = np.zeros(count, np.int32)
    known = {*required, *outputs} & set(response.outputs)
    try:
        return outputs | {name: to_array(response.outputs[name]) for name in known}
    except ValueError as error:
        raise ServingError(f"The model's answer cannot be read. {error}") from None


def _have_export_shapes(outputs: dict[str, np.ndarray], count: int) -> bool:
    classes, probabilities = outputs["classes"], outputs["probabilities"]
    saliency = outputs.get(SALIENCY, np.empty((count, 0, 0), np.uint8))
    per_image = outputs.keys() - {"classes", "probabilities", SALIENCY}
    return (
        classes.dtype == object
        and classes.ndim == 2
        and probabilities.shape == classes.shape
        and len(classes) == count
        and all(outputs[name].shape == (count,) for name in per_image)
        and (saliency.dtype, saliency.ndim, len(saliency)) == (np.uint8, 3, count)
    )
