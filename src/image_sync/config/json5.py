"""The text of a configuration file, read leniently, with the place of every key.

By hand, because the json5 package tells no positions and needs ten seconds for a megabyte (``docs/decisions``); a test
compares the two. Reading goes on after a mistake wherever the meaning is plain.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, NoReturn

from image_sync.config.values import Key

DEEPEST = 64
LONGEST_NUMBER = 100

_SPACE = re.compile(r"(?:[\s\ufeff]+|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_WORD = re.compile(r"(?!\d)[$\w]+")
_NUMBER = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)(?![$\w.])")
_NOT_FINITE = re.compile(r"[+-]?(?:NaN|Infinity)\b")
_PLAIN = {'"': re.compile(r'[^"\\\n]*'), "'": re.compile(r"[^'\\\n]*")}
_ESCAPES = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "0": "\0", "\n": ""}
_HEX = {"x": re.compile(r"[0-9a-fA-F]{2}"), "u": re.compile(r"[0-9a-fA-F]{4}")}
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONSTANTS = {"true": True, "false": False, "null": None}
_CONSTANT_HINTS = {"True": "true", "False": "false", "None": "null", "yes": "true", "no": "false"}
_HINTS = {
    "#": "a comment begins with //",
    "\N{LEFT DOUBLE QUOTATION MARK}": 'write the straight quotation mark "',
    "\N{RIGHT DOUBLE QUOTATION MARK}": 'write the straight quotation mark "',
    "\N{DOUBLE LOW-9 QUOTATION MARK}": 'write the straight quotation mark "',
    "\N{LEFT SINGLE QUOTATION MARK}": 'write the straight quotation mark "',
    "\N{RIGHT SINGLE QUOTATION MARK}": 'write the straight quotation mark "',
    ",": "remove the extra comma",
    "<": "replace the placeholder by a value in quotes",
    "/": "a comment is written // to the end of the line, or /* ... */",
}


class Position(NamedTuple):
    """A position in the text; both count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Flaw:
    """A mistake in the writing: what is wrong and what to write instead, in one clause.

    ``path`` is that of the value around it; ``spoilt`` says that the document holds another value there than the text.
    """

    position: Position
    text: str
    path: Key
    spoilt: bool = False


@dataclass(frozen=True, slots=True)
class Document:
    """What a text says, where it says it, and what is wrong with its writing.

    Attributes:
        value: dictionaries, lists, str, int, float, bool and None; meaningless when ``broken``.
        positions: the place of each object key and list item.
        flaws: mistakes in the order of the text.
        broken: whether reading had to stop at the last flaw.
    """

    value: object
    positions: Mapping[Key, Position]
    flaws: tuple[Flaw, ...]
    broken: bool = False


def read(text: str) -> Document:
    """The document that the text holds; never raises."""
    reader = _Reader(text.replace("\r\n", "\n").replace("\r", "\n"))
    try:
        value = reader.whole()
    except _StopReadingError:
        return Document(None, reader.positions, tuple(reader.flaws), broken=True)
    return Document(value, reader.positions, tuple(reader.flaws))


class _StopReadingError(Exception):
    """The last flaw leaves no plain meaning for the rest."""


class _Reader:
    """One pass over one text; ``at`` is the offset of the next unread character."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.positions: dict[Key, Position] = {}
        self.flaws: list[Flaw] = []
        self._path: list[str | int] = []
        self._newlines = [match.start() for match in re.finditer("\n", text)]

    def whole(self) -> object:
        self._skip()
        if not self._next:
            self._stop(self.at, "the file is empty; write an object: { ... }")
        value = self._value()
        self._skip()
        if self._next:
            self._stop(self.at, "there is text after the end of the document; is a bracket closed too early?")
        return value

    @property
    def _next(self) -> str:
        return self.text[self.at : self.at + 1]

    def _position(self, offset: int) -> Position:
        line = bisect.bisect_left(self._newlines, offset)
        return Position(line + 1, offset - (self._newlines[line - 1] if line else -1))

    def _flaw(self, offset: int, text: str, *, spoilt: bool = False) -> None:
        self.flaws.append(Flaw(self._position(offset), text, tuple(self._path), spoilt))

    def _stop(self, offset: int, text: str) -> NoReturn:
        self._flaw(offset, text)
        raise _StopReadingError

    def _skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        self.at = match.end() if match else self.at
        if self.text.startswith("/*", self.at):
            self._stop(self.at, "this comment has no end; write */ after it")

    def _value(self) -> object:
        char = self._next
        if char in {"{", "["}:
            if len(self._path) >= DEEPEST:
                self._stop(self.at, f"brackets are nested deeper than {DEEPEST} levels")
            return self._object() if char == "{" else self._array()
        if char in _PLAIN:
            return self._string()
        if match := _NOT_FINITE.match(self.text, self.at):
            self._flaw(
                self.at, f"{match[0]} is not a number that can be counted with; write a plain number", spoilt=True
            )
            self.at = match.end()
            return 0
        if match := _NUMBER.match(self.text, self.at):
            return self._number(match)
        if match := _WORD.match(self.text, self.at):
            if match[0] not in _CONSTANTS:
                wanted = _CONSTANT_HINTS.get(match[0])
                self._stop(self.at, f"write {wanted}" if wanted else "a text must stand in quotation marks")
            self.at = match.end()
            return _CONSTANTS[match[0]]
        if char and char in ",}]":
            self._stop(self.at, f"a value is missing before this {char}")
        return self._unexpected("a value")

    def _unexpected(self, wanted: str) -> NoReturn:
        char = self._next
        if not char:
            self._stop(self.at, f"the file ends where {wanted} is expected; is it complete?")
        shown = char if char.isprintable() else char.encode("unicode_escape").decode()
        self._stop(self.at, f"{shown} stands where {wanted} is expected; {_HINTS.get(char, 'check this line')}")

    def _separator(self, closing: str) -> None:
        # Where the comma belongs is behind the value, not before whatever follows it.
        end = self.at
        self._skip()
        if self._next == ",":
            self.at += 1
        elif self._next and self._next != closing:
            word = _WORD.match(self.text, self.at) or _NUMBER.match(self.text, self.at)
            if not word and self._next not in {'"', "'", "{", "["}:
                self._unexpected(f"a comma or {closing}")
            self._flaw(end, "a comma is missing here; every entry but the last ends with one")

    def _object(self) -> dict[str, object]:
        opened = self.at
        self.at += 1
        members: dict[str, object] = {}
        while True:
            self._skip()
            if self._next == "}":
                self.at += 1
                return members
            if not self._next:
                self._stop(opened, "this { has no }; is the file complete?")
            start = self.at
            key = self._key()
            self._path.append(key)
            path = tuple(self._path)
            if key in members:
                first = self.positions[path].line
                self._flaw(start, f"this key is given twice, first in line {first}; remove one of the two")
            else:
                self.positions[path] = self._position(start)
            self._skip()
            if self._next != ":":
                self._unexpected("a colon after the key")
            self.at += 1
            self._skip()
            value = self._value()
            members.setdefault(key, value)
            self._path.pop()
            self._separator("}")

    def _key(self) -> str:
        if self._next in _PLAIN:
            return self._string()
        match = _WORD.match(self.text, self.at)
        if not match:
            self._unexpected('a key in quotation marks or "}"')
        self.at = match.end()
        return match[0]

    def _array(self) -> list[object]:
        opened = self.at
        self.at += 1
        items: list[object] = []
        while True:
            self._skip()
            if self._next == "]":
                self.at += 1
                return items
            if not self._next:
                self._stop(opened, "this [ has no ]; is the file complete?")
            self._path.append(len(items))
            self.positions[tuple(self._path)] = self._position(self.at)
            items.append(self._value())
            self._path.pop()
            self._separator("]")

    def _number(self, match: re.Match[str]) -> int | float:
        start, self.at = self.at, match.end()
        digits = match[0].lstrip("+-").lower()
        if len(digits) > LONGEST_NUMBER:
            self._flaw(start, f"this number has {len(digits)} characters; write a smaller one", spoilt=True)
            return 0
        if digits.startswith("0x"):
            return -int(digits, 16) if match[0].startswith("-") else int(digits, 16)
        if re.match(r"0[0-9]", digits):
            self._flaw(start, "a number must not begin with 0; write it without the leading zero", spoilt=True)
            return 0
        if not set(digits) & set(".e"):
            return int(match[0])
        value = float(match[0])
        if not math.isfinite(value):
            self._flaw(start, "this number is too large; write a smaller one", spoilt=True)
            return 0
        return value

    def _string(self) -> str:
        start, quote = self.at, self._next
        self.at += 1
        parts: list[str] = []
        while True:
            plain = _PLAIN[quote].match(self.text, self.at)
            parts.append(plain[0] if plain else "")
            self.at += len(parts[-1])
            if self._next == quote:
                self.at += 1
                text = "".join(parts)
                if _SURROGATE.search(text):  # two escapes may make one character
                    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
                return text
            if self._next != "\\":
                self._stop(start, f"this text has no closing {quote} in its line")
            parts.append(self._escape())

    def _escape(self) -> str:
        start = self.at
        char = self.text[start + 1 : start + 2]
        self.at += 2
        if char in _HEX:
            digits = _HEX[char].match(self.text, self.at)
            if digits:
                self.at = digits.end()
                return chr(int(digits[0], 16))
        elif char in _ESCAPES:
            return _ESCAPES[char]
        elif char and not char.isalnum():
            return char
        # JSON5 proper would drop the backslash, and with it part of a Windows path.
        self._flaw(
            start,
            "this backslash does not begin a known escape; write \\\\ for a backslash, or / in a path",
            spoilt=True,
        )
        return char
