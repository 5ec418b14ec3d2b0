"""What pydantic says of a value, as a sentence for a person: what is wrong, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from image_sync.config.json5 import Position
from image_sync.config.settings import Settings
from image_sync.config.values import InvalidValue, Key, Problem, nearest, show_key, show_value

_WHOLE = "is not a whole number; write one without quotation marks, such as 3"
_NUMBER = "is not a number; write one without quotation marks, such as 10"
_LIST, _OBJECT = "is not a list; {example}", "is not an object; write {{ ... }} with keys in it"
_SENTENCES = {
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "float_type": _NUMBER,
    "finite_number": _NUMBER,
    "greater_than_equal": "is too small; write {ge:.10g} or more",
    "less_than_equal": "is too large; write {le:.10g} or less",
    "literal_error": "is not one of the choices; write {choices}",
    "bool_type": "is neither on nor off; write true or false",
    "string_type": "is not text; write it in quotation marks",
    "tuple_type": _LIST,
    "list_type": _LIST,
    "model_type": _OBJECT,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
}
"""What follows the value in the sentence, by the kind of pydantic's error."""
_BARE = {"too_short": "is empty; {example}", "missing": "is missing; {example}"}


def problem_of(error: ErrorDetails, positions: Mapping[Key, Position], settings: type[Settings]) -> Problem:
    """What a person is told of an error that pydantic found."""
    path, kind, context = error["loc"], error["type"], error.get("ctx", {})
    if path == ("threshold", "training") and path not in positions:
        path = ("threshold", "train")  # the alias, where that is what was written
    cause = context.get("error")
    if isinstance(cause, InvalidValue):
        text, bare = cause.text, cause.bare
    elif kind == "extra_forbidden":
        text, bare = _unknown(path, settings), True
    else:
        field = _field(path, settings)
        choices = _choices(field) if kind == "literal_error" else ""
        sentence = _BARE.get(kind) or _SENTENCES.get(kind, "cannot be used; {example}")
        text, bare = sentence.format(**context, example=_example(field), choices=choices), kind in _BARE
    text = text if bare else f"{show_value(path, error['input'])} {text}"
    if path == ("annotations", "mode") and path not in positions:  # its short form
        path = path[:1]
    return Problem(path, text)


def _field(path: Key, settings: type[Settings]) -> Any:
    """The pydantic field that the path leads to, or None."""
    model: type[BaseModel] | None = settings
    field = None
    for part in path:
        field = next((field for name, field in _fields(model) if name == part), field)
        model = field.annotation if field and _is_model(field.annotation) else None
    return field


def _fields(model: type[BaseModel] | None) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items() if model else ():
        yield field.alias or name, field


def _is_model(annotation: object) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _example(field: Any) -> str:
    if field is None or not field.examples:
        return "write another value"
    return f"write, for example, {json.dumps(field.examples[0])}"


def _choices(field: Any) -> str:
    quoted = [f'"{name}"' for name in field.annotation.__args__]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _unknown(path: Key, settings: type[Settings]) -> str:
    key = str(path[-1])
    section = _field(path[:-1], settings)
    model = section.annotation if section else settings
    known = [name for name, _ in _fields(model)]
    if meant := nearest(key, [*known, *(["train"] if path[0] == "threshold" else [])]):
        return f'is not a known key; did you mean "{meant}"?'
    if key.lower() in {"comment", "comments"}:
        return 'is not a known key; did you mean "_comment"?'
    for name, field in _fields(settings):
        if _is_model(field.annotation) and key in (inner for inner, _ in _fields(field.annotation)):
            return f"is not a known key here; did you mean {show_key((name, key))}?"
        if name == key:
            return f'is not a known key here; "{key}" stands at the outermost level'
    return f"is not a known key; known here are {', '.join(known)}"
