"""When a file is taken to be finished."""

from __future__ import annotations

import errno
import fcntl
import heapq
import math
import signal
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from image_sync.domain import Stamp

if TYPE_CHECKING:
    from image_sync.watcher.rules import Rules

LIMIT = 20_000
"""Files that may settle at one time; the folders of further ones are looked at again later."""
_SLACK = 0.001
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 5.0
_TOO_LONG = 3600.0


class Place(NamedTuple):
    """Where a file lies."""

    root: bytes
    folder: bytes
    name: bytes


@dataclass(slots=True)
class _Unsettled:
    stamp: Stamp
    since: float
    first: float
    due: float = 0.0
    tries: int = 0
    reported: bool = False


class SettleQueue:
    """Files that were seen but may still change. Times are monotonic seconds except ``wall``, which is Unix time."""

    def __init__(self, rules: Rules, limit: int = LIMIT) -> None:
        self._rules = rules
        self._limit = limit
        self._files: dict[Place, _Unsettled] = {}
        self._per_root = Counter[bytes]()
        self._order: list[tuple[float, int, Place]] = []
        self._number = count()

    def __len__(self) -> int:
        return len(self._files)

    def __contains__(self, place: Place) -> bool:
        return place in self._files

    def of(self, root: bytes) -> int:
        """How many files below this root are settling."""
        return self._per_root[root]

    def quiet(
        self, place: Place, stamp: Stamp, *, now: float, wall: float, local: bool, newest: float = 0.0
    ) -> bool | None:
        """Whether the file rests, having this stamp now; if not, it is remembered, and will be due.

        It rests when two looks at least ``settle`` apart saw the same stamp. Where the clock that stamps the files is
        our own (``local``), one look at times that lie ``settle`` back says the same; times in the future never do.
        ``newest`` is the time (Unix) of what belongs to the file and must rest like it.

        Returns:
            None when it does not rest, and there is no room to remember it.
        """
        file = self._files.get(place)
        since = file.since if file and file.stamp == stamp else now
        rests_at = since + self._rules.settle
        age = wall - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9
        if newest:
            age = min(age, wall - newest)
        if (local or self._rules.once) and age >= 0:
            rests_at = min(rests_at, now + self._rules.settle - age)
        if rests_at <= now:
            return True
        if file is None:
            if len(self._files) >= self._limit:
                return None
            file = self._remember(place, stamp, since)
        elif file.stamp != stamp:
            file.stamp, file.since, file.tries = stamp, since, 0
        self._schedule(place, file, rests_at + _SLACK)
        return False

    def rested(self, place: Place, stamp: Stamp, *, now: float, wall: float) -> float:
        """Seconds for which the file has been what it is, by its own times or as seen here, whichever is more."""
        file = self._files.get(place)
        seen = now - file.since if file and file.stamp == stamp else 0.0
        return max(seen, wall - max(stamp.mtime_ns, stamp.ctime_ns) / 1e9)

    def busy(self, place: Place, stamp: Stamp, now: float) -> None:
        """The file seemed to rest, but somebody writes: look again soon, then less and less often."""
        file = self._files.get(place) or self._remember(place, stamp, now)
        self._schedule(place, file, now + min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**file.tries))
        file.tries = min(file.tries + 1, 16)

    def forget(self, place: Place) -> None:
        """The file was reported, or is gone."""
        if self._files.pop(place, None):
            self._per_root[place.root] -= 1

    def forget_root(self, root: bytes) -> None:
        """Nothing below this root can be looked at."""
        for place in [place for place in self._files if place.root == root]:
            self.forget(place)

    def take(self, now: float, most: int) -> dict[tuple[bytes, bytes], list[bytes]]:
        """Names that are due for another look, by root and folder. Each must be asked about, or forgotten."""
        due: dict[tuple[bytes, bytes], list[bytes]] = {}
        taken = 0
        while taken < most and self.next_due() <= now:
            place = heapq.heappop(self._order)[2]
            due.setdefault((place.root, place.folder), []).append(place.name)
            self._files[place].due = 0.0
            taken += 1
        return due

    def next_due(self) -> float:
        """When the next file is due; infinite when nothing settles."""
        while self._order:
            due, _, place = self._order[0]
            file = self._files.get(place)
            if file is not None and file.due == due:
                return due
            heapq.heappop(self._order)
        return math.inf

    def restless_too_long(self, place: Place, now: float) -> bool:
        """Whether this file has been settling for more than an hour; True only once."""
        file = self._files.get(place)
        if file is None or file.reported or now - file.first < _TOO_LONG:
            return False
        file.reported = True
        return True

    def _remember(self, place: Place, stamp: Stamp, now: float) -> _Unsettled:
        file = self._files[place] = _Unsettled(stamp, now, now)
        self._per_root[place.root] += 1
        return file

    def _schedule(self, place: Place, file: _Unsettled, due: float) -> None:
        if abs(file.due - due) > _SLACK:
            file.due = due
            heapq.heappush(self._order, (due, next(self._number), place))


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
