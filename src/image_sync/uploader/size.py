"""How much goes into one request: more while answers come quickly, less on a slow line and after a refusal."""

from __future__ import annotations

import threading

_QUICK = 2.0
_SLOW = 10.0
"""Seconds: a request that took less is followed by larger ones, one that took more by smaller ones. So a fast server
gets few large requests, and on a slow line little is repeated when one is lost."""
_FIRST_FILES = 100
_FIRST_BYTES = 8 << 20


class Size:
    """The size of requests. May be used from several threads.

    Args:
        most_files: pictures in one, at most.
        most_bytes: bytes of pictures in one, at most; a single larger picture goes alone.
    """

    def __init__(self, most_files: int, most_bytes: int) -> None:
        self._most_files = most_files
        self._most_bytes = most_bytes
        self.files = min(_FIRST_FILES, most_files)
        """So many pictures go into the next one."""
        self.bytes = min(_FIRST_BYTES, most_bytes)
        """So many bytes of pictures go into the next one."""
        self._alone = 0
        self._lock = threading.Lock()

    def taken(self, pictures: int, size: int, seconds: float) -> None:
        """A request with so many pictures of so many bytes in all was taken within so many seconds."""
        with self._lock:
            self._alone = 0
            if seconds < _QUICK:
                self.files = min(self._most_files, max(self.files, 2 * pictures))
                self.bytes = min(self._most_bytes, max(self.bytes, 2 * size))
            elif seconds > _SLOW:
                self.files = max(1, min(self.files, pictures // 2))
                self.bytes = max(1, min(self.bytes, size // 2))

    def halve(self, pictures: int) -> None:
        """A request with so many pictures was refused: half as many go into the next, to find the one to blame."""
        with self._lock:
            self.files = max(1, pictures // 2)

    def refused_alone(self) -> int:
        """A picture was refused that was alone in its request. How many were so in a row."""
        with self._lock:
            self._alone += 1
            return self._alone
