"""What a server answered: read with limits, shown with care."""

from __future__ import annotations

import codecs
import email.utils
import http.client
import itertools
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from image_sync.errors import Transient
from image_sync.platforms.words import sanitize

MAX_ANSWER = 4 * 2**20
"""Bytes of an ordinary answer; a longer one is not read to its end. As objects they take thirty times as much."""
TOO_LARGE = "An answer of this kind is small: check that credentials.endpoint is the platform's own address"
_LONGEST_ENTRY = 2**20
"""Characters of one entry of a list."""
_IN_MEMORY = 4 * 2**20
_CHUNK = 256 * 2**10
_SLICE = 64 * 2**10
_PACKINGS = {"gzip", "x-gzip", "deflate"}
_BLANKS = re.compile(r"[ \t\r\n]+")
_AFTER = {
    ("[", "["): "entry or end",
    ("entry or end", "]"): "nothing",
    ("comma or end", ","): "entry",
    ("comma or end", "]"): "nothing",
}
"""What is expected next in a list, and which sign came -> what is expected after it."""
_BODILESS = {204, 205, 304}
_LENGTHS = {"content-length", "transfer-encoding"}
_LONGEST_WAIT = 3600.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. ``cut`` says why the body is not the whole one, or is empty."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    cut: str = ""

    def json(self) -> Any:
        """The body as JSON, None when it is empty. Raises ValueError when it is cut or is none."""
        if self.cut:
            raise ValueError(self.cut)
        if not self.body.strip():
            return None
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("its JSON is nested too deeply") from None
        except ValueError:
            raise ValueError(f"it is not JSON: {sanitize(self.body[:60].decode('utf-8', 'replace'))!r}") from None


def retry_after(value: str, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for, at most an hour; None when it asks nothing sensible.

    >>> retry_after("120", now=0), retry_after("Thu, 01 Jan 1970 00:00:30 GMT", now=10), retry_after("soon", now=0)
    (120.0, 20.0, None)
    """
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = float(value[:12])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return min(seconds, _LONGEST_WAIT) if seconds > 0 else None


def read_answer(response: requests.Response, limit: int, sink: Callable[[bytes], object] | None) -> Answer:
    """Take the answer from the line: at most ``limit`` bytes, or all of a 2xx body into ``sink``.

    A body that breaks off is an answer too, since its status came through; one that is cut in a sink raises.
    """
    body = bytearray()
    cut = ""
    streamed = sink is not None and 200 <= response.status_code <= 299  # noqa: PLR2004 - the 2xx statuses
    try:
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            if sink is not None and streamed:
                sink(chunk)
                continue
            body += chunk
            if len(body) > limit:
                cut = f"it is longer than {limit} bytes"
                break
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
        if streamed:
            raise
        cut = "it is cut short"  # the status came through, and may be proof enough
    told = response.status_code in _BODILESS or any(name in response.headers for name in _LENGTHS)
    if not (told or body or streamed or cut):
        cut = "it has no length and no content, as when it breaks off among its headers"
    packing = response.headers.get("Content-Encoding", "identity").lower()
    if packing != "identity" and not cut:
        cut, body = _unpacked(bytes(body), packing, limit)
    return Answer(response.status_code, response.headers, bytes(body), cut)


class Spool:
    """A long answer on its way: in a temporary file, so that of a list one entry at a time is in memory.

    Args:
        limit: bytes that it may have, packed or not.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self._limit = limit
        self._file = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 - closed by close
        self._size = 0

    def write(self, piece: bytes) -> None:
        """Take a piece. Raises Transient when that is too much, or there is no room for it."""
        self._size += len(piece)
        if self._size > self._limit:
            raise self._too_long()
        try:
            self._file.write(piece)
        except OSError as error:
            hint = "A long list is kept in the folder for temporary files (TMPDIR) while it is read: make room there"
            raise Transient(f"{self._what}: the answer cannot be kept: {error.strerror or error}", hint=hint) from error

    def close(self) -> None:
        """Let go of what was kept."""
        self._file.close()

    def begins_a_list(self, packing: str) -> bool:
        """Whether it is a JSON array, as far as its beginning tells."""
        return next((text.lstrip()[:1] for text in self._texts(packing) if text.strip()), "") == "["

    def whole(self, packing: str) -> bytes:
        """All of it, if that is not much; else as much as shows that it is too much."""
        body = bytearray()
        for piece in self._plain(packing):
            body += piece
            if len(body) > MAX_ANSWER:
                break
        return bytes(body)

    def entries(self, packing: str) -> Iterator[Any]:
        """The entries of the array, one after the other. Raises ValueError where it is none."""
        decoder, held, wanted = json.JSONDecoder(), "", "["
        for piece in itertools.chain(self._texts(packing), ("",)):
            held, at = held + piece, 0
            while (at := _beyond_blanks(held, at)) < len(held):
                char = held[at]
                if wanted not in {"entry", "entry or end"} or (char == "]" and wanted == "entry or end"):
                    at, wanted = at + 1, _AFTER.get((wanted, char), "")
                    if not wanted:
                        raise ValueError("it is not a list of entries with commas between")
                    continue
                found = _entry(decoder, held, at)
                if found is None and piece:
                    break  # the rest of the entry has not come yet
                if found is None:
                    raise ValueError("it is cut short, or no JSON")
                yield found[0]
                at, wanted = found[1], "comma or end"
            held = held[at:]
        if wanted != "nothing" or held.strip():
            raise ValueError("it is cut short, or no JSON")

    def _texts(self, packing: str) -> Iterator[str]:
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        for piece in self._plain(packing):
            yield decoder.decode(piece)
        yield decoder.decode(b"", final=True)

    def _plain(self, packing: str) -> Iterator[bytes]:
        self._file.seek(0)
        pieces = iter(lambda: self._file.read(_SLICE), b"")
        if packing == "identity":
            yield from pieces
            return
        if packing not in _PACKINGS:
            raise ValueError(f"it is packed as {sanitize(packing, 20)}, which was not asked for")
        packer, size = zlib.decompressobj(wbits=47), 0
        for piece in pieces:
            try:
                while piece:
                    plain = packer.decompress(piece, _SLICE)
                    size += len(plain)
                    if size > self._limit:
                        raise self._too_long()
                    yield plain
                    piece = packer.unconsumed_tail  # noqa: PLW2901 - the rest of the same piece
            except zlib.error:
                raise ValueError("it cannot be unpacked") from None

    def _too_long(self) -> Transient:
        hint = "Delete at the platform what is no longer needed, or give image-sync an account that sees less"
        return Transient(f"{self._what}: the answer is longer than {self._limit} bytes", hint=hint)


def _entry(decoder: json.JSONDecoder, text: str, at: int) -> tuple[Any, int] | None:
    """The entry that begins here, and where it ends; None when it is not whole, or could go on."""
    try:
        entry, end = decoder.raw_decode(text, at)
    except RecursionError:
        raise ValueError("its JSON is nested too deeply") from None
    except ValueError:
        end = len(text)
    if end < len(text):
        return entry, end
    if end - at > _LONGEST_ENTRY:
        raise ValueError(f"an entry is longer than {_LONGEST_ENTRY} characters")
    return None


def _beyond_blanks(text: str, at: int) -> int:
    found = _BLANKS.match(text, at)
    return found.end() if found else at


def _unpacked(body: bytes, packing: str, limit: int) -> tuple[str, bytearray]:
    if packing not in _PACKINGS:
        return f"it is packed as {sanitize(packing, 20)}, which was not asked for", bytearray()
    try:
        plain = zlib.decompressobj(wbits=47).decompress(body, limit + 1)
    except zlib.error:
        return "it cannot be unpacked", bytearray()
    return ("", bytearray(plain)) if len(plain) <= limit else (f"it is longer than {limit} bytes", bytearray())
