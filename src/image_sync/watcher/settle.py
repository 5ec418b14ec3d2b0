"""When a file is taken to be finished."""

from __future__ import annotations

import errno
import fcntl
import heapq
import signal
import sys
from dataclasses import dataclass
from itertools import count

from image_sync.domain import Stamp
from image_sync.watcher.rules import Rules

LIMIT = 20_000
"""Files that may settle at one time; the folders of further ones are looked at again later."""
_SLACK = 0.001
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_TOO_LONG = 3600.0


@dataclass(slots=True)
class _Restless:
    stamp: Stamp
    since: float
    first: float
    due: float
    tries: int = 0
    reported: bool = False


class Settling:
    """Files that were seen but may still change. Times are monotonic seconds except ``wall``, which is Unix time."""

    def __init__(self, rules: Rules, limit: int = LIMIT) -> None:
        self._rules = rules
        self._limit = limit
        self._files: dict[tuple[bytes, bytes, bytes], _Restless] = {}
        self._per_root: dict[bytes, int] = {}
        self._order: list[tuple[float, int, tuple[bytes, bytes, bytes]]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._files)

    @property
    def full(self) -> bool:
        """Whether no further file can be remembered."""
        return len(self._files) >= self._limit

    def holds(self, root: bytes, folder: bytes, name: bytes) -> bool:
        """Whether this file is remembered."""
        return (root, folder, name) in self._files

    def of(self, root: bytes) -> int:
        """How many files below this root are settling."""
        return self._per_root.get(root, 0)

    def quiet(
        self,
        root: bytes,
        folder: bytes,
        name: bytes,
        stamp: Stamp,
        *,
        now: float,
        wall: float,
        local: bool,
        newest: float = 0.0,
    ) -> bool:
        """Whether the file rests, having this stamp now; if not, it is remembered (unless ``full``) and will be due.

        It rests when two looks at least ``settle`` apart saw the same stamp. Where the clock that stamps the files is
        our own (``local``), one look at times that lie ``settle`` back says the same; times in the future never do.
        ``newest`` is the time (Unix) of what belongs to the file and must rest like it.
        """
        key = (root, folder, name)
        file = self._files.get(key)
        since = file.since if file and file.stamp == stamp else now
        rests_at = since + self._rules.settle
        age = wall - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9
        if newest:
            age = min(age, wall - newest)
        if (local or self._rules.impatient) and age >= 0:
            rests_at = min(rests_at, now + self._rules.settle - age)
        if rests_at <= now:
            return True
        if file is None:
            if self.full:
                return False
            file = _Restless(stamp, since, now, 0.0)
            self._files[key] = file
            self._per_root[root] = self.of(root) + 1
        elif file.stamp != stamp:
            file.stamp, file.since, file.tries = stamp, since, 0
        self._schedule(key, file, rests_at + _SLACK)
        return False

    def rested(self, root: bytes, folder: bytes, name: bytes, stamp: Stamp, *, now: float, wall: float) -> float:
        """Seconds for which the file has been what it is, by its own times or as seen here, whichever is more."""
        file = self._files.get((root, folder, name))
        seen = now - file.since if file and file.stamp == stamp else 0.0
        return max(seen, wall - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9)

    def busy(self, root: bytes, folder: bytes, name: bytes, stamp: Stamp, now: float) -> None:
        """The file seemed to rest, but somebody writes: look again soon, then less and less often."""
        key = (root, folder, name)
        file = self._files.get(key)
        if file is None:
            file = _Restless(stamp, now, now, 0.0)
            self._files[key] = file
            self._per_root[root] = self.of(root) + 1
        self._schedule(key, file, now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**file.tries))
        file.tries = min(file.tries + 1, 16)

    def forget(self, root: bytes, folder: bytes, name: bytes) -> None:
        """The file was reported, or is gone."""
        if self._files.pop((root, folder, name), None):
            left = self.of(root) - 1
            if left:
                self._per_root[root] = left
            else:
                del self._per_root[root]

    def forget_root(self, root: bytes) -> None:
        """Nothing below this root can be looked at."""
        for key in [key for key in self._files if key[0] == root]:
            self.forget(*key)

    def take(self, now: float, most: int) -> dict[tuple[bytes, bytes], list[bytes]]:
        """Names that are due for another look, by root and folder. Each must be asked about, or forgotten."""
        due: dict[tuple[bytes, bytes], list[bytes]] = {}
        taken = 0
        while taken < most and (key := self._next(now)):
            due.setdefault(key[:2], []).append(key[2])
            heapq.heappop(self._order)
            self._files[key].due = 0.0
            taken += 1
        return due

    def next_due(self) -> float | None:
        """When the next file is due; None when nothing settles."""
        return self._order[0][0] if self._next(float("inf")) else None

    def restless_too_long(self, root: bytes, folder: bytes, name: bytes, now: float) -> bool:
        """Whether this file has been settling for more than an hour; True only once."""
        file = self._files.get((root, folder, name))
        if file is None or file.reported or now - file.first < _TOO_LONG:
            return False
        file.reported = True
        return True

    def _schedule(self, key: tuple[bytes, bytes, bytes], file: _Restless, due: float) -> None:
        if abs(file.due - due) > _SLACK:
            file.due = due
            heapq.heappush(self._order, (due, next(self._number), key))

    def _next(self, now: float) -> tuple[bytes, bytes, bytes] | None:
        while self._order:
            due, _, key = self._order[0]
            file = self._files.get(key)
            if file is None or file.due != due:
                heapq.heappop(self._order)
                continue
            return key if due <= now else None
        return None


def being_written(fd: int) -> bool | None:
    """Whether any process has this file open for writing; None where the system does not tell us of this file.

    Linux grants a read lease only on files that nobody has open for writing, to their owner or to root, on local file
    systems. So of a file of another user it says nothing. False also where it says nothing of any file.
    """
    if sys.platform != "linux":
        return False
    try:
        # Should a writer come in this very moment, the kernel would send SIGIO, which ends a process; SIGURG does not.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return None if error.errno in {errno.EACCES, errno.EPERM} else error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
