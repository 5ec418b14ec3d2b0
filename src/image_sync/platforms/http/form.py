"""A form as a stream: of known length, with a block of it at a time in memory."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from urllib3.fields import format_multipart_header_param

from image_sync.errors import Changed, Unreadable
from image_sync.platforms.base import Item
from image_sync.platforms.http.connection import this_call
from image_sync.platforms.words import printable

_BLOCK = 1 << 18
"""Bytes that are handed over at once, about: many small pictures together, or a piece of a large one."""
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
        for piece in self._pieces():
            if held + len(piece) > _BLOCK:
                yield self._block(waiting)
                waiting, held = [], 0
            waiting.append(piece)
            held += len(piece)
        yield self._block(waiting)

    def _block(self, pieces: Sequence[bytes]) -> bytes:
        if time.monotonic() > self._deadline:
            raise TimeoutError("the request's time is over")
        this_call.alive()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pieces(self) -> Iterator[bytes]:
        for head, part, size in self._parts:
            yield head
            for piece in (part.content,) if isinstance(part.content, bytes) else _fetched(part.content, part, size):
                if len(piece) <= _BLOCK:
                    yield piece
                else:
                    yield from (piece[at : at + _BLOCK] for at in range(0, len(piece), _BLOCK))
            yield b"\r\n"
        yield self._end


def _size(part: Part) -> int:
    return len(part.content) if isinstance(part.content, bytes) else part.size


def _head(part: Part, boundary: str) -> bytes:
    named = {"name": part.name, "filename": part.filename}
    shown = "; ".join(format_multipart_header_param(key, value) for key, value in named.items() if value is not None)
    kind = f"Content-Type: {part.content_type}\r\n" if part.content_type else ""
    return f"--{boundary}\r\nContent-Disposition: form-data; {shown}\r\n{kind}\r\n".encode()


def _fetched(content: Callable[[], bytes | Iterable[bytes]], part: Part, size: int) -> Iterator[bytes]:
    """The content, which comes only now: as many bytes as were announced, and the last of them only when it is all."""
    try:
        pieces = content()
        left = size
        for piece in (pieces,) if isinstance(pieces, bytes) else pieces:
            left -= len(piece)
            if left < 0:
                break
            yield piece
    except OSError as error:
        raise Unreadable(f"{printable(part.filename)} cannot be read: {error.strerror or error}") from error
    if left:
        raise Changed(f"{printable(part.filename)} has not {size} bytes")
