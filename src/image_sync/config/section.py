"""What all parts of the settings have in common: the base class and the kinds of values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
)

from image_sync.config import locations, secret, strategy, texts
from image_sync.config.context import Context
from image_sync.config.problems import Mistake, mask_url

_A_YEAR = 366 * 24 * 3600


def context_of(info: ValidationInfo) -> Context:
    """What the value is judged by; the defaults when it is validated without a file."""
    return info.context if isinstance(info.context, Context) else Context()


def text_of(value: object) -> str:
    """The value, which must be a text. Raises :class:`Mistake`."""
    if not isinstance(value, str):
        raise Mistake("is not text; write it in quotation marks")
    return value


def _name(value: object) -> str:
    return texts.name(text_of(value))


def _switch(value: object) -> bool:
    if value in {0, 1} if isinstance(value, int) else False:
        return bool(value)
    raise Mistake("is neither on nor off; write true or false (or 1 or 0)")


def _secret(value: object, info: ValidationInfo) -> SecretStr | None:
    if value is None:
        return None
    key = ("credentials", info.field_name or "")
    return SecretStr(secret.resolve(value, context_of(info), key, header=info.field_name == "api_key"))


def _folder(value: object, info: ValidationInfo) -> Path:
    context = context_of(info)
    index, context.folders_read = context.folders_read, context.folders_read + 1
    return locations.folder(text_of(value), context, index)


def _state(value: object, info: ValidationInfo) -> Path | str:
    context = context_of(info)
    if isinstance(value, Mapping):
        value = secret.resolve(value, context, ("state",))
    return locations.state(value, context)


Seconds = Annotated[float, Field(le=_A_YEAR)]
Name = Annotated[str, BeforeValidator(_name)]
Folder = Annotated[Path, BeforeValidator(_folder), WithJsonSchema({"type": "string"})]
Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer", "enum": [0, 1]}]}),
]
REFERENCE: dict[str, Any] = {
    "type": "object",
    "properties": {way: {"type": "string"} for way in ("env", "file", "credential")},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
Secret = Annotated[
    SecretStr | None,
    BeforeValidator(_secret),
    WithJsonSchema({"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]}),
]
State = Annotated[
    Path | str, PlainValidator(_state), WithJsonSchema({"anyOf": [{"type": "string"}, REFERENCE, {"type": "null"}]})
]
Scalar = Annotated[
    str | int | float | bool,
    PlainValidator(strategy.scalar),
    WithJsonSchema({"type": ["string", "number", "boolean"]}),
]


class Section(BaseModel):
    """Part of the settings; shows no secret, whatever is done to show it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, mask_url(value) if isinstance(value, str) else value
