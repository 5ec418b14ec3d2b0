"""A form as a stream: of known length, with one picture at a time in memory."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from requests_toolbelt.multipart.encoder import MultipartEncoder

from image_sync.errors import Changed, Unreadable
from image_sync.platforms.http.answer import printable


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form. A callable content is called when its turn comes, and must return ``size`` bytes."""

    name: str
    content: bytes | Callable[[], bytes]
    filename: str | None = None
    content_type: str | None = None
    size: int = 0


class _Content:
    """The bytes of one part, fetched when the encoder comes to them and dropped when it has passed them."""

    def __init__(self, part: Part) -> None:
        self._part = part
        self._left = len(part.content) if isinstance(part.content, bytes) else part.size
        self._bytes: io.BytesIO | None = None

    @property
    def len(self) -> int:
        return self._left

    def read(self, size: int = -1) -> bytes:
        if self._bytes is None:
            self._bytes = io.BytesIO(self._load())
        chunk = self._bytes.read(size)
        self._left -= len(chunk)
        if not self._left:
            self._bytes = io.BytesIO()
        return chunk

    def _load(self) -> bytes:
        if isinstance(self._part.content, bytes):
            return self._part.content
        try:
            content = self._part.content()
        except OSError as error:
            raise Unreadable(f"{printable(self._part.filename)} cannot be read: {error.strerror or error}") from error
        if len(content) != self._part.size:
            raise Changed(f"{printable(self._part.filename)} has {len(content)} bytes instead of {self._part.size}")
        return content


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
