"""What it costs to watch 100,000 pictures while nothing happens, for five minutes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from tempfile import NamedTemporaryFile

from benchmarks.process import Account, account
from benchmarks.session import Session
from benchmarks.table import Row, under
from support.daemon import Plant

_COUNT = 100_000
_SECONDS = 300.0
_QUICK = 30.0
_BREATH = 5.0
_MEMORY = "/dev/shm"


def measure(session: Session) -> Iterator[Row]:
    """Processor, memory and writes of the daemon."""
    archive = session.archive(session.scaled(_COUNT))
    seconds = _QUICK if session.quick else _SECONDS
    session.say(f"idle: {seconds:g} seconds")
    before, after, looks = watched(archive.plant, seconds)
    note = f"{archive.tree.count:,} pictures, {seconds:g} s, with {looks} full looks (`rescan`) in them"
    yield Row("idle, processor", busy(before, after), "% of a core", goal=under(0.5), note=note)
    yield Row("idle, memory", after.memory / 1e6, "MB", goal=under(90))
    yield Row("idle, written to disk", float(after.written - before.written), "bytes", goal=under(0))


def watched(plant: Plant, seconds: float) -> tuple[Account, Account, int]:
    """What a daemon has taken when it has settled down, and so many seconds later; and the full looks in between."""
    pause, log = threading.Event(), plant.folder / "daemon.log"
    log.unlink(missing_ok=True)
    with NamedTemporaryFile(dir=_MEMORY) as file:
        # Full looks are told of at a level that nobody uses: what that writes is no write of the daemon's.
        log.symlink_to(file.name)
        with plant.running("--log-level", "debug") as daemon:
            plant.wait(lambda here: bool(here.events("watch.scanned")), 120)
            pause.wait(_BREATH)
            before = account(daemon.process.pid)
            pause.wait(seconds)
            after = account(daemon.process.pid)
            daemon.stop()
        looks = len(plant.events("watch.scanned")) - 1
        log.unlink()
    return before, after, looks


def busy(before: Account, after: Account) -> float:
    """Per cent of a core."""
    return 100 * (after.cpu - before.cpu) / (after.at - before.at)
