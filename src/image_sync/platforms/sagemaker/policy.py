"""The rights that image-sync and SageMaker's role need, as policies to paste into AWS's console; no more than that."""

from __future__ import annotations

from typing import Any

from image_sync.config.sagemaker import SageMaker

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


def policies(setup: SageMaker) -> dict[str, Any]:
    """``caller`` for who runs image-sync; ``role`` for ``sagemaker.role``, and ``trust`` for who may take it."""
    return {"caller": _policy(_caller(setup)), "role": _policy(_role(setup)), "trust": _policy([_trust()])}


def _caller(setup: SageMaker) -> list[dict[str, Any]]:
    account = setup.role.split(":")[4]
    here = f"arn:{_partition(setup)}:sagemaker:{setup.region}:{account}"
    logs = f"arn:{_partition(setup)}:logs:{setup.region}:{account}:log-group:/aws/sagemaker/TrainingJobs"
    return [
        *_bucket(setup, "GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"),
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
        *_keys(setup),
    ]


def _role(setup: SageMaker) -> list[dict[str, Any]]:
    statements = [
        *_bucket(setup, "GetObject", "PutObject"),
        _allow("Logging", "logs", _LOGS, "*"),
        _allow("Measuring", "cloudwatch", ("PutMetricData",), "*"),
        _allow("Containers", "ecr", _ECR, "*"),
        *_keys(setup),
    ]
    if setup.subnets:
        statements.append(_allow("Network", "ec2", _EC2, "*"))
    return statements


def _trust() -> dict[str, Any]:
    return {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}


def _bucket(setup: SageMaker, *actions: str) -> list[dict[str, Any]]:
    bucket = f"arn:{_partition(setup)}:s3:::{setup.bucket}"
    return [
        _allow("Bucket", "s3", ("ListBucket",), bucket),
        _allow("Objects", "s3", actions, f"{bucket}/{setup.prefix}/*"),
    ]


def _keys(setup: SageMaker) -> list[dict[str, Any]]:
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
