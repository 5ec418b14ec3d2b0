"""Numbers as they stand in annotation files."""

from __future__ import annotations

import math
import re

_WRITTEN = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_LARGEST = 1e9
_LONGEST = 60


def figure(value: object) -> float | None:
    """The number that a JSON value is; None for whatever else it is, and for numbers that no picture can have."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and abs(number) <= _LARGEST else None


def written_figure(text: str | None) -> float | None:
    """The number that a text is; None for whatever else it says."""
    text = (text or "").strip()
    return figure(float(text)) if len(text) <= _LONGEST and _WRITTEN.fullmatch(text) else None


def whole(value: object) -> int | None:
    """The whole number that a JSON value is, also when it was written as 3.0; None for whatever else it is."""
    number = figure(value)
    return int(number) if number is not None and number == int(number) else None


def shown(number: float) -> str:
    """A coordinate as a person reads it, and as it is written: at most six decimals, none where they are zero."""
    text = f"{number:.6f}".rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text
