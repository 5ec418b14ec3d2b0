"""Multipart forms: small parts in memory, large ones on disk, never more than one file open."""

from __future__ import annotations

import codecs
import io
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.concurrency import run_in_threadpool

from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.limits import Limits
from image_sync_server.mvi.store import Store

FILES = "files"
_IN_MEMORY = 256 * 1024
_CHUNK = 512 * 1024


@dataclass(slots=True)
class Part:
    """One part of a form."""

    name: str
    filename: str | None
    data: bytearray = field(default_factory=bytearray)
    path: Path | None = None
    """Where it lies if it was too large for memory."""
    size: int = 0

    def read(self) -> bytes:
        """The whole content."""
        return bytes(self.data) if self.path is None else self.path.read_bytes()

    def open(self) -> BinaryIO:
        """The content as a file; close it."""
        return io.BytesIO(self.data) if self.path is None else self.path.open("rb")

    def start(self) -> bytes:
        """The first bytes, enough to tell what it is."""
        with self.open() as file:
            return file.read(16)


@dataclass(slots=True)
class Form:
    """A form: its files in order, and the first value of each plain field.

    IBM's tools send plain fields with a file name too, so only the part's name tells what is a file.
    """

    files: list[Part] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)

    def discard(self) -> None:
        """Remove what lies on disk."""
        for part in self.files:
            if part.path is not None:
                with suppress(OSError):
                    part.path.unlink()


class FormReader:
    """Reads one form as its bytes come in."""

    def __init__(self, boundary: bytes, store: Store, limits: Limits) -> None:
        self.form = Form()
        self._store = store
        self._limits = limits
        self._part: Part | None = None
        self._sink: BinaryIO | None = None
        self._header = (bytearray(), bytearray())
        self._disposition = b""
        self._parts = 0
        self._held = 0
        self._told = 0
        self._ended = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                "on_header_end": self._header_end,
                "on_headers_finished": self._headers_finished,
                "on_part_data": self._data,
                "on_part_end": self._finish,
                "on_end": self._end,
            },
        )

    def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            Failure: 400 or 413.
        """
        try:
            self._parser.write(data)
        except FormParserError as error:
            raise Failure(400, "The multipart body is damaged.") from error

    def close(self) -> Form:
        """The form.

        Raises:
            Failure: 400 when its end is missing.
        """
        if not self._ended:
            raise Failure(400, "The multipart body is cut short.")
        return self.form

    def abandon(self) -> None:
        """Throw away what was read."""
        if self._sink is not None:
            self._sink.close()
        if self._part is not None and self._part.path is not None:
            with suppress(OSError):
                self._part.path.unlink()
        self.form.discard()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            raise Failure(413, f"The form has more than {self._limits.parts} parts. Send fewer files at once.")
        self._disposition = b""

    def _header_end(self) -> None:
        name, value = self._header
        if bytes(name).lower() == b"content-disposition":
            self._disposition = bytes(value)
        name.clear()
        value.clear()

    def _headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise Failure(400, "A part of the form has no name.")
        filename = options.get(b"filename")
        self._part = Part(_decoded(options[b"name"]), None if filename is None else _decoded(filename))

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._part
        if part is None:
            raise Failure(400, "The multipart body is damaged.")
        part.size += end - start
        if part.name != FILES:
            self._told += end - start
            if self._told > self._limits.json:
                fault = f"The form's plain fields have more than {self._limits.json} bytes, up to {part.name[:40]!r}."
                raise Failure(413, fault)
        elif part.path is None and (part.size > _IN_MEMORY or self._held + part.size > self._limits.memory):
            part.path = self._store.scratch()
            self._sink = part.path.open("xb")
            self._sink.write(part.data)
            part.data.clear()
        if self._sink is not None:
            self._sink.write(memoryview(data)[start:end])
        else:
            part.data += data[start:end]

    def _finish(self) -> None:
        part, self._part = self._part, None
        if self._sink is not None:
            self._sink.close()
            self._sink = None
        if part is None:
            return
        if part.name == FILES:
            self._held += len(part.data)
            self.form.files.append(part)
        else:
            self.form.fields.setdefault(part.name, _decoded(bytes(part.data)))

    def _end(self) -> None:
        self._ended = True


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return codecs.decode(raw, "latin-1")


async def read_form(content_type: str, body: AsyncIterator[bytes], store: Store, limits: Limits) -> Form:
    """The form in a request's body; call ``discard`` when done with it.

    Raises:
        Failure: 400 when it is no multipart form or damaged, 413 when it is too large.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data" or b"boundary" not in options:
        raise Failure(400, "This call takes multipart/form-data with parts named files.")
    reader = FormReader(options[b"boundary"], store, limits)
    pending = bytearray()
    try:
        async for chunk in body:
            pending += chunk
            if len(pending) >= _CHUNK:
                await run_in_threadpool(reader.write, bytes(pending))
                pending.clear()
        await run_in_threadpool(reader.write, bytes(pending))
        return reader.close()
    except BaseException:
        reader.abandon()
        raise
