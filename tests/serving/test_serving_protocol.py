"""Any server of an export, seen from outside through the real stubs: answers and refusals."""

import io

import grpc
import numpy as np
import pytest
import tensorflow as tf
from contract_export import NEWEST, OLDER, WEIGHTS
from PIL import Image
from tensorflow.core.example import example_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    inference_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

from leuko_tf.classes import CODES

TIMEOUT_S = 60
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
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def models(channel):
    return model_service_pb2_grpc.ModelServiceStub(channel)


@pytest.fixture(scope="module")
def version(models) -> int:
    """A version that the server has."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "leuko"
    return models.GetModelStatus(request, TIMEOUT_S).model_version_status[0].version


def _request(images=None, signature="", name="leuko") -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    if images is not None:
        request.inputs["images"].CopyFrom(tf.make_tensor_proto(images))
    return request


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _classification(*images, name="leuko", signature="classify"):
    request = classification_pb2.ClassificationRequest()
    request.model_spec.name = name
    request.model_spec.signature_name = signature
    for image in images:
        example = request.input.example_list.examples.add()
        example.features.feature["image/encoded"].bytes_list.value.append(image)
    return request


def _outputs(response) -> dict[str, np.ndarray]:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


def _refusal(method, request) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        method(request, TIMEOUT_S)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("signature", ["serving_default", "encoded"])
@pytest.mark.parametrize("count", [1, 5])
def test_outputs_have_the_agreed_names_types_and_shapes(prediction, pixels, signature, count):
    images = [_png(pixels)] * count if signature == "encoded" else np.stack([pixels] * count)
    response = prediction.Predict(_request(images, signature), TIMEOUT_S)
    assert response.model_spec.name == "leuko"
    assert response.model_spec.signature_name == signature
    outputs = _outputs(response)
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
    outputs = _outputs(prediction.Predict(_request([_png(pixels)] * count, "explain"), TIMEOUT_S))
    assert set(outputs) == ALL_OUTPUTS["explain"]
    assert outputs["saliency"].dtype == np.uint8
    assert outputs["saliency"].shape[0] == count
    assert outputs["saliency"].ndim == 3


def test_embeddings_are_vectors(prediction, pixels):
    outputs = _outputs(prediction.Predict(_request([_png(pixels)] * 2, "embed"), TIMEOUT_S))
    assert set(outputs) == ALL_OUTPUTS["embed"]
    assert outputs["embedding"].dtype == np.float32
    assert outputs["embedding"].shape[0] == 2
    np.testing.assert_allclose(outputs["embedding"][0], outputs["embedding"][1], atol=1e-5)


def test_classify_gives_labels_and_scores(prediction, pixels):
    response = prediction.Classify(_classification(*[_png(pixels)] * 2), TIMEOUT_S)
    assert response.model_spec.signature_name == "classify"
    outputs = _outputs(prediction.Predict(_request([_png(pixels)], "encoded"), TIMEOUT_S))
    assert len(response.result.classifications) == 2
    for classifications in response.result.classifications:
        labels = [c.label for c in classifications.classes]
        assert labels == [code.decode() for code in outputs["classes"][0]]
        scores = [c.score for c in classifications.classes]
        np.testing.assert_allclose(scores, np.sort(outputs["probabilities"][0])[::-1], atol=1e-5)


def test_a_context_counts_for_each_example(prediction, pixels):
    expected = prediction.Classify(_classification(_png(pixels)), TIMEOUT_S)
    request = _classification()
    with_context = request.input.example_list_with_context
    context = with_context.context.features.feature["image/encoded"]
    context.bytes_list.value.append(_png(pixels))
    with_context.examples.extend([example_pb2.Example()] * 2)
    response = prediction.Classify(request, TIMEOUT_S)
    for classifications in response.result.classifications:
        assert classifications == expected.result.classifications[0]


def test_predict_by_the_classify_signature(prediction, pixels):
    example = _classification(_png(pixels)).input.example_list.examples[0]
    request = _request(signature="classify")
    request.inputs["inputs"].CopyFrom(tf.make_tensor_proto([example.SerializeToString()]))
    assert set(_outputs(prediction.Predict(request, TIMEOUT_S))) == ALL_OUTPUTS["classify"]


def test_floats_come_one_by_one(prediction, pixels):
    response = prediction.Predict(_request(pixels[None]), TIMEOUT_S)
    assert len(response.outputs["probabilities"].float_val) == len(CODES)
    assert not response.outputs["probabilities"].tensor_content


def test_both_signatures_agree(prediction, pixels):
    arrays = _outputs(prediction.Predict(_request(pixels[None]), TIMEOUT_S))
    files = _outputs(prediction.Predict(_request([_png(pixels)], "encoded"), TIMEOUT_S))
    for name in OUTPUTS - {"classes", "remark"}:
        np.testing.assert_allclose(files[name], arrays[name], atol=1e-5)


def test_images_of_any_size_share_a_request(prediction):
    images = [_png(np.full(shape, 90, np.uint8)) for shape in ((1, 1, 3), (400, 400, 3), (33, 70))]
    outputs = _outputs(prediction.Predict(_request(images, "encoded"), TIMEOUT_S))
    assert len(outputs["classes"]) == 3


def test_a_request_may_exceed_grpcs_four_megabytes(prediction):
    images = np.zeros((1, 1300, 1300, 3), np.uint8)
    assert len(_outputs(prediction.Predict(_request(images), TIMEOUT_S))["classes"]) == 1


def test_answers_are_the_models(contract_address, prediction, pixels):
    outputs = _outputs(prediction.Predict(_request(pixels[None]), TIMEOUT_S))
    logits = pixels.mean(axis=(0, 1)) / 255 @ WEIGHTS
    expected = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(outputs["probabilities"][0], expected, atol=1e-5)


def test_empty_batch_gives_empty_answers(contract_address, prediction):
    empty = np.zeros((0, 8, 8, 3), np.uint8)
    outputs = _outputs(prediction.Predict(_request(empty), TIMEOUT_S))
    assert outputs["probabilities"].shape == outputs["classes"].shape == (0, len(CODES))


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
def test_empty_batch_of_files(contract_address, prediction, signature):
    outputs = _outputs(prediction.Predict(_request(np.zeros(0, object), signature), TIMEOUT_S))
    assert set(outputs) == ALL_OUTPUTS[signature]
    assert {len(output) for output in outputs.values()} == {0}


def test_output_filter_selects(prediction, pixels):
    request = _request(pixels[None])
    request.output_filter.append("blast_score")
    assert set(prediction.Predict(request, TIMEOUT_S).outputs) == {"blast_score"}


def test_newest_version_is_served(contract_address, prediction, pixels):
    response = prediction.Predict(_request(pixels[None]), TIMEOUT_S)
    assert response.model_spec.version.value == NEWEST


@pytest.mark.parametrize(("label", "version"), [("stable", OLDER), ("canary", NEWEST)])
def test_a_version_can_be_labelled(contract_address, prediction, models, pixels, label, version):
    request = _request(pixels[None])
    request.model_spec.version_label = label
    response = prediction.Predict(request, TIMEOUT_S)
    assert response.model_spec.version.value == version
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "leuko"
    request.model_spec.version_label = label
    (status,) = models.GetModelStatus(request, TIMEOUT_S).model_version_status
    assert status.version == version


def test_every_version_is_told(contract_address, models):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "leuko"
    statuses = models.GetModelStatus(request, TIMEOUT_S).model_version_status
    assert [status.version for status in statuses] == [NEWEST, OLDER]


def test_a_version_can_be_named(prediction, pixels, version):
    request = _request(pixels[None])
    request.model_spec.version.value = version
    response = prediction.Predict(request, TIMEOUT_S)
    assert response.model_spec.version.value == version


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


def test_status_is_available(models, version):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "leuko"
    request.model_spec.version.value = version
    (status,) = models.GetModelStatus(request, TIMEOUT_S).model_version_status
    assert status.version == version
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (status.status.error_code, status.status.error_message) == (0, "")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        (
            {"signature_name": "nope"},
            grpc.StatusCode.FAILED_PRECONDITION,
            'Serving signature key "nope" not found.',
        ),
        (
            {"name": "nope"},
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Latest(nope)",
        ),
        (
            {"version": {"value": 987654}},
            grpc.StatusCode.NOT_FOUND,
            "Servable not found for request: Specific(leuko, 987654)",
        ),
        ({"name": ""}, grpc.StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."),
        (
            {"version_label": "nope"},
            grpc.StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: nope",
        ),
    ],
    ids=["signature", "model", "version", "no name", "label"],
)
def test_a_model_that_is_not_there_is_refused(prediction, pixels, change, code, text):
    request = _request(pixels[None])
    spec = {"name": "leuko", **change}
    request.ClearField("model_spec")
    request.MergeFrom(predict_pb2.PredictRequest(model_spec=spec))
    assert _refusal(prediction.Predict, request) == (code, text)


def test_a_missing_model_spec_is_refused(prediction, models):
    for method, request in (
        (prediction.Predict, predict_pb2.PredictRequest()),
        (
            prediction.GetModelMetadata,
            get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"]),
        ),
        (models.GetModelStatus, get_model_status_pb2.GetModelStatusRequest()),
    ):
        refusal = _refusal(method, request)
        assert refusal == (grpc.StatusCode.INVALID_ARGUMENT, "Missing ModelSpec")


def _without_input(request):
    request.ClearField("inputs")


def _with_extra_input(request):
    request.inputs["more"].CopyFrom(request.inputs["images"])


def _with_other_input(request):
    _with_extra_input(request)
    del request.inputs["images"]


def _with_unfilled_tensor(request):
    request.inputs["images"].tensor_content = b"few"


def _with_floats(request):
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros((1, 8, 8, 3), np.float32)))


def _with_one_dimension(request):
    request.inputs["images"].CopyFrom(tf.make_tensor_proto(np.zeros(3, np.uint8)))


def _with_unknown_output(request):
    request.output_filter.append("nope")


def _with_output_twice(request):
    request.output_filter.extend(["classes", "classes"])


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (_without_input, "Missing but required: {images}."),
        (_with_extra_input, "Sent extra: {more}."),
        (_with_other_input, "Signature input alias: images"),
        (_with_unfilled_tensor, "tensor parsing error: images"),
        (_with_floats, "to be uint8 but float"),
        (_with_one_dimension, ""),  # the real server leaves the words to the graph
        (_with_unknown_output, "output tensor alias not found in signature: nope"),
        (_with_output_twice, "duplicate output tensor alias: classes"),
    ],
)
def test_a_request_that_does_not_fit_the_signature_is_refused(prediction, pixels, spoil, text):
    request = _request(pixels[None])
    spoil(request)
    code, details = _refusal(prediction.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert text in details


@pytest.mark.parametrize("signature", ["encoded", "explain", "embed"])
@pytest.mark.parametrize("bad", [b"not an image", b""])
def test_a_bad_image_does_not_spoil_the_others(prediction, pixels, signature, bad):
    images = [_png(pixels), bad, _png(pixels)]
    outputs = _outputs(prediction.Predict(_request(images, signature), TIMEOUT_S))
    assert outputs["valid"].tolist() == [True, False, True]
    assert [bool(problem) for problem in outputs["problem"]] == [False, True, False]


def _spoilt(request):
    request.input.example_list.examples.add().features.feature["other"].SetInParent()
    return request


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (_classification(), grpc.StatusCode.INVALID_ARGUMENT, "Input is empty."),
        (
            _classification(b"x", signature="nope"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "No signature was found with the name: nope",
        ),
        (
            _classification(b"x", signature="encoded"),
            grpc.StatusCode.INVALID_ARGUMENT,
            "Expected classification signature method_name to be tensorflow/serving/classify",
        ),
        (_classification(b"x", name="nope"), grpc.StatusCode.NOT_FOUND, "Latest(nope)"),
    ],
    ids=["empty", "signature", "method", "model"],
)
def test_a_classification_that_cannot_be_is_refused(prediction, request_, code, text):
    refusal = _refusal(prediction.Classify, request_)
    assert refusal[0] == code
    assert text in refusal[1]


def test_the_graphs_own_message_arrives(contract_address, prediction):
    code, details = _refusal(prediction.Classify, _spoilt(_classification(b"x")))
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details.startswith("Name: <unknown>, Feature: image/encoded")
    assert "{{node" not in details
    assert "/" not in details.replace("image/encoded", "")  # no path of the server's


def test_one_value_for_a_vast_tensor_is_refused(contract_address, prediction, pixels):
    request = _request(pixels[None])
    tensor = request.inputs["images"]
    tensor.ClearField("tensor_content")
    for dim in tensor.tensor_shape.dim:
        dim.size = 2**20
    tensor.int_val.append(1)
    code, _ = _refusal(prediction.Predict, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT


def test_metadata_requests_are_checked(prediction):
    request = get_model_metadata_pb2.GetModelMetadataRequest()
    request.model_spec.name = "leuko"
    code, details = _refusal(prediction.GetModelMetadata, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    assert details == "GetModelMetadataRequest must specify at least one metadata_field"
    request.metadata_field.append("nope")
    code, _ = _refusal(prediction.GetModelMetadata, request)
    assert code == grpc.StatusCode.INVALID_ARGUMENT
    request.metadata_field[:] = ["signature_def"]
    request.model_spec.name = "nope"
    refusal = _refusal(prediction.GetModelMetadata, request)
    assert refusal == (
        grpc.StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nope)",
    )


def test_status_of_what_is_not_there(models):
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "nope"
    refusal = _refusal(models.GetModelStatus, request)
    assert refusal == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find any versions of model nope",
    )
    request.model_spec.name = "leuko"
    request.model_spec.version.value = 987654
    refusal = _refusal(models.GetModelStatus, request)
    assert refusal == (
        grpc.StatusCode.NOT_FOUND,
        "Could not find version 987654 of model leuko",
    )


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("Regress", regression_pb2.RegressionRequest()),
        ("MultiInference", inference_pb2.MultiInferenceRequest()),
    ],
)
def test_methods_left_out_say_so(contract_address, prediction, method, request_):
    code, _ = _refusal(getattr(prediction, method), request_)
    assert code == grpc.StatusCode.UNIMPLEMENTED
