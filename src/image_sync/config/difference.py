"""What changed between two readings of a configuration, and what of it must never be shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from urllib.parse import unquote

from pydantic import BaseModel, SecretStr

from image_sync.config.problems import password_in, printable, show_key, show_value
from image_sync.config.settings import Settings


def difference(old: Settings, new: Settings) -> list[str]:
    """Each changed key with its old and its new value, secrets only named: ``threshold.upload: 3 -> 5``."""
    before, after = dict(_leaves(old)), dict(_leaves(new))
    return [
        f"{show_key(path)}: {_change(before.get(path), after.get(path))}"
        for path in {**before, **after}
        if before.get(path) != after.get(path)
    ]


def secrets(settings: Settings) -> list[str]:
    """Every secret that the settings hold, to be masked wherever it might be printed."""
    found = []
    for _, value in _leaves(settings):
        if isinstance(value, SecretStr):
            found.append(value.get_secret_value())
        elif isinstance(value, str):
            password = password_in(value)
            found += [password, unquote(password)]
    return list(dict.fromkeys(filter(None, found)))


def _leaves(value: object, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], object]]:
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            yield from _leaves(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, (*path, str(key)))
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
