"""The request for a training job, made from its snapshot alone: the same for whoever makes it, and whenever."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from image_sync.config import hyperparameters as checked
from image_sync.config.model import is_detection
from image_sync.config.sagemaker import SageMaker, gpus_of
from image_sync.errors import Refused
from image_sync.platforms.base import TrainingPlan
from image_sync.platforms.sagemaker.datasets import Place
from image_sync.platforms.sagemaker.keys import SIDES
from image_sync.platforms.sagemaker.outcomes import sanitize

FILE = "snapshot.json"
_MODEL = "application/x-sagemaker-model"
_CLASSIFICATION = {
    "num_layers": "50",
    "image_shape": "3,224,224",
    "resize": "256",
    "epochs": "30",
    "learning_rate": "0.01",
}
"""AWS's own learning rate, 0.1, is for training from nothing."""
_DETECTION = {"base_network": "resnet-50", "image_shape": "300", "epochs": "30", "learning_rate": "0.001"}
_BATCH = 32
_SMALL = 128
"""Pixels: so small a picture need not be made larger than its shape first."""
_FIGURES, _HEAD = 5, 2
"""What each object adds to the width of a label, after a head."""
_USUAL_WIDTH, _SLACK, _STEP = 350, 1.15, 10
_ACCOUNTS = {
    "af-south-1": "455444449433",
    "ap-east-1": "286214385809",
    "ap-northeast-1": "501404015308",
    "ap-northeast-2": "306986355934",
    "ap-northeast-3": "867004704886",
    "ap-south-1": "991648021394",
    "ap-south-2": "628508329040",
    "ap-southeast-1": "475088953585",
    "ap-southeast-2": "544295431143",
    "ap-southeast-3": "951798379941",
    "ap-southeast-4": "106583098589",
    "ca-central-1": "469771592824",
    "ca-west-1": "190319476487",
    "cn-north-1": "390948362332",
    "cn-northwest-1": "387376663083",
    "eu-central-1": "813361260812",
    "eu-central-2": "680994064768",
    "eu-north-1": "669576153137",
    "eu-south-1": "257386234256",
    "eu-south-2": "104374241257",
    "eu-west-1": "685385470294",
    "eu-west-2": "644912444149",
    "eu-west-3": "749696950732",
    "il-central-1": "898809789911",
    "me-central-1": "272398656194",
    "me-south-1": "249704162688",
    "sa-east-1": "855470959533",
    "us-east-1": "811284229777",
    "us-east-2": "825641698319",
    "us-gov-east-1": "237065988967",
    "us-gov-west-1": "226302683700",
    "us-iso-east-1": "490574956308",
    "us-isob-east-1": "765400339828",
    "us-isof-east-1": "108575199400",
    "us-isof-south-1": "124985052026",
    "us-west-1": "632365934929",
    "us-west-2": "433757028032",
}
"""Region -> the account whose registry holds both algorithms."""
_SUFFIXES = {
    "cn-": "amazonaws.com.cn",
    "us-iso-": "c2s.ic.gov",
    "us-isob-": "sc2s.sgov.gov",
    "us-isof-": "csp.hci.ic.gov",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the request for the job, and later the reading of its model's answers, depends on."""

    name: str
    """Of the model to be."""
    dataset: str
    """Id of the dataset."""
    detection: bool
    classes: tuple[str, ...]
    """Categories or labels; the place in the list is the number."""
    samples: int
    """Pictures that are trained on."""
    validating: int
    """Pictures that are held out."""
    objects: int = 0
    """Most boxes in one picture."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Hyper-parameters from the configuration, under SageMaker's names."""
    max_iter: int | None = None
    base: str = ""
    """Id of the model that it continues from."""
    base_uri: str = ""
    """Where that lies."""
    cold: str = ""
    """Why it does not continue from a model although it was to; empty when there is nothing to explain."""
    manifests: tuple[str, ...] = ()
    """Sides whose pictures are picked by a manifest, because others lie beside them."""
    content_type: str = "application/x-image"

    def encoded(self) -> dict[str, Any]:
        """As a document."""
        return asdict(self)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Snapshot:
        """From a document. Raises Refused when it is none."""
        known = {name: content[name] for name in cls.__dataclass_fields__ if name in content}
        try:
            return cls(**{**known, "classes": tuple(known["classes"]), "manifests": tuple(known.get("manifests", ()))})
        except (KeyError, TypeError) as error:
            raise Refused(f"A snapshot of a training is not what image-sync wrote: {error}") from error


def blank_snapshot(place: Place, plan: TrainingPlan) -> Snapshot:
    """Everything that does not depend on the pictures. Raises Refused for settings that SageMaker does not know."""
    detection = plan.detection or is_detection(plan.nn_arch)
    nn_arch = plan.nn_arch or None
    if nn_arch and nn_arch.lower() not in checked.NETWORKS:
        hint = f"model.nn_arch is one of {', '.join(checked.NETWORKS)}"
        raise Refused(f"SageMaker has no network {sanitize(plan.nn_arch)}", hint=hint)
    reading = checked.read(plan.strategy, detection=detection, nn_arch=nn_arch)
    if reading.mistakes:
        told = "; ".join(f"{key} {text}" for key, text in reading.mistakes)
        raise Refused(f"model.strategy cannot be used: {told}")
    return Snapshot(
        name=plan.name,
        dataset=place.ref.id,
        detection=detection,
        classes=(),
        samples=0,
        validating=0,
        values=reading.values,
        max_iter=reading.max_iter,
        base=plan.base,
    )


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
    plain = "".join(char if char.isalnum() or char in " _.:/=+@-" else "-" for char in model)[:256]
    own = {"image-sync:dataset": dataset, "image-sync:model": plain}
    return [{"Key": key, "Value": value} for key, value in {**setup.tags, **own}.items()]


def vpc(setup: SageMaker) -> dict[str, Any]:
    """The part of a request that names the network, if one is configured."""
    if not setup.subnets:
        return {}
    return {"VpcConfig": {"Subnets": list(setup.subnets), "SecurityGroupIds": list(setup.security_groups)}}


def _channel(name: str, uri: str, content_type: str, kind: str = "S3Prefix") -> dict[str, Any]:
    source = {"S3DataType": kind, "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}
    return {"ChannelName": name, "DataSource": {"S3DataSource": source}, "ContentType": content_type}


def network_of(snapshot: Snapshot) -> dict[str, str]:
    """What must be the same in a model that a training continues from."""
    defaults = _DETECTION if snapshot.detection else _CLASSIFICATION
    names = ("base_network", "image_shape") if snapshot.detection else ("num_layers", "image_shape")
    return {name: snapshot.values.get(name, defaults[name]) for name in names}


def hyperparameters(snapshot: Snapshot, instance_type: str, instance_count: int) -> dict[str, str]:
    """Everything that is sent, all as texts.

    Raises:
        Refused: there are too few pictures for these machines, or a figure contradicts the pictures.
    """
    values = dict(snapshot.values)
    batch = _batch(snapshot, gpus_of(instance_type))
    if snapshot.max_iter is not None:
        values.setdefault("epochs", str(checked.epochs_of(snapshot.max_iter, batch * instance_count, snapshot.samples)))
    if snapshot.base_uri:
        values.pop("use_pretrained_model", None)  # it would be ignored beside a model of ours
    else:
        values.setdefault("use_pretrained_model", "1")
    if snapshot.detection:
        values["label_width"] = str(max(int(values.get("label_width", 0)), width_of(snapshot.objects)))
    elif "resize" not in values and "image_shape" in values:
        longest = max(int(side) for side in values["image_shape"].split(",")[1:])
        values["resize"] = str(longest if longest <= _SMALL else max(longest, int(_CLASSIFICATION["resize"])))
    if int(values.get("top_k", 0)) > len(snapshot.classes):
        raise Refused(
            f"top_k is {values['top_k']}, but the training has only {len(snapshot.classes)} classes",
            hint="Lower it in model.strategy, or remove it",
        )
    if instance_count == 1:
        values.pop("kv_store", None)
    return {
        **(_DETECTION if snapshot.detection else _CLASSIFICATION),
        **values,
        "mini_batch_size": str(batch),
        "num_classes": str(len(snapshot.classes)),
        "num_training_samples": str(snapshot.samples),
    }


def _batch(snapshot: Snapshot, gpus: int) -> int:
    """At most what is configured, and no more than there are pictures on either side; each GPU gets the same share."""
    most = min(int(snapshot.values.get("mini_batch_size", _BATCH)), snapshot.samples, snapshot.validating)
    batch = most - most % gpus
    if batch < 1:
        raise Refused(
            f"{snapshot.samples} pictures to train on and {snapshot.validating} to validate with are too few for a "
            f"machine with {gpus} GPUs",
            hint="Add pictures, or name a smaller machine in sagemaker.instance_types",
        )
    return batch


def width_of(objects: int) -> int:
    """The ``label_width`` for so many objects in one picture: too small a one ends the training, and AWS advises one
    that is somewhat larger than needed (60 for ten objects, which need 52).

    >>> width_of(3), width_of(10), width_of(70), width_of(100)
    (350, 350, 410, 580)
    """
    return max(_USUAL_WIDTH, math.ceil(_SLACK * (_FIGURES * objects + _HEAD) / _STEP) * _STEP)


def image_of(region: str, *, detection: bool) -> str:
    """The container's address; training and inference use the same. The tag is AWS's for production.

    >>> image_of("cn-north-1", detection=False)
    '390948362332.dkr.ecr.cn-north-1.amazonaws.com.cn/image-classification:1'

    Raises:
        Refused: AWS has none in this region.
    """
    account = _ACCOUNTS.get(region)
    if account is None:
        raise Refused(
            f"AWS has no image classification or object detection in {region}",
            hint="Choose another sagemaker.region, or name a container in sagemaker.image_uri",
        )
    suffix = next((suffix for begin, suffix in _SUFFIXES.items() if region.startswith(begin)), "amazonaws.com")
    algorithm = "object-detection" if detection else "image-classification"
    return f"{account}.dkr.ecr.{region}.{suffix}/{algorithm}:1"
