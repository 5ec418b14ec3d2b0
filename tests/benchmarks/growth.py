"""Whether a picture costs more when there are more of them: first syncs of 10,000, 100,000 and 1,000,000."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.session import TINY, Archive, Session, median
from benchmarks.table import Row, at_most

_FIRST, *_MORE = (10_000, 100_000, 1_000_000)
_ROUNDS = 3


def measure(session: Session) -> Iterator[Row]:
    """Microseconds for each picture, while they arrive."""
    small = session.archive(session.scaled(_FIRST))
    again = [session.once(small.plant, small.tree).arriving for _ in range(_ROUNDS - 1)]
    least = _each(small, median([small.upload.arriving, *again]))
    for count in _MORE:
        archive = session.archive(session.scaled(count))
        figure = f"growth, {archive.tree.count:,} pictures"
        goal = at_most(1.3) if count == _MORE[-1] else None
        note = f"JPEGs of {TINY / 1000:g} KB; between the first and the last arrival at the server" if goal else ""
        each = _each(archive, archive.upload.arriving)
        yield Row(figure, each, "µs/picture", f"{small.tree.count:,} pictures", least, goal, note)
        yield Row(f"{figure}: peak memory", archive.upload.spent.peak / 1e6, "MB")


def _each(archive: Archive, seconds: float) -> float:
    return 1e6 * seconds / archive.tree.count
