"""Texts from outside: what they say in JSON, and which may be stored and shown."""

from __future__ import annotations

import json
import math
from typing import Any

from image_sync_server.mvi.answers import Failure


def parsed(text: str | bytes) -> Any:
    """What a text says in JSON. Raises ValueError when it is not JSON, or holds a number that JSON cannot show."""
    try:
        return json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):  # 1e999
        raise ValueError(text)
    return number


def checked(name: str, value: str, most: int, *, may_be_empty: bool = False) -> str:
    """The text, if it may be stored and shown.

    Args:
        name: what it is called in a fault.
        value: the text.
        most: characters that are taken.
        may_be_empty: whether it may be blank.

    Raises:
        Failure: 400 when it is blank, too long, or holds control characters or half characters.
    """
    if not value.strip() and not may_be_empty:
        raise Failure(400, f"{name} must not be empty.")
    if len(value) > most:
        raise Failure(400, f"{name} has {len(value)} characters; at most {most} are taken.")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):  # noqa: PLR2004 - Unicode's own numbers
        raise Failure(400, f"{name} must not hold control characters.")
    return value
