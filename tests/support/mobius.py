"""A real emulator of a Mobius SDK on a free port, a plant that writes to it, and what came of that."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from image_sync_server.faults import Fault
from image_sync_server.mobius.fault_presets import KINDS, preset
from image_sync_server.mobius.server import MobiusServer
from support.daemon import Plant


@contextmanager
def serving_mobius(data: Path, **options: Any) -> Iterator[MobiusServer]:
    """An emulator that is started, and stopped at the end."""
    with MobiusServer(data, **options) as server:
        server.start()
        yield server


def fault(
    kind: str, rate: float = 1.0, seconds: float | None = None, *, path: str = "", count: int | None = None
) -> Fault:
    """A fault of the emulator; the seconds are for those kinds that take some."""
    return preset(kind, rate, seconds if KINDS[kind].timed else None, path=path, count=count)


def mobius_plant(folder: Path, server: MobiusServer, **changes: Any) -> Plant:
    """The program on a folder, with that emulator as its platform."""
    plant = Plant(folder, server.url, platform="mobius")
    plant.configure(model={"strategy": {}})
    plant.configure(**changes)
    return plant


def assigned(server: MobiusServer, kind: str = "positive") -> dict[str, set[str]]:
    """Tag -> the pictures that are assigned to it so."""
    found: dict[str, set[str]] = {}
    for tag, image, one in server.store.assigned():
        if one == kind:
            found.setdefault(tag, set()).add(image)
    return found


def in_folders(root: Path) -> dict[str, set[str]]:
    """Category -> the ids that its pictures must have at the server."""
    found: dict[str, set[str]] = {}
    for path in root.glob("*/*.*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found.setdefault(path.parent.name, set()).add(digest[:32])
    return found


def tasks(server: MobiusServer) -> Counter[str]:
    """How many tasks each tag has had."""
    return Counter(task.tag for task in server.tasks.all.values())


def calls(server: MobiusServer, words: str) -> list[str]:
    """The requests that contain these words, in their order."""
    return [call for call in server.requests if words in call]
