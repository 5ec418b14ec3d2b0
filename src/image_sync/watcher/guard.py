"""Keeps the state of each root right: there or not, the same or another, heard or polled."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import replace

from image_sync.domain import RootState, WatchMode
from image_sync.log import get_logger
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.filters import Filter
from image_sync.watcher.folders import count_folders
from image_sync.watcher.mounts import listed_below, remote_filesystem
from image_sync.watcher.observer import OUT_OF_WATCHES, Observer, watch_limit
from image_sync.watcher.roots import NEVER, Root
from image_sync.watcher.rules import Rules

log = get_logger(__name__)

_REPORT_PAUSE = 1.0
"""Seconds between two reports that differ only in how many files settle."""
_ROOM_PAUSE = 1.0
"""Seconds between two questions whether a watch is left: each takes some milliseconds."""
_EMPTY = (
    "is empty although pictures are recorded below it, as an unmounted share is: mount it; if it was emptied on "
    "purpose, make a folder in it"
)


class Guard:
    """Looks after roots.

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

    def report(self, roots: Iterable[Root], settling: Callable[[bytes], int]) -> float | None:
        """Report what changed. Returns when the next report is due; None when nothing waits to be reported."""
        due = None
        for root in roots:
            report = root.report(settling(root.path))
            if report == root.reported:
                continue
            now, next_at, last = self._now(), root.reported_at + _REPORT_PAUSE, root.reported
            if last and last == replace(report, settling=last.settling) and now < next_at:
                due = min(next_at, due or next_at)
                continue
            self._catalogue.report(report)
            root.reported, root.reported_at = report, now
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
