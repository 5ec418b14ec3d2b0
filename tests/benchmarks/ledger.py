"""The ledger alone: what writing down, claiming and confirming cost, on SQLite and on PostgreSQL."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks.session import Session
from benchmarks.sink import DATASET, categories
from benchmarks.table import Row
from benchmarks.trees import Tree
from image_sync.domain import DatasetRef, Sighting, Stamp
from image_sync.ledger import Ledger, open_ledger
from support.postgres import a_database

_COUNT = 100_000
_SEEN = 200
_BATCH = 100
_EACH = 1000


class Seconds(NamedTuple):
    """What it took to write all pictures down, to claim all, and to confirm all."""

    record: float
    claim: float
    confirm: float


def measure(session: Session) -> Iterator[Row]:
    """Pictures a second, in portions as the stages use them."""
    count = session.scaled(_COUNT)
    with contextlib.contextmanager(a_database)() as postgres:
        for name, state in (("SQLite", session.work / "ledger"), ("PostgreSQL", postgres)):
            session.say(f"ledger: {count:,} pictures on {name}")
            ledger = open_ledger(state)
            ledger.use_target("mvi", "http://localhost", DATASET, "append", DATASET)
            took = filled(ledger, session.work / "nowhere", count)
            ledger.close()
            note = f"{count:,} pictures, {_SEEN} seen at a time, {_BATCH} in a batch" if name == "SQLite" else ""
            yield Row(f"ledger, {name}: write down", count / took.record, "pictures/s", note=note)
            yield Row(f"ledger, {name}: claim and confirm", count / (took.claim + took.confirm), "pictures/s")


def filled(ledger: Ledger, root: Path, count: int, *, seen: int = _SEEN, batch: int = _BATCH) -> Seconds:
    """A ledger full of pictures, all confirmed; they need not exist, and do not.

    Args:
        seen: pictures written down in one transaction. batch: pictures claimed and confirmed in one.
    """
    tree = Tree(root, count, 20_480)
    begun = time.perf_counter()
    for first in range(0, count, seen):
        numbers = range(first, min(first + seen, count))
        ledger.files.record(str(root).encode(), [_sighting(tree, number) for number in numbers])
    recorded = time.perf_counter()
    ledger.batches.clear()
    claim = confirm = 0.0
    dataset = DatasetRef(DATASET, DATASET)
    while True:
        began = time.perf_counter()
        claimed = ledger.batches.claim(dataset, batch, 1 << 40)
        between = time.perf_counter()
        claim += between - began
        if claimed is None:
            return Seconds(recorded - begun, claim, confirm)
        stored = {item.picture_id: f"{claimed.id}-{place}" for place, item in enumerate(claimed.pictures)}
        ledger.batches.confirm(claimed.id, stored, {})
        confirm += time.perf_counter() - between


def _sighting(tree: Tree, number: int) -> Sighting:
    names = categories()
    category = names[number * len(names) // tree.count]
    folder = tree.root / category / f"f{number // _EACH:03}"
    stamp = Stamp(tree.size, 1_700_000_000_000_000_000 + number, 1_700_000_000_000_000_000 + number, number)
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Sighting(str(folder).encode(), f"p{number:07}.jpg".encode(), stamp, category, digest, "jpg", "")
