"""What is sent to SageMaker: the requests of the two notebooks that users come from, and how figures follow."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from image_sync.config import Settings
from image_sync.config.sagemaker import gpus_of
from image_sync.domain import Annotation, Box, DatasetRef, RemotePicture
from image_sync.errors import NotFound, Refused
from image_sync.platforms.base import TrainingPlan
from image_sync.platforms.sagemaker.api import Api
from image_sync.platforms.sagemaker.datasets import Datasets, Place
from image_sync.platforms.sagemaker.lists import Chosen, Lists
from image_sync.platforms.sagemaker.request import Snapshot, hyperparameters, image_of, request
from support.configuration import settings
from support.sagemaker import BUCKET, REGION, ROLE

AWS = {"region": REGION, "role": ROLE, "bucket": BUCKET, "prefix": "ic-lstformat"}


CALTECH = {
    "platform": "sagemaker",
    "credentials": ...,
    "dataset": {"name": "caltech"},
    "sagemaker": {
        **AWS,
        "sides": "folders",
        "instance_types": ["ml.p2.xlarge"],
        "instance_count": 1,
        "volume_gb": 50,
        "max_runtime": 360000,
        "endpoint_instance_type": "ml.m4.xlarge",
    },
    "model": {
        "nn_arch": "resnet-18",
        "strategy": {
            "use_pretrained_model": 1,
            "image_shape": "3,224,224",
            "num_classes": 257,
            "mini_batch_size": 128,
            "epochs": 2,
            "learning_rate": 0.01,
            "top_k": 2,
            "num_training_samples": 15420,
            "resize": 256,
            "precision_dtype": "float32",
        },
    },
}


ROADS = {
    "platform": "sagemaker",
    "credentials": ...,
    "dataset": {"name": "roads"},
    "sagemaker": {
        **AWS,
        "prefix": "roaddamagedetection",
        "bucket": "deeplens-acme-roads",
        "sides": "folders",
        "instance_types": ["ml.p3.16xlarge"],
        "volume_gb": 50,
        "max_runtime": 360000,
    },
    "model": {
        "nn_arch": "ssd-resnet-50",
        "strategy": {
            "use_pretrained_model": 1,
            "mini_batch_size": 8,
            "epochs": 2,
            "learning_rate": 0.004,
            "lr_scheduler_step": "10",
            "lr_scheduler_factor": 0.1,
            "optimizer": "sgd",
            "momentum": 0.9,
            "weight_decay": 0.0005,
            "overlap_threshold": 0.5,
            "nms_threshold": 0.45,
            "image_shape": 600,
            "label_width": 600,
        },
    },
}


DAMAGES = ("D00", "D01", "D10", "D11", "D20", "D40", "D43", "D44")


class Shelf:
    """Pictures that lie in the bucket, without a bucket."""

    def __init__(self, pictures: list[RemotePicture]) -> None:
        self.pictures = pictures

    def listing(self, _dataset: DatasetRef) -> Iterator[RemotePicture]:
        yield from self.pictures

    def annotation(self, _place: Place, _remote_id: str) -> Annotation | None:
        return None

    def at_once(self, work: Any, things: Any) -> list[Any]:
        return [work(thing) for thing in things]


class Paper:
    """Documents that grow in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, Any] = {}

    def read(self, key: str) -> Any:
        if key not in self.kept:
            raise NotFound(key)
        return self.kept[key]

    def make(self, key: str, content: Any) -> Any:
        return self.kept.setdefault(key, content)

    def change(self, key: str, change: Any) -> Any:
        self.kept[key] = change(self.kept.get(key, {})) or self.kept.get(key, {})
        return self.kept[key]


def chosen(made: Settings, pictures: list[RemotePicture]) -> tuple[Place, Chosen]:
    """What a training of these pictures would be started with."""
    setup = made.sagemaker
    datasets = Datasets(Paper(), setup.bucket, setup.prefix, setup.split)  # type: ignore[arg-type]
    place = datasets.place(datasets.ensure(made.dataset.name))
    plan = TrainingPlan(
        "m-1",
        place.ref,
        nn_arch=made.model.nn_arch or "",
        detection=made.model.is_detection,
        strategy=made.model.strategy,
        contents=lambda: pictures,
    )
    shelf: Any = Shelf(pictures)
    lists = Lists(Api(setup), Paper(), shelf, pinned=setup.sides == "folders")  # type: ignore[arg-type]
    return place, lists.choose(place, plan)


def body_of(made: Settings, place: Place, snapshot: Snapshot) -> dict[str, Any]:
    """The request that starts it."""
    folder = f"{place.layout.jobs}m-1/f/"
    return request(made.sagemaker, place, snapshot, folder, "m-1", made.sagemaker.instance_types[0])


def picture(side: str, category: str, number: int, annotation: Annotation | None = None) -> RemotePicture:
    digest = hashlib.sha256(f"{side}{category}{number}".encode()).hexdigest()[:16]
    return RemotePicture(
        f"{side}/{category}/p.{digest}.jpg", f"p.{digest}.jpg", category, 1, "", 1.0, annotation=annotation
    )


def source(uri: str) -> dict[str, Any]:
    """A channel's data as the notebooks' ``s3_input`` describes it."""
    return {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": uri, "S3DataDistributionType": "FullyReplicated"}}


def test_the_caltech_notebook(tmp_path: Path) -> None:
    """The same hyper-parameters, channels, machine and limits as the image classification notebook's estimator."""
    made = settings(tmp_path, **CALTECH)
    classes = [f"{number:03}" for number in range(1, 258)]
    pictures = [picture("train", name, number) for name in classes for number in range(60)]
    pictures += [picture("validation", name, number) for name in classes for number in range(3)]

    place, found = chosen(made, pictures)
    body = body_of(made, place, found.snapshot)

    root = f"s3://{BUCKET}/ic-lstformat/{place.ref.id}"
    assert body["HyperParameters"] == {
        "num_layers": "18",
        "use_pretrained_model": "1",
        "image_shape": "3,224,224",
        "num_classes": "257",
        "mini_batch_size": "128",
        "epochs": "2",
        "learning_rate": "0.01",
        "top_k": "2",
        "num_training_samples": "15420",
        "resize": "256",
        "precision_dtype": "float32",
    }
    assert body["AlgorithmSpecification"] == {
        "TrainingImage": "811284229777.dkr.ecr.us-east-1.amazonaws.com/image-classification:1",
        "TrainingInputMode": "File",
    }
    assert body["ResourceConfig"] == {"InstanceCount": 1, "InstanceType": "ml.p2.xlarge", "VolumeSizeInGB": 50}
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 360000}
    assert body["OutputDataConfig"] == {"S3OutputPath": f"{root}/output"}
    assert body["RoleArn"] == ROLE
    assert body["InputDataConfig"] == [
        {"ChannelName": name, "DataSource": source(uri), "ContentType": "application/x-image"}
        for name, uri in {
            "train": f"{root}/train/",
            "validation": f"{root}/validation/",
            "train_lst": f"{root}/jobs/m-1/f/train_lst/",
            "validation_lst": f"{root}/jobs/m-1/f/validation_lst/",
        }.items()
    ]
    lists = dict(found.files)
    rows = [line.split("\t") for line in lists["train_lst/train.lst"].decode().splitlines()]
    assert [row[0] for row in rows] == [str(number) for number in range(15420)]
    assert {(number, path) for _, number, path in rows} == {
        (str(classes.index(one.category)), one.remote_id.removeprefix("train/")) for one in pictures[:15420]
    }
    neighbours = sum(one[1] == two[1] for one, two in itertools.pairwise(rows))
    assert neighbours < 200, "sorted by class they would be 15,163; shuffled about 60"
    assert len(lists["validation_lst/validation.lst"].splitlines()) == 257 * 3


def test_the_road_damage_notebook(tmp_path: Path) -> None:
    """The same hyper-parameters, channels, machine and limits as the object detection notebook's estimator; class
    numbers run from 0, which the original's scripts did not do."""
    made = settings(tmp_path, **ROADS)
    marked = [
        Annotation(600, 600, (Box(DAMAGES[number % 8], 10.0, 20.0, 110.0, 220.0),) * (1 + number % 3))
        for number in range(48)
    ]
    pictures = [picture("train", "roads", number, marked[number % 48]) for number in range(6661)]
    pictures += [picture("validation", "roads", number, marked[number % 48]) for number in range(1000)]

    place, found = chosen(made, pictures)
    body = body_of(made, place, found.snapshot)

    root = f"s3://deeplens-acme-roads/roaddamagedetection/{place.ref.id}"
    assert body["HyperParameters"] == {
        "base_network": "resnet-50",
        "use_pretrained_model": "1",
        "num_classes": "8",
        "mini_batch_size": "8",
        "epochs": "2",
        "learning_rate": "0.004",
        "lr_scheduler_step": "10",
        "lr_scheduler_factor": "0.1",
        "optimizer": "sgd",
        "momentum": "0.9",
        "weight_decay": "0.0005",
        "overlap_threshold": "0.5",
        "nms_threshold": "0.45",
        "image_shape": "600",
        "label_width": "600",
        "num_training_samples": "6661",
    }
    assert body["AlgorithmSpecification"]["TrainingImage"].endswith("/object-detection:1")
    assert body["ResourceConfig"] == {"InstanceCount": 1, "InstanceType": "ml.p3.16xlarge", "VolumeSizeInGB": 50}
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 360000}
    assert body["InputDataConfig"] == [
        {"ChannelName": name, "DataSource": source(uri), "ContentType": "image/jpeg"}
        for name, uri in {
            "train": f"{root}/train/",
            "validation": f"{root}/validation/",
            "train_annotation": f"{root}/jobs/m-1/f/train_annotation/",
            "validation_annotation": f"{root}/jobs/m-1/f/validation_annotation/",
        }.items()
    ]
    assert found.snapshot.classes == DAMAGES
    assert len(found.files) == 7661


def test_everything_that_can_be_set_reaches_the_request(tmp_path: Path) -> None:
    """Distribution, spot, keys, network and tags stand in the request where AWS looks for them."""
    section = {
        **AWS,
        "sides": "folders",
        "instance_types": ["ml.p3.8xlarge"],
        "instance_count": 2,
        "spot": True,
        "max_runtime": 3600,
        "kms_key": "k-1",
        "volume_kms_key": "k-2",
        "subnets": ["subnet-1"],
        "security_groups": ["sg-1"],
        "tags": {"team": "vision"},
        "image_uri": "123456789012.dkr.ecr.us-east-1.amazonaws.com/mine:1",
    }
    strategy = {"kv_store": "dist_sync", "mini_batch_size": 30, "max_iter": 100}
    made = settings(tmp_path, **{**CALTECH, "sagemaker": section, "model": {"strategy": strategy}})
    pictures = [picture(side, name, n) for side in ("train", "validation") for name in ("a", "b") for n in range(40)]

    place, found = chosen(made, pictures)
    body = body_of(made, place, found.snapshot)

    values = body["HyperParameters"]
    assert (values["mini_batch_size"], values["kv_store"]) == ("28", "dist_sync")  # a multiple of four GPUs
    assert values["epochs"] == "70"  # 100 batches of 28 on each of 2 machines, of 80 pictures
    assert body["ResourceConfig"]["InstanceCount"] == 2
    assert body["ResourceConfig"]["VolumeKmsKeyId"] == "k-2"
    assert body["OutputDataConfig"]["KmsKeyId"] == "k-1"
    assert body["EnableManagedSpotTraining"]
    assert body["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600, "MaxWaitTimeInSeconds": 3600 + 86400}
    assert body["CheckpointConfig"]["S3Uri"].startswith(f"s3://{BUCKET}/ic-lstformat/{place.ref.id}/checkpoints/")
    assert body["VpcConfig"] == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
    assert {"Key": "team", "Value": "vision"} in body["Tags"]
    assert body["AlgorithmSpecification"]["TrainingImage"].endswith("/mine:1")


BLANK = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=100, validating=30)


@pytest.mark.parametrize(
    ("machine", "gpus"),
    [("ml.p3.16xlarge", 8), ("ml.p2.16xlarge", 16), ("ml.g4dn.12xlarge", 4), ("ml.g5.xlarge", 1), ("ml.x9.new", 1)],
)
def test_a_batch_is_shared_by_the_gpus(machine: str, gpus: int) -> None:
    """It is a multiple of their number and no more than there are pictures on either side."""
    assert gpus_of(machine) == gpus
    batch = int(hyperparameters(BLANK, machine, 1)["mini_batch_size"])
    assert batch % gpus == 0
    assert batch <= 30


def test_figures_follow_from_the_pictures() -> None:
    """Batch, epochs, label width and resize are computed; too few pictures for the machine are refused."""
    few = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=9, validating=3, max_iter=30)
    values = hyperparameters(few, "ml.g4dn.xlarge", 1)
    assert (values["mini_batch_size"], values["epochs"], values["resize"]) == ("3", "10", "256")
    with pytest.raises(Refused, match="8 GPUs"):
        hyperparameters(few, "ml.p3.16xlarge", 1)
    shape = {"image_shape": "3,28,28", "use_pretrained_model": "0"}
    small = Snapshot("m", "d", detection=False, classes=("a", "b"), samples=9, validating=3, values=shape)
    assert hyperparameters(small, "ml.g4dn.xlarge", 1)["resize"] == "28"
    narrow = Snapshot(
        "m", "d", detection=True, classes=("a",), samples=9, validating=3, objects=100, values={"label_width": "360"}
    )
    assert hyperparameters(narrow, "ml.g4dn.xlarge", 1)["label_width"] == "580"


def test_a_snapshot_survives_storage() -> None:
    """What was written is what is read; something else is refused."""
    assert Snapshot.of(asdict(BLANK)) == BLANK
    with pytest.raises(Refused):
        Snapshot.of({"name": "m"})


def test_containers() -> None:
    """Every documented region has an account of twelve digits; others say what to do."""
    assert image_of("us-west-2", detection=True) == "433757028032.dkr.ecr.us-west-2.amazonaws.com/object-detection:1"
    assert image_of("us-isob-east-1", detection=False).split("/")[0].endswith("sc2s.sgov.gov")
    with pytest.raises(Refused, match="mx-central-1"):
        image_of("mx-central-1", detection=False)
