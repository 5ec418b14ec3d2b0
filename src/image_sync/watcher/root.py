"""One watched root: whether it is there and still the same one, how it is watched, and what is said of it."""

from __future__ import annotations

import math
import os
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from image_sync.domain import RootReport, RootState, WatchMode
from image_sync.log import get_logger, show_path
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.events import OUT_OF_WATCHES, Observer, watch_limit
from image_sync.watcher.folders import VANISHED, count_folders, listed_below, open_folder, remote_filesystem
from image_sync.watcher.rules import Filter, Rules, not_taken

log = get_logger(__name__)

_REPORT_PAUSE = 3.0
"""Seconds that a report waits which differs only in how many files settle: each is a transaction."""
_ROOM_PAUSE = 1.0
"""Seconds between two questions whether a watch is left: each takes some milliseconds."""
_EMPTY = (
    "is empty although pictures are recorded below it, as an unmounted share is: mount it; if it was emptied on "
    "purpose, make a folder in it"
)
_REMEMBERED = 1000
_MISSING = 1000
"""Missing files remembered by name; beyond that all files of their folder are looked for."""
NEVER = math.inf


class Departure(NamedTuple):
    """Recorded files that were not there, and since when; ``names`` None: any files of the folder."""

    since: float
    names: frozenset[bytes] | None


class Inspection(NamedTuple):
    """One look at a root: its identity and whether anything that counts is in it, or why it cannot be had."""

    identity: tuple[int, int] | None = None
    content: bool = False
    trouble: str = ""


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
        departures: folders from which recorded files are missing.
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
    departures: dict[bytes, Departure] = field(default_factory=dict)
    troubles: dict[bytes, str] = field(default_factory=dict)
    stale: set[bytes] = field(default_factory=set)
    mounts: set[bytes] = field(default_factory=set)
    passed_over: dict[bytes, Counter[str]] = field(default_factory=dict)
    """Folder -> formats of pictures in it that are not taken; an empty format stands for links to folders."""
    reported: RootReport | None = None
    report_due: float = NEVER

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

    def enter(self, folder: bytes, fd: int) -> str:
        """The ground of this open folder: on which file system it lies, and in which root; equal texts mean the same.

        Takes notice of a folder that begins another file system than the root's.
        """
        device = os.fstat(fd).st_dev
        if self.identity and device != self.identity[0] and not self._mount_above(folder):
            self.mounts.add(folder)
        # A reboot or a mount may give a device another number; a file system keeps its own id, if it has one.
        own = os.fstatvfs(fd).f_fsid
        system = f"fs {own:x}" if own else f"device {device:x}"
        # Network file systems may make up inode numbers anew whenever they please.
        return f"{system}, root {self.identity[1] if self.identity and self.local else 0}"

    def ground_of(self, folder: bytes) -> str:
        """The ground of a folder; if it is not there, that of the nearest one above it which is."""
        while True:
            try:
                fd = open_folder(self.path, folder)
                try:
                    return self.enter(folder, fd)
                finally:
                    os.close(fd)
            except OSError:
                if len(folder) <= len(self.path):
                    return ""
                folder = folder.rpartition(b"/")[0]

    def miss(self, folder: bytes, names: Collection[bytes] | None, now: float) -> None:
        """Recorded files of a folder, or any files of it, are not there."""
        old = self.departures.get(folder)
        missing = None if names is None or (old and old.names is None) else frozenset(names)
        if missing is not None and old and old.names:
            missing |= old.names
        if missing is not None and len(missing) > _MISSING:
            missing = None
        self.departures[folder] = Departure(old.since if old else now, missing)

    def unmounted(self, folder: bytes, filters: Filter) -> bytes | None:
        """The place at or above this folder whose own file system is not there, while it has nothing else in it."""
        place = self._mount_above(folder) if self.mounts else None
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


def _counts(entry: os.DirEntry[Any], filters: Filter) -> bool:
    # A marker like "NOT MOUNTED.txt" or lost+found, as they lie in an unmounted mount point, is no content.
    if entry.is_dir(follow_symlinks=False):
        return filters.folder(os.fsencode(entry.name))
    return filters.file(os.fsencode(entry.name)) and entry.is_file(follow_symlinks=False)


class RootMonitor:
    """Keeps the state of each root right: there or not, the same or another, heard or polled.

    Args:
        now: the monotonic clock.
    """

    def __init__(
        self, catalogue: Catalogue, rules: Rules, stop: threading.Event, observer: Observer, now: Callable[[], float]
    ) -> None:
        self._catalogue = catalogue
        self._stop = stop
        self._observer = observer
        self._now = now
        self._folders: dict[bytes, int] = {}
        self._rules = rules

    def inspect(self, root: Root, filters: Filter) -> None:
        """Look whether the root is there and the same; take it up anew, or give it up, if that has changed."""
        root.look_due = self._now() + self._rules.poll
        found = root.inspect(filters)
        if found.trouble:
            self._give_up(root, found.trouble)
            return
        same = found.identity == root.identity
        if not found.content and not (same and root.seen_content) and self._catalogue.folders(root.path):
            self._give_up(root, _EMPTY)
            return
        if root.available and same:
            root.seen_content |= found.content
            if root.mode is WatchMode.EVENTS and not self._observer.hears(root.path):
                log.warning("watch.events_stopped", root=root.path, hint="subscribed again; everything is looked at")
                self.subscribe(root)
                root.scan_by(self._now())
            return
        if root.state is not RootState.STARTING:
            log.info("watch.root_back" if not root.available else "watch.root_replaced", root=root.path)
        root.start_anew()
        root.identity, root.seen_content = found.identity, found.content
        root.mounts |= listed_below(root.path)
        root.state, root.why = RootState.WATCHED, ""
        self._observer.unwatch(root.path)
        self.subscribe(root)

    def subscribe(self, root: Root) -> None:
        """Decide how changes below the root are noticed, and see to it."""
        root.arm_due = NEVER
        remote = remote_filesystem(root.path)
        root.local = not remote
        reason = self._why_polled(root, remote)
        if not reason and not self._all_watched(root):
            reason = self._observer.watch(root.path)
        if reason:
            self.poll(root, reason)
        else:
            root.mode, root.polled_because = WatchMode.EVENTS, ""

    def poll(self, root: Root, reason: str) -> None:
        """Look at the root every few seconds from now on, since its events cannot be had."""
        self._observer.unwatch(root.path)
        self._folders.pop(root.path, None)
        if reason != root.polled_because:
            log.info("watch.polled", root=root.path, reason=reason, seconds=self._rules.poll)
        root.mode, root.polled_because = WatchMode.POLLING, reason
        root.scan_by(self._now() + self._rules.poll)

    def make_sure_of_room(self, root: Root) -> None:
        """See, after new folders, whether more of them can still be watched."""
        now = self._now()
        if not root.grew or now < root.room_due:
            return
        root.grew, root.room_due = False, now + _ROOM_PAUSE
        if root.mode is WatchMode.EVENTS and not self._observer.room(root.path):
            self.poll(root, OUT_OF_WATCHES)
            root.scan_by(now)

    def after_scan(self, root: Root, folders: int) -> None:
        """Take notice of how many folders there are, and of what could not be looked at any more."""
        now = self._now()
        for path in root.stale:
            root.troubles.pop(path, None)
        if root.arm_due == NEVER:
            root.arm_due = now + self._rules.rescan
        if folders > self._rules.max_folders and root.mode is WatchMode.EVENTS:
            self.poll(root, self._too_many())

    def report(self, roots: Iterable[Root], settling: Callable[[bytes], int]) -> float:
        """Report what changed. Returns when the next report is due; infinite when nothing waits to be reported."""
        due, now = NEVER, self._now()
        for root in roots:
            report, last = root.report(settling(root.path)), root.reported
            if report == last:
                root.report_due = NEVER
                continue
            if last and last == replace(report, settling=last.settling):
                root.report_due = min(root.report_due, now + _REPORT_PAUSE)
                if now < root.report_due:
                    due = min(due, root.report_due)
                    continue
            self._catalogue.report(report)
            root.reported, root.report_due = report, NEVER
        return due

    def _give_up(self, root: Root, why: str) -> None:
        if root.state is not RootState.UNAVAILABLE or root.why != why:
            log.error("watch.root_unavailable", root=root.path, reason=why)
        root.start_anew()
        root.state, root.why = RootState.UNAVAILABLE, why
        self._observer.unwatch(root.path)
        self._folders.pop(root.path, None)

    def _why_polled(self, root: Root, remote: str) -> str:
        self._folders.pop(root.path, None)
        if self._rules.mode == "polling":
            return "the configuration says so (watch.mode)"
        if remote and self._rules.mode == "auto":
            return f"a {remote} file system does not tell of all changes"
        number = count_folders(root.path, self._rules.max_folders, self._stop)
        if number > self._rules.max_folders:
            return self._too_many()
        limit = watch_limit()
        if limit is not None and number + sum(self._folders.values()) > limit:
            return OUT_OF_WATCHES
        self._folders[root.path] = number
        return ""

    def _all_watched(self, root: Root) -> bool:
        # watchdog loses sight of some folders of trees that are moved while it walks them.
        if not self._observer.hears(root.path):
            return False
        watching = self._observer.watching()
        return watching is None or watching >= sum(self._folders.values())

    def _too_many(self) -> str:
        return f"it has more than {self._rules.max_folders:,} folders (watch.max_folders)"
