"""What image-sync and SageMaker's role may do: the rights that are needed, and what can be proved of them.

The policies, to paste into AWS's console, allow what is needed and no more. The proof changes nothing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from image_sync.config.sagemaker import SageMaker
from image_sync.errors import (
    EXIT_CONFIG,
    EXIT_DONE,
    EXIT_UNAUTHORISED,
    NotFound,
    PlatformError,
    Refused,
    Unauthorised,
)
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.outcomes import sanitize
from image_sync.platforms.sagemaker.request import image_of

_TRAINING = ("CreateTrainingJob", "DescribeTrainingJob", "StopTrainingJob", "DeleteTrainingJob")
_MODEL = ("CreateModel", "DeleteModel")
_CONFIG = ("CreateEndpointConfig", "DeleteEndpointConfig")
_ENDPOINT = ("CreateEndpoint", "UpdateEndpoint", "DescribeEndpoint", "DeleteEndpoint", "InvokeEndpoint")
_LISTS = ("ListTrainingJobs", "ListEndpointConfigs")
_LOGS = ("CreateLogGroup", "CreateLogStream", "DescribeLogStreams", "PutLogEvents")
_ECR = ("BatchCheckLayerAvailability", "BatchGetImage", "GetAuthorizationToken", "GetDownloadUrlForLayer")
_KEYS = ("CreateGrant", "Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey")
_EC2 = (
    "CreateNetworkInterface",
    "CreateNetworkInterfacePermission",
    "DeleteNetworkInterface",
    "DeleteNetworkInterfacePermission",
    "DescribeDhcpOptions",
    "DescribeNetworkInterfaces",
    "DescribeSecurityGroups",
    "DescribeSubnets",
    "DescribeVpcs",
)
_VERSION = "2012-10-17"
_SERVICE = "sagemaker.amazonaws.com"
_ALL_QUOTAS = {"ServiceCode": "sagemaker", "MaxResults": 100}


def policies(setup: SageMaker) -> dict[str, Any]:
    """``caller`` for who runs image-sync; ``role`` for ``sagemaker.role``, and ``trust`` for who may take it."""
    trust = {"Effect": "Allow", "Principal": {"Service": _SERVICE}, "Action": "sts:AssumeRole"}
    return {"caller": _policy(_caller_rights(setup)), "role": _policy(_role_rights(setup)), "trust": _policy([trust])}


def _caller_rights(setup: SageMaker) -> list[dict[str, Any]]:
    account = setup.role.split(":")[4]
    here = f"arn:{_partition(setup)}:sagemaker:{setup.region}:{account}"
    logs = f"arn:{_partition(setup)}:logs:{setup.region}:{account}:log-group:/aws/sagemaker/TrainingJobs"
    return [
        *_bucket_rights(setup, "GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"),
        _allow("Training", "sagemaker", (*_TRAINING, "AddTags"), f"{here}:training-job/*"),
        _allow(
            "Answering",
            "sagemaker",
            (*_MODEL, *_CONFIG, *_ENDPOINT, "AddTags"),
            f"{here}:model/*",
            f"{here}:endpoint-config/*",
            f"{here}:endpoint/*",
        ),
        _allow("Listing", "sagemaker", _LISTS, "*"),
        {
            **_allow("HandingOverTheRole", "iam", ("PassRole",), setup.role),
            "Condition": {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}},
        },
        _allow("ReadingTheLogs", "logs", ("FilterLogEvents",), f"{logs}:*"),
        _allow("CheckingTheRole", "iam", ("GetRole",), setup.role),
        _allow("CheckingTheQuotas", "servicequotas", ("ListServiceQuotas",), "*"),
        *_key_rights(setup),
    ]


def _role_rights(setup: SageMaker) -> list[dict[str, Any]]:
    statements = [
        *_bucket_rights(setup, "GetObject", "PutObject"),
        _allow("Logging", "logs", _LOGS, "*"),
        _allow("Measuring", "cloudwatch", ("PutMetricData",), "*"),
        _allow("Containers", "ecr", _ECR, "*"),
        *_key_rights(setup),
    ]
    if setup.subnets:
        statements.append(_allow("Network", "ec2", _EC2, "*"))
    return statements


def _bucket_rights(setup: SageMaker, *actions: str) -> list[dict[str, Any]]:
    bucket = f"arn:{_partition(setup)}:s3:::{setup.bucket}"
    return [
        _allow("Bucket", "s3", ("ListBucket",), bucket),
        _allow("Objects", "s3", actions, f"{bucket}/{setup.prefix}/*"),
    ]


def _key_rights(setup: SageMaker) -> list[dict[str, Any]]:
    """Keys are named by id, alias, or the ARN of either; a policy wants the ARN of the key itself. Where only an alias
    is known, it allows the keys that have this alias."""
    named = dict.fromkeys(key for key in (setup.kms_key, setup.volume_kms_key) if key)
    here = f"arn:{_partition(setup)}:kms:{setup.region}:{setup.role.split(':')[4]}"
    arns = [key if key.startswith("arn:") else f"{here}:{key if '/' in key else f'key/{key}'}" for key in named]
    keys = [arn for arn in arns if ":alias/" not in arn]
    aliases = [arn for arn in arns if ":alias/" in arn]
    statements = [_allow("Keys", "kms", _KEYS, *keys)] if keys else []
    if aliases:
        homes = dict.fromkeys(f"{arn.partition(':alias/')[0]}:key/*" for arn in aliases)
        names = [f"alias/{arn.partition(':alias/')[2]}" for arn in aliases]
        condition = {"ForAnyValue:StringEquals": {"kms:ResourceAliases": names}}
        statements.append({**_allow("KeysByAlias", "kms", _KEYS, *homes), "Condition": condition})
    return statements


def _allow(name: str, service: str, actions: tuple[str, ...], *resources: str) -> dict[str, Any]:
    return {
        "Sid": name,
        "Effect": "Allow",
        "Action": [f"{service}:{action}" for action in actions],
        "Resource": resources[0] if len(resources) == 1 else list(resources),
    }


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": _VERSION, "Statement": statements}


def _partition(setup: SageMaker) -> str:
    return setup.role.split(":")[1]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was looked at. ``code`` is the exit code it would cause; 0 when nothing is wrong with it."""

    subject: str
    text: str
    hint: str = ""
    code: int = EXIT_DONE
    warning: bool = False


def steps(setup: SageMaker, api: Api, *, detection: bool = False) -> Iterator[Step]:
    """Who we are, the bucket, SageMaker, the role, the quotas; stops where nothing further makes sense."""
    container = partial(_check_container, detection=detection)
    for check in (_check_machines, _check_identity, _check_bucket, _check_trainings, container):
        for step in check(setup, api):
            yield step
            if step.code:
                return
    yield from _check_role(setup, api)
    yield from _check_quotas(setup, api)


def _check_machines(setup: SageMaker, api: Api) -> Iterator[Step]:
    """Whether this boto3 knows the machines; a newer one may know more."""
    model = api.client("sagemaker").meta.service_model
    for key, names in (
        ("instance_types", setup.instance_types),
        ("endpoint_instance_type", (setup.endpoint_instance_type,)),
    ):
        shape = "TrainingInstanceType" if key == "instance_types" else "ProductionVariantInstanceType"
        known = list(model.shape_for(shape).enum) if shape in model.shape_names else []
        for name in names:
            if known and name not in known:
                near = difflib.get_close_matches(name, known, 3)
                hint = f"Did you mean {', '.join(near)}? A newer boto3 may know more machines" if near else ""
                yield Step("machine", f"sagemaker.{key} has {name}, which AWS does not have", hint, EXIT_CONFIG)


def _check_identity(setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        arn = str(api.call("sts", "get_caller_identity", "Asking AWS who we are")["Arn"])
    except Unauthorised as error:
        yield _failed("aws", error)
        return
    except PlatformError as error:  # a closed network may have no way to STS; the others will tell
        yield Step("aws", f"cannot tell who we are: {error.what}", error.hint, warning=True)
        return
    yield Step("aws", f"we are {sanitize(arn)}")
    ours, theirs = arn.split(":")[4:5], setup.role.split(":")[4:5]
    if ours != theirs:
        hint = f"Name a role of the account {sanitize(''.join(ours))}, or be somebody of {''.join(theirs)}"
        yield Step("aws", "sagemaker.role is of another account: SageMaker will not take it", hint, EXIT_CONFIG)


def _check_bucket(setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        region = api.bucket_region()
        if region and region != setup.region:
            hint = "SageMaker reads only buckets of its own region: correct one of the two"
            text = f"{setup.bucket} lies in {region}, but sagemaker.region is {setup.region}"
            yield Step("bucket", text, hint, EXIT_CONFIG)
            return
        api.some(f"{setup.prefix}/", 1)
    except NotFound as error:
        hint = f"Make it: aws s3 mb s3://{setup.bucket} --region {setup.region}"
        yield Step("bucket", f"there is no bucket {setup.bucket}", hint, error.exit_code)
    except PlatformError as error:
        yield _failed("bucket", error)
    else:
        yield Step("bucket", f"{setup.address} is there and may be listed, in {setup.region}")


def _check_trainings(_setup: SageMaker, api: Api) -> Iterator[Step]:
    try:
        next(api.training_jobs("image-sync"), None)
    except PlatformError as error:
        yield _failed("sagemaker", error)
    else:
        yield Step("sagemaker", "answers and lets us list training jobs")


def _check_container(setup: SageMaker, _api: Api, *, detection: bool) -> Iterator[Step]:
    try:
        image = setup.image_uri or image_of(setup.region, detection=detection)
    except Refused as error:
        yield Step("container", error.what, error.hint, EXIT_CONFIG)
    else:
        yield Step("container", sanitize(image))


def _check_role(setup: SageMaker, api: Api) -> Iterator[Step]:
    name = setup.role.rpartition("/")[2]
    try:
        trust = api.call("iam", "get_role", f"Looking at the role {name}", RoleName=name)["Role"]
    except NotFound:
        hint = "Make it with the policies that `image-sync check --policy` prints"
        yield Step("role", f"there is no role {name}", hint, EXIT_UNAUTHORISED)
    except PlatformError as error:
        yield Step("role", f"{name} cannot be looked at: {error.what}", "This alone does no harm.", warning=True)
    else:
        if _SERVICE in json.dumps(trust.get("AssumeRolePolicyDocument", {})):
            yield Step("role", f"{name} may be taken by SageMaker; what it may do shows at the first training")
        else:
            hint = "Add the trust policy that `image-sync check --policy` prints"
            yield Step("role", f"{name} may not be taken by SageMaker", hint, EXIT_UNAUTHORISED)


def _check_quotas(setup: SageMaker, api: Api) -> Iterator[Step]:
    kind = "spot training job" if setup.spot else "training job"
    wanted = {f"{name} for {kind} usage": setup.instance_count for name in setup.instance_types}
    wanted[f"{setup.endpoint_instance_type} for endpoint usage"] = setup.endpoint_instance_count
    try:
        quotas = api.entries("servicequotas", "list_service_quotas", "Reading the quotas", "Quotas", **_ALL_QUOTAS)
        values = {str(quota.get("QuotaName", "")): float(quota.get("Value", 0.0)) for quota in quotas}
    except PlatformError as error:
        hint = "A training that exceeds a quota is tried again later."
        yield Step("quota", f"cannot be told: {error.what}", hint, warning=True)
        return
    for name, need in wanted.items():
        value = values.get(name)
        if value is None:
            yield Step("quota", f"{name}: AWS tells none", warning=True)
        elif value < need:
            hint = "Ask for more at Service Quotas, Amazon SageMaker; until then nothing can run on it."
            yield Step("quota", f"{name}: {value:g}, but {need} needed", hint, warning=True)
        else:
            yield Step("quota", f"{name}: {value:g}")


def _failed(subject: str, error: PlatformError) -> Step:
    return Step(subject, error.what, error.hint, error.exit_code)
