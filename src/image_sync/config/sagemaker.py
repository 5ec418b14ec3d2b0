"""The section ``sagemaker``: where pictures and trainings go at AWS, and what they may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, ValidationInfo, WithJsonSchema, field_validator

from image_sync.config import url
from image_sync.config.values import (
    InvalidValue,
    Seconds,
    Section,
    Switch,
    Texts,
    is_placeholder,
    name_of,
    setting,
    text_of,
)

_REGION = re.compile(r"[a-z]{2,5}(-[a-z]+)+-[0-9]{1,2}")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[\w+=,.@/-]{1,512}", re.ASCII)
_BUCKET = re.compile(r"(?!\d+\.\d+\.\d+\.\d+$)[a-z0-9](?!.*\.\.)[a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*")
_INSTANCE = re.compile(r"ml\.[a-z0-9-]{1,20}\.[a-z0-9]{1,20}")
_GPU_FAMILY = re.compile(r"[pg][0-9][a-z0-9-]*")
_G4 = {"xlarge": 1, "2xlarge": 1, "4xlarge": 1, "8xlarge": 1, "12xlarge": 4, "16xlarge": 1}
_G5 = {**_G4, "24xlarge": 4, "48xlarge": 8}
_GPUS: Mapping[str, Mapping[str, int]] = {
    "p2": {"xlarge": 1, "8xlarge": 8, "16xlarge": 16},
    "p3": {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8},
    "p3dn": {"24xlarge": 8},
    "p4d": {"24xlarge": 8},
    "p4de": {"24xlarge": 8},
    "p5": {"4xlarge": 1, "48xlarge": 8},
    "p5e": {"48xlarge": 8},
    "p5en": {"48xlarge": 8},
    "g4dn": _G4,
    "g5": _G5,
    "g6": _G5,
    "g6e": _G5,
}
"""Family -> size -> GPUs, of the machines to train on. AWS adds families; one that is not here is taken as it is."""
_NAME = re.compile(r"[a-zA-Z0-9](-*[a-zA-Z0-9]){0,62}")
_TAG = re.compile(r"[\w\s.:/=+@-]*")
_SUBNET, _GROUP = re.compile(r"subnet-[0-9a-zA-Z]{1,32}"), re.compile(r"sg-[0-9a-zA-Z]{1,32}")
_LONGEST_PREFIX = 200
_MOST_TAGS, _LONGEST_TAG_KEY, _LONGEST_TAG = 40, 128, 256
_MONTH = 28 * 24 * 3600
SERVICES = ("s3", "sagemaker", "runtime", "sts", "iam", "servicequotas", "logs")
_DAY = 24 * 3600


def gpus_of(instance_type: str) -> int:
    """How many GPUs such a machine has; 1 for machines that are not known here."""
    _, family, size = instance_type.split(".")
    return _GPUS.get(family, {}).get(size, 1)


def _endpoints(value: object) -> Mapping[str, str]:
    """Service -> address; a single text is meant for all of them."""
    given = dict.fromkeys(SERVICES, value) if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise InvalidValue('is neither a text nor an object; write {"s3": "https://..."}')
    for name in given:
        if name not in SERVICES:
            raise InvalidValue(f'has the key "{name}"; known are {", ".join(SERVICES)}', bare=True)
    return {name: url.parse(text_of(address)).url for name, address in given.items()}


def _tags(value: object) -> Mapping[str, str]:
    if not isinstance(value, Mapping):
        raise InvalidValue("is not an object; write { ... } with keys in it")
    if len(value) > _MOST_TAGS:
        raise InvalidValue(f"has {len(value)} tags; write at most {_MOST_TAGS}", bare=True)
    for key, text in value.items():
        fits = isinstance(text, str) and len(key) <= _LONGEST_TAG_KEY and len(text) <= _LONGEST_TAG
        if not fits or not key.strip() or key.lower().startswith("aws:") or not _TAG.fullmatch(f"{key}{text}"):
            raise InvalidValue(f'has the tag "{key}", which AWS does not take; see its rules for tags', bare=True)
    return dict(value)


_PLACES = {
    "region": (_REGION, "an AWS region, such as eu-central-1"),
    "role": (_ROLE, "the ARN of a role, such as arn:aws:iam::123456789012:role/name"),
    "bucket": (_BUCKET, "the name of a bucket: small letters, digits, - and . only"),
}


def place(name: str, text: str) -> str:
    """The text, if it can be a ``region``, ``role`` or ``bucket``. Raises :class:`InvalidValue`."""
    pattern, form = _PLACES[name]
    if is_placeholder(text) or not pattern.fullmatch(text):
        raise InvalidValue(f"cannot be used; write {form}")
    return text


class SageMaker(Section):
    """AWS SageMaker: where pictures and trainings go, and what they may cost.

    Who we are is told by AWS's own chain: environment, profile, or the role of the machine.
    """

    region: str = setting(
        "",
        "AWS region of bucket and trainings; `AWS_REGION` of the environment if it is left out.",
        examples=["eu-central-1"],
    )
    role: str = setting(
        "",
        "ARN of the role that SageMaker works under: it reads and writes the bucket.",
        examples=["arn:aws:iam::123456789012:role/image-sync-training"],
    )
    bucket: str = setting("", "S3 bucket, in the same region.", examples=["acme-vision"])
    prefix: str = setting("image-sync", "Everything is stored below this prefix of the bucket.")
    profile: str | None = setting(None, "Profile of AWS's own configuration files; left out: the usual chain.")
    split: float = setting(
        0.8,
        "Share of the pictures that is trained on; the rest validates. Fixed when a dataset is made.",
        ge=0.01,
        le=0.99,
    )
    sides: Literal["split", "folders"] = setting(
        "split",
        "Who validates: `split` divides each category (each label) by `split`; `folders` takes pictures below a "
        "folder `train` or `validation` for that side, in any letter case, and all others by their hash.",
    )
    instance_types: Texts = setting(
        ("ml.g4dn.xlarge",),
        "Machines to train on, with a GPU; the next one is taken when AWS has none of the first.",
        min_length=1,
        examples=[["ml.g4dn.xlarge", "ml.g5.xlarge"]],
    )
    instance_count: int = setting(1, "Machines for one training; above 1: distributed.", ge=1, le=100)
    volume_gb: int = setting(
        50, "Disk of each training machine, in GB; about three times the pictures.", ge=1, le=16384
    )
    max_runtime: Seconds = setting(
        4 * 3600, "Seconds after which a training is stopped: caps what it costs.", ge=60, le=_MONTH
    )
    spot: Switch = setting(False, "Train on spare machines: cheaper, and may take longer.")
    max_wait: Seconds | None = setting(
        None, "Seconds for a spot training with all its waiting; left out: `max_runtime` and a day.", ge=60, le=_MONTH
    )
    endpoint: str | None = setting(None, "Name of the endpoint that models are deployed to; left out: the dataset's.")
    endpoint_instance_type: str = setting("ml.m5.large", "Machine that answers predictions.")
    endpoint_instance_count: int = setting(1, "How many of them.", ge=1, le=100)
    kms_key: str | None = setting(
        None, "KMS key (id, alias or ARN) for what is stored in S3; left out: the bucket's own rule."
    )
    volume_kms_key: str | None = setting(
        None, "KMS key for disks; machines with built-in disks (g4dn, g5) do not take one."
    )
    subnets: Texts = setting((), "Subnets of your VPC to train and answer in.")
    security_groups: Texts = setting((), "Security groups of your VPC; needed with `subnets`.", validate_default=True)
    tags: Annotated[
        Mapping[str, str],
        PlainValidator(_tags),
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string"}}),
    ] = Field(default_factory=dict, description="Tags for trainings, models and endpoints.")
    image_uri: str | None = setting(None, "Container of the algorithm, where it is not AWS's own for the region.")
    endpoint_url: Annotated[
        Mapping[str, str],
        PlainValidator(_endpoints),
        WithJsonSchema(
            {
                "anyOf": [
                    {"type": "string"},
                    {
                        "type": "object",
                        "properties": {name: {"type": "string"} for name in SERVICES},
                        "additionalProperties": False,
                    },
                ]
            }
        ),
    ] = Field(
        default_factory=dict,
        description=f"Other addresses of AWS's services, one for all or by name: {', '.join(SERVICES)}.",
    )

    @property
    def address(self) -> str:
        """Where everything lies: ``s3://bucket/prefix``."""
        return f"s3://{self.bucket}/{self.prefix}"

    @property
    def longest_wait(self) -> int:
        """Seconds that a spot training may take with all its waiting."""
        return int(self.max_runtime + _DAY if self.max_wait is None else self.max_wait)

    @field_validator("region", "role", "bucket")
    @classmethod
    def _place(cls, value: str, info: ValidationInfo) -> str:
        return place(info.field_name or "", value)

    @field_validator("prefix")
    @classmethod
    def _plain(cls, value: str) -> str:
        value = value.strip("/")
        if not _PREFIX.fullmatch(value) or len(value) > _LONGEST_PREFIX or {".", ".."} & set(value.split("/")):
            raise InvalidValue("cannot be used; write letters, digits, . _ - and / between them")
        return value

    @field_validator("instance_types", "endpoint_instance_type")
    @classmethod
    def _machines(cls, value: Any) -> Any:
        for name in (value,) if isinstance(value, str) else value:
            if not _INSTANCE.fullmatch(name):
                raise InvalidValue(
                    f'has "{name}", which is not a machine; write, for example, "ml.g4dn.xlarge"', bare=True
                )
        return value

    @field_validator("instance_types")
    @classmethod
    def _with_gpus(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            _, family, size = name.split(".")
            if not _GPU_FAMILY.fullmatch(family):
                raise InvalidValue(
                    f'has "{name}", which has no GPU, but both algorithms train on GPUs only; '
                    'write, for example, "ml.g4dn.xlarge"',
                    bare=True,
                )
            sizes = _GPUS.get(family)
            if sizes is not None and size not in sizes:
                known = ", ".join(f"ml.{family}.{one}" for one in sizes)
                raise InvalidValue(f'has "{name}", which AWS does not have; there are {known}', bare=True)
        return value

    @field_validator("endpoint")
    @classmethod
    def _endpoint_name(cls, value: str | None) -> str | None:
        if value is not None and not (_NAME.fullmatch(value) and len(value) <= 63):  # noqa: PLR2004 - AWS's limit
            raise InvalidValue("cannot be used; write at most 63 letters, digits and - between them")
        return value

    @field_validator("kms_key", "volume_kms_key", "profile", "image_uri")
    @classmethod
    def _filled(cls, value: str | None) -> str | None:
        return None if value is None else name_of(value)

    @field_validator("subnets")
    @classmethod
    def _subnets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _ids(value, _SUBNET, "subnet-0123456789abcdef0")

    @field_validator("security_groups")
    @classmethod
    def _groups(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if bool(value) != bool(info.data.get("subnets", value)):
            raise InvalidValue("and subnets need each other; give both or none", bare=True)
        return _ids(value, _GROUP, "sg-0123456789abcdef0")

    @field_validator("security_groups", "instance_types")
    @classmethod
    def _once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(value))

    @field_validator("max_wait")
    @classmethod
    def _long_enough(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and value < info.data.get("max_runtime", 0):
            raise InvalidValue(f"is less than max_runtime, {info.data['max_runtime']:g}; write at least that")
        return value

    @field_validator("volume_kms_key")
    @classmethod
    def _disks(cls, value: str | None, info: ValidationInfo) -> str | None:
        built_in = [name for name in info.data.get("instance_types", ()) if name.split(".")[1] in {"g4dn", "g5"}]
        if value is not None and built_in:
            raise InvalidValue(f"is not possible with {built_in[0]}, whose disk is built in; remove it", bare=True)
        return value


def _ids(value: tuple[str, ...], pattern: re.Pattern[str], example: str) -> tuple[str, ...]:
    for one in value:
        if not pattern.fullmatch(one):
            raise InvalidValue(f'has "{one}"; write, for example, "{example}"', bare=True)
    return value
