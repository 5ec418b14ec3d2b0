"""What the value of a hyper-parameter may be, and the sentence that says so to a person."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

from image_sync.config.strategy import Range

_ABOVE_0 = Range(1, 10**9)


class Whole(NamedTuple):
    """A whole number in a range."""

    range: Range = _ABOVE_0


class Real(NamedTuple):
    """A number in a range."""

    range: Range


class Choice(NamedTuple):
    """One of some words."""

    words: tuple[str, ...]


class Pattern(NamedTuple):
    """A text of a form; ``form`` is what a person should write."""

    pattern: re.Pattern[str]
    form: str


Rule = Whole | Real | Choice | Pattern


def fault(rule: Rule, text: str) -> str:
    """What is wrong with a value as it is sent, and what to write instead; empty when nothing is."""
    match rule:
        case Choice(words):
            return "" if text in words else f"is not one of the choices; write {either(words)}"
        case Pattern(pattern, form):
            return "" if pattern.fullmatch(text) else f"cannot be used; write {form}"
        case Whole(allowed):
            number = float(text) if re.fullmatch(r"-?[0-9]{1,15}", text) else None
            kind = "whole number"
        case Real(allowed):
            number, kind = _number(text), "number"
    if number is None:
        return f"is not a {kind}; write {allowed}"
    return "" if allowed.holds(number) else f"is out of range; write {allowed}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def either(words: tuple[str, ...]) -> str:
    """The words as a choice.

    >>> either(("sgd", "adam", "nag"))
    'sgd, adam or nag'
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
