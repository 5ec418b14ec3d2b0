"""The settings described: as JSON Schema for editors, and as the table in docs/settings.md."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from image_sync.config.settings import Settings

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
