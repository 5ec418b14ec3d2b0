"""What a server answered: read with limits, shown with care."""

from __future__ import annotations

import email.utils
import http.client
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
import urllib3

from image_sync.platforms.words import printable

MAX_ANSWER = 16 * 2**20
"""Bytes of an ordinary answer; a longer one is not read to its end."""
_CHUNK = 256 * 2**10
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
            raise ValueError(f"it is no JSON: {printable(self.body[:60].decode('utf-8', 'replace'))!r}") from None


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


def _unpacked(body: bytes, packing: str, limit: int) -> tuple[str, bytearray]:
    if packing not in {"gzip", "x-gzip", "deflate"}:
        return f"it is packed as {printable(packing, 20)}, which was not asked for", bytearray()
    try:
        plain = zlib.decompressobj(wbits=47).decompress(body, limit + 1)
    except zlib.error:
        return "it cannot be unpacked", bytearray()
    return ("", bytearray(plain)) if len(plain) <= limit else (f"it is longer than {limit} bytes", bytearray())
