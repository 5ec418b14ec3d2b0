"""Files that are written, changed, replaced and deleted while they are looked at and sent: whole versions arrive."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from image_sync.cli.session import ledger_of, settings_of
from image_sync.domain import Sighting, Stamp
from image_sync.watcher.catalogue import SightingBuffer
from image_sync_server.faults import Action, Fault
from support.catalogue import MemoryCatalogue
from support.daemon import Plant
from support.mvi_server import serving
from support.pictures import jpeg, png
from support.stored import stored_contents
from support.world import World

QUICK = {"grace": 1, "batch_files": 5, "parallel": 4}


def digest(content: bytes) -> str:
    """Its SHA-256."""
    return hashlib.sha256(content).hexdigest()


def all_are_sent(plant: Plant, wanted: set[str]) -> bool:
    """Whether the ledger has these contents confirmed, and nothing on its way."""
    tally = plant.tally()
    return not (tally.ready or tally.cleared or tally.sending) and tally.confirmed >= len(wanted)


class Versions:
    """Every content that was ever meant to be a whole picture."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        self.all: set[str] = set()

    def next(self) -> bytes:
        """A picture of 40 to 90 kB, unlike any other: the noise is the same, the metadata are not."""
        with self._lock:
            self._number += 1
            number = self._number
        base = BASES[number % len(BASES)]
        comment = f"version {number} ".encode() * 40
        content = base[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + base[2:]
        content = content[:-2] + f"{number:08}".encode() + content[-2:]
        self.all.add(digest(content))
        return content


BASES = [jpeg(seed, 260 + 30 * seed, 200) for seed in range(3)]


class Churn(threading.Thread):
    """Changes the files of one category, in every way that programs do, until told to end."""

    def __init__(self, folder: Path, versions: Versions, files: int, seed: int, until: float) -> None:
        super().__init__()
        self._folder, self._versions, self._files = folder, versions, files
        self._luck = random.Random(seed)
        self._until = until
        self._pause = threading.Event()
        self.changes = 0

    def run(self) -> None:
        """Change one after the other."""
        ways = (self.overwritten, self.replaced, self.deleted, self.swapped, self.appended, self.preallocated)
        while time.monotonic() < self._until:
            path = self._folder / f"{self._luck.randrange(self._files)}.jpg"
            self._luck.choice(ways)(path)
            self.changes += 1
            self._pause.wait(self._luck.uniform(0, 0.02))
        for number in range(self._files):
            self.replaced(self._folder / f"{number}.jpg")

    def overwritten(self, path: Path) -> None:
        """In place, half by half: for a moment it is half the old and half the new version."""
        content = self._versions.next()
        with path.open("r+b" if path.exists() else "wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            self._pause.wait(0.002)
            file.write(content[len(content) // 2 :])
            file.truncate()

    def replaced(self, path: Path) -> None:
        """Renamed over."""
        draft = path.with_suffix(".tmp")
        draft.write_bytes(self._versions.next())
        draft.replace(path)

    def deleted(self, path: Path) -> None:
        """Gone."""
        path.unlink(missing_ok=True)

    def swapped(self, path: Path) -> None:
        """Two files exchange their names."""
        other = self._folder / f"{self._luck.randrange(self._files)}.jpg"
        if path.exists() and other.exists() and path != other:
            aside = path.with_suffix(".aside")
            path.rename(aside)
            other.rename(path)
            aside.rename(other)

    def appended(self, path: Path) -> None:
        """Emptied, then written in pieces through one handle."""
        content = self._versions.next()
        with path.open("wb", buffering=0) as file:
            for at in range(0, len(content), 30_000):
                file.write(content[at : at + 30_000])
                self._pause.wait(0.001)

    def preallocated(self, path: Path) -> None:
        """Full length first, then the content."""
        content = self._versions.next()
        with path.open("wb") as file:
            file.truncate(len(content))
            file.seek(0)
            file.write(content)


@pytest.mark.parametrize("settle", [0.02, 0.12], ids=["hashed again", "proved by stamps"])
def test_only_whole_versions_arrive_while_files_change_under_the_hands(tmp_path, settle):
    """Hundreds of changes between finding and sending: what is stored is a version, once; the last one of each is.
    Where files rest for so long before they are hashed that stamps prove them, and where they do not."""
    versions, files = Versions(), 12
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url, time=0, watch={"settle": settle}, upload=QUICK)
        server.faults.add(Fault(Action.SLOW, method="POST", path="/files$", seconds=0.1, count=None, probability=0.5))
        until = time.monotonic() + 5
        threads = []
        for number in range(3):
            folder = plant.root / f"category{number}"
            folder.mkdir()
            threads.append(Churn(folder, versions, files, number, until))
        with plant.running() as daemon:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            server.faults.clear()
            paths = sorted(plant.root.glob("*/*.jpg"))
            final = {digest(path.read_bytes()): path for path in paths}
            assert final.keys() <= versions.all

            def settled(_plant: Plant) -> bool:
                with ledger_of(settings_of(plant.config)) as ledger:
                    seen = [ledger.history.of(os.fsencode(path)) for path in paths]
                return all(one and one.state == "confirmed" and one.sha256 in final for one in seen)

            plant.wait(settled)
            assert daemon.stop() == 0
        stored = stored_contents(server.url)
    assert sum(thread.changes for thread in threads) > 300
    assert plant.events("picture.changed"), "no race was lost: this test proves nothing"
    assert set(stored) - versions.all == set(), "mixed content"
    assert final.keys() <= stored.keys()
    assert [files for files in stored.values() if len(files) > 1] == []
    with ledger_of(settings_of(plant.config)) as ledger:
        for sha256, path in final.items():
            seen = ledger.history.of(os.fsencode(path))
            assert seen is not None
            assert (seen.sha256, seen.remote_id) == (sha256, stored[sha256][0]["_id"])


WRITER = """
import os, sys, time
way, source, target, pause = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])
content = open(source, "rb").read()
pieces = [content[at : at + len(content) // 5 + 1] for at in range(0, len(content), len(content) // 5 + 1)]
if way == "hidden":
    open(os.path.join(os.path.dirname(target), "." + os.path.basename(target) + ".Xy12"), "wb").write(content)
    os.rename(os.path.join(os.path.dirname(target), "." + os.path.basename(target) + ".Xy12"), target)
elif way == "pieces":
    for piece in pieces:
        with open(target, "ab") as file:
            file.write(piece)
        time.sleep(pause)
else:
    with open(target, "wb", buffering=0) as file:
        if way == "preallocated":
            os.posix_fallocate(file.fileno(), 0, len(content))
        for number, piece in enumerate(pieces):
            if way == "killed" and number == 3:
                os.kill(os.getpid(), 9)
            file.write(piece)
            time.sleep(pause)
"""


def test_slow_broken_and_careful_writers(tmp_path):
    """Slow, preallocating, piecewise, killed and renaming writers, and `cp`: nothing arrives before it is whole."""
    ways = ("slow", "preallocated", "pieces", "hidden", "killed", "cp")
    sources = tmp_path / "sources"
    sources.mkdir()
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url, watch={"settle": 0.25}, upload=QUICK)
        contents: dict[str, bytes] = {}
        writers = []
        with plant.running():
            for number in range(12):
                way, suffix = ways[number % len(ways)], "png" if number >= 6 else "jpg"
                name = f"{way}-{number}.{suffix}"
                contents[name] = (png if suffix == "png" else jpeg)(number, 120, 120)
                (sources / name).write_bytes(contents[name])
                target = plant.root / way / name
                target.parent.mkdir(exist_ok=True)
                slow = "0.35" if way in {"slow", "preallocated"} else "0.1"  # longer than settle while it is open
                command = (
                    ["cp", sources / name, target]
                    if way == "cp"
                    else [
                        *(sys.executable, script, way, sources / name, target, slow),
                    ]
                )
                writers.append(subprocess.Popen([*map(str, command)]))
            codes = [writer.wait(20) for writer in writers]
            assert sorted(set(codes)) == [-9, 0]
            whole = {digest(content): name for name, content in contents.items() if not name.startswith("killed")}
            plant.wait(lambda _: all_are_sent(plant, set(whole)) and plant.census().total.quarantined == 2)
            assert stored_contents(server.url).keys() == whole.keys()
            for name, content in contents.items():
                if name.startswith("killed"):  # whoever was killed does it again
                    (plant.root / "killed" / name).write_bytes(content)
            everything = {digest(content) for content in contents.values()}
            plant.wait(lambda _: all_are_sent(plant, everything))
        stored = stored_contents(server.url)
    assert stored.keys() == everything
    assert all(len(files) == 1 for files in stored.values())


def test_a_newer_version_that_was_found_meanwhile_is_not_forgotten(tmp_path, monkeypatch):
    """The file changes while its batch waits, and is found again: the new version is sent, though the old cannot be."""
    world = World(tmp_path)
    world.stage(upload=1)
    world.put("good/1.jpg", "good/2.jpg")
    upload = world.platform.upload

    def late(batch, read):
        monkeypatch.setattr(world.platform, "upload", upload)
        world.put("good/1.jpg", content="another version")
        return upload(batch, read)

    monkeypatch.setattr(world.platform, "upload", late)
    world.work()
    world.work(400)
    world.work()
    wanted = {digest(b"another version"), digest(b"good/2.jpg")}
    assert {content[-20:-4] for content in world.stored()} == {content[:16] for content in wanted}
    world.ledger.close()


def test_two_looks_at_one_folder_end_each_by_itself():
    """A folder may be looked at because of an event while a full look is in it: both end, each hears what is new."""
    buffer, folder = SightingBuffer(MemoryCatalogue()), b"/pictures/cat"
    first, second = buffer.open(folder), buffer.open(folder)
    buffer.close(second)
    seen = Sighting(folder, b"a.jpg", Stamp(1, 2, 3, 4), "cat", "0" * 64, "jpg")
    buffer.put(b"/pictures", folder, [seen], now=0.0)
    assert (list(first), list(second)) == ([b"a.jpg"], [])
    buffer.close(first)
