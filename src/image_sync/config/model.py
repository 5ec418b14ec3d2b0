"""The section ``model``: what is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from image_sync.config import hours, hyperparameters, strategy, texts
from image_sync.config.problems import Mistake, nearest, show_value
from image_sync.config.section import Name, Scalar, Seconds, Section, context_of


class Model(Section):
    """What is trained."""

    name: Name = Field(
        default="", description="Models are called `<name>-<time>`; the dataset's name if it is left out."
    )
    action: Literal["train", "retrain", "none"] = Field(
        default="train",
        description=(
            "`train` starts each model from the beginning, `retrain` continues from the newest one, `none` only "
            "uploads (`nothing` and `null` mean the same)."
        ),
        json_schema_extra={"enum": ["train", "retrain", "none", "nothing", None], "type": ["string", "null"]},
    )
    nn_arch: str | None = Field(
        default=None,
        description=(
            "Kind of network; left out: the server's classification default. "
            f"For detection: {', '.join(f'`{name}`' for name in strategy.ARCHITECTURES)}."
        ),
    )
    pretrained_model: str | None = Field(
        default=None,
        description='Model to continue from, whatever `action` says: its id, `"latest"` or `"none"`.',
    )
    strategy: Mapping[str, Scalar] = Field(
        default_factory=dict,
        description="Training parameters, passed to the server as they are: `max_iter`, `learning_rate` and so on.",
        examples=[{"max_iter": 1500, "test_iter": 100, "test_interval": 20, "learning_rate": 0.001}],
    )
    grace: Seconds = Field(
        default=600, ge=0, description="Seconds until a training whose start got no answer is looked for at the server."
    )
    cooldown: Seconds = Field(default=0, ge=0, description="Seconds between the starts of two trainings, at least.")
    max_per_day: int | None = Field(
        default=None, ge=1, le=10**6, description="Most trainings started within 24 hours; `null` for no limit."
    )
    quiet_hours: str | None = Field(
        default=None,
        description=(
            "Times of day, on this machine's clock, between which no training is started: `08:00-17:30`, or several "
            "with commas. One that runs goes on."
        ),
        examples=["22:00-06:00"],
    )
    deadline: Seconds = Field(
        default=7 * 86_400,
        ge=1,
        description=(
            "Seconds after which a training that has not ended is reported as failed and no longer waited for "
            "(default: a week)."
        ),
    )
    poll: Seconds = Field(default=15, ge=0.1, description="Seconds between two looks at a running training.")
    deploy: Literal["never", "always", "better"] = Field(
        default="never",
        description=(
            "Whether a new model is deployed: `never`, `always`, or if it is `better` than the one of its name that is "
            "deployed (each measured on its own held-out pictures). Those that image-sync deployed before are "
            "undeployed once the new one is ready."
        ),
    )
    min_gain: float = Field(
        default=0,
        ge=0,
        le=1,
        description=(
            "With `deploy: better`: the accuracy (0 to 1) must be at least that of the deployed model plus this."
        ),
    )
    min_accuracy: float | None = Field(
        default=None, ge=0, le=1, description="A model with less accuracy (0 to 1) than this is never deployed."
    )
    keep: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description=(
            "Keep this many of the newest models of this name, besides the deployed and the best one; delete older "
            "ones that image-sync trained. `null` keeps all."
        ),
    )

    @property
    def quiet(self) -> hours.Hours:
        """The quiet hours in minutes of the day."""
        return () if self.quiet_hours is None else hours.parsed(self.quiet_hours)

    @property
    def is_detection(self) -> bool:
        """Whether the architecture finds objects in pictures, instead of sorting whole pictures."""
        return strategy.is_detection(self.nn_arch)

    @field_validator("action", mode="before")
    @classmethod
    def _nothing(cls, value: object) -> object:
        return "none" if value is None or value == "nothing" else value

    @field_validator("nn_arch", mode="after")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        value = texts.name(value)
        if context_of(info).platform == "sagemaker":
            if hyperparameters.network(value) is None:
                raise Mistake(f"is not a network of SageMaker; write one of {', '.join(hyperparameters.networks())}")
            return value
        if value not in strategy.ARCHITECTURES:
            meant = nearest(value, strategy.ARCHITECTURES)
            context_of(info).warn(
                ("model", "nn_arch"),
                f'"{value}" is not known here and is passed on as it is'
                + (f'; did you mean "{meant}"?' if meant else f"; known are {', '.join(strategy.ARCHITECTURES)}"),
            )
        return value

    @field_validator("pretrained_model", mode="after")
    @classmethod
    def _base(cls, value: str | None) -> str | None:
        return None if value is None else texts.model_id(value)

    @field_validator("quiet_hours", mode="after")
    @classmethod
    def _times(cls, value: str | None) -> str | None:
        if value is not None:
            hours.parsed(value)
        return value

    @model_validator(mode="after")
    def _deployment(self, info: ValidationInfo) -> Self:
        if self.min_gain and self.deploy != "better":
            context_of(info).warn(("model", "min_gain"), 'has no effect unless model.deploy is "better"')
        if self.min_accuracy is not None and self.deploy == "never":
            context_of(info).warn(("model", "min_accuracy"), 'has no effect while model.deploy is "never"')
        return self

    @field_validator("strategy", mode="after")
    @classmethod
    def _ranges(cls, value: Mapping[str, Scalar], info: ValidationInfo) -> Mapping[str, Scalar]:
        if context_of(info).platform == "sagemaker":
            return _of_sagemaker(value, info)
        for key, text in strategy.doubts(value, detection=strategy.is_detection(info.data.get("nn_arch"))):
            context_of(info).warn(("model", "strategy", key), text)
        return value


def _of_sagemaker(value: Mapping[str, Scalar], info: ValidationInfo) -> Mapping[str, Scalar]:
    """The same for SageMaker's own parameters: there a mistake would only show when the machine is paid for."""
    nn_arch = info.data.get("nn_arch")
    reading = hyperparameters.read(value, detection=strategy.is_detection(nn_arch), nn_arch=nn_arch)
    for key, text in reading.notes:
        context_of(info).warn(("model", "strategy", key), text)
    if reading.mistakes:
        told = "; ".join(f"{show_value((), key)} {text}" for key, text in reading.mistakes)
        raise Mistake(f"cannot be used: {told}", bare=True)
    return value
