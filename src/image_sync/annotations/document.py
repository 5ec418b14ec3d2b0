"""JSON from a file that anybody may have written, read within bounds.

A file that is unpacked at once takes ten times its size and more. So the lists of a large file are read item by item,
with the standard library's decoder. ijson, the library for that, sets no bound on a single item, gives no text of it to
keep in place of its objects, and does not tell the line of a mistake.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from image_sync.annotations.fault import AnnotationError, Fault

_MOST_BRACKETS = 1_000_000
_MOST_VALUES = 12_000_000
_WINDOWS = (4 << 10, 128 << 10, 4 << 20)
"""Characters that are looked at for one value; nobody draws an object that takes more than the last."""
_SAVE_AGAIN = "Export it again, or restore it from a copy."
_TOO_MUCH = Fault("it holds too much to be read", "Split it: one file for each folder.")
_SPACE = re.compile(r"[ \t\n\r]*")


def document_of(data: bytes, path: bytes) -> Any:
    """What the JSON text of a small file says.

    Raises:
        AnnotationError: it is not JSON, is nested too deeply, holds NaN, or would take too much memory.
    """
    return _Reader(_text(data, path), path).whole()


def lists_of(data: bytes, path: bytes) -> Iterator[tuple[str, Iterator[tuple[Any, str]]]]:
    """The lists in a JSON object by their keys, each item with its JSON text; other values are passed over.

    Each list must be read before the next one is asked for. A document that is not an object has no lists.

    Raises:
        AnnotationError: as :func:`document_of`, when what is wrong is reached.
    """
    return _Reader(_text(data, path), path).lists()


def _text(data: bytes, path: bytes) -> str:
    # Counting is cheap, and bounds what a hostile file of the permitted size can take when it is unpacked.
    if data.count(b"{") + data.count(b"[") > _MOST_BRACKETS or data.count(b",") > _MOST_VALUES:
        raise AnnotationError(path, [_TOO_MUCH])
    try:
        return data.decode(json.detect_encoding(data), "surrogatepass")
    except UnicodeDecodeError:
        raise AnnotationError(path, [Fault("it is not text", _SAVE_AGAIN)]) from None


class _Reader:
    def __init__(self, text: str, path: bytes) -> None:
        self._text = text
        self._path = path
        self._at = 0

    def whole(self) -> Any:
        """The document, unpacked at once."""
        self._skip_space()
        found = self._value((len(self._text),))
        self._end()
        return found

    def lists(self) -> Iterator[tuple[str, Iterator[tuple[Any, str]]]]:
        """See :func:`lists_of`."""
        self._skip_space()
        if not self._text.startswith("{", self._at):
            self._value(_WINDOWS)
            self._end()
            return
        self._at += 1
        more = not self._takes("}")
        while more:
            self._skip_space()
            if not self._text.startswith('"', self._at):
                self._refuse("Expecting property name enclosed in double quotes")
            key = self._value(_WINDOWS)
            if not self._takes(":"):
                self._refuse("Expecting ':' delimiter")
            if self._takes("["):
                items = self._items()
                yield key, items
                for _ in items:  # what nobody asked for must be JSON too
                    pass
            else:
                self._skip_space()
                self._value(_WINDOWS)
            more = self._goes_on("}")
        self._end()

    def _items(self) -> Iterator[tuple[Any, str]]:
        more = not self._takes("]")
        while more:
            self._skip_space()
            begin = self._at
            item = self._value(_WINDOWS)
            yield item, self._text[begin : self._at]
            more = self._goes_on("]")

    def _skip_space(self) -> None:
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at

    def _takes(self, mark: str) -> bool:
        self._skip_space()
        if not self._text.startswith(mark, self._at):
            return False
        self._at += 1
        return True

    def _goes_on(self, end: str) -> bool:
        if self._takes(end):
            return False
        if not self._takes(","):
            self._refuse("Expecting ',' delimiter")
        return True

    def _end(self) -> None:
        self._skip_space()
        if self._at < len(self._text):
            self._refuse("Extra data")

    def _value(self, windows: tuple[int, ...]) -> Any:
        """The value that begins here, decoded from the smallest window that holds it."""
        for window in windows:
            piece = self._text[self._at : self._at + window]
            whole = self._at + len(piece) == len(self._text)
            try:
                found, end = _DECODER.raw_decode(piece)
            except json.JSONDecodeError as error:
                if whole:
                    self._refuse(error.msg, error.pos)
            except RecursionError:
                raise AnnotationError(
                    self._path, [Fault("it is nested too deeply", "Is this the right file?")]
                ) from None
            except ValueError as error:
                raise AnnotationError(self._path, [Fault(f"it is not JSON ({_short(error)})", _SAVE_AGAIN)]) from None
            else:
                self._at += end
                return found
        raise AnnotationError(self._path, [_TOO_MUCH])

    def _refuse(self, message: str, offset: int = 0) -> NoReturn:
        at = self._at + offset
        end = at >= len(self._text.rstrip()) or message.startswith("Unterminated string")
        what = "it is cut short" if end else f"it is not JSON (line {self._text.count(chr(10), 0, at) + 1})"
        raise AnnotationError(self._path, [Fault(what, _SAVE_AGAIN)]) from None


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _short(error: ValueError) -> str:
    return str(error).partition(":")[0].partition(";")[0]


_DECODER = json.JSONDecoder(parse_constant=_refuse)
