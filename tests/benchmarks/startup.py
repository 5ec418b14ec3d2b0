"""A start when everything is known: 1,000,000 pictures in 1,000 folders, all of them confirmed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import Spoiled, spend
from benchmarks.session import Session, median
from benchmarks.table import Row, under
from support.daemon import Plant
from support.resources import peak_memory

_COUNT = 1_000_000
_ROUNDS = 3
_FACTOR, _GRACE = 3, 2.0


def measure(session: Session) -> Iterator[Row]:
    """Seconds until every folder has been looked at and events are listened to."""
    archive = session.archive(session.scaled(_COUNT))
    walk: list[str | Path] = ["find", archive.tree.root, "-printf", "%p %s %T@ %C@ %i\n"]
    seconds, peaks, finds = [], [], []
    for number in range(_ROUNDS):
        session.say(f"startup: round {number + 1} of {_ROUNDS}")
        finds.append(spend(walk).seconds)
        took, peak = _start(archive.plant)
        seconds.append(took)
        peaks.append(peak)
    found = median(finds)
    folders = sum(1 for path in archive.tree.root.glob("*/*") if path.is_dir())
    note = (
        f"{archive.tree.count:,} pictures in {folders:,} folders; the goal is {_FACTOR} times `find` and {_GRACE:g} s"
    )
    goal = under(_FACTOR * found + _GRACE)
    yield Row("start-up, all known", median(seconds), "s", "find -printf", found, goal, note)
    yield Row("start-up, peak memory", max(peaks) / 1e6, "MB", goal=under(200))


def _start(plant: Plant) -> tuple[float, int]:
    """Start it, wait until it has looked at everything, and stop it: seconds, and most bytes in memory."""
    log, pause, until = plant.folder / "daemon.log", threading.Event(), time.monotonic() + 600
    log.unlink(missing_ok=True)
    begun = time.perf_counter()
    with plant.running("--log-level", "debug") as daemon:
        while not plant.events("watch.scanned"):
            if time.monotonic() > until or daemon.process.poll() is not None:
                raise Spoiled(f"the daemon did not get ready:\n{plant.log()[-2000:]}")
            pause.wait(0.02)
        took = time.perf_counter() - begun
        peak = peak_memory(daemon.process.pid)
        daemon.stop()
    return took, peak
