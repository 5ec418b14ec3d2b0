"""The section `sagemaker`, and SageMaker's hyper-parameters in `model.strategy`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from image_sync.config import difference, hyperparameters
from image_sync.errors import ConfigError
from support.configuration import mistakes, settings, warnings

AWS = {"region": "eu-central-1", "role": "arn:aws:iam::123456789012:role/team/image-sync", "bucket": "acme.vision-1"}
BASE: dict[str, Any] = {"platform": "sagemaker", "credentials": ..., "sagemaker": AWS}


def wrong(folder: Path, **section: Any) -> list[str]:
    """The mistakes of a configuration whose section has these changes."""
    return mistakes(folder, **{**BASE, "sagemaker": {**AWS, **section}})


def read(*, detection: bool = False, nn_arch: str | None = None, **strategy: Any) -> hyperparameters.Reading:
    return hyperparameters.read(strategy, detection=detection, nn_arch=nn_arch)


def faults(*, detection: bool = False, **strategy: Any) -> dict[str, str]:
    return dict(read(detection=detection, **strategy).mistakes)


def test_three_keys_are_enough(tmp_path: Path) -> None:
    """Region, role and bucket; everything else has a default, and there is nothing to be warned of."""
    made = settings(tmp_path, **BASE)

    assert made.warnings == ()
    assert made.address == "s3://acme.vision-1/image-sync"
    assert (made.sagemaker.split, made.sagemaker.instance_types) == (0.8, ("ml.g4dn.xlarge",))
    assert made.sagemaker.longest_wait == made.sagemaker.max_runtime + 86400


def test_what_is_missing_is_told_at_once(tmp_path: Path) -> None:
    """Each of the three with an example; the region may come from AWS's own variable."""
    told = mistakes(tmp_path, platform="sagemaker", credentials=...)
    assert [line.split(": ")[0] for line in told] == ["sagemaker.region", "sagemaker.role", "sagemaker.bucket"]
    assert all("write, for example" in line for line in told)
    without = {key: value for key, value in AWS.items() if key != "region"}
    made = settings(tmp_path, {"AWS_DEFAULT_REGION": "us-west-2"}, **{**BASE, "sagemaker": without})
    assert made.sagemaker.region == "us-west-2"


def test_sections_belong_to_their_platform(tmp_path: Path) -> None:
    """The section without the platform is a mistake; MVI's credentials beside it are left alone, with a warning."""
    assert mistakes(tmp_path, sagemaker=AWS) == [
        'sagemaker: stands beside another platform; write "platform": "sagemaker", or remove it'
    ]
    credentials = {"endpoint": "https://mvi.example.com", "api_key": {"env": "NOT_SET"}}
    assert warnings(tmp_path, **{**BASE, "credentials": credentials}) == [
        "credentials: is not used: AWS's own chain says who we are (environment, profile or role)"
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("region", "Frankfurt"),
        ("role", "image-sync"),
        ("role", "<arn of the role>"),
        ("bucket", "Acme_Vision"),
        ("bucket", "192.168.0.1"),
        ("prefix", "a/../b"),
        ("prefix", ""),
        ("split", 1),
        ("instance_types", []),
        ("instance_types", ["p3.2xlarge"]),
        ("instance_count", 0),
        ("volume_gb", 0),
        ("max_runtime", 10**9),
        ("max_wait", 60),
        ("endpoint", "a_b"),
        ("instance_types", ["ml.m5.large"]),
        ("instance_types", ["ml.trn1.2xlarge"]),
        ("instance_types", ["ml.g4dn.xlarge", "ml.p3.4xlarge"]),
        ("instance_types", ["ml.g4dn.xxlarge"]),
        ("sides", "hash"),
        ("endpoint", "x" * 64),
        ("endpoint_instance_type", "large"),
        ("volume_kms_key", "k"),
        ("subnets", ["subnet-1"]),
        ("security_groups", ["sg-1"]),
        ("tags", {"aws:mine": "x"}),
        ("tags", {"a": "x" * 257}),
        ("tags", []),
        ("endpoint_url", {"ec2": "https://x"}),
        ("endpoint_url", "ftp://x"),
        ("bukket", "x"),
    ],
)
def test_values_that_aws_would_refuse_are_told_beforehand(tmp_path: Path, key: str, value: object) -> None:
    """One line for the key, before anything is uploaded or paid for."""
    (told,) = {line.split(":")[0].split("[")[0] for line in wrong(tmp_path, **{key: value})}

    assert told in {f"sagemaker.{key}", "sagemaker.security_groups" if key == "subnets" else ""}


def test_a_change_is_told_by_key(tmp_path: Path) -> None:
    """A reload names what changed in the section."""
    old, new = settings(tmp_path, **BASE), settings(tmp_path, **{**BASE, "sagemaker": {**AWS, "instance_count": 2}})

    assert difference(old, new) == ["sagemaker.instance_count: 1 -> 2"]


def test_all_classification_parameters_are_taken_under_their_own_names() -> None:
    """Each becomes the text that SageMaker wants, whatever kind of value the file holds."""
    given: dict[str, Any] = {
        "num_layers": 34,
        "use_pretrained_model": True,
        "image_shape": "3, 224, 224",
        "resize": 256,
        "mini_batch_size": "64",
        "epochs": 40,
        "learning_rate": 0.001,
        "lr_scheduler_factor": 0.5,
        "lr_scheduler_step": "10, 20",
        "optimizer": "adam",
        "beta_1": 0.8,
        "beta_2": 1,
        "eps": 1e-8,
        "augmentation_type": "crop_color",
        "top_k": 3,
        "multi_label": 0,
        "use_weighted_loss": False,
        "precision_dtype": "float16",
        "checkpoint_frequency": 5,
        "early_stopping": True,
        "early_stopping_min_epochs": 5,
        "early_stopping_patience": 2,
        "early_stopping_tolerance": 0.01,
        "kv_store": "dist_sync",
    }

    reading = read(**given)

    assert reading.mistakes == []
    assert reading.values["image_shape"] == "3,224,224"
    assert reading.values["lr_scheduler_step"] == "10,20"
    assert reading.values["use_pretrained_model"] == "1"
    assert reading.values["early_stopping"] == "True"
    assert reading.values["eps"] == "1e-08"
    assert reading.values.keys() == given.keys()
    others = {"momentum", "weight_decay", "gamma", *hyperparameters.COMPUTED}
    assert hyperparameters.CLASSIFICATION.keys() == given.keys() | others


@pytest.mark.parametrize(
    ("strategy", "key"),
    [
        ({"learning_rate": 1.5}, "learning_rate"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"learning_rate": "fast"}, "learning_rate"),
        ({"epochs": 2.5}, "epochs"),
        ({"epochs": -1}, "epochs"),
        ({"num_layers": 51}, "num_layers"),
        ({"num_layers": 20}, "num_layers"),
        ({"optimizer": "adadelta"}, "optimizer"),
        ({"optimizer": "adam", "momentum": 0.5}, "momentum"),
        ({"gamma": 0.9}, "gamma"),
        ({"beta_1": 0.9, "optimizer": "sgd"}, "beta_1"),
        ({"lr_scheduler_step": "ten"}, "lr_scheduler_step"),
        ({"lr_scheduler_factor": 0.1}, "lr_scheduler_factor"),
        ({"image_shape": "224,224"}, "image_shape"),
        ({"image_shape": "1,224,224"}, "image_shape"),
        ({"image_shape": "3,300,300"}, "image_shape"),
        ({"resize": 200}, "resize"),
        ({"top_k": 1}, "top_k"),
        ({"checkpoint_frequency": 31}, "checkpoint_frequency"),
        ({"early_stopping_patience": 3}, "early_stopping_patience"),
        ({"early_stopping": "yes"}, "early_stopping"),
        ({"multi_label": 1}, "multi_label"),
        ({"use_weighted_loss": 1}, "use_weighted_loss"),
        ({"kv_store": "local"}, "kv_store"),
        ({"max_iter": 0}, "max_iter"),
        ({"base_network": "vgg-16"}, "base_network"),
        ({"lerning_rate": 0.1}, "lerning_rate"),
    ],
)
def test_classification_parameters_out_of_their_range_are_told(strategy: dict[str, Any], key: str) -> None:
    """Range, type and relation: the container would tell it only after it was started."""
    assert faults(**strategy).keys() == {key}


@pytest.mark.parametrize(
    ("strategy", "key"),
    [
        ({"image_shape": 299}, "image_shape"),
        ({"image_shape": "3,416,416"}, "image_shape"),
        ({"base_network": "resnet-18"}, "base_network"),
        ({"optimizer": "nag"}, "optimizer"),
        ({"nms_threshold": 0}, "nms_threshold"),
        ({"weight_decay": 1}, "weight_decay"),
        ({"num_layers": 50}, "num_layers"),
    ],
)
def test_detection_parameters_have_ranges_of_their_own(strategy: dict[str, Any], key: str) -> None:
    """Object detection knows other networks, shapes and optimizers."""
    assert faults(detection=True, **strategy).keys() == {key}


def test_untrained_small_networks_take_small_pictures() -> None:
    """Without pretraining the small networks and other shapes are free."""
    assert faults(num_layers=20, image_shape="3,28,28", resize=28, use_pretrained_model=0) == {}


def test_parameters_of_mvi_are_mapped_or_named() -> None:
    """max_iter becomes epochs when the pictures are counted; what has no counterpart is told and left out."""
    reading = read(max_iter=1500, test_iter=100, test_interval=20, ratio=0.8, learning_rate=0.001)

    assert reading.values == {"learning_rate": "0.001"}
    assert reading.max_iter == 1500
    assert [key for key, _ in reading.notes] == ["max_iter", "test_iter", "test_interval", "ratio"]
    assert read(max_iter=10, epochs=3).max_iter is None
    assert hyperparameters.epochs_of(1500, batch=32, samples=480) == 100
    assert hyperparameters.epochs_of(1, batch=8, samples=10_000) == 1


def test_networks(tmp_path: Path) -> None:
    """`nn_arch` names the layers or the base network; a contradiction and an unknown one are mistakes."""
    assert read(nn_arch="resnet-152").values == {"num_layers": "152"}
    assert read(detection=True, nn_arch="ssd-vgg-16").values == {"base_network": "vgg-16"}
    assert read(detection=True, nn_arch="ssd").values == {}
    assert dict(read(nn_arch="resnet-18", num_layers=50).mistakes).keys() == {"num_layers"}
    assert "is not a network of SageMaker" in mistakes(tmp_path, **BASE, model={"nn_arch": "frcnn"})[0]
    with pytest.raises(ConfigError, match="did you mean"):
        settings(tmp_path, **BASE, model={"strategy": {"learnin_rate": 1}})
    assert settings(tmp_path, **BASE, model={"nn_arch": "ssd-resnet-50"}).model.is_detection
    assert not settings(tmp_path, **BASE, model={"nn_arch": "resnet-50"}).model.is_detection


def test_the_mapping_is_shown(tmp_path: Path) -> None:
    """What MVI's parameters become stands in the warnings, which `check` shows and each start logs."""
    told = warnings(tmp_path, **BASE, model={"strategy": {"max_iter": 100, "test_iter": 3, "num_classes": 9}})

    assert [line.split(": ")[0] for line in told] == [
        f"model.strategy.{key}" for key in ("max_iter", "test_iter", "num_classes")
    ]
