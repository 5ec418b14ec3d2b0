"""Who may call a server that asks for no password: programs on this machine, never a web page in its browser."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from urllib.parse import urlsplit

_OWN = frozenset({"none", "same-origin"})


def is_local(host: str) -> bool:
    """Whether this name or address can only mean this machine.

    >>> is_local("localhost"), is_local("127.0.0.9"), is_local("::1"), is_local("127.0.0.1.evil.example")
    (True, True, True, False)
    """
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refusal(header: Callable[[str], str | None]) -> str:
    """Why a request with these headers is refused, in a sentence; empty when it may be carried out.

    ``Host`` must name this machine: a page whose own name was made to lead here (DNS rebinding) sends its name.
    ``Origin`` must be the server's own, which browsers send with what could change something. ``Sec-Fetch-Site`` must
    not tell of another page, which also covers plain pictures and links; another port of this machine is another page.

    Args:
        header: the value of a header, whose name is given in lower case; None when there is none.
    """
    host, origin = header("host") or "", header("origin")
    if not is_local(_name(host)):
        return f"This server answers to localhost only, not to {host[:80]!r}, as it asks for no password."
    if (origin is not None and _place(origin) != host) or (header("sec-fetch-site") or "none") not in _OWN:
        return "This server asks for no password, so it takes no requests from other web pages."
    return ""


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return ""
