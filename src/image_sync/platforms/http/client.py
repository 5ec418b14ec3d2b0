"""The client: one request, never repeated here. With its neighbours the only user of requests."""

from __future__ import annotations

import http.client
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3

from image_sync import __version__
from image_sync.errors import ConfigError, ImageSyncError, Refused, Transient
from image_sync.logs import get_logger, hide
from image_sync.platforms.http.answer import MAX_ANSWER, TOO_LARGE, Answer, Spool, read_answer
from image_sync.platforms.http.connection import Session, this_call
from image_sync.platforms.http.form import Form, Part
from image_sync.platforms.http.outcomes import DOUBT, Denied, in_doubt, lost_connection, no_connection, refusal
from image_sync.platforms.words import sanitize

_log = get_logger(__name__)

_STALE_AFTER = 1.0
"""Seconds after which a kept connection is not used again: the server may just be closing it, and a request sent into
that would be lost in a way that cannot be told from one that was carried out."""


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
        limit: int = MAX_ANSWER,
        sink: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """One request and its answer, whatever its status.

        Args:
            what: what is being done, for errors: "Listing the datasets".
            repeatable: whether doing it twice is the same as doing it once.
            body: sent as JSON.
            form: sent as multipart/form-data, streamed.
            limit: bytes of the answer that are read.
            sink: takes the body of a 2xx answer piece by piece, without limit, instead of ``Answer.body``.

        Raises:
            Transient, Ambiguous: see the table in ``outcomes``.
            Changed, Unreadable: of a part's content, as they are; the server then got an incomplete body.
        """
        timeouts = timeouts or self._timeouts
        session = self._session()
        deadline = time.monotonic() + timeouts.total
        this_call.connected, this_call.deadline, this_call.read = False, deadline, timeouts.read
        this_call.alive = self._alive
        self._alive()
        data = Form(form, deadline) if form else None
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
                answer = read_answer(response, limit, sink)
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
        if not 200 <= answer.status <= 299:  # noqa: PLR2004 - the 2xx statuses
            raise refusal(answer, what, self.host, self._said(answer), repeatable=repeatable)
        try:
            body = answer.json()
        except ValueError as error:
            found = in_doubt(what, f"the answer cannot be used, {error}", repeatable=repeatable)
            found.hint = TOO_LARGE if repeatable and len(answer.body) > MAX_ANSWER else found.hint
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
            if 200 <= answer.status <= 299 and spool.begins_a_list(packing):  # noqa: PLR2004 - the 2xx statuses
                yield from spool.entries(packing)
                return
            if 200 <= answer.status <= 299:  # noqa: PLR2004 - the 2xx statuses
                body = spool.whole(packing)
                cut = f"it is longer than {MAX_ANSWER} bytes" if len(body) > MAX_ANSWER else answer.cut
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

    def _said(self, answer: Answer) -> str | None:
        try:
            return self.fault(answer.json())
        except ValueError:
            return None


def _root(error: BaseException, outer: BaseException | None) -> BaseException:
    """The error of the operating system below what the libraries made of it; ``outer`` was being handled before."""
    while error.__context__ is not None and error.__context__ is not outer:
        error = error.__context__
    return error
