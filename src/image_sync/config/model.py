"""The section ``model``: what is trained; with what is documented of IBM MVI's training parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import Field, field_validator

from image_sync.config.values import (
    InvalidValue,
    Name,
    Problem,
    Range,
    Scalar,
    Seconds,
    Section,
    is_placeholder,
    name_of,
    nearest,
    setting,
    show_value,
)

ARCHITECTURES = ("frcnn", "tiny_yolo_v2", "frcnn_mrcnn", "ssd", "hires_detectron", "yolo_v3")
"""Values of ``nn_arch`` seen in IBM's clients and servers; all of them detect objects."""

_DETECTORS = ("rcnn", "yolo", "ssd", "detectron")
Hours = tuple[tuple[int, int], ...]
"""Stretches of the day, from a minute to a minute (0 to 1440); one that ends before it begins goes over midnight."""

_STRETCH = re.compile(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*")
_DAY = 24 * 60
_HOUR = 60
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


# IBM API document, POST /dltasks, "strategy".
_COMMON = {
    "momentum": Range(0, 1),
    "ratio": Range(0.5, 1),
    "learning_rate": Range(0, 0.01, open_low=True),
    "weight_decay": Range(0, 0.5, open_low=True, open_high=True),
    "test_iter": Range(1, 1000),
    "test_interval": Range(1, 1000),
}
_CLASSIFICATION = {**_COMMON, "max_iter": Range(100, 10_000)}
_DETECTION = {**_COMMON, "max_iter": Range(100, 100_000)}


class Model(Section):
    """What is trained."""

    name: Name = setting("", "Models are called `<name>-<time>`; the dataset's name if it is left out.")
    action: Literal["train", "retrain", "none"] = setting(
        "train",
        "`train` starts each model from the beginning, `retrain` continues from the newest one, `none` only "
        "uploads (`nothing` and `null` mean the same).",
        json_schema_extra={"enum": ["train", "retrain", "none", "nothing", None], "type": ["string", "null"]},
    )
    nn_arch: str | None = setting(
        None,
        "Kind of network; left out: the server's classification default. "
        f"For detection: {', '.join(f'`{name}`' for name in ARCHITECTURES)}.",
    )
    pretrained_model: str | None = setting(
        None, 'Model to continue from, whatever `action` says: its id, `"latest"` or `"none"`.'
    )
    strategy: Mapping[str, Scalar] = Field(
        default_factory=dict,
        description="Training parameters, passed to the server as they are: `max_iter`, `learning_rate` and so on.",
        examples=[{"max_iter": 1500, "test_iter": 100, "test_interval": 20, "learning_rate": 0.001}],
    )
    grace: Seconds = setting(
        600, "Seconds until a training whose start got no answer is looked for at the server.", ge=0
    )
    cooldown: Seconds = setting(0, "Seconds between the starts of two trainings, at least.", ge=0)
    max_per_day: int | None = setting(
        None, "Most trainings started within 24 hours; `null` for no limit.", ge=1, le=10**6
    )
    quiet_hours: str | None = setting(
        None,
        "Times of day, on this machine's clock, between which no training is started: `08:00-17:30`, or several "
        "with commas. One that runs goes on.",
        examples=["22:00-06:00"],
    )
    deadline: Seconds = setting(
        7 * 86_400,
        "Seconds after which a training that has not ended is reported as failed and no longer waited for "
        "(default: a week).",
        ge=1,
    )
    poll: Seconds = setting(15, "Seconds between two looks at a running training.", ge=0.1)
    deploy: Literal["never", "always", "better"] = setting(
        "never",
        "Whether a new model is deployed: `never`, `always`, or if it is `better` than the one of its name that is "
        "deployed (each measured on its own held-out pictures). Those that image-sync deployed before are "
        "undeployed once the new one is ready.",
    )
    min_gain: float = setting(
        0,
        "With `deploy: better`: the accuracy (0 to 1) must be at least that of the deployed model plus this.",
        ge=0,
        le=1,
    )
    min_accuracy: float | None = setting(
        None, "A model with less accuracy (0 to 1) than this is never deployed.", ge=0, le=1
    )
    keep: int | None = setting(
        None,
        "Keep this many of the newest models of this name, besides the deployed and the best one; delete older "
        "ones that image-sync trained. `null` keeps all.",
        ge=1,
        le=10**6,
    )

    @property
    def quiet(self) -> Hours:
        """The quiet hours in minutes of the day."""
        return () if self.quiet_hours is None else hours_of(self.quiet_hours)

    @property
    def is_detection(self) -> bool:
        """Whether the architecture finds objects in pictures, instead of sorting whole pictures."""
        return is_detection(self.nn_arch)

    @field_validator("action", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return "none" if value is None or value == "nothing" else value

    @field_validator("nn_arch")
    @classmethod
    def _named(cls, value: str | None) -> str | None:
        return None if value is None else name_of(value)

    @field_validator("pretrained_model")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        """It becomes part of an address."""
        if value is not None and is_placeholder(value):
            raise InvalidValue('is a placeholder; write the id of a model, "latest" or "none", or leave the key out')
        if value is not None and not _ID.fullmatch(value):
            raise InvalidValue('is not a model id; write letters, digits, - and _ only, or "latest" or "none"')
        return value

    @field_validator("quiet_hours")
    @classmethod
    def _times(cls, value: str | None) -> str | None:
        if value is not None:
            hours_of(value)
        return value


def is_detection(nn_arch: str | None) -> bool:
    """Whether the architecture, known or not, is one that detects objects."""
    return nn_arch is not None and any(part in nn_arch.lower() for part in _DETECTORS)


def doubts(model: Model) -> Iterator[Problem]:
    """What is not documented of MVI, and passed on to it as it is."""
    if model.nn_arch is not None and model.nn_arch not in ARCHITECTURES:
        meant = nearest(model.nn_arch, ARCHITECTURES)
        known = f'did you mean "{meant}"?' if meant else f"known are {', '.join(ARCHITECTURES)}"
        yield Problem(("model", "nn_arch"), f'"{model.nn_arch}" is not known here and is passed on as it is; {known}')
    known_ranges = _DETECTION if model.is_detection else _CLASSIFICATION
    for key in model.strategy:
        if key not in known_ranges and (meant := nearest(key, known_ranges)):
            text = f'is not documented and is passed on as it is; did you mean "{meant}"?'
            yield Problem(("model", "strategy", key), text)
    for key, allowed in known_ranges.items():
        if key not in model.strategy:
            continue
        value = model.strategy[key]
        if isinstance(value, bool) or not isinstance(value, int | float):
            text = f"{show_value((), value)} is not a number; it is passed on, but the server may refuse the training"
        elif not allowed.holds(value):
            text = f"{value:g} is outside the documented range, {allowed}; the server may refuse the training"
        else:
            continue
        yield Problem(("model", "strategy", key), text)


def without_effect(model: Model) -> Iterator[Problem]:
    """Rules that nothing obeys: most likely a misunderstanding."""
    if model.min_gain and model.deploy != "better":
        yield Problem(("model", "min_gain"), 'has no effect unless model.deploy is "better"')
    if model.min_accuracy is not None and model.deploy == "never":
        yield Problem(("model", "min_accuracy"), 'has no effect while model.deploy is "never"')


def hours_of(text: str) -> Hours:
    """The stretches in the text, which are separated by commas. Raises :class:`InvalidValue`.

    >>> hours_of("22:00-06:00, 12:30-13:00")
    ((1320, 360), (750, 780))
    """
    stretches = tuple(_stretch(part) for part in text.split(","))
    if all(covers(stretches, minute) for minute in range(_DAY)):
        raise InvalidValue(
            "covers the whole day, so that nothing would ever be trained; leave some time, or use model.action"
        )
    return stretches


def covers(hours: Hours, minute: int) -> bool:
    """Whether the minute of the day (0 to 1439) lies in one of the stretches; their ends do not belong to them."""
    return any(start <= minute < end if start < end else minute >= start or minute < end for start, end in hours)


def _stretch(part: str) -> tuple[int, int]:
    found = _STRETCH.fullmatch(part)
    numbers = [int(number) for number in found.groups()] if found else []
    if not numbers or any(minute >= _HOUR for minute in numbers[1::2]):
        raise InvalidValue('is not a time of day; write it as in "22:00-06:00", several with commas between them')
    start, end = numbers[0] * _HOUR + numbers[1], numbers[2] * _HOUR + numbers[3]
    if start >= _DAY or end > _DAY or start == end:
        raise InvalidValue('does not begin and end at two times between 00:00 and 24:00; write it as in "22:00-06:00"')
    return start, end
