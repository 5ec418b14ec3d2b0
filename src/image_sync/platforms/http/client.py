"""The client: one request, never repeated here. With its neighbours the only user of requests."""

from __future__ import annotations

import codecs
import http.client
import itertools
import json
import re
import sys
import tempfile
import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3

from image_sync import __version__
from image_sync.errors import ConfigError, ImageSyncError, Refused, Transient
from image_sync.log import get_logger, hide
from image_sync.platforms.http.connection import Session, this_call
from image_sync.platforms.http.form import Form, Part
from image_sync.platforms.http.outcomes import DOUBT, Answer, Denied, in_doubt, lost_connection, no_connection, refusal
from image_sync.platforms.words import sanitize

_log = get_logger(__name__)

_STALE_AFTER = 1.0
"""Seconds after which a kept connection is not used again: the server may just be closing it, and a request sent into
that would be lost in a way that cannot be told from one that was carried out."""
_MAX_ANSWER = 4 * 2**20
"""Bytes of an ordinary answer; a longer one is not read to its end. As objects they take thirty times as much."""
_TOO_LARGE = "An answer of this kind is small: check that credentials.endpoint is the platform's own address"
_LONGEST_ENTRY = 2**20
"""Characters of one entry of a list."""
_IN_MEMORY = 4 * 2**20
_CHUNK = 256 * 2**10
_SLICE = 64 * 2**10
_PACKINGS = {"gzip", "x-gzip", "deflate"}
_BLANKS = re.compile(r"[ \t\r\n]*")
_AFTER = {
    ("[", "["): "entry or end",
    ("entry or end", "]"): "nothing",
    ("comma or end", ","): "entry",
    ("comma or end", "]"): "nothing",
}
"""What is expected next in a list, and which sign came -> what is expected after it."""
_BODILESS = {204, 205, 304}
_LENGTHS = {"content-length", "transfer-encoding"}


def header_value(value: str, name: str) -> str:
    """The value without surrounding blanks. Raises ConfigError, which does not show it, when no header can carry it."""
    value = value.strip()
    if not value.isprintable() or any(ord(char) > 0xFF for char in value):  # noqa: PLR2004 - Latin-1
        raise ConfigError(f"{name} holds a character that cannot be sent", hint="Copy it again, without line breaks")
    return value


class Timeouts(NamedTuple):
    """Seconds: to connect, between two pieces of an answer, and for the request as a whole."""

    connect: float = 10.0
    read: float = 60.0
    total: float = 120.0

    @classmethod
    def of(cls, seconds: float) -> Timeouts:
        """What the setting ``upload.timeout`` means."""
        return cls(connect=min(10.0, seconds), read=seconds, total=2 * seconds)


class Client:
    """Sends requests below one base address, from any number of threads, each with its own connection.

    Args:
        base_url: without a slash at the end.
        verify: True, False, or the path of a file with the certificates to trust.
        proxy: URL of a proxy, or empty; the environment is never asked.
        headers: sent with every request.
        fault: the vendor's words when a JSON body says that the call failed, else None.
        alive: called for each request, and each block of it that is sent or read.
    """

    def __init__(
        self,
        base_url: str,
        *,
        verify: bool | str = True,
        proxy: str = "",
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 - a frozen value
        fault: Callable[[Any], str | None] = lambda _body: None,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        if isinstance(verify, str) and not Path(verify).is_file():
            raise ConfigError(
                f"The file of trusted certificates {verify} does not exist", hint="See credentials.ca_bundle"
            )
        self.base_url = base_url
        self.host = urlsplit(base_url).netloc
        self.fault = fault
        self._alive = alive
        self._verify = verify
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._proxy = urlsplit(proxy).netloc.rpartition("@")[2]
        hide(urlsplit(proxy).password or "")
        self._headers = {
            "User-Agent": f"image-sync/{__version__}",
            "Accept": "application/json, */*",
            "Accept-Encoding": "identity",
            **(headers or {}),
        }
        self._timeouts = timeouts
        self._local = threading.local()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        if verify is False and base_url.startswith("https:"):
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
            _log.warning(
                "tls.not_verified", host=self.host, hint="set credentials.ca_bundle instead of verify_tls: false"
            )

    def close(self) -> None:
        """Close every connection."""
        for session in list(self._sessions):
            session.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        what: str,
        repeatable: bool,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        form: Sequence[Part] = (),
        headers: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        sink: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """One request and its answer, whatever its status.

        Args:
            what: what is being done, for errors: "Listing the datasets".
            repeatable: whether doing it twice is the same as doing it once.
            body: sent as JSON.
            form: sent as multipart/form-data, streamed.
            sink: takes the body of a 2xx answer piece by piece, without limit, instead of ``Answer.body``.

        Raises:
            Transient, Ambiguous: see the table in ``outcomes``.
            Changed, Unreadable: of a part's content, as they are; the server then got an incomplete body.
        """
        timeouts = timeouts or self._timeouts
        session = self._session()
        this_call.connected, this_call.read, this_call.alive = False, timeouts.read, self._alive
        this_call.deadline = time.monotonic() + timeouts.total
        self._alive()
        data: Any = Form(form) if form else None
        sent = {**(headers or {}), **({"Content-Type": data.content_type} if data else {})}
        outer = sys.exception()
        started = time.monotonic()
        try:
            with session.request(
                method,
                self.base_url + path,
                params=params,
                json=body,
                data=data,
                headers=sent,
                timeout=(min(timeouts.connect, timeouts.total), min(timeouts.read, timeouts.total)),
                allow_redirects=False,
                stream=True,
            ) as response:
                answer = _read_answer(response, sink)
        except ImageSyncError:
            raise
        except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            cause = _root(error, outer)
            if not this_call.connected:
                raise no_connection(what, self.host, cause, proxy=self._proxy) from None
            raise lost_connection(what, self.host, cause, timeouts.total, repeatable=repeatable) from None
        finally:
            self._local.used = time.monotonic()
        _log.debug(
            "http.call", method=method, path=path, status=answer.status, seconds=round(self._local.used - started, 3)
        )
        return answer

    def check(self, answer: Answer, *, what: str, repeatable: bool) -> Any:
        """The JSON of an answer that reports success (None if empty); raises what the table in ``outcomes`` says."""
        if not answer.ok:
            try:
                said = self.fault(answer.json())
            except ValueError:
                said = None
            raise refusal(answer, what, self.host, said, repeatable=repeatable)
        try:
            body = answer.json()
        except ValueError as error:
            found = in_doubt(what, f"the answer cannot be used, {error}", repeatable=repeatable)
            found.hint = _TOO_LARGE if repeatable and len(answer.body) > _MAX_ANSWER else found.hint
            raise found from None
        fault = self.fault(body)
        if fault is None:
            return body
        if repeatable:
            raise Refused(f"{what}: {sanitize(fault)}", words=fault)
        raise Denied(f"{what}: the server reports a failure: {sanitize(fault)}", hint=DOUBT)

    def entries(self, answer: Answer, spool: Spool, *, what: str) -> Iterator[Any]:
        """The entries of a list that came through the spool, one after the other; raises what :meth:`check` does."""
        packing = answer.headers.get("Content-Encoding", "identity").lower()
        try:
            if answer.ok and spool.begins_a_list(packing):
                yield from spool.entries(packing)
                return
            if answer.ok:
                body = spool.whole(packing)
                cut = f"it is longer than {_MAX_ANSWER} bytes" if len(body) > _MAX_ANSWER else answer.cut
                answer = Answer(answer.status, answer.headers, body, cut)
        except ValueError as error:
            raise Transient(f"{what}: the answer cannot be used, {error}") from None
        self.check(answer, what=what, repeatable=True)
        raise Transient(f"{what}: the answer has an unexpected shape (it is not a list)")

    def _session(self) -> Session:
        session: Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = Session()
            session.verify = self._verify
            session.proxies.update(self._proxies)
            session.headers.update(self._headers)
            self._sessions.add(session)
        elif time.monotonic() - self._local.used > _STALE_AFTER:
            session.close()
        return session


def _root(error: BaseException, outer: BaseException | None) -> BaseException:
    """The error of the operating system below what the libraries made of it; ``outer`` was being handled before."""
    while error.__context__ is not None and error.__context__ is not outer:
        error = error.__context__
    return error


def _read_answer(response: requests.Response, sink: Callable[[bytes], object] | None) -> Answer:
    """Take the answer from the line: at most ``_MAX_ANSWER`` bytes, or all of a 2xx body into ``sink``.

    A body that breaks off is an answer too, since its status came through; one that is cut in a sink raises.
    """
    body, cut = bytearray(), ""
    answer = Answer(response.status_code, response.headers)
    streamed = sink is not None and answer.ok
    try:
        while chunk := response.raw.read(_CHUNK, decode_content=False):
            if sink is not None and streamed:
                sink(chunk)
                continue
            body += chunk
            if len(body) > _MAX_ANSWER:
                cut = f"it is longer than {_MAX_ANSWER} bytes"
                break
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError):
        if streamed:
            raise
        cut = "it is cut short"  # the status came through, and may be proof enough
    told = answer.status in _BODILESS or any(name in answer.headers for name in _LENGTHS)
    if not (told or body or streamed or cut):
        cut = "it has no length and no content, as when it breaks off among its headers"
    packing = answer.headers.get("Content-Encoding", "identity").lower()
    if packing != "identity" and not cut:
        try:
            plain = b"".join(_unpacked([bytes(body)], packing, _MAX_ANSWER + 1))
            cut, body = (f"it is longer than {_MAX_ANSWER} bytes" if len(plain) > _MAX_ANSWER else ""), bytearray(plain)
        except ValueError as error:
            cut = str(error)
    return Answer(answer.status, answer.headers, bytes(body), cut)


def _unpacked(pieces: Iterable[bytes], packing: str, most: int) -> Iterator[bytes]:
    """What is packed, piece by piece, until there are ``most`` bytes. Raises ValueError when it cannot be unpacked."""
    if packing == "identity":
        yield from pieces
        return
    if packing not in _PACKINGS:
        raise ValueError(f"it is packed as {sanitize(packing, 20)}, which was not asked for")
    packer, size = zlib.decompressobj(wbits=47), 0
    for piece in pieces:
        while piece and size < most:
            try:
                plain = packer.decompress(piece, _SLICE)
            except zlib.error:
                raise ValueError("it cannot be unpacked") from None
            size += len(plain)
            yield plain
            piece = packer.unconsumed_tail  # noqa: PLW2901 - the rest of the same piece


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
        self._limited(self._size)
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
            if len(body) > _MAX_ANSWER:
                break
        return bytes(body)

    def entries(self, packing: str) -> Iterator[Any]:
        """The entries of the array, one after the other. Raises ValueError where it is none."""
        decoder, held, wanted = json.JSONDecoder(), "", "["
        for piece in itertools.chain(self._texts(packing), ("",)):
            held, at = held + piece, 0
            while (at := _BLANKS.match(held, at).end()) < len(held):  # type: ignore[union-attr]
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
        size = 0
        for piece in _unpacked(iter(lambda: self._file.read(_SLICE), b""), packing, self._limit + 1):
            size += len(piece)
            self._limited(size)
            yield piece

    def _limited(self, size: int) -> None:
        if size > self._limit:
            hint = "Delete at the platform what is no longer needed, or give image-sync an account that sees less"
            raise Transient(f"{self._what}: the answer is longer than {self._limit} bytes", hint=hint)


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
