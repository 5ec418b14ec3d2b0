"""What to look at next: the order of the watcher's work, in bounded steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from os.path import abspath

from image_sync.domain import RootState, WatchMode
from image_sync.log import get_logger
from image_sync.watcher.catalogue import Catalogue
from image_sync.watcher.guard import Guard
from image_sync.watcher.hints import Hint, Hints
from image_sync.watcher.looks import Looks
from image_sync.watcher.observer import Observer
from image_sync.watcher.roots import NEVER, Root
from image_sync.watcher.rules import Rules
from image_sync.watcher.scan import Scanner

log = get_logger(__name__)

_STEP = 0.4
"""Seconds that one step works."""
_HOT = 0.3
"""Seconds of it that what is new may take from the full looks."""
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
        alive: called for each piece of work in a step.
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
    ) -> None:
        self._alive = alive
        self._catalogue = catalogue
        self._rules = rules
        self._stop = stop
        self._roots = {path: Root(path) for path in dict.fromkeys(map(abspath, roots))}
        self._hints = Hints(list(self._roots), wake)
        self._scanner = Scanner(catalogue, rules, stop, self._roots, self._now, clock, self._look_later)
        self._observer = Observer(self._hints, self._scanner.filters.file, self._scanner.companions)
        self._guard = Guard(catalogue, rules, stop, self._observer, self._now)
        self._looks = Looks(rules, self._roots, self._hints, self._scanner, self._guard, self._now)
        self._report_due: float | None = None
        self._request_due = -NEVER
        self._stepping = False
        self._looked = False
        self._base = 0.0
        self._base_counter = time.perf_counter()

    def start(self) -> None:
        """Subscribe to events wherever they can be had. A root that is missing is no error."""
        self._set_clock(time.monotonic())
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
            and not self._hints
            and not self._scanner.settling
            and not self._scanner.outbox
            and not self._looks.following
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
        self._looks.drop()
        for root in self._roots.values():
            root.scan = None

    # The clock: the time passed in, and what went by since.

    def _set_clock(self, now: float) -> None:
        self._base, self._base_counter = now, time.perf_counter()

    def _now(self) -> float:
        return self._base + time.perf_counter() - self._base_counter

    # What there is to do.

    def _prepare(self) -> None:
        if self._request_due <= self._now() and self._catalogue.rescan_requested():
            self._request_due = self._now() + _BETWEEN_REQUESTS
            self._look_at_everything()
        floods, doubts, overflows = self._hints.take_roots()
        for path in floods:
            self._roots[path].scan_by(self._now())
        if overflows:
            self._after_overflow()
        for root in self._roots.values():
            if root.path in doubts or root.look_due <= self._now():
                self._inspect(root)
            self._guard.make_sure_of_room(root)

    def _look_at_everything(self) -> None:
        self._scanner.seen.clear()
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
        self._guard.inspect(root, self._scanner.filters)
        if not root.scanned and root.scan is None:  # lost, or another than before: what was heard is of no use
            self._hints.forget(root.path)
            self._scanner.settling.forget_root(root.path)

    def _start_over(self) -> None:
        self._looks.drop()
        self._scanner.seen.clear()
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
            self._alive()
            spent = time.perf_counter() - began
            if spent >= _STEP:
                return True
            if spent < _HOT and self._looks.go_on_with_changes():
                continue
            if self._report_loss(overdue=True) or self._looks.go_on_with_scans() or self._looks.go_on_with_changes():
                continue
            if not self._report_loss():
                return False
        return False

    def _look_later(self, root: Root, folder: bytes) -> None:
        self._hints.later(Hint(root.path, folder, not_before=self._now() + max(self._rules.settle, 1.0)))

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
