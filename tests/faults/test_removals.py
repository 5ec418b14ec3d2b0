"""`deletions: "remove"`: what counts as a deletion, and what waits for a person."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_sync.backoff import Backoff
from image_sync.domain import DatasetRef
from image_sync.ledger import Ledger, open_ledger
from image_sync.reconcile.stage import Reconciler
from image_sync.watcher.rules import Filter, Rules
from image_sync.watcher.scan import missing
from support.memory import MemoryPlatform
from support.pictures import jpeg
from support.watching import quick, watching

DATASET = DatasetRef("d1", "parts")
NUMBER = 30


class Site:
    """A root, a real ledger in which its pictures are confirmed, and a watcher whenever one is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root = folder, folder / "parts"
        self.root.mkdir()
        self.now = 1_000_000.0
        self.ledger: Ledger = open_ledger(folder / "state", clock=lambda: self.now)
        self.ledger.use_target("memory", "", "parts", "append", "parts")
        self.ledger.dataset(DATASET)
        self.mounts: list[Path] = []

    def fill(self, folder: str = "good", number: int = NUMBER, first: int = 0) -> None:
        (self.root / folder).mkdir(parents=True, exist_ok=True)
        for n in range(first, first + number):
            (self.root / folder / f"{n}.jpg").write_bytes(jpeg(n))

    def look(self, between: Callable[[], object] = lambda: None) -> None:
        """One life of a watcher; ``between`` happens while it watches."""
        with watching(self.root, catalogue=self.ledger.files, rules=quick(settle=0.0, mode="polling")) as watch:
            between()
            watch.spend(1.5)
        self.now += 1

    def confirm(self) -> None:
        self.ledger.batches.clear()
        while batch := self.ledger.batches.claim(DATASET, 100, 1 << 26):
            self.ledger.batches.confirm(batch.id, {one.picture_id: f"r{one.picture_id}" for one in batch.pictures}, {})

    def deleted(self) -> int:
        return sum(one.pictures for one in self.ledger.changes.departed())

    def mount(self, place: Path) -> None:
        place.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=False, capture_output=True).returncode:
            pytest.skip("mounting needs root")
        self.mounts.append(place)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.mounts.pop())], check=True)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    made.ledger.count_deletions("remove")
    yield made
    while made.mounts:
        made.unmount()
    made.ledger.close()


@pytest.mark.parametrize("running", [True, False])
def test_what_is_deleted_in_place_counts(site: Site, running: bool) -> None:
    """Also when it was deleted while no daemon ran."""
    site.fill()
    site.look()
    site.confirm()

    def delete() -> None:
        for n in range(3):
            (site.root / "good" / f"{n}.jpg").unlink()

    if not running:
        delete()
        assert [len(names) for _, names in missing(os.fsencode(site.root), site.ledger.files, Filter(Rules()))] == [3]
    site.look(delete if running else lambda: None)

    assert site.deleted() == 3


@pytest.mark.root
@pytest.mark.parametrize("running", [True, False])
@pytest.mark.parametrize("place", ["", "good", "good/deep"])
def test_an_unmounted_share_with_a_picture_in_its_place_deletes_nothing(site: Site, place: str, running: bool) -> None:
    """Wherever the share was mounted: the files on it are out of sight, not deleted."""
    site.fill("other", 2, first=100)
    site.mount(site.root / place)
    inside = "good/deep" if place == "good/deep" else "good"
    site.fill(inside)
    site.look()
    site.confirm()

    def exchange() -> None:
        site.unmount()
        site.fill(inside, 1, first=200)

    if not running:
        exchange()
    site.look(exchange if running else lambda: None)
    site.look()

    assert site.deleted() == 0
    assert list(missing(os.fsencode(site.root), site.ledger.files, Filter(Rules()))) == []


@pytest.mark.root
def test_another_disk_with_files_of_the_same_names_deletes_nothing(site: Site) -> None:
    """IMG_0001.jpg of another camera's card says nothing of the one that was there before."""
    site.mount(site.root)
    site.fill()
    site.look()
    site.confirm()
    site.unmount()
    site.mount(site.root)
    for n in range(NUMBER):
        (site.root / "good").mkdir(exist_ok=True)
        (site.root / "good" / f"{n}.jpg").write_bytes(jpeg(500 + n))
    site.look()
    site.look()

    assert site.deleted() == 0


@pytest.mark.parametrize("running", [True, False])
def test_a_root_made_anew_deletes_nothing(site: Site, running: bool) -> None:
    """It has the same path and another identity."""
    site.fill()
    site.look()
    site.confirm()

    def anew() -> None:
        site.root.rename(site.folder / "aside")
        site.fill("good", 1, first=300)
        shutil.rmtree(site.folder / "aside")

    if not running:
        anew()
    site.look(anew if running else lambda: None)

    assert site.deleted() == 0


def test_after_an_exchange_deletions_count_again(site: Site) -> None:
    """The new disk is looked at once whole; from then on what is deleted on it is deleted."""
    site.fill()
    site.look()
    site.confirm()
    shutil.copytree(site.root, site.folder / "copy")
    shutil.rmtree(site.root)
    (site.folder / "copy").rename(site.root)
    site.look()
    (site.root / "good" / "0.jpg").unlink()
    site.look()

    assert site.deleted() == 1


def test_only_deletions_that_are_seen_while_it_is_set_count(site: Site) -> None:
    """What went before, seen or not, stays at the platform."""
    site.ledger.count_deletions("keep")
    site.fill()
    site.look()
    site.confirm()
    (site.root / "good" / "0.jpg").unlink()
    site.look()
    (site.root / "good" / "1.jpg").unlink()
    site.ledger.count_deletions("remove")
    site.look()
    assert site.deleted() == 0

    (site.root / "good" / "2.jpg").unlink()
    site.look()
    site.ledger.count_deletions("remove")
    assert site.deleted() == 1


def test_many_removals_at_once_wait_for_a_person(site: Site) -> None:
    """An alarm says so; after `removals confirm` they go, and what is deleted later is counted anew."""
    platform = MemoryPlatform()
    dataset = platform.ensure_dataset("parts")
    site.ledger.dataset(dataset)
    site.fill()
    site.look()
    site.confirm()
    for n in range(11):
        (site.root / "good" / f"{n}.jpg").unlink()
    site.look()
    removed: list[str] = []
    platform.remove = lambda dataset, remote_id: removed.append(remote_id)  # type: ignore[method-assign]
    stage = Reconciler(
        site.ledger,
        platform,
        threading.Event(),
        Backoff(site.ledger.trouble),
        remove_after=10.0,
        most_removals=lambda stored: max(10, stored // 5),
        clock=lambda: site.now,
    )
    site.now += 100
    stage.step(0.0)
    assert removed == []
    (trouble,) = [one for one in site.ledger.troubles() if one.stage == "removals"]
    assert "11 of 30 in category 'good'" in trouble.what
    assert "image-sync removals confirm" in trouble.hint

    site.ledger.changes.confirm_removals()
    stage.step(100.0)
    assert len(removed) == 11
    stage.step(200.0)
    assert [one for one in site.ledger.troubles() if one.stage == "removals"] == []
