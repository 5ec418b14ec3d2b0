"""What the outcome of a request proves, for calls that may be repeated (reading, setting, deleting) and others.

=========================================== ================ ==================
outcome                                     repeatable       not repeatable
=========================================== ================ ==================
no connection (refused, DNS, TLS)           ``Transient``    ``Transient``
timeout, reset, end of file after that      ``Transient``    ``Ambiguous``
502, 503, 504                               ``Transient``    ``Ambiguous``
any other 5xx, 408, 409                     ``Transient``    ``Ambiguous``
2xx, body cut, unreadable or of wrong shape ``Transient``    ``Ambiguous``
2xx, but the body says that it failed       ``Refused``      ``Ambiguous``
423, 425, 429                               ``Transient`` with ``retry_after``
401, 403                                    ``Unauthorised``
404                                         ``NotFound``
3xx (never followed), 405, 407              ``Permanent``
413, 415                                    ``Unfit``, a ``Refused``
any other 4xx                               ``Refused``
=========================================== ================ ==================

The ``Transient`` of the first three rows is ``Unanswered``: nobody was there, or only a router that says so.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from image_sync.errors import (
    Ambiguous,
    NotFound,
    Permanent,
    PlatformError,
    Refused,
    Transient,
    Unanswered,
    Unauthorised,
    Unfit,
)
from image_sync.platforms.words import sanitize

DOUBT = "It may have been carried out; the platform will be asked before a repeat"
_NOBODY_BEHIND = {502, 503, 504}
_LONGEST_WAIT = 3600.0
# OpenSSL's codes for a certificate that is sound otherwise.
_OTHER_NAME = {62, 64}
_OUT_OF_TIME = {9, 10}
_TLS_ALERT = "\x15\x03"
_WANTS_TLS = (b"HTTPS port", b"HTTPS server", b"SSL-enabled server port")
"""What nginx, Go and Apache say to plain http at a port for https."""
_USE_TLS = "The server speaks https at this port: write https:// in credentials.endpoint"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered. ``cut`` says why the body is not the whole one, or is empty."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)
    cut: str = ""

    @property
    def ok(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status <= 299  # noqa: PLR2004 - the 2xx statuses

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


class Denied(Ambiguous):
    """A success by its status, a failure by its body: believed by whoever can look whether it was done."""


def in_doubt(what: str, why: str, *, repeatable: bool, kind: type[Transient] = Transient) -> PlatformError:
    """The error for a call whose answer does not tell whether it was carried out."""
    if repeatable:
        return kind(f"{what}: {why}")
    return Ambiguous(f"{what}: {why}", hint=DOUBT)


def _host_of(location: str) -> str:
    try:
        parts = urlsplit(location)
        host, port = parts.hostname, parts.port
    except ValueError:
        return "a place it does not name properly"
    if not host:
        return sanitize(parts.path or "nowhere", 80)
    return sanitize(f"{parts.scheme or 'http'}://{host}{f':{port}' if port else ''}", 120)


def _elsewhere(answer: Answer, what: str, host: str) -> Permanent | None:
    """The error of a server that wants to be called at another address; None if it does not say that."""
    if answer.status == 400 and any(words in answer.body for words in _WANTS_TLS):  # noqa: PLR2004 - Bad Request
        return Permanent(f"{what}: {host} does not take plain http", hint=_USE_TLS)
    if not 300 <= answer.status <= 399:  # noqa: PLR2004 - the 3xx statuses
        return None
    target = _host_of(answer.headers.get("Location", ""))
    hint = "If that is the right place, name it in credentials.endpoint; the key is never sent along by itself"
    return Permanent(f"{what}: {host} sends us on to {target}", hint=hint)


def no_connection(what: str, host: str, cause: BaseException, *, proxy: str = "") -> Unanswered:
    """The error for a request that never left: whatever was wrong, the server has not got a byte of it.

    Args:
        proxy: host and port of the proxy before it, if there is one.
    """
    if proxy and not isinstance(cause, ssl.SSLError):  # TLS is spoken with the server itself, through the proxy
        why = f"the proxy {proxy} cannot be reached, or does not let us through to {host}: {sanitize(cause)}"
        return Unanswered(f"{what}: {why}", hint="Check credentials.proxy, and whether the proxy runs")
    match cause:
        case socket.gaierror():
            why, hint = f"the name of {host} is not known", "Check credentials.endpoint"
        case ConnectionRefusedError():
            why, hint = f"nothing listens at {host}", "Check credentials.endpoint and port, and whether the server runs"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OTHER_NAME:
            why = f"the certificate of {host} is for another name: {sanitize(cause.verify_message)}"
            hint = "Write the name that stands in the certificate into credentials.endpoint, or have a new one issued"
        case ssl.SSLCertVerificationError(verify_code=code) if code in _OUT_OF_TIME:
            why = f"the certificate of {host} is not trusted: {sanitize(cause.verify_message)}"
            hint = "Check this machine's clock; if it is right, ask whoever runs the server to renew the certificate"
        case ssl.SSLCertVerificationError():
            why = f"the certificate of {host} is not trusted: {sanitize(cause.verify_message)}"
            hint = "If it is right, put its authority's certificate in a file and name that in credentials.ca_bundle"
        case ssl.SSLError():
            why = f"no TLS with {host}: {sanitize(cause)}"
            hint = "If it speaks plain http at this port, write http:// in credentials.endpoint, or its https port"
        case TimeoutError():
            why, hint = f"{host} did not answer in time", "Check the address, the network, and credentials.proxy"
        case _:
            why, hint = f"no connection to {host}: {sanitize(cause)}", "Check credentials.endpoint and the network"
    return Unanswered(f"{what}: {why}", hint=hint)


def lost_connection(what: str, host: str, cause: BaseException, seconds: float, *, repeatable: bool) -> PlatformError:
    """The error for a connection that stood and then broke, or gave no answer within ``seconds``."""
    if isinstance(cause, http.client.BadStatusLine) and _TLS_ALERT in str(cause):
        return Unanswered(f"{what}: {host} does not understand plain http", hint=_USE_TLS)
    why = f"the connection to {host} broke: {sanitize(cause)}"
    if isinstance(cause, TimeoutError):
        why = f"{host} did not finish its answer in time ({seconds:g} s)"
    return in_doubt(what, why, repeatable=repeatable, kind=Unanswered)


def refusal(answer: Answer, what: str, host: str, fault: str | None, *, repeatable: bool) -> PlatformError:
    """The error for a status other than 2xx.

    Args:
        fault: the server's own words, if it had any; shown, never understood: they come in any language.
    """
    if (misled := _elsewhere(answer, what, host)) is not None:
        return misled
    status = answer.status
    reason = http.client.responses.get(status, "")
    words = f"{sanitize(fault)} (status {status})" if fault else f"status {status} {reason}".rstrip()
    said = f"{what}: {words}"
    wait = retry_after(answer.headers.get("Retry-After", ""), time.time())
    match status:
        case 401:
            return Unauthorised(said, hint="Check credentials")
        case 403:
            return Unauthorised(said, hint="The user or key in credentials lacks the right to do this")
        case 404:
            return NotFound(said, hint="If nothing at all is found there, check credentials.endpoint")
        case 413 | 415:
            smaller = "Lower upload.batch_bytes, or raise the limit of the proxy before the server"
            return Unfit(said, hint=smaller if status == 413 else "")  # noqa: PLR2004 - too large
        case 405 | 407:
            # Said by what stands before the platform: no picture or training is to blame.
            return Permanent(said, hint="Check credentials.endpoint and credentials.proxy")
        case 423 | 425 | 429:
            return Transient(said, retry_after=wait)
        case _ if status >= 500 or status in {408, 409}:  # noqa: PLR2004 - the 5xx statuses
            kind = Unanswered if status in _NOBODY_BEHIND else Transient
            error = in_doubt(what, words, repeatable=repeatable, kind=kind)
            if isinstance(error, Transient):
                error.retry_after = wait
            return error
        case _:
            return Refused(said, words=fault or "")


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
