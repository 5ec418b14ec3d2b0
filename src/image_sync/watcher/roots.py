"""One watched root: whether it is there, whether it is still the same one, and what has to be said of it."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from image_sync.domain import RootReport, RootState, WatchMode
from image_sync.log import show_path
from image_sync.watcher.filters import Filter, not_taken
from image_sync.watcher.folders import VANISHED

_REMEMBERED = 1000
NEVER = math.inf


@dataclass(slots=True)
class Root:
    """What the watcher knows of one root. Times are monotonic seconds.

    Attributes:
        identity: device and inode of the folder that was found to be the root.
        local: whether its file system is this machine's own, so that its clock and its answers about writers count.
        seen_content: whether this very folder was seen with something in it; then an empty one was emptied.
        look_due, scan_due: when to check that it is there, when to look at everything in it.
        grew: whether folders were made in it since it was last asked whether more can be watched.
        scanned: whether a full scan has ended since it became available.
        reap: a folder was not there: recorded folders must be looked for.
        departures: folders from which recorded files are missing, and since when.
        troubles: places that could not be looked at, and why; stale: those that this scan has not met again.
        mounts: folders on another file system than the root.
    """

    path: bytes
    state: RootState = RootState.STARTING
    mode: WatchMode = WatchMode.POLLING
    why: str = ""
    polled_because: str = ""
    identity: tuple[int, int] | None = None
    local: bool = True
    seen_content: bool = False
    look_due: float = -NEVER
    arm_due: float = -NEVER
    scan_due: float = NEVER
    overflow_scan_at: float = -NEVER
    room_due: float = -NEVER
    grew: bool = False
    scan: Iterator[None] | None = None
    scanned: bool = False
    reap: bool = False
    departures: dict[bytes, float] = field(default_factory=dict)
    troubles: dict[bytes, str] = field(default_factory=dict)
    stale: set[bytes] = field(default_factory=set)
    mounts: set[bytes] = field(default_factory=set)
    passed_over: dict[bytes, Counter[str]] = field(default_factory=dict)
    """Folder -> formats of pictures in it that are not taken; an empty format stands for links to folders."""
    reported: RootReport | None = None
    reported_at: float = -NEVER

    @property
    def available(self) -> bool:
        """Whether it can be looked at."""
        return self.state is RootState.WATCHED

    def inspect(self, filters: Filter) -> Inspection:
        """Look whether it is there and whether anything is in it."""
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = os.fstat(fd)
                with os.scandir(fd) as entries:
                    content = any(_counts(entry, filters) for entry in entries)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return Inspection(trouble="does not exist: mount or make it, or correct 'folders' in the configuration")
        except NotADirectoryError:
            return Inspection(trouble="is not a folder: make it one, or correct 'folders' in the configuration")
        except OSError as error:
            return Inspection(trouble=f"cannot be read ({error.strerror}): check its permissions and its mount")
        return Inspection((found.st_dev, found.st_ino), content)

    def unchanged(self, filters: Filter) -> bool:
        """Whether it is still the folder that was found, so that what is missing in it is really gone."""
        now = self.inspect(filters)
        return not now.trouble and now.identity == self.identity and (now.content or self.seen_content)

    def ground(self, fd: int) -> str:
        """On which file system this open folder lies, and in which root: equal texts mean the same ones."""
        # A reboot or a mount may give a device another number; a file system keeps its own id, if it has one.
        own = os.fstatvfs(fd).f_fsid
        system = f"fs {own:x}" if own else f"device {os.fstat(fd).st_dev:x}"
        # Network file systems may make up inode numbers anew whenever they please.
        return f"{system}, root {self.identity[1] if self.identity and self.local else 0}"

    def met(self, folder: bytes, fd: int) -> None:
        """Take notice of a folder that begins another file system than the root's."""
        if self.identity and os.fstat(fd).st_dev != self.identity[0] and not self._mount_above(folder):
            self.mounts.add(folder)

    def unmounted(self, folder: bytes, filters: Filter) -> bytes | None:
        """The place at or above this folder whose own file system is not there, while it has nothing else in it."""
        place = self._mount_above(folder)
        if place is None or self.identity is None:
            return None
        try:
            if os.lstat(place).st_dev != self.identity[0]:
                return None
            with os.scandir(place) as entries:
                if any(_counts(entry, filters) for entry in entries):
                    self.mounts.discard(place)  # it has become a folder like any other
                    return None
        except OSError as error:
            return place if error.errno in VANISHED else None
        return place

    def _mount_above(self, folder: bytes) -> bytes | None:
        return next((place for place in self.mounts if folder == place or folder.startswith(place + b"/")), None)

    def start_anew(self) -> None:
        """Forget what was going on: everything is to be looked at, if it can be."""
        self.scan = None
        self.scan_due = self.overflow_scan_at = -NEVER
        self.scanned = self.reap = False
        self.departures.clear()
        self.passed_over.clear()
        self.troubles.clear()

    def scan_by(self, when: float) -> None:
        """Have everything looked at by then."""
        self.scan_due = min(self.scan_due, when)

    def trouble(self, path: bytes, why: str) -> None:
        """Remember that this place could not be looked at."""
        self.stale.discard(path)
        if path in self.troubles or len(self.troubles) < _REMEMBERED:
            self.troubles[path] = why

    def report(self, settling: int) -> RootReport:
        """What there is to say of it now."""
        reasons = [self.why] if self.why else []
        if self.available and self.polled_because:
            reasons.append(self.polled_because)
        if self.available and self.troubles:
            first, why = next(iter(self.troubles.items()))
            number = len(self.troubles)
            more = f"{number}{' or more' if number >= _REMEMBERED else ''} places"
            reasons.append(
                f"{'1 place' if number == 1 else more} cannot be looked at, first: {show_path(first)} ({why})"
            )
        if self.available and self.passed_over:
            reasons += not_taken(sum(self.passed_over.values(), Counter[str]()))
        return RootReport(self.path, self.mode, self.state, "; ".join(reasons), settling)


@dataclass(frozen=True, slots=True)
class Inspection:
    """One look at a root: its identity and whether anything that counts is in it, or why it cannot be had."""

    identity: tuple[int, int] | None = None
    content: bool = False
    trouble: str = ""


def _counts(entry: os.DirEntry[Any], filters: Filter) -> bool:
    # A marker like "NOT MOUNTED.txt" or lost+found, as they lie in an unmounted mount point, is no content.
    if entry.is_dir(follow_symlinks=False):
        return filters.folder(os.fsencode(entry.name))
    return filters.file(os.fsencode(entry.name)) and entry.is_file(follow_symlinks=False)
