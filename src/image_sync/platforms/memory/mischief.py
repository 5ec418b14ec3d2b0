"""Switches that make the calls of the platform in memory slow, fail, or lose their answers."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from image_sync.errors import ImageSyncError


@dataclass(frozen=True, slots=True)
class _Fault:
    error: ImageSyncError
    after: bool
    applied: int | None


class Mischief:
    """Through which every call goes, one at a time.

    Args:
        stop: ends a delay.
    """

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._lock = threading.RLock()
        self._faults: dict[str, list[_Fault]] = {}
        self._delays: dict[str, float] = {}
        self.calls: Counter[str] = Counter()
        """How often each method was called."""

    def fail_next(
        self, method: str, error: ImageSyncError, *, after: bool = False, applied: int | None = None, times: int = 1
    ) -> None:
        """Let the next calls of a method fail.

        Args:
            after: do it first, then fail: the answer gets lost.
            applied: of an upload that fails ``after``, only so many pictures are stored.
            times: so many calls.
        """
        if not hasattr(self, method):
            raise ValueError(f"there is no method {method}")
        with self._lock:
            self._faults.setdefault(method, []).extend([_Fault(error, after, applied)] * times)

    def delay(self, method: str, seconds: float) -> None:
        """Let every call of a method take so long; 0 ends that."""
        with self._lock:
            self._delays[method] = seconds

    @contextmanager
    def _at(self, method: str) -> Iterator[_Fault | None]:
        """One call: delayed, made to fail before or after it, one at a time."""
        with self._lock:
            seconds = self._delays.get(method, 0.0)
        if seconds:
            self._stop.wait(seconds)
        with self._lock:
            self.calls[method] += 1
            faults = self._faults.get(method)
            fault = faults.pop(0) if faults else None
            if fault is not None and not fault.after:
                raise fault.error
            yield fault
            if fault is not None:
                raise fault.error
