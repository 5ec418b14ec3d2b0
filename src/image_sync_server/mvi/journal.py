"""The request journal: what was asked of the server, newest last."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True, slots=True)
class Entry:
    """One request, written down when it is over."""

    method: str
    path: str
    """Without the context root and ``/api``."""
    at: float
    """Unix time when it came."""
    content_length: int | None
    status: int | None
    """None when the connection ended without an answer."""
    seconds: float
    fault: str = ""
    """The kind, or else the action, of the fault switch that hit it when it came in."""


class Journal:
    """The last requests; safe to look at while the server works."""

    def __init__(self, keep: int) -> None:
        self._entries: deque[Entry] = deque(maxlen=keep)
        self._lock = threading.Lock()

    def write(self, entry: Entry) -> None:
        """Add a line."""
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()

    def __iter__(self) -> Iterator[Entry]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def matching(self, method: str, ending: str) -> list[Entry]:
        """Entries of this method whose path ends so."""
        return [entry for entry in self if entry.method == method and entry.path.endswith(ending)]


class JournalKeeper:
    """ASGI middleware that writes the journal."""

    def __init__(self, app: ASGIApp, journal: Journal) -> None:
        self._app = app
        self._journal = journal

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and note how it ended, before the client can know that it did."""
        at, begun, status, written = time.time(), time.perf_counter(), None, False
        length = Headers(scope=scope).get("content-length", "")
        scope["image_sync_server.fault"] = ""

        def write() -> None:
            nonlocal written
            written = True
            seconds = time.perf_counter() - begun
            known = int(length) if length.isdigit() else None
            fault = scope["image_sync_server.fault"]
            self._journal.write(Entry(scope["method"], scope["path"], at, known, status, seconds, fault))

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body", False) and not written:
                write()
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            if not written:
                write()
