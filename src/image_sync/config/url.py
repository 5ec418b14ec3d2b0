"""The address of a server: one spelling for each of the many that people paste."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

from image_sync.config.values import InvalidValue

_EXAMPLE = "https://mvi.example.com"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH_SAFE = "/%:@!$&'()*+,;=~-._"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Endpoint(NamedTuple):
    """An address that can be called.

    ``url`` has no trailing slash and no trailing ``/api``; ``port`` is the one written in it.
    """

    url: str
    port: int | None
    host: str
    encrypted: bool
    loopback: bool


def parse(text: str) -> Endpoint:
    """The server that a person means by the text. Raises :class:`InvalidValue`."""
    text = text.strip()
    parts = _split(text)
    if "?" in text:
        raise InvalidValue(f"has a question mark; write only the part before it, such as {_EXAMPLE}")
    if "#" in text:
        raise InvalidValue(f"has a #, as addresses of pages have; write only the part before it, such as {_EXAMPLE}")
    if "@" in parts.netloc:
        raise InvalidValue("holds a user name or password; write them under their own keys")
    host, address = _host(parts)
    netloc = host if parts.port is None else f"{host}:{parts.port}"
    return Endpoint(
        url=urlunsplit((parts.scheme, netloc, _context_root(parts.path), "", "")),
        port=parts.port,
        host=host,
        encrypted=parts.scheme == "https",
        loopback=address.is_loopback if address else host == "localhost" or host.endswith(".localhost"),
    )


def proxy(text: str) -> str:
    """The address of a proxy, which may hold a user name and password. Raises :class:`InvalidValue`."""
    text = text.strip()
    parts = _split(text)
    _host(parts)
    if parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise InvalidValue("has something after the host; write http://host:port")
    return f"{parts.scheme}://{parts.netloc}"


def with_port(url: str, port: int) -> str:
    """The address with this port."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=f"{parts.netloc}:{port}"))


def _split(text: str) -> SplitResult:
    if not text:
        raise InvalidValue(f"is empty; write the server's address, such as {_EXAMPLE}")
    if "<" in text or ">" in text:
        raise InvalidValue(f"is a placeholder; write the server's address, such as {_EXAMPLE}")
    if any(char.isspace() or not char.isprintable() or char == "\\" for char in text):
        raise InvalidValue("holds a space, a backslash or a character that cannot be shown; remove it")
    scheme = _SCHEME.match(text)
    if not scheme:
        raise InvalidValue("lacks https:// or http://; begin it with https://")
    if scheme[1].lower() not in {"http", "https"}:
        raise InvalidValue(f"begins with {scheme[1]}://; write https:// or http://")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        raise InvalidValue(
            "is not an address; write https://host or https://host:port, the port from 1 to 65535"
        ) from None
    if port == 0:
        raise InvalidValue("has the port 0; write one from 1 to 65535")
    return parts


def _host(parts: SplitResult) -> tuple[str, Address | None]:
    host = parts.hostname or ""
    if not host:
        raise InvalidValue(f"names no host; write the server's address, such as {_EXAMPLE}")
    address = _address(host, bracketed="[" in parts.netloc)
    if address:
        inner = getattr(address, "ipv4_mapped", None) or address
        if inner.is_link_local:
            raise InvalidValue(
                "is a link-local address, where cloud machines keep their secrets; name the server itself"
            )
        if inner.is_unspecified or inner.is_multicast:
            raise InvalidValue("does not name one server; for this machine write 127.0.0.1")
        return (f"[{address}]" if address.version == 6 else str(address)), inner  # noqa: PLR2004 - the IP version
    try:
        host = host.encode("ascii" if host.isascii() else "idna").decode("ascii").lower()
    except UnicodeError:
        raise InvalidValue("has a host name that cannot be looked up; check its spelling") from None
    labels = host.removesuffix(".").split(".")
    if not all(map(_LABEL.fullmatch, labels)) or len(host) > 253:  # noqa: PLR2004 - the longest DNS name
        raise InvalidValue("has a host name that cannot be looked up; check its spelling")
    return host, None


def _address(host: str, *, bracketed: bool) -> Address | None:
    if bracketed:
        if "%" in host:
            raise InvalidValue("is a link-local address; name the server itself")
        try:
            return ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidValue("has no valid address between [ and ]") from None
    try:
        return ipaddress.IPv4Address(host)
    except ValueError:
        pass
    try:  # the system's resolver also takes 0x7f.1 and 2130706433
        numeric = socket.inet_aton(host) if host[:1].isdigit() else None
    except (OSError, UnicodeError):
        return None
    if numeric:
        raise InvalidValue("has a number for a host; write the address as four numbers, or the host's name")
    return None


def _context_root(path: str) -> str:
    path = path.rstrip("/")
    if path == "/api" or path.endswith("/api"):
        path = path.removesuffix("/api").rstrip("/")
    if any(part in {"", ".", ".."} for part in path.split("/")[1:]):
        raise InvalidValue("has an empty part, . or .. in its path; write the path plainly")
    return quote(path, safe=_PATH_SAFE)
