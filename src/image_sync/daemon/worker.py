"""A thread that calls ``step(now)`` again and again: the only place, beside the web servers, where threads are made."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from image_sync.errors import ImageSyncError, LedgerError
from image_sync.log import get_logger

_PASSING = 5.0  # seconds until a ledger on a full disk is tried again

log = get_logger(__name__)


class _Here(threading.local):
    worker: Worker | None = None


_here = _Here()


def alive() -> None:
    """Whoever works long in one step calls this now and then, in the worker's thread: it lives. Elsewhere: nothing."""
    worker = _here.worker
    if worker is not None:
        worker.seen_at = time.monotonic()


class Worker:
    """Runs one stage until ``stop`` is set.

    Args:
        name: of the thread, for logs and ``ps``.
        step: does a bounded piece of work; takes monotonic seconds, returns seconds until it wants to be called
            again (0: at once).
        stop: set when all is to end.
        failed: called with what ``step`` raised: the stage cannot go on.
        gap: seconds between two steps at least, however much news there is.
        patience: seconds for which a ledger that cannot be written at the moment is waited for.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[float], float],
        stop: threading.Event,
        failed: Callable[[BaseException], None],
        *,
        gap: float = 0.0,
        patience: float = math.inf,
    ) -> None:
        self.name = name
        self._step = step
        self._stop = stop
        self._failed = failed
        self._gap = gap
        self._patience = patience
        self._blocked_at: float | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.seen_at = time.monotonic()
        """When it last came round or said that it lives, monotonic seconds: what the watchdog is fed from."""
        self.resting_until = self.seen_at

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wake(self) -> None:
        """There is news: do not wait any longer."""
        self._wake.set()

    def join(self, timeout: float) -> bool:
        """Wait until it has ended; False if it has not after ``timeout`` seconds."""
        self._thread.join(max(0.0, timeout))
        return not self._thread.is_alive()

    def healthy(self, now: float, patience: float) -> bool:
        """Whether it comes round: it is alive, and at most ``patience`` seconds late."""
        return self._thread.is_alive() and now <= max(self.seen_at, self.resting_until) + patience

    def _run(self) -> None:
        _here.worker = self
        try:
            while not self._stop.is_set():
                self.seen_at = time.monotonic()
                pause = self._turn(self.seen_at)
                self.seen_at = time.monotonic()
                self.resting_until = self.seen_at + pause
                if pause > 0 and self._wake.wait(pause):
                    self._stop.wait(max(0.0, self._gap - (time.monotonic() - self.seen_at)))
                    self._wake.clear()
        except ImageSyncError as error:
            self._failed(error)
        except BaseException as error:
            log.exception("worker.crashed", worker=self.name)
            self._failed(error)

    def _turn(self, now: float) -> float:
        try:
            pause = self._step(now)
        except LedgerError as error:
            if self._blocked_at is None:
                self._blocked_at = now
            if not error.passing or now - self._blocked_at > self._patience:
                raise
            log.error("ledger.blocked", worker=self.name, error=error.what, hint=error.hint, seconds=_PASSING)
            return _PASSING
        self._blocked_at = None
        return pause
