"""The section ``threshold``: how many pictures are enough."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, ValidationInfo, model_validator

from image_sync.config.problems import Mistake
from image_sync.config.section import Section, Switch, context_of


class Threshold(Section):
    """How many pictures are enough."""

    upload: int = Field(default=1, ge=1, le=10**9, description="Upload once this many pictures are waiting.")
    training: int = Field(
        default=10,
        ge=1,
        le=10**9,
        description="Train once this many pictures were uploaded since the last training. `train` is the same key.",
    )
    per_category: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description=(
            "Pictures that each category needs before anything is trained; `null`, or less than that: what the "
            "platform asks for (MVI: 5)."
        ),
    )
    wait_for_all: Switch = Field(
        default=False,
        description=(
            "Whether a category with too few pictures holds training back. If not, it is left out where the platform "
            "can leave it out (SageMaker); MVI trains whole datasets, so there it always does."
        ),
    )
    max_ratio: float | None = Field(
        default=10,
        ge=1,
        le=10**6,
        description=(
            "Warn when one category has more than this many times the pictures of another; `null` never warns."
        ),
    )

    @model_validator(mode="before")
    @classmethod
    def _alias(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "train" not in data:
            return data
        data = dict(data)
        train = data.pop("train")
        training = data.setdefault("training", train)
        if (type(training), training) != (type(train), train):
            raise Mistake("has both training and train, with different values; keep training", bare=True)
        return data

    @model_validator(mode="after")
    def _order(self, info: ValidationInfo) -> Self:
        if self.upload > self.training:
            context_of(info).warn(
                ("threshold", "upload"),
                f"{self.upload} is more than the {self.training} of threshold.training: every upload starts a training",
            )
        return self
