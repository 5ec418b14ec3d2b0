"""What the watcher asks of whatever remembers the pictures it has seen, and hands over to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from image_sync.domain import RootReport, Sighting, Stamp

MOST = 1000
"""Sightings in one transaction."""
OLDEST = 0.25
"""Seconds that a sighting may wait for company."""


class Catalogue(Protocol):
    """The watcher's view of the ledger. All paths are absolute and bytes; called from the watcher's thread only.

    Any method may raise :class:`~image_sync.errors.LedgerError`: it passes through ``Watcher.step``, which starts
    over with a full look when it is called again.
    """

    def known(self, folder: bytes, names: Collection[bytes] | None = None) -> tuple[str | None, Mapping[bytes, Stamp]]:
        """What is recorded of this folder itself, not of the folders in it.

        Args:
            names: only these files of it.

        Returns:
            The category that its files were last recorded under or recategorised to (None when nothing is recorded,
            or without a category), and the stamp of each recorded file, sound or not, by name, that of its annotation
            included where annotations are used.
        """
        ...

    def recorded(self, folder: bytes) -> tuple[str | None, int]:
        """The category as :meth:`known` tells it, and how many files are recorded."""
        ...

    def folders(self, root: bytes) -> Sequence[bytes]:
        """Every folder at or below ``root`` that has recorded files."""
        ...

    def record(self, root: bytes, sightings: Sequence[Sighting]) -> None:
        """Remember these, all or none; a sighting replaces what was recorded for its folder and name."""
        ...

    def gone(self, folder: bytes, names: Sequence[bytes], *, deleted: bool = True) -> None:
        """Forget these recorded files: they are no longer there.

        Args:
            deleted: somebody deleted or moved them, as far as can be told. If not, they are out of sight: another file
                system lies there, they are not wanted any more, or they are about to be recorded anew.
        """
        ...

    def ground(self, folder: bytes) -> str | None:
        """The ground (see :class:`~image_sync.domain.Sighting`) on which all recorded files of the folder were seen;
        None when nothing was ever recorded of it. A folder's first sighting says on which it begins."""
        ...

    def stands(self, folder: bytes, ground: str) -> None:
        """All recorded files of the folder were seen, unchanged, on this ground."""
        ...

    def recategorise(self, folder: bytes, category: str | None) -> None:
        """Give the recorded files of this folder another category: the rules changed, the files did not."""
        ...

    def report(self, root: RootReport) -> None:
        """Remember the state of a root; replaces the report before."""
        ...

    def rescan_requested(self) -> bool:
        """Whether somebody asked for a full look since the last call."""
        ...


class SightingBuffer:
    """Sightings on their way to the catalogue, many in one transaction; each is given to it once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._waiting: dict[bytes, list[Sighting]] = {}
        self._number = 0
        self._folders: set[bytes] = set()
        self._since: float | None = None
        self._looks: list[tuple[bytes, dict[bytes, Stamp]]] = []

    def __len__(self) -> int:
        return self._number

    def open(self, folder: bytes) -> dict[bytes, Stamp]:
        """Begin a look at a folder: what waits of it is handed over first.

        Returns:
            The files of it that are reported from now on: what the catalogue says now no longer holds for them.
        """
        if folder in self._folders:
            self.flush()
        news: dict[bytes, Stamp] = {}
        self._looks.append((folder, news))
        return news

    def close(self, news: dict[bytes, Stamp]) -> None:
        """End a look."""
        self._looks = [look for look in self._looks if look[1] is not news]

    def put(self, root: bytes, folder: bytes, sightings: Sequence[Sighting], now: float) -> None:
        """Report files of one folder, at once or with the next ones."""
        if self._number + len(sightings) > MOST:
            self.flush()
        self._waiting.setdefault(root, []).extend(sightings)
        self._number += len(sightings)
        self._folders.add(folder)
        for place, news in self._looks:
            if place == folder:
                news.update((sighting.name, sighting.stamp) for sighting in sightings)
        if self._since is None:
            self._since = now
        if self._number >= MOST or now - self._since >= OLDEST:
            self.flush()

    def flush(self) -> None:
        """Hand everything over. What the catalogue does not take (it raises) is kept."""
        for root in list(self._waiting):
            self._catalogue.record(root, self._waiting[root])
            self._number -= len(self._waiting.pop(root))
        self._folders.clear()
        self._since = None

    def overdue(self, now: float) -> bool:
        """Whether something has waited long enough."""
        return self._since is not None and now - self._since >= OLDEST
