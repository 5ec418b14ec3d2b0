"""Drives a watcher by hand, on real time and real files."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from image_sync.domain import RootReport
from image_sync.watcher import watcher
from image_sync.watcher.rules import Rules
from image_sync.watcher.watcher import Watcher
from support.catalogue import MemoryCatalogue

# The waits that no rule sets, shortened for all tests.
watcher._AFTER_SETTLE = 0.1
watcher._BETWEEN_REQUESTS = 0.2
watcher._BETWEEN_QUESTIONS = 0.02

QUICK = Rules(settle=0.05, poll=0.1, rescan=3600.0)


class Watching:
    """A watcher, its catalogue, and the loop that a worker would run."""

    def __init__(self, *roots: Path, catalogue: MemoryCatalogue | None = None, rules: Rules = QUICK, **kw: Any) -> None:
        self.catalogue = catalogue or MemoryCatalogue()
        self.stop = threading.Event()
        self.woken = threading.Event()
        self.watcher = Watcher([os.fsencode(r) for r in roots], self.catalogue, rules, self.stop, self.woken.set, **kw)
        self.steps: list[float] = []

    def until(self, condition: Callable[[], object], limit: float = 20.0) -> None:
        """Step, sleeping exactly as long as the watcher says, until the condition holds."""
        end = time.monotonic() + limit
        while not condition():
            assert time.monotonic() < end, "the watcher did not get there in time"
            self.woken.clear()
            began = time.monotonic()
            pause = self.watcher.step(began)
            self.steps.append(time.monotonic() - began)
            if pause and not condition():
                self.woken.wait(min(pause, max(0.0, end - time.monotonic())))

    def until_idle(self, limit: float = 20.0) -> None:
        """Step until everything that can be seen is reported, at least once."""
        self.until(lambda: self.steps and self.watcher.idle, limit)

    def spend(self, seconds: float) -> None:
        """Let the watcher work for a while."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() >= end, seconds + 5)

    def report(self, root: Path) -> RootReport:
        """What the watcher last said of this root."""
        return self.catalogue.reports[os.fsencode(root)]


@contextmanager
def watching(*roots: Path, start: bool = True, **kw: Any) -> Iterator[Watching]:
    """A watcher that is started, and has looked at everything once."""
    watch = Watching(*roots, **kw)
    try:
        if start:
            watch.watcher.start()
            watch.until_idle()
        yield watch
    finally:
        watch.stop.set()
        watch.watcher.close()


def quick(**changes: Any) -> Rules:
    """Rules for tests, with these changes."""
    return replace(QUICK, **changes)
