"""What AWS's answers prove, by botocore's own stub."""

from __future__ import annotations

import ast
import io
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from botocore.response import StreamingBody
from botocore.stub import ANY, Stubber

from image_sync.config.sagemaker import SageMaker
from image_sync.errors import Ambiguous, NotFound, Refused, Transient, Unauthorised
from image_sync.platforms.sagemaker import api as api_module
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Documents
from image_sync.platforms.sagemaker.outcomes import NoRoom, Taken
from support.sagemaker import BUCKET, REGION, ROLE, somebody


@pytest.fixture
def api() -> Iterator[Api]:
    """Our API on boto3's clients, none of which is called yet."""
    with somebody():
        made = Api(SageMaker(region=REGION, role=ROLE, bucket=BUCKET))
        yield made
        made.close()


BODY = {
    "TrainingJobName": "m-1",
    "AlgorithmSpecification": {"TrainingInputMode": "File"},
    "RoleArn": ROLE,
    "OutputDataConfig": {"S3OutputPath": "s3://b/p"},
    "ResourceConfig": {"InstanceType": "ml.p2.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1},
    "StoppingCondition": {"MaxRuntimeInSeconds": 60},
}


@pytest.mark.parametrize(
    ("code", "message", "status", "kind"),
    [
        ("ResourceInUse", "a training job with this name already exists", 400, Taken),
        ("ResourceLimitExceeded", "The account-level service limit is 0", 400, NoRoom),
        ("ThrottlingException", "Rate exceeded", 400, Transient),
        ("AccessDeniedException", "not authorized to perform: sagemaker:CreateTrainingJob", 400, Unauthorised),
        ("ExpiredTokenException", "The security token included in the request is expired", 403, Unauthorised),
        ("ValidationException", "No S3 objects found under S3 URL", 400, Refused),
        ("ValidationException", "1 validation error detected", 400, Refused),
        ("InternalFailure", "", 500, Ambiguous),
        ("ServiceUnavailable", "", 503, Transient),
    ],
)
def test_what_the_answer_to_a_start_proves(
    api: Api, code: str, message: str, status: int, kind: type[Exception]
) -> None:
    """Each answer becomes the error that says whether the job may have been made."""
    with Stubber(api.client("sagemaker")) as stub:
        stub.add_client_error("create_training_job", code, message, status, expected_params=BODY)
        with pytest.raises(kind) as caught:
            api.create_training_job(BODY)
        stub.assert_no_pending_responses()

    assert type(caught.value) is kind
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["Requested resource not found.", 'Could not find endpoint "x".'])
def test_what_is_not_there_is_not_found(api: Api, text: str) -> None:
    """SageMaker says it as a validation error, whatever its model promises."""
    with Stubber(api.client("sagemaker")) as stub:
        stub.add_client_error("describe_training_job", "ValidationException", text, 400)
        with pytest.raises(NotFound):
            api.training_job("x")
        stub.add_client_error("describe_endpoint", "ResourceNotFound", "gone", 400)
        with pytest.raises(NotFound):
            api.endpoint("x")


def test_a_container_that_cannot_read_a_picture_refuses_it(api: Api) -> None:
    """The container's own status decides: 400 is the picture's fault, 500 is passing."""
    with Stubber(api.client("runtime")) as stub:
        for own, kind in ((400, Refused), (500, Transient)):
            fields = {"OriginalStatusCode": own, "OriginalMessage": "unable to decode"}
            stub.add_client_error("invoke_endpoint", "ModelError", "Received client error", 424, modeled_fields=fields)
            with pytest.raises(kind):
                api.invoke("e", b"x", "application/x-image")


def test_answers_of_both_shapes_are_read(api: Api) -> None:
    """The bytes go out as they are, and JSON comes back."""
    picture_bytes = b"\xff\xd8\x00\xff"
    with Stubber(api.client("runtime")) as stub:
        for answer in (b"[0.25, 0.75]", b'{"prediction": [0.25, 0.75]}'):
            stub.add_response(
                "invoke_endpoint",
                {"Body": StreamingBody(io.BytesIO(answer), len(answer)), "ContentType": "application/json"},
                {
                    "EndpointName": "e",
                    "Body": picture_bytes,
                    "ContentType": "application/x-image",
                    "Accept": "application/json",
                },
            )
        assert api.invoke("e", picture_bytes, "application/x-image") == [0.25, 0.75]
        assert api.invoke("e", picture_bytes, "application/x-image") == {"prediction": [0.25, 0.75]}


def test_objects_are_stored_unless_they_are_there(api: Api) -> None:
    """A condition goes along with each picture; a document is changed only if it is still the one that was read."""
    with Stubber(api.client("s3")) as stub:
        wanted = {"Bucket": BUCKET, "Key": "k", "Body": b"x", "IfNoneMatch": "*"}
        stub.add_client_error("put_object", "PreconditionFailed", "", 412, expected_params=wanted)
        with pytest.raises(Taken):
            api.put("k", b"x", unless_there=True)
        stub.add_client_error("put_object", "ConditionalRequestConflict", "", 409)
        with pytest.raises(Transient):
            api.put("k", b"x", unless_there=True)
        stub.add_response("put_object", {"ETag": "2"}, {"Bucket": BUCKET, "Key": "k", "Body": ANY, "IfMatch": "1"})
        assert api.put("k", b"x", match="1") == "2"


def test_a_document_that_is_changed_by_two_keeps_both_changes(api: Api) -> None:
    """The second machine reads again what the first one wrote meanwhile."""
    documents = Documents(api, threading.Event())
    documents._stop.set()  # no pause between two tries
    bodies = [b'{"format": 1, "seen": ["a"]}', b'{"format": 1, "seen": ["a", "b"]}']
    with Stubber(api.client("s3")) as stub:
        for number, content in enumerate(bodies):
            answer = {"Body": StreamingBody(io.BytesIO(content), len(content)), "ETag": f"{number}"}
            stub.add_response("get_object", answer, {"Bucket": BUCKET, "Key": "k"})
            if number == 0:
                stub.add_client_error("put_object", "PreconditionFailed", "", 412)
            else:
                stub.add_response(
                    "put_object",
                    {"ETag": "2"},
                    {"Bucket": BUCKET, "Key": "k", "Body": ANY, "IfMatch": "1", "ContentType": ANY},
                )
        changed = documents.change("k", lambda content: {"seen": [*content["seen"], "c"]})

    assert changed == {"seen": ["a", "b", "c"]}


def test_boto3_is_imported_late() -> None:
    """Only when the first client is made; that it has one home is an import contract."""
    tree = ast.parse(Path(api_module.__file__).read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert not any("boto" in ast.dump(node) for node in at_once)
