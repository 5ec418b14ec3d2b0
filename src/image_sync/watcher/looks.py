"""The looks that are going on: at what changed lately, and at whole roots."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from image_sync.domain import WatchMode
from image_sync.log import get_logger
from image_sync.watcher.guard import Guard
from image_sync.watcher.hints import Hint, Hints, Note
from image_sync.watcher.roots import NEVER, Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.scan import Scanner

log = get_logger(__name__)

_DUE_AT_ONCE = 50
"""Files that have settled and are read before the next folder is looked at."""
_MARKED_AT_ONCE = 2000
"""The same where annotations are used: each time the folder is listed to find them."""
_A_MOMENT = 0.01
"""Seconds that a full look goes on before what changed lately is asked for."""
_ENTRIES_PER_SECOND = 50_000
"""A folder with so many entries is looked at once a second at most, however many events it has."""


class Looks:
    """Works on looks piece by piece.

    Args:
        roots: by path.
        now: the monotonic clock.
    """

    def __init__(
        self,
        rules: Rules,
        roots: Mapping[bytes, Root],
        hints: Hints,
        scanner: Scanner,
        guard: Guard,
        now: Callable[[], float],
    ) -> None:
        self._roots = roots
        self._hints = hints
        self._scanner = scanner
        self._guard = guard
        self._now = now
        self._hot: Iterator[None] | None = None
        self._rests: dict[bytes, float] = {}
        self._rules = rules

    @property
    def following(self) -> bool:
        """Whether it is in the middle of what changed lately."""
        return self._hot is not None

    def drop(self) -> None:
        """Leave what changed lately: everything will be looked at."""
        self._hot = None

    def go_on_with_changes(self) -> bool:
        """Do a piece of work on what changed lately. Whether there is more."""
        if self._hot is None:
            self._hot = self._changes()
        if not _advance(self._hot):
            self._hot = None
        return self._hot is not None

    def go_on_with_scans(self) -> bool:
        """Do a piece of work on each full look that is due or going on. Whether there was one."""
        busy = False
        for root in self._roots.values():
            if root.scan is None and root.available and root.scan_due <= self._now():
                root.scan = self._full_scan(root)
            until = self._now() + _A_MOMENT
            while root.scan is not None:
                busy = True
                if not _advance(root.scan):
                    root.scan = None
                elif self._now() >= until:
                    break
        return busy

    def _changes(self) -> Iterator[None]:
        """Everything that changed lately: files that have settled, folders that events named, folders that vanished."""
        while True:
            now = self._now()
            for note in self._hints.take_notes(now):
                self._spread(note)
            due = self._scanner.settling.take(now, _MARKED_AT_ONCE if self._scanner.companions.used else _DUE_AT_ONCE)
            for (path, folder), names in due.items():
                yield from self._scanner.again(self._roots[path], folder, names)
            hint = self._hints.take(now)
            if hint:
                yield from self._follow(hint)
            elif not due:
                gaps = [root for root in self._roots.values() if root.reap and root.available]
                if not gaps:
                    return
                for root in gaps:
                    root.reap = False
                    yield from self._scanner.vanished_folders(root)
            yield

    def _spread(self, note: Note) -> None:
        """Annotations changed somewhere: the pictures to which they may belong want a look."""
        now = self._now()
        for folder in self._scanner.companions.concerned(note.root, note.folder, below=note.below):
            self._hints.later(Hint(note.root, folder))
        if note.echo:
            self._hints.note(note._replace(echo=False, not_before=now + max(self._rules.settle, 1.0)))

    def _follow(self, hint: Hint) -> Iterator[None]:
        root = self._roots[hint.root]
        if not root.available:
            return
        now = self._now()
        if (rested := self._rests.get(hint.folder, now)) > now:
            self._hints.later(hint._replace(not_before=rested))
            return
        root.reap |= hint.left
        waiting = [hint.folder]
        while waiting:
            folder = waiting.pop()
            inner: list[bytes] = []
            yield from self._scanner.look(root, folder, inner)
            self._rest(folder)
            if hint.tree:
                waiting += inner
                yield
        if hint.echo:
            # What is made in a new folder while watchdog gets round to watching it may go unheard.
            pause = max(self._rules.settle, 1.0)
            self._hints.later(Hint(hint.root, hint.folder, tree=True, not_before=self._now() + pause))
            root.grew = True

    def _rest(self, folder: bytes) -> None:
        pause = self._scanner.entries / _ENTRIES_PER_SECOND
        if pause > 0.01:  # noqa: PLR2004 - a small folder may be looked at with every event
            now = self._now()
            if len(self._rests) > 1000:  # noqa: PLR2004
                self._rests = {path: until for path, until in self._rests.items() if until > now}
            self._rests[folder] = now + pause

    def _full_scan(self, root: Root) -> Iterator[None]:
        """Look at every folder of a root, then for every recorded folder."""
        began = self._now()
        root.scan_due = NEVER
        root.stale = set(root.troubles)
        if root.arm_due <= began:
            self._guard.subscribe(root)
        waiting, folders = [root.path], 0
        while waiting:
            folder = waiting.pop()
            folders += 1
            yield from self._scanner.look(root, folder, waiting, again=root.scanned)
            yield
        root.reap = False
        yield from self._scanner.vanished_folders(root)
        now = self._now()
        self._guard.after_scan(root, folders)
        pause = self._rules.rescan if root.mode is WatchMode.EVENTS else max(self._rules.poll, now - began)
        root.scan_by(now + pause)
        root.scanned = True
        log.debug("watch.scanned", root=root.path, folders=folders, seconds=round(now - began, 3))


def _advance(work: Iterator[None]) -> bool:
    return next(work, _ENDED) is None


_ENDED = object()
