"""A form as a stream: of known length, with a block of it at a time in memory."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from urllib3.fields import format_multipart_header_param

from image_sync.errors import Changed, Unreadable
from image_sync.platforms.base import Item
from image_sync.platforms.http.connection import this_call
from image_sync.platforms.words import sanitize

_BLOCK = 1 << 18
"""Bytes that are handed over at once, about: many small pictures together, or a piece of a large one."""
_LINE = b"\r\n"
_PLAIN = re.compile(r"[A-Za-z0-9._ -]+")
"""Names that stand in a header as they are."""
_CONTENT_TYPES = {"jpg": "image/jpeg", "jpeg": "image/jpeg", "png": "image/png"}


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. A callable content is called when its turn comes, and must give ``size``
    bytes, whole or in pieces."""

    name: str
    content: bytes | Callable[[], bytes | Iterable[bytes]]
    filename: str | None = None
    content_type: str | None = None
    size: int = 0

    @classmethod
    def of_picture(cls, name: str, item: Item) -> Part:
        """A picture under its key, read when its turn comes."""
        content_type = _CONTENT_TYPES.get(item.key.rpartition(".")[2].lower(), "application/octet-stream")
        return cls(name, item.read, filename=item.key, content_type=content_type, size=item.size)


class Form:
    """The parts as one stream, which ends with a TimeoutError when the request's time is over. Read once."""

    def __init__(self, form: Sequence[Part], deadline: float) -> None:
        boundary = uuid.uuid4().hex
        self.content_type = f"multipart/form-data; boundary={boundary}"
        self._end = f"--{boundary}--\r\n".encode()
        self._parts = [(_head(part, boundary), part, _size(part)) for part in form]
        self.len = sum(len(head) + size + 2 for head, _, size in self._parts) + len(self._end)
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        """Blocks of bytes; the time that a connection has for each is limited, and so must be its size."""
        waiting: list[bytes] = []
        held = 0
        for head, part, size in self._parts:
            content = part.content if isinstance(part.content, bytes) else _fetched(part.content, part, size)
            if isinstance(content, bytes) and held + len(content) <= _BLOCK:  # small pictures, mostly
                waiting += (head, content, _LINE)
                held += len(head) + len(content)
                continue
            waiting.append(head)
            for piece in _cut(content):
                if held + len(piece) > _BLOCK:
                    yield self._block(waiting)
                    waiting, held = [], 0
                waiting.append(piece)
                held += len(piece)
            waiting.append(_LINE)
        waiting.append(self._end)
        yield self._block(waiting)

    def _block(self, pieces: Sequence[bytes]) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the request's time is over")
        this_call.alive()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def _size(part: Part) -> int:
    return len(part.content) if isinstance(part.content, bytes) else part.size


def _head(part: Part, boundary: str) -> bytes:
    if part.filename is not None and _PLAIN.fullmatch(part.filename):
        shown = f'name="{part.name}"; filename="{part.filename}"'
    else:
        named = {"name": part.name, "filename": part.filename}
        shown = "; ".join(format_multipart_header_param(key, text) for key, text in named.items() if text is not None)
    kind = f"Content-Type: {part.content_type}\r\n" if part.content_type else ""
    return f"--{boundary}\r\nContent-Disposition: form-data; {shown}\r\n{kind}\r\n".encode()


def _fetched(read: Callable[[], bytes | Iterable[bytes]], part: Part, size: int) -> bytes | Iterator[bytes]:
    """The content, which comes only now: as many bytes as were announced, and the last of them only when it is all."""
    try:
        content = read()
    except OSError as error:
        raise _unreadable(part, error) from error
    if isinstance(content, bytes):
        if len(content) != size:
            raise _changed(part, size)
        return content
    return _counted(content, part, size)


def _counted(pieces: Iterable[bytes], part: Part, size: int) -> Iterator[bytes]:
    left = size
    try:
        for piece in pieces:
            left -= len(piece)
            if left < 0:
                break
            yield piece
    except OSError as error:
        raise _unreadable(part, error) from error
    if left:
        raise _changed(part, size)


def _cut(content: bytes | Iterator[bytes]) -> Iterator[bytes]:
    for piece in (content,) if isinstance(content, bytes) else content:
        if len(piece) <= _BLOCK:
            yield piece
        else:
            yield from (piece[at : at + _BLOCK] for at in range(0, len(piece), _BLOCK))


def _unreadable(part: Part, error: OSError) -> Unreadable:
    return Unreadable(f"{sanitize(part.filename)} cannot be read: {error.strerror or error}")


def _changed(part: Part, size: int) -> Changed:
    return Changed(f"{sanitize(part.filename)} has not {size} bytes")
