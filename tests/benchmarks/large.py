"""Large pictures: 500 JPEGs of 4 MB. What counts is the line, and that memory does not grow."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from benchmarks.backlog import vision, yardstick
from benchmarks.session import Session, median
from benchmarks.table import Row, at_least, under

_COUNT = 500
_SIZE = 4_000_000


def measure(session: Session) -> Iterator[Row]:
    """Rates in bytes, and the peak of our memory beside that of nobody: it has a bound of its own."""
    tree = session.tree("large", session.scaled(_COUNT), _SIZE)
    plant = session.plant(tree)
    ours, streams, visions = [], [], []
    for number in range(3):
        session.say(f"large: round {number + 1} of 3")
        ours.append(session.once(plant, tree).spent)
        visions.append(vision(session, tree))
        streams.append(yardstick("stream", session.sink.stream, tree))
    megabytes = tree.count * tree.size / 1e6
    rate = megabytes / median(spent.seconds for spent in ours)
    note = f"{tree.count} JPEGs of {tree.size / 1e6:g} MB, page cache warm, ledger empty"
    yield Row("large pictures", rate, "MB/s", "raw stream", megabytes / median(streams), at_least(0.5), note)
    yield Row("large pictures", rate, "MB/s", "vision", megabytes / median(visions))
    yield Row("large pictures, peak memory", max(spent.peak for spent in ours) / 1e6, "MB", goal=under(150))
    shutil.rmtree(tree.root)
