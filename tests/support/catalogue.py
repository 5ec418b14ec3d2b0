"""A catalogue in memory that keeps what the watcher reports, and holds the watcher to its promises."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from image_sync.domain import RootReport, Sighting, Stamp


class MemoryCatalogue:
    """What a ledger would know; ``history`` has every sighting ever recorded, in order."""

    def __init__(self) -> None:
        self.places: dict[tuple[bytes, bytes], Sighting] = {}
        self.category_of: dict[bytes, str | None] = {}
        self.history: list[Sighting] = []
        self.losses: list[tuple[bytes, bytes]] = []
        self.hidden: list[tuple[bytes, bytes]] = []
        self.grounds: dict[bytes, str] = {}
        self.recategorised: list[tuple[bytes, str | None]] = []
        self.reports: dict[bytes, RootReport] = {}
        self.batches: list[int] = []
        self.rescan = False
        self.broken: Exception | None = None
        self._folders: dict[bytes, dict[bytes, Stamp]] = {}

    def known(self, folder: bytes, names: Collection[bytes] | None = None) -> tuple[str | None, Mapping[bytes, Stamp]]:
        self._fail()
        files = self._folders.get(folder, {})
        if names is not None:
            files = {name: files[name] for name in names if name in files}
        return self.category_of.get(folder), files

    def recorded(self, folder: bytes) -> tuple[str | None, int]:
        self._fail()
        return self.category_of.get(folder), len(self._folders.get(folder, {}))

    def folders(self, root: bytes) -> Sequence[bytes]:
        self._fail()
        return [f for f, files in self._folders.items() if files and (f == root or f.startswith(root + b"/"))]

    def record(self, root: bytes, sightings: Sequence[Sighting]) -> None:
        self._fail()
        assert sightings
        self.batches.append(len(sightings))
        for sighting in sightings:
            assert sighting.folder == root or sighting.folder.startswith(root + b"/")
            self.places[sighting.folder, sighting.name] = sighting
            self._folders.setdefault(sighting.folder, {})[sighting.name] = sighting.stamp
            self.category_of[sighting.folder] = sighting.category
            self.grounds.setdefault(sighting.folder, sighting.ground)
            self.history.append(sighting)

    def ground(self, folder: bytes) -> str | None:
        self._fail()
        return self.grounds.get(folder)

    def stands(self, folder: bytes, ground: str) -> None:
        self._fail()
        self.grounds[folder] = ground

    def gone(self, folder: bytes, names: Sequence[bytes], *, deleted: bool = True) -> None:
        self._fail()
        assert names
        if not deleted:
            self.hidden += [(folder, name) for name in names]
        for name in names:
            del self.places[folder, name]
            del self._folders[folder][name]
            self.losses.append((folder, name))
        if not self._folders[folder]:
            del self._folders[folder]
            self.category_of.pop(folder, None)

    def recategorise(self, folder: bytes, category: str | None) -> None:
        self._fail()
        self.category_of[folder] = category
        self.recategorised.append((folder, category))

    def report(self, root: RootReport) -> None:
        self._fail()
        self.reports[root.path] = root

    def rescan_requested(self) -> bool:
        self._fail()
        asked, self.rescan = self.rescan, False
        return asked

    def paths(self, root: Path) -> set[str]:
        """Recorded paths relative to the root."""
        top = os.fsencode(root)
        return {os.fsdecode(f + b"/" + n)[len(os.fsdecode(top)) + 1 :] for f, n in self.places if f.startswith(top)}

    def at(self, path: Path) -> Sighting:
        """What is recorded of this path."""
        return self.places[os.fsencode(path.parent), os.fsencode(path.name)]

    def _fail(self) -> None:
        if self.broken:
            raise self.broken


def assert_true_to_disk(catalogue: MemoryCatalogue) -> None:
    """Everything recorded is a regular file with the recorded stamp, and what was hashed is its content."""
    for (folder, name), sighting in catalogue.places.items():
        found = os.lstat(folder + b"/" + name)
        assert stat.S_ISREG(found.st_mode)
        assert Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) == sighting.stamp
        if sighting.sha256:
            content = Path(os.fsdecode(folder + b"/" + name)).read_bytes()
            assert hashlib.sha256(content).hexdigest() == sighting.sha256
