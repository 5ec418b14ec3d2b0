"""The policies: every call that is made is allowed, and no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from image_sync.config.sagemaker import SageMaker
from image_sync.platforms.sagemaker import api as api_module
from image_sync.platforms.sagemaker.access import policies

SETUP = SageMaker(region="eu-central-1", role="arn:aws:iam::123456789012:role/r", bucket="b-1")


def test_the_policy_allows_every_call_that_is_made() -> None:
    """Each operation that the code names is covered by an action; nothing is allowed on everything without need."""
    folder = Path(api_module.__file__).parent
    source = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    service = r'(?:"(?:s3|sagemaker|runtime|iam|servicequotas|logs)",\s*|self\._make\()'
    operations = set(re.findall(rf'{service}"([a-z_0-9]+)"', source))
    assert len(operations) > 25
    statements = policies(SETUP)["caller"]["Statement"]
    allowed = {action.partition(":")[2] for statement in statements for action in statement["Action"]}
    by_action = {
        "head_bucket": "ListBucket",
        "list_objects_v2": "ListBucket",
        "head_object": "GetObject",
        "copy_object": "GetObject",
        "delete_objects": "DeleteObject",
        "create_multipart_upload": "PutObject",
        "upload_part": "PutObject",
        "complete_multipart_upload": "PutObject",
    }
    for operation in operations:
        action = by_action.get(operation, "".join(word.capitalize() for word in operation.split("_")))
        assert action in allowed, operation
    everywhere = {statement["Sid"] for statement in statements if statement["Resource"] == "*"}
    assert everywhere == {"Listing", "CheckingTheQuotas"}


def test_policies_follow_the_settings() -> None:
    """Keys, network and partition stand in the policies when they are configured."""
    china = SageMaker(
        region="cn-north-1",
        role="arn:aws-cn:iam::123456789012:role/r",
        bucket="b-1",
        kms_key="k-1",
        subnets=("subnet-1",),
        security_groups=("sg-1",),
    )
    found = policies(china)

    assert "arn:aws-cn:kms:cn-north-1:123456789012:key/k-1" in str(found["caller"])
    assert "ec2:CreateNetworkInterface" in str(found["role"])
    assert found["trust"]["Statement"][0]["Principal"] == {"Service": "sagemaker.amazonaws.com"}


@pytest.mark.parametrize(
    ("key", "home"),
    [
        ("alias/pictures", "arn:aws:kms:eu-central-1:123456789012:key/*"),
        ("arn:aws:kms:eu-west-1:999999999999:alias/pictures", "arn:aws:kms:eu-west-1:999999999999:key/*"),
    ],
)
def test_an_alias_is_allowed_by_the_keys_that_have_it(key: str, home: str) -> None:
    """A policy on an alias allows nothing: AWS matches the key's own ARN, and its aliases by a condition."""
    setup = SageMaker(
        region="eu-central-1",
        role=SETUP.role,
        bucket="b-1",
        instance_types=("ml.p3.2xlarge",),
        kms_key=key,
        volume_kms_key="k-2",
    )
    keys = {one["Sid"]: one for one in policies(setup)["role"]["Statement"] if one["Sid"].startswith("Keys")}

    assert keys["KeysByAlias"]["Resource"] == home
    assert keys["KeysByAlias"]["Condition"] == {"ForAnyValue:StringEquals": {"kms:ResourceAliases": ["alias/pictures"]}}
    assert keys["Keys"]["Resource"] == "arn:aws:kms:eu-central-1:123456789012:key/k-2"
    assert "Condition" not in keys["Keys"]
