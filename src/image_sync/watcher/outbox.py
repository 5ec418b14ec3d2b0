"""Sightings on their way to the catalogue, many in one transaction."""

from __future__ import annotations

from dataclasses import dataclass, field

from image_sync.domain import Sighting, Stamp
from image_sync.watcher.catalogue import Catalogue

MOST = 1000
OLDEST = 0.25
"""Seconds that a sighting may wait for company."""


@dataclass(slots=True, eq=False)  # two looks at one folder are two, however alike
class OpenLook:
    """A look at one folder that is going on, possibly over several steps.

    Attributes:
        news: files of it that were reported since it began; what the catalogue said then no longer holds for them.
        agrees: whether the catalogue was right about everything so far.
    """

    folder: bytes
    news: dict[bytes, Stamp] = field(default_factory=dict)
    agrees: bool = True


class Outbox:
    """Collects sightings; each is given to the catalogue once."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._waiting: dict[bytes, list[Sighting]] = {}
        self._number = 0
        self._folders: set[bytes] = set()
        self._since: float | None = None
        self._looks: list[OpenLook] = []

    def __len__(self) -> int:
        return self._number

    def open(self, folder: bytes) -> OpenLook:
        """Begin a look: from now on it is told what is reported of its folder. What waits is handed over first."""
        if folder in self._folders:
            self.flush()
        look = OpenLook(folder)
        self._looks.append(look)
        return look

    def close(self, look: OpenLook) -> None:
        """End a look."""
        self._looks.remove(look)

    def put(self, root: bytes, sighting: Sighting, now: float) -> None:
        """Report one file, at once or with the next ones."""
        self._waiting.setdefault(root, []).append(sighting)
        self._number += 1
        self._folders.add(sighting.folder)
        for look in self._looks:
            if look.folder == sighting.folder:
                look.news[sighting.name] = sighting.stamp
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
