"""What pydantic says of a value, as a sentence for a person: what is wrong, and what to write instead."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from image_sync.config.json5 import Key, Position
from image_sync.config.messages import InvalidValue, Problem, nearest, show_key, show_value
from image_sync.config.settings import Settings


def problem_of(error: ErrorDetails, positions: Mapping[Key, Position]) -> Problem:
    """What a person is told of an error that pydantic found."""
    path: Key = error["loc"]
    if path == ("threshold", "training") and path not in positions:
        path = ("threshold", "train")  # the alias, where that is what was written
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if path == ("annotations", "mode") and path not in positions:  # its short form
        return Problem(path[:1], f"{show_value(path, value)} {_sentence(kind, context, path)}")
    cause = context.get("error")
    if isinstance(cause, InvalidValue):
        return Problem(path, cause.text if cause.bare else f"{show_value(path, value)} {cause.text}")
    if kind == "extra_forbidden":
        return Problem(path, _unknown(path))
    if kind == "too_short":
        return Problem(path, f"is empty; {_example(path)}")
    if kind == "missing":
        return Problem(path, f"is missing; {_example(path)}")
    return Problem(path, f"{show_value(path, value)} {_sentence(kind, context, path)}")


def _sentence(kind: str, context: Mapping[str, Any], path: Key) -> str:
    example = _example(path)
    match kind:
        case "int_type" | "int_parsing" | "int_from_float":
            return "is not a whole number; write one without quotation marks, such as 3"
        case "float_type" | "finite_number":
            return "is not a number; write one without quotation marks, such as 10"
        case "greater_than_equal":
            return f"is too small; write {context['ge']:.10g} or more"
        case "less_than_equal":
            return f"is too large; write {context['le']:.10g} or less"
        case "literal_error":
            return f"is not one of the choices; write {_choices(path)}"
        case "bool_type":
            return "is neither on nor off; write true or false"
        case "string_type":
            return "is not text; write it in quotation marks"
        case "tuple_type" | "list_type":
            return f"is not a list; {example}"
        case "model_type" | "dict_type" | "mapping_type":
            return "is not an object; write { ... } with keys in it"
        case _:
            return f"cannot be used; {example}"


def _field(path: Key) -> Any:
    """The pydantic field that the path leads to, or None."""
    model: type[BaseModel] | None = Settings
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


def _example(path: Key) -> str:
    field = _field(path)
    if field is None or not field.examples:
        return "write another value"
    return f"write, for example, {json.dumps(field.examples[0])}"


def _choices(path: Key) -> str:
    names = [name for name in _field(path).annotation.__args__ if name != "memory"]
    quoted = [f'"{name}"' for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def _unknown(path: Key) -> str:
    key = str(path[-1])
    section = _field(path[:-1])
    model = section.annotation if section else Settings
    known = [name for name, _ in _fields(model)]
    if meant := nearest(key, [*known, *(["train"] if path[0] == "threshold" else [])]):
        return f'is not a known key; did you mean "{meant}"?'
    if key.lower() in {"comment", "comments"}:
        return 'is not a known key; did you mean "_comment"?'
    for name, field in _fields(Settings):
        if _is_model(field.annotation) and key in (inner for inner, _ in _fields(field.annotation)):
            return f"is not a known key here; did you mean {show_key((name, key))}?"
        if name == key:
            return f'is not a known key here; "{key}" stands at the outermost level'
    return f"is not a known key; known here are {', '.join(known)}"
