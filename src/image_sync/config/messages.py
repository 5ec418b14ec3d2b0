"""What is wrong with a configuration, and the one line that tells a person about each of it."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from image_sync.config.json5 import Key, Position

MASK = "********"
_LONGEST_VALUE = 80
_USERINFO = re.compile(r"^(?:(.*?://))?.*@", re.DOTALL)
# Rather too much than too little: a password may hold any character, also those that must not stand in a URL.
_PASSWORD = re.compile(r"(://[^:@]*):(.*)@", re.DOTALL)
_HARMLESS_CREDENTIALS = frozenset({"endpoint", "port", "username", "verify_tls", "ca_bundle"})
_SIMPLE_KEY = re.compile(r"[$\w-]+")


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


def lines(problems: Iterable[Problem], file: Path, positions: Mapping[Key, Position]) -> list[tuple[int, str]]:
    """Each problem as its line number in the file (0 without one) and the line that tells it."""
    told = []
    for problem in problems:
        # The nearest key around it that is written down may have to do.
        around = (problem.path[:length] for length in range(len(problem.path), 0, -1))
        line = next((positions[path].line for path in around if path in positions), 0)
        where = f"{printable(str(file))}:{line}" if line else printable(str(file))
        key, text = show_key(problem.path), printable(problem.text)
        told.append((line, f"{where}: {key}: {text}" if key else f"{where}: {text}"))
    return told
