"""What to look at next: the order of the watcher's work, in bounded steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from os.path import abspath

from image_sync.domain import RootState, WatchMode
from image_sync.logs import get_logger
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.guard import Guard
from image_sync.watcher.hints import Hint, Hints
from image_sync.watcher.observer import Observer
from image_sync.watcher.roots import NEVER, Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.scan import Scanner

log = get_logger(__name__)

_STEP = 0.4
"""Seconds that one step works."""
_HOT = 0.3
"""Seconds of it that what is new may take from the full looks."""
_DUE_AT_ONCE = 50
"""Files that have settled and are read before the next folder is looked at."""
_ENTRIES_PER_SECOND = 50_000
"""A folder with so many entries is looked at once a second at most, however many events it has."""
_BETWEEN_OVERFLOWS = 10.0
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
    ) -> None:
        self._catalogue = catalogue
        self._rules = rules
        self._stop = stop
        self._roots = {path: Root(path) for path in dict.fromkeys(map(abspath, roots))}
        self._hints = Hints(list(self._roots), wake)
        self._scanner = Scanner(catalogue, rules, stop, self._roots, self._now, clock, self._look_later)
        self._observer = Observer(self._hints, self._scanner.wants)
        self._guard = Guard(catalogue, rules, stop, self._observer, self._now)
        self._hot: Iterator[None] | None = None
        self._rests: dict[bytes, float] = {}
        self._report_due: float | None = None
        self._request_due = -NEVER
        self._stepping = False
        self._base = 0.0
        self._base_counter = time.perf_counter()
        self._new_rules: Rules | None = None

    def start(self) -> None:
        """Subscribe to events wherever they can be had. A root that is missing is no error."""
        self._set_clock(time.monotonic())
        for root in self._roots.values():
            self._inspect(root)
            root.look_due = -NEVER  # whoever steps the watcher brings a clock of his own

    def reconfigure(self, rules: Rules) -> None:
        """Take other rules with the next step, and look at everything again. May be called by any thread."""
        self._new_rules = rules

    @property
    def complete(self) -> bool:
        """Whether every root, folder and file could be looked at."""
        return all(root.available and not root.troubles for root in self._roots.values())

    @property
    def idle(self) -> bool:
        """Whether everything that can be seen now is reported: the first full look has ended, nothing waits."""
        return (
            self._new_rules is None
            and not self._stepping
            and not self._hints
            and not self._scanner.settling
            and not self._scanner.outbox
            and self._hot is None
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
        self._set_clock(now)
        self._stepping = True
        try:
            self._prepare()
            more = self._work()
            if self._stop.is_set() or not more or self._scanner.outbox.overdue(self._now()):
                self._scanner.outbox.flush()
            self._report_due = self._guard.report(self._roots.values(), self._scanner.settling.of)
            self._scanner.digest.tell(self._now())
        except BaseException:
            self._start_over()
            raise
        finally:
            self._stepping = False
        return 0.0 if more else self._pause()

    def close(self) -> None:
        """End the subscriptions. The watcher is not used afterwards."""
        self._observer.close()
        self._hot = None
        for root in self._roots.values():
            root.scan = None

    # The clock: the time passed in, and what went by since.

    def _set_clock(self, now: float) -> None:
        self._base, self._base_counter = now, time.perf_counter()

    def _now(self) -> float:
        return self._base + time.perf_counter() - self._base_counter

    # What there is to do.

    def _prepare(self) -> None:
        if (rules := self._new_rules) is not None:
            self._new_rules = None
            self._rules = self._guard.rules = rules
            self._scanner.use(rules)
            self._look_at_everything(rearm=True)
        if self._request_due <= self._now() and self._catalogue.rescan_requested():
            self._request_due = self._now() + _BETWEEN_REQUESTS
            self._look_at_everything(rearm=False)
        floods, doubts, overflows = self._hints.take_roots()
        for path in floods:
            self._roots[path].scan_by(self._now())
        if overflows:
            self._after_overflow()
        for root in self._roots.values():
            if root.path in doubts or root.look_due <= self._now():
                self._inspect(root)
            self._guard.make_sure_of_room(root)

    def _look_at_everything(self, *, rearm: bool) -> None:
        for root in self._roots.values():
            root.scan = None
            root.look_due = -NEVER
            if rearm:
                root.arm_due = -NEVER
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
        self._guard.inspect(root, self._scanner.filters)
        if not root.scanned and root.scan is None:  # lost, or another than before: what was heard is of no use
            self._hints.forget(root.path)
            self._scanner.settling.forget_root(root.path)

    def _start_over(self) -> None:
        self._hot = None
        for root in self._roots.values():
            root.start_anew()
            root.reported = None
            self._scanner.settling.forget_root(root.path)

    def _pause(self) -> float:
        times = [self._scanner.settling.next_due(), self._hints.next_due(), self._report_due]
        for root in self._roots.values():
            times.append(root.look_due)
            if root.available:
                times.append(root.scan_due)
                times.extend(self._loss_due(since) for since in list(root.departures.values())[:1])
        due = min(time for time in times if time is not None)
        return max(0.0, due - self._now())

    def _work(self) -> bool:
        """Work until the step's time is over. Whether something is left to do at once."""
        began = time.perf_counter()
        while not self._stop.is_set():
            spent = time.perf_counter() - began
            if spent >= _STEP:
                return True
            if spent < _HOT and self._go_on_with_hot():
                continue
            if self._report_loss(overdue=True) or self._go_on_with_scans() or self._go_on_with_hot():
                continue
            if not self._report_loss():
                return False
        return False

    def _go_on_with_hot(self) -> bool:
        if self._hot is None:
            self._hot = self._changes()
        if not _advance(self._hot):
            self._hot = None
        return self._hot is not None

    def _go_on_with_scans(self) -> bool:
        busy = False
        for root in self._roots.values():
            if root.scan is None and root.available and root.scan_due <= self._now():
                root.scan = self._full_scan(root)
            if root.scan is not None:
                if not _advance(root.scan):
                    root.scan = None
                busy = True
        return busy

    def _changes(self) -> Iterator[None]:
        """Everything that changed lately: files that have settled, folders that events named, folders that vanished."""
        while True:
            now = self._now()
            due = self._scanner.settling.take(now, _DUE_AT_ONCE)
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

    def _follow(self, hint: Hint) -> Iterator[None]:
        root = self._roots[hint.root]
        if not root.available:
            return
        now = self._now()
        if (rested := self._rests.get(hint.folder, now)) > now:
            self._hints.later(hint._replace(not_before=rested))
            return
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

    def _look_later(self, root: Root, folder: bytes) -> None:
        self._hints.later(Hint(root.path, folder, not_before=self._now() + max(self._rules.settle, 1.0)))

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
            yield from self._scanner.look(root, folder, waiting)
            yield
        root.reap = False
        yield from self._scanner.vanished_folders(root)
        now = self._now()
        self._guard.after_scan(root, folders)
        root.scan_by(
            now + (self._rules.rescan if root.mode is WatchMode.EVENTS else max(self._rules.poll, now - began))
        )
        root.scanned = True
        log.debug("watch.scanned", root=root.path, folders=folders, seconds=round(now - began, 3))

    def _report_loss(self, *, overdue: bool = False) -> bool:
        """Report one folder's missing files if it is time. Whether there was one.

        Their new places come first, so that a move is not taken for a loss.
        """
        for root in self._roots.values():
            if not root.departures or not root.available:
                continue
            folder, since = next(iter(root.departures.items()))
            if (since + _LOSS_WAITS if overdue else self._loss_due(since)) > self._now():
                continue
            del root.departures[folder]
            self._scanner.outbox.flush()
            if not self._scanner.depart(root, folder):
                self._inspect(root)
            return True
        return False

    def _loss_due(self, since: float) -> float:
        if self._rules.impatient and not self._scanner.settling:
            return since
        return since + (_LOSS_WAITS if self._rules.impatient else self._rules.settle + _AFTER_SETTLE)


def _advance(work: Iterator[None]) -> bool:
    return next(work, _ENDED) is None


_ENDED = object()
