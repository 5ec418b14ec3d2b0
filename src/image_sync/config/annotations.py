"""The section ``annotations``: boxes drawn in pictures, as files beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator

from image_sync.config import texts
from image_sync.config.model import Model
from image_sync.config.section import Name, Section

Mode = Literal["required", "optional", "none"]
Form = Literal["auto", "voc", "coco", "yolo", "sagemaker"]

FORM = (
    "Which files are taken for annotations: `voc` (Pascal VOC, XML), `coco` and `sagemaker` (JSON), `yolo` (text), or "
    "`auto` for all of them."
)


class Annotations(Section):
    """How annotations are used."""

    model_config = ConfigDict(
        json_schema_extra={"type": ["object", "string", "null"], "pattern": "^(required|optional|none)$"}
    )

    mode: Mode = Field(
        default=None,
        validate_default=True,
        description=(
            "Whether a picture's annotation (the file that says which objects are where in it) is sent with it. "
            "`required`: a picture waits until its annotation is there; `optional`: it goes without if there is none; "
            "`none`: annotations are not looked for. Left out: `required` for a detection `nn_arch`, else `none`. "
            'Short form: `"annotations": "required"`.'
        ),
        json_schema_extra={"enum": ["required", "optional", "none", None], "type": ["string", "null"]},
    )
    ignore_labels: Annotated[tuple[Name, ...], Field(strict=False)] = Field(
        default=(),
        description="Labels whose boxes are left out, in capitals or not. A change reads all annotations anew.",
        examples=[["unclear"]],
    )
    minimum: int | None = Field(
        default=None,
        ge=1,
        le=10**6,
        description=(
            "Pictures that must show a label before it counts as learnable; a training starts when one label is, and "
            "the others are named. `null`: what the platform asks for (MVI: 5), or `threshold.per_category` if that "
            "is more."
        ),
    )

    @field_validator("ignore_labels", mode="after")
    @classmethod
    def _alike(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(texts.alike, value)))


def section_of(value: object, model: Model | None) -> object:
    """The section, from its long form, its short form or nothing; what is trained decides where no mode is given."""
    given: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {"mode": value}
    if given.get("mode") is None:
        given["mode"] = "required" if model is not None and model.is_detection else "none"
    return given
