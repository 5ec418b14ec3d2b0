"""From a file to settings, or to the list of everything that is wrong with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from image_sync.config import locations, source
from image_sync.config.context import Context
from image_sync.config.document import Document, Key, read
from image_sync.config.problems import Mistake, Problem, lines, nearest, printable, show_key, show_value
from image_sync.config.settings import Settings
from image_sync.errors import ConfigError

_WORLD_WRITABLE = 0o002
_SECRET = frozenset({"api_key", "password", "proxy"})
_NOT_KEPT = "IMAGE_SYNC_DOES_NOT_KEEP_SECRETS"
_STATE = re.compile(r'"state"\s*:\s*"([^"\\\n]+)"')
_WRITE_ONE = "`image-sync init` writes a configuration by asking"


def load(path: Path, environ: Mapping[str, str] = os.environ, *, secrets: bool = True) -> Settings:
    """The settings that the file holds.

    Args:
        path: of the file.
        environ: the environment.
        secrets: whether all secrets are needed. If not, ``Settings.unread`` names those that cannot be read here.

    Raises:
        ConfigError: they cannot be used; ``what`` has every mistake, one a line: the file and the line, the key, the
            value (secrets masked), what is wrong and what to write instead.
    """
    try:
        data, status = source.read_bytes(path, at_most=source.LARGEST_CONFIGURATION)
    except Mistake as mistake:
        told = f"{printable(str(path))} {mistake.text}"
        hint = _WRITE_ONE if mistake.text == source.MISSING else ""
    else:
        hint = ""
        mode = status.st_mode if os.name != "nt" else 0
        if not mode & _WORLD_WRITABLE:
            return parse(data, path, environ, mode=mode, secrets=secrets)
        shown = printable(str(path))
        told = f"{shown} can be changed by every user of this machine; run: chmod 600 {shown}"
    raise ConfigError(told, hint=hint)


def parse(
    data: bytes, path: Path, environ: Mapping[str, str] = os.environ, *, mode: int = 0, secrets: bool = True
) -> Settings:
    """The settings that these bytes would mean as the content of that file, with those permissions; see :func:`load`.

    Raises:
        ConfigError: as :func:`load` does.
    """
    try:
        document = read(source.decode(data))
    except Mistake as mistake:
        told = [f"{printable(str(path))} {mistake.text}"]
    else:
        context = Context(
            file=Path(os.path.abspath(path)),
            shown=path,
            environ=environ,
            mode=mode,
            places=document.places,
            secrets=secrets,
        )
        outcome = _settings(document, context)
        if isinstance(outcome, Settings):
            return outcome
        told = outcome
    # Raised here, outside of any handler: the causes would carry the values, and with them secrets.
    raise ConfigError("\n".join(told))


def state_of(path: Path, environ: Mapping[str, str] = os.environ) -> Path | str | None:
    """Where the ledger is, as far as can be told from a file that may be full of mistakes, or gone; None: nowhere."""
    context = Context(file=Path(os.path.abspath(path)), shown=path, environ=environ)
    value: object = None
    try:
        text = source.decode(source.read_bytes(path, at_most=source.LARGEST_CONFIGURATION)[0])
    except Mistake:
        pass
    else:
        whole = read(text).value
        written = _STATE.search(text)
        value = whole.get("state") if isinstance(whole, dict) else written and written[1]
    try:
        return locations.state(value or None, context)
    except Mistake:
        return None


def restored(
    document: Mapping[str, Any], path: Path, state: Path | str, environ: Mapping[str, str] = os.environ
) -> Settings:
    """The settings of which this is the :attr:`Settings.document`, without secrets. Raises ConfigError."""
    data = json.dumps({**document, "state": str(state)}).encode("utf-8", "surrogatepass")
    return parse(data, path, environ, secrets=False)


def _without_secrets(settings: Settings, value: dict[str, Any]) -> dict[str, Any]:
    document = {key: item for key, item in _without_comments(value).items() if key not in {"state", "notify"}}
    credentials = document.get("credentials")
    if isinstance(credentials, dict):
        kept = {
            key: {"env": _NOT_KEPT} if key in _SECRET and isinstance(item, str) else item
            for key, item in credentials.items()
        }
        document["credentials"] = kept | {"endpoint": settings.credentials.endpoint}
    return document


def _settings(document: Document, context: Context) -> Settings | list[str]:
    told = [
        (fault.place.line, f"{printable(str(context.shown))}:{fault.place.line}:{fault.place.column}: {fault.text}")
        for fault in document.faults
    ]
    settings = None
    if not document.broken:
        if isinstance(document.value, dict):
            try:
                settings = Settings.model_validate(_without_comments(document.value), context=context)
                settings._document = _without_secrets(settings, document.value)  # noqa: SLF001 - it was made here
            except ValidationError as error:
                spoilt = {fault.path for fault in document.faults if fault.spoilt}
                problems = [_problem(each, document) for each in error.errors() if _worth_telling(each, spoilt)]
                told += lines(problems, context.shown, document.places)
        else:
            told.append(
                (0, f"{printable(str(context.shown))} holds {_kind(document.value)}; write an object: {{ ... }}")
            )
    if settings and not told:
        return settings
    return [text for _, text in sorted(told, key=lambda pair: pair[0])]


def _kind(value: object) -> str:
    return "only null" if value is None else f"only {show_value((), value)}"


def _without_comments(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_comments(item) for key, item in value.items() if not key.startswith("_") and key != "$schema"
        }
    if isinstance(value, list):
        return [_without_comments(item) for item in value]
    return value


def _worth_telling(error: ErrorDetails, spoilt: set[Key]) -> bool:
    # Items that were refused one by one leave a list that is too short: one mistake, not two.
    return error["loc"] not in spoilt and not (error["type"] == "too_short" and error["input"])


def _problem(error: ErrorDetails, document: Document) -> Problem:
    path: Key = error["loc"]
    if path == ("threshold", "training") and path not in document.places:
        path = ("threshold", "train")  # the alias, where that is what was written
    kind, context, value = error["type"], error.get("ctx", {}), error["input"]
    if path == ("annotations", "mode") and path not in document.places:  # its short form
        return Problem(path[:1], f"{show_value(path, value)} {_sentence(kind, context, path)}")
    cause = context.get("error")
    if isinstance(cause, Mistake):
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
