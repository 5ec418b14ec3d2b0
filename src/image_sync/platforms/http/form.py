"""A form as a stream: of known length, with a piece of one picture at a time in memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from requests_toolbelt.multipart.encoder import MultipartEncoder

from image_sync.errors import Changed, Unreadable
from image_sync.platforms.base import Item
from image_sync.platforms.http.answer import printable

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


def picture_part(name: str, item: Item) -> Part:
    """A picture as the part of this name; it is read when its turn comes."""
    content_type = _CONTENT_TYPES.get(item.key.rpartition(".")[2].lower(), "application/octet-stream")
    return Part(name, item.read, filename=item.key, content_type=content_type, size=item.size)


class _Content:
    """The bytes of one part, fetched piece by piece when the encoder comes to them."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._left = len(part.content) if isinstance(part.content, bytes) else part.size
        self._pieces: Iterator[bytes] | None = None
        self._piece = memoryview(b"")

    @property
    def len(self) -> int:
        return self._left

    def read(self, size: int = -1) -> bytes:
        if not self._left:
            return b""
        if not self._piece:
            self._piece = self._next()
        chunk = self._piece if size < 0 else self._piece[:size]
        self._piece = self._piece[len(chunk) :]
        self._left -= len(chunk)
        return bytes(chunk)

    def _next(self) -> memoryview:
        try:
            if self._pieces is None:
                content = self._part.content if isinstance(self._part.content, bytes) else self._part.content()
                self._pieces = iter((content,) if isinstance(content, bytes) else content)
            piece = next(self._pieces, b"")
        except OSError as error:
            raise Unreadable(f"{printable(self._part.filename)} cannot be read: {error.strerror or error}") from error
        if not 0 < len(piece) <= self._left:
            raise Changed(f"{printable(self._part.filename)} has not {self._part.size} bytes")
        return memoryview(piece)


class Form:
    """The parts as one stream, which ends with a TimeoutError when the request's time is over."""

    def __init__(self, form: Sequence[Part], deadline: float) -> None:
        self._encoder = MultipartEncoder(
            [(part.name, (part.filename, _Content(part), part.content_type)) for part in form]
        )
        self._deadline = deadline
        self.content_type: str = self._encoder.content_type
        self.len: int = self._encoder.len

    def read(self, size: int = -1) -> bytes:
        """The next bytes, none at the end."""
        if time.monotonic() > self._deadline:
            raise TimeoutError("the request's time is over")
        chunk: bytes = self._encoder.read(size)
        return chunk
