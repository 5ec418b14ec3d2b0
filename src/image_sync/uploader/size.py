"""How many pictures go into one request: fewer after a refusal, so that the one to blame is found, then more again."""

from __future__ import annotations

import threading


class Size:
    """The size of requests. May be used from several threads.

    Args:
        files: most pictures in one.
        most_bytes: most bytes of pictures in one.
    """

    def __init__(self, files: int, most_bytes: int) -> None:
        self._most = files
        self._files = files
        self._alone = 0
        self._lock = threading.Lock()
        self.bytes = most_bytes

    @property
    def files(self) -> int:
        """So many pictures go into the next one."""
        return self._files

    def taken(self) -> None:
        """A request was taken: twice as many go into the next."""
        with self._lock:
            self._files = min(self._most, self._files * 2)
            self._alone = 0

    def halve(self, pictures: int) -> None:
        """A request with so many pictures was refused: half as many go into the next."""
        with self._lock:
            self._files = max(1, pictures // 2)

    def refused_alone(self) -> int:
        """A picture was refused that was alone in its request. How many were so in a row."""
        with self._lock:
            self._alone += 1
            return self._alone
