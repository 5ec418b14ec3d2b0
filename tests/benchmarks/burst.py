"""A burst: 100,000 files made in about a second in a watched tree, far more than the system's queue of events holds."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.process import Spoiled
from benchmarks.session import TINY, Session, arrived_once, confirmed
from benchmarks.table import Row
from benchmarks.trees import Tree, make, make_folders

_COUNT = 100_000
_PATIENCE = 900.0
_QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


def measure(session: Session) -> Iterator[Row]:
    """Pictures a second, from the making of the first file to the last arrival at the server."""
    root = _memory(session) / "pictures"
    count = session.scaled(_COUNT)
    make_folders(root, count)  # all of them are listened to before it begins
    plant = session.plant(Tree(root, 0, TINY))
    with plant.running("--log-level", "debug") as daemon:
        plant.wait(lambda here: bool(here.events("watch.scanned")))
        session.say(f"burst: {count:,} files")
        mark, begun = session.sink.mark, time.time()
        tree = make(root, count, TINY)
        made = time.time() - begun
        last = _all_there(session, mark, count)
        daemon.stop()
    arrived_once(tree, (name for arrival in session.sink.arrivals(mark) for name in arrival.names))
    confirmed(plant, count)
    lost = len(plant.events("watch.events_lost"))
    note = (
        f"{count:,} files of {TINY / 1000:g} KB made in memory in {made:.1f} s, all confirmed, none twice; `settle` 2; "
        f"the queue of {_QUEUE.read_text().strip()} events ran over {lost} times"
    )
    yield Row("burst, all at the server", count / (last - begun), "pictures/s", note=note)


def _memory(session: Session) -> Path:
    """A folder in memory where there is one: a disk would draw the burst out, and hide the loss of events."""
    fast = "/dev/shm" if os.access("/dev/shm", os.W_OK) else session.work
    return Path(session.stack.enter_context(tempfile.TemporaryDirectory(prefix="image-sync-bench-", dir=fast)))


def _all_there(session: Session, mark: int, count: int) -> float:
    """Waits; when the last one arrived."""
    pause, until = threading.Event(), time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        arrivals = session.sink.arrivals(mark)
        if sum(len(arrival.names) for arrival in arrivals) >= count:
            return max(arrival.at for arrival in arrivals)
        pause.wait(0.5)
    raise Spoiled(f"the burst was not at the server within {_PATIENCE:g} s")
