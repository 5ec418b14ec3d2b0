"""What all parts of the settings have in common: the base class, the kinds of values, and the rules for texts."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

from image_sync.config.messages import InvalidValue, mask_url

LONGEST_NAME = 200
_A_YEAR = 366 * 24 * 3600
_PLACEHOLDER = re.compile(r"<[^<>]*>")


class Section(BaseModel):
    """Part of the settings; shows no secret, whatever is done to show it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)

    def __repr_args__(self) -> Any:
        for name, value in super().__repr_args__():
            yield name, mask_url(value) if isinstance(value, str) else value


def setting(default: Any, meaning: str, **rules: Any) -> Any:
    """A key of the configuration: its default (``...``: it is required), and its meaning, which the manual shows."""
    return Field(default=default, description=meaning, **rules)


def text_of(value: object) -> str:
    """The value, which must be a text. Raises :class:`InvalidValue`."""
    if not isinstance(value, str):
        raise InvalidValue("is not text; write it in quotation marks")
    return value


def is_placeholder(text: str) -> bool:
    """Whether the text is still the template's ``<something>``."""
    return _PLACEHOLDER.fullmatch(text.strip()) is not None


def refuse_unprintable(text: str) -> None:
    """Raise :class:`InvalidValue` for control characters and halves of characters, which no name, path or key holds."""
    for char in text:
        if unicodedata.category(char) in {"Cc", "Cs"}:
            raise InvalidValue(
                f"holds the character U+{ord(char):04X}, which cannot be part of it; remove it", bare=True
            )


def name_of(value: object) -> str:
    """A name for a dataset, model or category, in Unicode's composed form. Raises :class:`InvalidValue`."""
    text = text_of(value)
    if not text.strip():
        raise InvalidValue("is empty; write a name")
    if is_placeholder(text):
        raise InvalidValue("is a placeholder; write a name of your own")
    refuse_unprintable(text)
    if text != text.strip():
        raise InvalidValue("begins or ends with a space; remove it")
    text = composed(text)
    if len(text) > LONGEST_NAME:
        raise InvalidValue(f"has {len(text)} characters; write at most {LONGEST_NAME}")
    return text


def composed(text: str) -> str:
    """The text in Unicode's composed form: two that look the same become the same."""
    return unicodedata.normalize("NFC", text)


def alike(text: str) -> str:
    """What the text has in common with others that a person would take for the same."""
    return composed(text).casefold()


def _switch(value: object) -> bool:
    if isinstance(value, int) and value in {0, 1}:
        return bool(value)
    raise InvalidValue("is neither on nor off; write true or false (or 1 or 0)")


def _scalar(value: object) -> str | int | float | bool:
    if not isinstance(value, str | int | float | bool):
        raise InvalidValue("is not a single value; write a number, a text, true or false")
    return value


Seconds = Annotated[float, Field(le=_A_YEAR)]
Name = Annotated[str, BeforeValidator(name_of)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
Switch = Annotated[
    bool,
    BeforeValidator(_switch),
    WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "integer", "enum": [0, 1]}]}),
]
Scalar = Annotated[
    str | int | float | bool, PlainValidator(_scalar), WithJsonSchema({"type": ["string", "number", "boolean"]})
]
REFERENCE: dict[str, Any] = {
    "type": "object",
    "properties": {way: {"type": "string"} for way in ("env", "file", "credential")},
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}
"""Where a secret is kept, as the JSON Schema has it."""
