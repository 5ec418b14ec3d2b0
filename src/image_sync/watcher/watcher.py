"""What to look at next: the order of the watcher's work, in bounded steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from os.path import abspath

from image_sync.domain import RootState, WatchMode
from image_sync.fresh import FreshPictures
from image_sync.log import get_logger
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.events import DirtyFolder, DirtyFolders, Observer, SidecarChange
from image_sync.watcher.root import NEVER, Root, RootMonitor
from image_sync.watcher.rules import Rules
from image_sync.watcher.scan import Scanner

log = get_logger(__name__)

_STEP = 0.4
"""Seconds that one step works."""
_HOT = 0.3
"""Seconds of it that what is new may take from the full looks."""
_A_MOMENT = 0.01
"""Seconds that a full look goes on before what changed lately is asked for."""
_DUE_AT_ONCE = 50
"""Files that have settled and are read before the next folder is looked at."""
_ANNOTATED_AT_ONCE = 2000
"""The same where annotations are used: each time the folder is listed to find them."""
_ENTRIES_PER_SECOND = 50_000
"""A folder with so many entries is looked at once a second at most, however many events it has."""
_BETWEEN_OVERFLOWS = 10.0
_BETWEEN_QUESTIONS = 0.25
"""Seconds between two questions whether a full look is asked for: each reads the ledger."""
_BETWEEN_REQUESTS = 5.0
"""Seconds between two full looks that were asked for, so that a file nobody can read keeps nobody busy."""
_AFTER_SETTLE = 0.5
_LOSS_WAITS = 60.0
"""Seconds that losses wait, at most, for everything else to be reported first."""


class Watcher:
    """Watches any number of roots. One thread steps it; only ``wake`` is called from others.

    Args:
        roots: absolute paths of folders; none needs to exist.
        stop: ends a step early when set, even in the middle of a large file.
        wake: called by another thread when there is something to do before the time that ``step`` returned.
        clock: Unix time, as the file system stamps files.
        alive: called for each piece of work in a step.
        fresh: where small pictures are kept for the senders.
    """

    def __init__(
        self,
        roots: Sequence[bytes],
        catalogue: Catalogue,
        rules: Rules,
        stop: threading.Event,
        wake: Callable[[], None],
        *,
        clock: Callable[[], float] = time.time,
        alive: Callable[[], None] = lambda: None,
        fresh: FreshPictures | None = None,
    ) -> None:
        self._alive = alive
        self._catalogue = catalogue
        self._rules = rules
        self._stop = stop
        self._roots = {path: Root(path) for path in dict.fromkeys(map(abspath, roots))}
        self._dirty = DirtyFolders(list(self._roots), wake)
        self._scanner = Scanner(
            catalogue, rules, stop, self._roots, self._now, clock, self._look_later, fresh or FreshPictures(), alive
        )
        self._observer = Observer(self._dirty, self._scanner.filters.file, self._scanner.sidecars)
        self._monitor = RootMonitor(catalogue, rules, stop, self._observer, self._now)
        self._lately: Iterator[None] | None = None
        """The work on what changed lately, if it is under way."""
        self._pauses: dict[bytes, float] = {}
        """Folder -> when it may be looked at again."""
        self._report_due = NEVER
        self._request_due = -NEVER
        self._unasked = False
        """Whether this step did not ask for requests, as the last one had just done so."""
        self._stepping = False
        self._looked = False
        self._base = 0.0
        self._base_counter = time.perf_counter()

    def start(self) -> None:
        """Subscribe to events wherever they can be had. A root that is missing is no error."""
        self._base, self._base_counter = time.monotonic(), time.perf_counter()
        for root in self._roots.values():
            self._inspect(root)
            root.look_due = -NEVER  # whoever steps the watcher brings a clock of his own

    @property
    def complete(self) -> bool:
        """Whether every root, folder and file could be looked at."""
        return all(root.available and not root.troubles for root in self._roots.values())

    def looked(self) -> bool:
        """Whether each root was once looked at to its end, moves that were found included, or cannot be looked at."""
        self._looked = self._looked or all(
            root.state is RootState.UNAVAILABLE or (root.scanned and not root.departures and not root.reap)
            for root in self._roots.values()
        )
        return self._looked

    @property
    def idle(self) -> bool:
        """Whether everything that can be seen now is reported: the first full look has ended, nothing waits."""
        return (
            not self._stepping
            and not self._dirty
            and not self._scanner.settling
            and not self._scanner.buffer
            and self._lately is None
            and all(
                root.state is RootState.UNAVAILABLE
                or (root.scanned and root.scan is None and not root.departures and not root.reap)
                for root in self._roots.values()
            )
        )

    def step(self, now: float) -> float:
        """Do a bounded piece of work.

        Args:
            now: monotonic seconds.

        Returns:
            Seconds after which it wants to be called again if ``wake`` is not called before; 0 means at once.
        """
        self._base, self._base_counter = now, time.perf_counter()
        self._stepping = True
        try:
            self._prepare()
            more = self._work()
            if self._stop.is_set() or not more or self._scanner.buffer.overdue(self._now()):
                self._scanner.buffer.flush()
            self._report_due = self._monitor.report(self._roots.values(), self._scanner.settling.of)
            if self._scanner.throttle.counts:
                self._scanner.throttle.tell(self._now())
        except BaseException:
            self._start_over()
            raise
        finally:
            self._stepping = False
        return 0.0 if more else self._pause()

    def close(self) -> None:
        """End the subscriptions. The watcher is not used afterwards."""
        self._observer.close()
        self._lately = None
        for root in self._roots.values():
            root.scan = None

    def _now(self) -> float:
        # The time that was passed in, and what went by since.
        return self._base + time.perf_counter() - self._base_counter

    # What there is to do.

    def _prepare(self) -> None:
        now = self._now()
        self._unasked = self._request_due > now
        if not self._unasked:
            requested = self._catalogue.rescan_requested()
            self._request_due = now + (_BETWEEN_REQUESTS if requested else _BETWEEN_QUESTIONS)
            if requested:
                self._look_at_everything()
        floods, doubts, overflows = self._dirty.take_roots()
        for path in floods:
            self._roots[path].scan_by(self._now())
        if overflows:
            self._after_overflow()
        for root in self._roots.values():
            if root.path in doubts or root.look_due <= self._now():
                self._inspect(root)
            if root.grew:
                self._monitor.make_sure_of_room(root)

    def _look_at_everything(self) -> None:
        self._scanner.compare_all()
        for root in self._roots.values():
            root.scan = None
            root.look_due = -NEVER
            if root.available:
                root.scanned = False
                root.scan_due = -NEVER

    def _after_overflow(self) -> None:
        log.warning("watch.events_lost", hint="too many changes at once: everything is looked at again")
        for root in self._roots.values():
            if root.available and root.mode is WatchMode.EVENTS:
                if root.overflow_scan_at <= self._now():
                    root.overflow_scan_at = max(self._now(), root.overflow_scan_at + _BETWEEN_OVERFLOWS)
                root.scan_by(root.overflow_scan_at)

    def _inspect(self, root: Root) -> None:
        self._monitor.inspect(root, self._scanner.filters)
        if not root.scanned and root.scan is None:  # lost, or another than before: what was heard is of no use
            self._dirty.forget(root.path)
            self._scanner.settling.forget_root(root.path)

    def _start_over(self) -> None:
        self._lately = None
        self._scanner.compare_all()
        for root in self._roots.values():
            root.start_anew()
            root.reported = None
            self._scanner.settling.forget_root(root.path)

    def _pause(self) -> float:
        due = min(self._scanner.settling.next_due(), self._dirty.next_due(), self._report_due)
        if self._unasked:
            due = min(due, self._request_due)
        for root in self._roots.values():
            due = min(due, root.look_due)
            if root.available:
                due = min(due, root.scan_due)
                if root.departures:
                    due = min(due, self._loss_due(next(iter(root.departures.values())).since))
        return max(0.0, due - self._now())

    def _work(self) -> bool:
        """Work until the step's time is over. Whether something is left to do at once."""
        began = time.perf_counter()
        while not self._stop.is_set():
            self._alive()
            spent = time.perf_counter() - began
            if spent >= _STEP:
                return True
            if spent < _HOT and self._go_on_lately():
                continue
            if self._report_loss(overdue=True) or self._go_on_with_scans() or self._go_on_lately():
                continue
            if not self._report_loss():
                return False
        return False

    def _go_on_lately(self) -> bool:
        """Do a piece of work on what changed lately. Whether there is more."""
        if self._lately is None:
            self._lately = self._changes()
        if next(self._lately, _ENDED) is _ENDED:
            self._lately = None
        return self._lately is not None

    def _go_on_with_scans(self) -> bool:
        """Do a piece of work on each full look that is due or going on. Whether there was one."""
        busy = False
        for root in self._roots.values():
            if root.scan is None and root.available and root.scan_due <= self._now():
                root.scan = self._full_scan(root)
            until = self._now() + _A_MOMENT
            while root.scan is not None:
                busy = True
                if next(root.scan, _ENDED) is _ENDED:
                    root.scan = None
                elif self._now() >= until:
                    break
        return busy

    def _changes(self) -> Iterator[None]:
        """Everything that changed lately: files that have settled, what events named, folders that vanished."""
        scanner = self._scanner
        while True:
            now = self._now()
            for change in self._dirty.take_sidecars(now) if scanner.sidecars.used else ():
                self._spread(change, now)
            due = scanner.settling.take(now, _ANNOTATED_AT_ONCE if scanner.sidecars.used else _DUE_AT_ONCE)
            for (path, folder), names in due.items():
                yield from scanner.files(self._roots[path], folder, names, heard=False)
            dirty = self._dirty.take(now)
            if dirty is not None:
                yield from self._follow(dirty)
            elif not due:
                gaps = [root for root in self._roots.values() if root.reap and root.available]
                if not gaps:
                    return
                for root in gaps:
                    root.reap = False
                    yield from scanner.vanished_folders(root)
            yield

    def _spread(self, change: SidecarChange, now: float) -> None:
        """Annotations changed somewhere: the pictures to which they may belong want a look."""
        for folder in self._scanner.sidecars.concerned(change.root, change.folder, below=change.below):
            self._dirty.later(DirtyFolder(change.root, folder))
        if change.echo:
            self._dirty.sidecars(change._replace(echo=False, not_before=now + max(self._rules.settle, 1.0)))

    def _follow(self, dirty: DirtyFolder) -> Iterator[None]:
        root = self._roots[dirty.root]
        if not root.available:
            return
        if dirty.names is not None:
            yield from self._scanner.files(root, dirty.folder, dirty.names, heard=True)
            return
        now = self._now()
        if (until := self._pauses.get(dirty.folder, now)) > now:
            self._dirty.later(dirty._replace(not_before=until))
            return
        root.reap |= dirty.left
        waiting = [dirty.folder]
        while waiting:
            folder = waiting.pop()
            inner: list[bytes] = []
            yield from self._scanner.look(root, folder, inner)
            self._let_rest(folder)
            if dirty.tree:
                waiting += inner
                yield
        if dirty.echo:
            # What is made in a new folder while watchdog gets round to watching it may go unheard.
            later = self._now() + max(self._rules.settle, 1.0)
            self._dirty.later(DirtyFolder(dirty.root, dirty.folder, tree=True, not_before=later))
            root.grew = True

    def _let_rest(self, folder: bytes) -> None:
        pause = self._scanner.entries / _ENTRIES_PER_SECOND
        if pause > 0.01:  # noqa: PLR2004 - a small folder may be looked at with every event
            now = self._now()
            if len(self._pauses) > 1000:  # noqa: PLR2004
                self._pauses = {path: until for path, until in self._pauses.items() if until > now}
            self._pauses[folder] = now + pause

    def _look_later(self, root: Root, folder: bytes) -> None:
        self._dirty.later(DirtyFolder(root.path, folder, not_before=self._now() + max(self._rules.settle, 1.0)))

    def _full_scan(self, root: Root) -> Iterator[None]:
        """Look at every folder of a root, then for every recorded folder."""
        began = self._now()
        root.scan_due = NEVER
        root.stale = set(root.troubles)
        if root.arm_due <= began:
            self._monitor.subscribe(root)
        waiting, folders = [root.path], 0
        while waiting:
            folder = waiting.pop()
            folders += 1
            yield from self._scanner.look(root, folder, waiting, again=root.scanned)
            yield
        root.reap = False
        yield from self._scanner.vanished_folders(root)
        now = self._now()
        self._monitor.after_scan(root, folders)
        pause = self._rules.rescan if root.mode is WatchMode.EVENTS else max(self._rules.poll, now - began)
        root.scan_by(now + pause)
        root.scanned = True
        log.debug("watch.scanned", root=root.path, folders=folders, seconds=round(now - began, 3))

    def _report_loss(self, *, overdue: bool = False) -> bool:
        """Report one folder's missing files if it is time. Whether there was one.

        Their new places come first, so that a move is not taken for a loss.
        """
        for root in self._roots.values():
            if not root.departures or not root.available:
                continue
            folder, (since, names) = next(iter(root.departures.items()))
            if (since + _LOSS_WAITS if overdue else self._loss_due(since)) > self._now():
                continue
            del root.departures[folder]
            self._scanner.buffer.flush()
            if not self._scanner.depart(root, folder, names):
                self._inspect(root)
            return True
        return False

    def _loss_due(self, since: float) -> float:
        if self._rules.once and not self._scanner.settling:
            return since
        return since + (_LOSS_WAITS if self._rules.once else self._rules.settle + _AFTER_SETTLE)


_ENDED = object()
