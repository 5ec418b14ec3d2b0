"""The settings looked at from outside: described for editors and readers, compared, and searched for secrets."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from image_sync.config.settings import Settings
from image_sync.config.values import password_in, printable, show_key, show_value

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_COMMENTS = {"^_": {"description": "Keys that begin with an underscore are comments."}}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a configuration file."""
    schema = Settings.model_json_schema()
    properties = schema["$defs"]["Threshold"]["properties"]
    properties["train"] = {**properties["training"], "title": "Train", "description": "The same as `training`."}
    _tidy(schema)
    schema["properties"] = {"$schema": {"type": "string"}, **schema["properties"]}
    return {
        "$schema": DIALECT,
        **schema,
        "title": "image-sync configuration",
        "description": "configuration.json of image-sync. Comments and trailing commas are allowed in the file.",
    }


def _tidy(part: Any) -> None:
    if isinstance(part, dict):
        if isinstance(part.get("description"), str):
            part["description"] = part["description"].split("\n\n")[0]  # of a docstring, what is not for programmers
        if "object" in (part.get("type") or ()) and "additionalProperties" in part:
            part["patternProperties"] = _COMMENTS
        for item in list(part.values()):
            _tidy(item)
    elif isinstance(part, list):
        for item in part:
            _tidy(item)


def settings_table() -> str:
    """Every key with its default and its meaning, as a Markdown table without a final line feed."""
    rows = [f"| `{key}` | {_default(field)} | {field.description} |" for key, field in _leaves(Settings)]
    return "\n".join(["| key | default | meaning |", "| --- | --- | --- |", *rows])


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _leaves(section, f"{key}.")
        else:
            yield key, field


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True, validated_data={})
    return "" if default is None or default == "" else f"`{json.dumps(default)}`"


def difference(old: Settings, new: Settings) -> list[str]:
    """Each changed key with its old and its new value, secrets only named: ``threshold.upload: 3 -> 5``."""
    before, after = dict(_values(old)), dict(_values(new))
    return [
        f"{show_key(path)}: {_change(before.get(path), after.get(path))}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def secrets(settings: Settings) -> list[str]:
    """Every secret that the settings hold, to be masked wherever it might be printed."""
    found = []
    for _, value in _values(settings):
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, str):
            password = password_in(value)
            found += [password, unquote(password)]
    return list(dict.fromkeys(filter(None, found)))


def _values(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _values(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _values(item, (*path, str(key)))
    elif isinstance(value, tuple | list):
        yield path, tuple(map(str, value))
    else:
        yield path, value


def _change(old: object, new: object) -> str:
    if isinstance(old, SecretStr) or isinstance(new, SecretStr):
        return "added" if old is None else "removed" if new is None else "changed"
    if isinstance(old, tuple) and isinstance(new, tuple):
        gone = [f"removed {printable(item)}" for item in old if item not in new]
        come = [f"added {printable(item)}" for item in new if item not in old]
        return ", ".join(come + gone) or "in another order"
    shown = f"{_show(old)} -> {_show(new)}"
    return shown if _show(old) != _show(new) else "changed"


def _show(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.10g}"
    return show_value((), value if isinstance(value, str | int | float | bool) else str(value))
