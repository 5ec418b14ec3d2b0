"""The request for a training job, made from its snapshot alone: the same for whoever makes it, and whenever."""

from __future__ import annotations

from typing import Any

from image_sync.config.sagemaker import SageMaker
from image_sync.platforms.sagemaker.containers import image_of
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.keys import SIDES
from image_sync.platforms.sagemaker.plan import hyperparameters
from image_sync.platforms.sagemaker.snapshot import Snapshot

_MODEL = "application/x-sagemaker-model"


def request(setup: SageMaker, place: Place, snapshot: Snapshot, folder: str, job: str, machine: str) -> dict[str, Any]:
    """The body of ``CreateTrainingJob``.

    Args:
        folder: key under which the lists and the snapshot lie, ending in a slash.
        job: its name.
        machine: the instance type to train on.

    Raises:
        Refused: the pictures are too few for it, or there is no such algorithm in the region.
    """
    resources: dict[str, Any] = {
        "InstanceCount": setup.instance_count,
        "InstanceType": machine,
        "VolumeSizeInGB": setup.volume_gb,
    }
    if setup.volume_kms_key:
        resources["VolumeKmsKeyId"] = setup.volume_kms_key
    output = {"S3OutputPath": f"s3://{setup.bucket}/{place.layout.output}"}
    if setup.kms_key:
        output["KmsKeyId"] = setup.kms_key
    stopping = {"MaxRuntimeInSeconds": int(setup.max_runtime)}
    body: dict[str, Any] = {
        "TrainingJobName": job,
        "AlgorithmSpecification": {
            "TrainingImage": setup.image_uri or image_of(setup.region, detection=snapshot.detection),
            "TrainingInputMode": "File",
        },
        "RoleArn": setup.role,
        "HyperParameters": hyperparameters(snapshot, machine, setup.instance_count),
        "InputDataConfig": channels(setup.bucket, place, snapshot, folder),
        "OutputDataConfig": output,
        "ResourceConfig": resources,
        "StoppingCondition": stopping,
        "Tags": tags(setup, snapshot.dataset, snapshot.name),
        **vpc(setup),
    }
    if setup.spot:
        stopping["MaxWaitTimeInSeconds"] = setup.longest_wait
        body["EnableManagedSpotTraining"] = True
        body["CheckpointConfig"] = {"S3Uri": f"s3://{setup.bucket}/{place.layout.root}/checkpoints/{job}"}
    return body


def channels(bucket: str, place: Place, snapshot: Snapshot, folder: str) -> list[dict[str, Any]]:
    """The four inputs, and the model to continue from if there is one. Each prefix ends in a slash."""
    here = f"s3://{bucket}/{folder}"
    lists = "annotation" if snapshot.detection else "lst"
    found = []
    for side in SIDES:
        picked = side in snapshot.manifests
        uri = f"{here}{side}.manifest" if picked else f"s3://{bucket}/{place.layout.side(side)}"
        found.append(_channel(side, uri, snapshot.content_type, "ManifestFile" if picked else "S3Prefix"))
    found += [_channel(f"{side}_{lists}", f"{here}{side}_{lists}/", snapshot.content_type) for side in SIDES]
    if snapshot.base_uri:
        found.append(_channel("model", snapshot.base_uri, _MODEL))
    return found


def tags(setup: SageMaker, dataset: str, model: str) -> list[dict[str, str]]:
    """What says whose it is: for people, bills and policies."""
    own = {"image-sync:dataset": dataset, "image-sync:model": _plain(model)}
    return [{"Key": key, "Value": value} for key, value in {**setup.tags, **own}.items()]


def vpc(setup: SageMaker) -> dict[str, Any]:
    """The part of a request that names the network, if one is configured."""
    if not setup.subnets:
        return {}
    return {"VpcConfig": {"Subnets": list(setup.subnets), "SecurityGroupIds": list(setup.security_groups)}}


def _channel(name: str, uri: str, content_type: str, kind: str = "S3Prefix") -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "ContentType": content_type}


def _plain(text: str) -> str:
    return "".join(char if char.isalnum() or char in " _.:/=+@-" else "-" for char in text)[:256]
