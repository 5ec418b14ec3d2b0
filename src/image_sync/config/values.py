"""What every part of the configuration builds on: kinds of values, rules for texts, and how a wrong one is told."""

from __future__ import annotations

import difflib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, WithJsonSchema

Key = tuple[str | int, ...]
"""Where a value stands: object keys and list indices from the outside in."""
MASK = "********"
_LONGEST_VALUE = 80
_USERINFO = re.compile(r"^(?:(.*?://))?.*@", re.DOTALL)
# Rather too much than too little: a password may hold any character, also those that must not stand in a URL.
_PASSWORD = re.compile(r"(://[^:@]*):(.*)@", re.DOTALL)
_HARMLESS_CREDENTIALS = frozenset({"endpoint", "port", "username", "verify_tls", "ca_bundle"})
_SIMPLE_KEY = re.compile(r"[$\w-]+")
LONGEST_NAME = 200
_A_YEAR = 366 * 24 * 3600
_PLACEHOLDER = re.compile(r"<[^<>]*>")


class InvalidValue(ValueError):  # noqa: N818 - it is a person's, not the program's
    """A value that cannot be used.

    Args:
        text: what is wrong with it and what to write instead; follows the value in the sentence.
        bare: the sentence does not begin with the value.
    """

    def __init__(self, text: str, *, bare: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.bare = bare


class Problem(NamedTuple):
    """One thing to tell: of which key, and what."""

    path: Key
    text: str


class Range(NamedTuple):
    """A documented range; the ends belong to it unless they are open."""

    low: float
    high: float
    open_low: bool = False
    open_high: bool = False

    def holds(self, number: float) -> bool:
        """Whether the number lies in the range."""
        above = number > self.low if self.open_low else number >= self.low
        return above and (number < self.high if self.open_high else number <= self.high)

    def __str__(self) -> str:
        low = f"more than {self.low:g}" if self.open_low else f"{self.low:g}"
        return f"{low} to {'less than ' if self.open_high else ''}{self.high:g}"


def mask_url(text: str) -> str:
    """The text with the password of any URL in it replaced by asterisks.

    >>> mask_url("postgresql://sync:geheim@db/ledger")
    'postgresql://sync:********@db/ledger'
    """
    return _PASSWORD.sub(rf"\1:{MASK}@", text)


def password_in(text: str) -> str:
    """The password of the URL, as it is written there; empty without one."""
    match = _PASSWORD.search(text)
    return match[2] if match else ""


def printable(text: str) -> str:
    """The text with everything that could disturb a line or a terminal escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def show_key(path: Key) -> str:
    """The key as a person writes it: ``folders[1]``, ``categories.crack``."""
    shown = ""
    for part in path:
        if isinstance(part, int):
            shown += f"[{part}]"
        elif _SIMPLE_KEY.fullmatch(part):
            shown += f".{part}" if shown else part
        else:
            shown += f"[{show_value((), part)}]"
    return shown


def show_value(path: Key, value: object) -> str:
    """The value as it stands in the file, shortened; secrets masked, objects and lists only named."""
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list | tuple):
        return "a list"
    if path[:1] == ("credentials",) and (len(path) == 1 or path[1] not in _HARMLESS_CREDENTIALS):
        return MASK if value is not None else "null"
    if isinstance(value, str):
        value = _USERINFO.sub(rf"\1{MASK}@", value) if path == ("credentials", "endpoint") else mask_url(value)
        if len(value) > _LONGEST_VALUE:
            value = f"{value[:_LONGEST_VALUE]}..."
    return printable(json.dumps(value, ensure_ascii=False, default=str))


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that a person most likely meant, or None."""
    words = {name.lower(): name for name in sorted(known)}
    found = difflib.get_close_matches(word.lower(), words, n=1, cutoff=0.6)
    return words[found[0]] if found else None


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
