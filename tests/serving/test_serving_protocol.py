"""Answers and refusals of any server of an export, over gRPC."""

import grpc
import numpy as np
import pytest
import tensorflow as tf
from calls import TIMEOUT_S, ask_statuses, check_refusal, encode_png, make_request, to_arrays
from contract_export import NEWEST, OLDER, WEIGHTS
from tensorflow.core.example import example_pb2
from tensorflow.core.framework import tensor_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    predict_pb2,
    regression_pb2,
)

from leuko_tf.classes import CODES

INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
OUTPUTS = {"probabilities", "classes", "blast_score", "atypical_score", "remark"}
VALIDITY = {"valid", "problem"}
ALL_OUTPUTS = {
    "serving_default": OUTPUTS,
    "encoded": OUTPUTS | VALIDITY,
    "explain": OUTPUTS | VALIDITY | {"saliency", "field"},
    "embed": VALIDITY | {"embedding"},
    "classify": {"classes", "scores"},
}


@pytest.fixture(scope="module")
def version(models) -> int:
    """A version that the server has."""
    return ask_statuses(models)[0].version


def _ask(prediction, *arguments, **options) -> dict[str, np.ndarray]:
    return to_arrays(prediction.Predict(make_request(*arguments, **options), TIMEOUT_S))


def _make_classification(*images, name="leuko", signature="classify"):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for image in images:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(image)
    return request


@pytest.mark.parametrize("signature", ["serving_default", "encoded"])
@pytest.mark.parametrize("count", [1, 5])
def test_outputs_have_the_agreed_names_types_and_shapes(prediction, pixels, signature, count):
    images = [encode_png(pixels)] * count if signature == "encoded" else np.stack([pixels] * count)
    response = prediction.Predict(make_request(images, signature), TIMEOUT_S)
    assert response.model_spec.name == "leuko"
    assert response.model_spec.signature_name == signature
    outputs = to_arrays(response)
    assert set(outputs) == ALL_OUTPUTS[signature]
    assert outputs["probabilities"].shape == outputs["classes"].shape == (count, len(CODES))
    assert outputs["blast_score"].shape == outputs["atypical_score"].shape == (count,)
    for name in OUTPUTS - {"classes", "remark"}:
        assert outputs[name].dtype == np.float32
    np.testing.assert_allclose(outputs["probabilities"].sum(axis=1), 1, atol=1e-4)
    for codes, probabilities in zip(outputs["classes"], outputs["probabilities"], strict=True):
        ranked = [CODES[i] for i in np.argsort(-probabilities, kind="stable")]
        assert [code.decode() for code in codes] == ranked


@pytest.mark.parametrize("count", [1, 3])
def test_saliency_maps_are_pictures(prediction, pixels, count):
    outputs = _ask(prediction, [encode_png(pixels)] * count, "explain")
    assert set(outputs) == ALL_OUTPUTS["explain"]
    assert outputs["saliency"].dtype == np.uint8
    assert outputs["saliency"].shape[0] == count
    assert outputs["saliency"].ndim == 3


def test_embeddings_are_vectors(prediction, pixels):
    outputs = _ask(prediction, [encode_png(pixels)] * 2, "embed")
    assert set(outputs) == ALL_OUTPUTS["embed"]
    assert outputs["embedding"].dtype == np.float32
    assert outputs["embedding"].shape[0] == 2
    np.testing.assert_allclose(outputs["embedding"][0], outputs["embedding"][1], atol=1e-5)


def test_classify_gives_labels_and_scores(prediction, pixels):
    response = prediction.Classify(_make_classification(*[encode_png(pixels)] * 2), TIMEOUT_S)
    assert response.model_spec.signature_name == "classify"
    outputs = _ask(prediction, [encode_png(pixels)], "encoded")
    assert len(response.result.classifications) == 2
    for classifications in response.result.classifications:
        labels = [c.label for c in classifications.classes]
        assert labels == [code.decode() for code in outputs["classes"][0]]
        scores = [c.score for c in classifications.classes]
        np.testing.assert_allclose(scores, np.sort(outputs["probabilities"][0])[::-1], atol=1e-5)


def test_a_context_counts_for_each_example(prediction, pixels):
    expected = prediction.Classify(_make_classification(encode_png(pixels)), TIMEOUT_S)
    request = _make_classification()
    with_context = request.input.example_list_with_context
    context = with_context.context.features.feature["image/encoded"]
    context.bytes_list.value.append(encode_png(pixels))
    with_context.examples.extend([example_pb2.Example()] * 2)
    response = prediction.Classify(request, TIMEOUT_S)
    for classifications in response.result.classifications:
        assert classifications == expected.result.classifications[0]


def test_predict_by_the_classify_signature(prediction, pixels):
    example = _make_classification(encode_png(pixels)).input.example_list.examples[0]
    request = make_request(signature="classify")
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([example.SerializeToString()]))
    assert set(to_arrays(prediction.Predict(request, TIMEOUT_S))) == ALL_OUTPUTS["classify"]


def test_floats_come_one_by_one(prediction, pixels):
    response = prediction.Predict(make_request(pixels[None]), TIMEOUT_S)
    assert len(response.outputs["probabilities"].float_val) == len(CODES)
    assert not response.outputs["probabilities"].tensor_content


def test_both_signatures_agree(prediction, pixels):
    arrays = _ask(prediction, pixels[None])
    files = _ask(prediction, [encode_png(pixels)], "encoded")
    for name in OUTPUTS - {"classes", "remark"}:
        np.testing.assert_allclose(files[name], arrays[name], atol=1e-5)


def test_images_of_any_size_share_a_request(prediction):
    shapes = ((1, 1, 3), (400, 400, 3), (33, 70))
    images = [encode_png(np.full(shape, 90, np.uint8)) for shape in shapes]
    assert len(_ask(prediction, images, "encoded")["classes"]) == 3


def test_a_request_may_exceed_grpcs_four_megabytes(prediction):
    images = np.zeros((1, 1300, 1300, 3), np.uint8)
    assert len(_ask(prediction, images)["classes"]) == 1


def test_answers_are_the_models(contract_address, prediction, pixels):
    outputs = _ask(prediction, pixels[None])
    logits = pixels.mean(axis=(0, 1)) / 255 @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(outputs["probabilities"][0], expected, atol=1e-5)


def test_empty_batch_gives_empty_answers(contract_address, prediction):
    empty = np.zeros((0, 8, 8, 3), np.uint8)
    outputs = _ask(prediction, empty)
    assert outputs["probabilities"].shape == outputs["classes"].shape == (0, len(CODES))


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
def test_empty_batch_of_files(contract_address, prediction, signature):
    outputs = _ask(prediction, np.zeros(0, object), signature)
    assert set(outputs) == ALL_OUTPUTS[signature]
    assert {len(output) for output in outputs.values()} == {0}


def test_output_filter_selects(prediction, pixels):
    request = make_request(pixels[None])
    request.output_filter.append("blast_score")
    assert set(prediction.Predict(request, TIMEOUT_S).outputs) == {"blast_score"}


@pytest.mark.parametrize(
    ("spec", "version"), [({}, NEWEST), ({"label": "stable"}, OLDER), ({"label": "canary"}, NEWEST)]
)
def test_the_newest_version_answers_or_the_labelled_one(
    contract_address, prediction, pixels, spec, version
):
    response = prediction.Predict(make_request(pixels[None], **spec), TIMEOUT_S)
    assert response.model_spec.version.value == version


def test_status_lists_every_version_or_the_labelled_one(contract_address, models):
    assert [status.version for status in ask_statuses(models)] == [NEWEST, OLDER]
    assert [status.version for status in ask_statuses(models, label="stable")] == [OLDER]
    assert [status.version for status in ask_statuses(models, label="canary")] == [NEWEST]


def test_a_version_can_be_named(prediction, models, pixels, version):
    response = prediction.Predict(make_request(pixels[None], version=version), TIMEOUT_S)
    assert response.model_spec.version.value == version
    (status,) = ask_statuses(models, version=version)
    assert status.version == version
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.status.error_code, status.status.error_message) == (0, "")


def test_metadata_describes_the_signatures(prediction, version):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "leuko"
    response = prediction.GetModelMetadata(request, TIMEOUT_S)
    assert (response.model_spec.name, response.model_spec.version.value) == ("leuko", version)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert set(signatures.signature_def) == set(ALL_OUTPUTS)
    for key, outputs in ALL_OUTPUTS.items():
        signature = signatures.signature_def[key]
        method = "classify" if key == "classify" else "predict"
        assert signature.method_name == f"tensorflow/serving/{method}"
        ((name, info),) = signature.inputs.items()
        assert name == ("inputs" if key == "classify" else "images")
        pictures = key == "serving_default"
        assert info.dtype == (tf.uint8 if pictures else tf.string)
        assert [d.size for d in info.tensor_shape.dim] == ([-1, -1, -1, 3] if pictures else [-1])
        assert set(signature.outputs) == outputs


@pytest.mark.parametrize(
    ("spec", "code", "word"),
    [
        ({"signature": "nope"}, grpc.StatusCode.FAILED_PRECONDITION, '"nope"'),
        ({"name": "nope"}, NOT_FOUND, "nope"),
        ({"version": 987654}, NOT_FOUND, "987654"),
        ({"name": ""}, INVALID_ARGUMENT, "name"),
        ({"label": "nope"}, INVALID_ARGUMENT, "version label: nope"),
    ],
    ids=["signature", "model", "version", "no name", "label"],
)
def test_a_model_that_is_not_there_is_refused(prediction, pixels, spec, code, word):
    check_refusal(prediction.Predict, make_request(pixels[None], **spec), code, word)


@pytest.mark.parametrize(("spec", "word"), [({"name": "nope"}, "nope"), ({"version": 9}, "9")])
def test_a_model_that_is_not_there_has_no_status(models, spec, word):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.CopyFrom(make_request(**spec).model_spec)
    check_refusal(models.GetModelStatus, request, NOT_FOUND, word)


def test_a_missing_model_spec_is_refused(prediction, models):
    metadata = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    for method, request in (
        (prediction.Predict, predict_pb2.PredictRequest()),
        (prediction.GetModelMetadata, metadata),
        (models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()),
    ):
        check_refusal(method, request, INVALID_ARGUMENT)


IMAGES = np.zeros((1, 8, 8, 3), np.uint8)
FLOATS = tf.make_tensor_proto(IMAGES.astype(np.float32))
ROW = tf.make_tensor_proto(np.zeros(3, np.uint8))
FEW_BYTES = tensor_pb2.TensorProto(tensor_content=b"few")


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda r: r.ClearField("inputs"), "images"),
        (lambda r: r.inputs["more"].CopyFrom(r.inputs["images"]), "more"),
        (lambda r: r.CopyFrom(make_request(IMAGES, input="more")), "images"),
        (lambda r: r.inputs["images"].MergeFrom(FEW_BYTES), "images"),
        (lambda r: r.inputs["images"].CopyFrom(FLOATS), "uint8"),
        # TensorFlow Serving leaves the message to the graph.
        (lambda r: r.inputs["images"].CopyFrom(ROW), ""),
        (lambda r: r.output_filter.append("nope"), "nope"),
        (lambda r: r.output_filter.extend(["classes", "classes"]), "classes"),
    ],
    ids=["none", "extra", "other", "unfilled", "floats", "row", "unknown output", "output twice"],
)
def test_a_request_that_does_not_fit_the_signature_is_refused(prediction, spoil, word):
    request = make_request(IMAGES)
    spoil(request)
    check_refusal(prediction.Predict, request, INVALID_ARGUMENT, word)


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
@pytest.mark.parametrize("bad", [b"not an image", b""])
def test_a_bad_image_does_not_spoil_the_others(prediction, pixels, signature, bad):
    images = [encode_png(pixels), bad, encode_png(pixels)]
    outputs = _ask(prediction, images, signature)
    assert outputs["valid"].tolist() == [True, False, True]
    assert [bool(problem) for problem in outputs["problem"]] == [False, True, False]


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (_make_classification(), INVALID_ARGUMENT, ""),
        (_make_classification(b"x", signature="nope"), INVALID_ARGUMENT, "nope"),
        (_make_classification(b"x", signature="encoded"), INVALID_ARGUMENT, "classif"),
        (_make_classification(b"x", name="nope"), NOT_FOUND, "nope"),
    ],
    ids=["empty", "signature", "method", "model"],
)
def test_a_classification_that_cannot_be_is_refused(prediction, request_, code, word):
    check_refusal(prediction.Classify, request_, code, word)


def test_the_graphs_own_message_arrives(contract_address, prediction):
    request = _make_classification(b"x")
    request.input.example_list.examples.add().features.feature["other"].SetInParent()
    with pytest.raises(grpc.RpcError) as caught:
        prediction.Classify(request, TIMEOUT_S)
    details = caught.value.details()
    assert caught.value.code() == INVALID_ARGUMENT
    assert details.startswith("Name: <unknown>, Feature: image/encoded")
    assert "{{node" not in details
    assert "/" not in details.replace("image/encoded", "")  # no path of the server's


def test_one_value_for_a_vast_tensor_is_refused(contract_address, prediction, pixels):
    request = make_request(pixels[None])
    tensor = request.inputs["images"]
    tensor.ClearField("tensor_content")
    for dim in tensor.tensor_shape.dim:
        dim.size = 2**20
    tensor.int_val.append(1)
    check_refusal(prediction.Predict, request, INVALID_ARGUMENT)


@pytest.mark.parametrize(
    ("name", "fields", "code", "word"),
    [
        ("leuko", [], INVALID_ARGUMENT, "metadata_field"),
        ("leuko", ["nope"], INVALID_ARGUMENT, ""),
        ("nope", ["signature_def"], NOT_FOUND, "nope"),
    ],
)
def test_metadata_requests_are_checked(prediction, name, fields, code, word):
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    check_refusal(prediction.GetModelMetadata, request, code, word)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Regress", regression_pb2.RegressionRequest()),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
    ],
)
def test_methods_left_out_say_so(contract_address, prediction, method, request_):
    check_refusal(getattr(prediction, method), request_, grpc.StatusCode.UNIMPLEMENTED)
