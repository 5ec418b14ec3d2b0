"""The upload stages on a real ledger and real files, with a platform in memory and clocks that a test turns."""

from __future__ import annotations

import hashlib
import os
import threading
from pathlib import Path

from image_sync.backoff import Backoff
from image_sync.domain import Annotation, Sighting, Stamp
from image_sync.ledger import Ledger, open_ledger
from image_sync.reconcile.stage import Reconciler
from image_sync.tracker import Thresholds
from image_sync.upload import Uploader, UploadRules
from support.memory import MemoryPlatform


class World:
    """A watched folder, a ledger, a platform and the stage between them, with clocks that a test turns."""

    def __init__(self, folder: Path, *, plain_names: bool = False, annotations: str = "none") -> None:
        self.root = folder / "pictures"
        self.stop = threading.Event()
        self.now = 1000.0
        self.unix = 1_000_000.0
        self.ledger: Ledger = open_ledger(
            folder / "state", plain_names=plain_names, annotations=annotations, clock=lambda: self.unix
        )
        self.ledger.use_target("memory", "", "parts", "append", "parts")
        self.platform = MemoryPlatform(self.stop, clock=lambda: self.unix)
        self.stage()
        self.ledger.remote_index.agree()

    def stage(
        self, *, upload: int = 2, grace: float = 180, remove_after: float | None = None, repair: bool = False, **rules
    ) -> Uploader:
        self.reconciler = Reconciler(
            self.ledger,
            self.platform,
            self.stop,
            Backoff(self.ledger.trouble, clock=lambda: self.now),
            grace=grace,
            remove_after=remove_after,
            repair=repair,
            clock=lambda: self.unix,
        )
        self.uploader = Uploader(
            self.ledger,
            self.platform,
            Thresholds(upload=upload, quiet=10, max_wait=300),
            UploadRules(grace=grace, **rules),
            self.stop,
            Backoff(self.ledger.trouble, clock=lambda: self.now),
            clock=lambda: self.unix,
        )
        return self.uploader

    def put(self, *places: str, content: str = "", marks: Annotation | None = None) -> None:
        """Write a file for each ``category/name`` and record it, and what is marked, as the watcher would."""
        text = "" if marks is None else marks.to_text()
        labels = () if marks is None else tuple(dict.fromkeys(box.label for box in marks.boxes))
        for place in places:
            path = self.root / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content or place)
            found = path.stat()
            sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
            stands = hashlib.sha256(text.encode()).hexdigest()[:24] if text else ""
            stamp = Stamp(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, stands)
            category = "" if path.parent == self.root else path.parent.name
            sighting = Sighting(
                os.fsencode(path.parent), os.fsencode(path.name), stamp, category, sha256, "jpg", "", text, labels
            )
            self.ledger.files.record(os.fsencode(self.root), [sighting])

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.unix += seconds

    def work(self, seconds: float = 10.0) -> None:
        """Step until the stage wants to rest, let time pass, and do so again."""
        self._until_rest()
        self.pass_time(seconds)
        self._until_rest()

    def _until_rest(self) -> None:
        for _ in range(50):
            if (self.reconciler.step(self.now) > 0 and self.uploader.step(self.now) > 0) or self.stop.is_set():
                return
        raise AssertionError("the stages do not come to rest")

    def stored(self) -> list[str]:
        """What the platform has, as ``category/content``."""
        dataset = self.platform.find_dataset("parts")
        return sorted(f"{one.category}/{one.key}" for one in self.platform.listing(dataset)) if dataset else []

    def state_of(self, place: str) -> str:
        found = self.ledger.history.of(os.fsencode(self.root / place))
        return "unknown" if found is None else found.state
