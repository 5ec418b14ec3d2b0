"""What a root costs that events do not work on: 100,000 pictures, all looked at every ten seconds."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.idle import busy, watched
from benchmarks.session import Session
from benchmarks.table import Row, under

_COUNT = 100_000
_SECONDS = 60.0
_QUICK = 20.0


def measure(session: Session) -> Iterator[Row]:
    """Processor and memory of the daemon."""
    archive = session.archive(session.scaled(_COUNT))
    seconds = _QUICK if session.quick else _SECONDS
    session.say(f"polling: {seconds:g} seconds")
    archive.plant.configure(watch={"mode": "polling", "poll": 10})
    before, after, looks = watched(archive.plant, seconds)
    archive.plant.configure(watch={"mode": "auto"})
    note = f"{archive.tree.count:,} pictures, every 10 s, {looks} looks in {seconds:g} s"
    yield Row("polling, processor", busy(before, after), "% of a core", goal=under(5), note=note)
    yield Row("polling, memory", after.memory / 1e6, "MB")
