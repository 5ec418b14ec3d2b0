"""Connections that know whether they stood, and that no dripping answer can keep beyond a request's time."""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util.retry import Retry

_BLOCK = 1 << 18
"""Bytes handed to the socket at once: the time for each is limited, and so must be its size."""
_MOST_BUFFERS = 1000
"""Buffers handed over at once; Linux takes 1,024."""


class _ThisCall(threading.local):
    """The request that this thread is making."""

    connected = False
    deadline = 0.0
    read = 0.0
    """Seconds that may pass without a byte going or coming."""
    alive: Callable[[], None] = staticmethod(lambda: None)
    """Called for each block that goes or comes."""

    def moves(self) -> float:
        """Called for each block; seconds that it may take. Raises TimeoutError when the request's time is over."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request's time is over")
        self.alive()
        return min(left, self.read)


this_call = _ThisCall()


class _TimedReader(io.RawIOBase):
    """Reads an answer; each read may take only what is left of the request's time, so that drops cannot prolong it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(this_call.moves())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock))


class _Observed:
    """Notes whether the connection stood: only then can the server have got anything."""

    response_class = _TimedResponse
    sock: socket.socket | None

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        this_call.connected = True

    def request(self, *args: Any, **kwargs: Any) -> None:
        this_call.connected = self.sock is not None
        super().request(*args, **kwargs)  # type: ignore[misc]

    def send(self, data: Any) -> None:
        """What the library sends, or a list of buffers from a form, which the kernel gathers: joining them would copy
        every picture once more."""
        if self.sock is None or not isinstance(data, list):
            super().send(data)  # type: ignore[misc]
        elif isinstance(self.sock, ssl.SSLSocket):
            _send_joined(self.sock, data)
        else:
            _send_gathered(self.sock, data)


def _send_gathered(sock: socket.socket, buffers: list[bytes | memoryview]) -> None:
    while buffers:
        sock.settimeout(this_call.moves())  # the library's own is that for connecting
        sent = sock.sendmsg(buffers[:_MOST_BUFFERS])
        if sent == sum(map(len, buffers)):
            return
        for number, buffer in enumerate(buffers):  # the line is slow, or there are more of them than can go at once
            if sent < len(buffer):
                buffers = [memoryview(buffer)[sent:], *buffers[number + 1 :]]
                break
            sent -= len(buffer)


def _send_joined(sock: socket.socket, buffers: Sequence[bytes]) -> None:
    view = memoryview(buffers[0] if len(buffers) == 1 else b"".join(buffers))
    for at in range(0, len(view), _BLOCK):
        sock.settimeout(this_call.moves())
        sock.sendall(view[at : at + _BLOCK])


class _PlainConnection(_Observed, HTTPConnection):  # type: ignore[misc]
    pass


class _TlsConnection(_Observed, HTTPSConnection):  # type: ignore[misc]
    pass


class _PlainPool(HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, blocksize=_BLOCK, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, blocksize=_BLOCK, **kwargs)
        manager.pool_classes_by_scheme = {"http": _PlainPool, "https": _TlsPool}
        return manager


class Session(requests.Session):
    """One thread's connection: no repeats, no redirects, nothing taken from the environment."""

    def __init__(self) -> None:
        super().__init__()
        self.trust_env = False
        adapter = _Adapter(max_retries=Retry(0, read=False), pool_connections=1, pool_maxsize=1)
        self.mount("https://", adapter)
        self.mount("http://", adapter)

    def get_redirect_target(self, resp: Any) -> None:  # noqa: ARG002 - the library's signature
        """Nowhere: even when told not to follow, requests would read a redirect's body, whatever its size."""
        return
