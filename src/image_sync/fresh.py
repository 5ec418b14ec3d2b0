"""The bytes of small pictures that were just checked: while pictures are being sent they need not be read twice.

They are kept under their SHA-256, so that what is sent is what was checked, whatever became of the file. In return the
watcher waits a little for the senders: two threads that both read files take turns at Python's lock for every system
call, which costs more than the reading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

_PATIENCE = 2.0
"""Seconds without anything sent after which the watcher goes on: the line is slow, or sending is not due."""
_LOOK = 0.1
_REST = 30.0
"""Seconds for which nothing is kept then."""


class FreshPictures:
    """Contents by SHA-256. May be used from several threads.

    Args:
        most: bytes that are kept; with 0, nothing is.
    """

    def __init__(self, most: int = 0) -> None:
        self._most = most
        self._contents: dict[str, bytes] = {}
        self._size = 0
        self._changed = threading.Condition()
        self._sent = 0
        self._not_before = 0.0

    @property
    def full(self) -> bool:
        """Whether nothing more is kept before something was sent."""
        return 0 < self._most <= self._size

    def keep(self, sha256: str, content: bytes) -> None:
        """Keep a content if there is room."""
        if self._size < self._most and self._not_before <= time.monotonic():
            with self._changed:
                if sha256 not in self._contents:
                    self._contents[sha256] = content
                    self._size += len(content)

    def find(self, wanted: Iterable[str]) -> dict[str, bytes]:
        """Those of the contents that were kept."""
        kept = self._contents
        return {sha256: content for sha256 in wanted if (content := kept.get(sha256))} if kept else {}

    def drop(self, done: Iterable[str]) -> None:
        """These were sent, or will be read again: make room."""
        with self._changed:
            self._sent += 1
            for sha256 in done:
                self._size -= len(self._contents.pop(sha256, b""))
            self._changed.notify_all()

    def wait_for_room(self, stop: threading.Event, alive: Callable[[], None]) -> None:
        """Wait until half of the room is free, for as long as pictures are sent at all."""
        with self._changed:
            sent, until = self._sent, time.monotonic() + _PATIENCE
            while self._size > self._most // 2 and not stop.is_set():
                alive()
                self._changed.wait(_LOOK)
                if self._sent != sent:
                    sent, until = self._sent, time.monotonic() + _PATIENCE
                elif time.monotonic() > until:
                    self._contents.clear()
                    self._size = 0
                    self._not_before = until + _REST
