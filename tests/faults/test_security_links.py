"""Links that are put in place of files and folders between a check and the reading: nothing outside is ever read."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image_sync.errors import Changed, Unreadable
from image_sync.upload import read_verified
from support.catalogue import MemoryCatalogue
from support.pictures import jpeg
from support.watching import quick, watching

OURS, FOREIGN = jpeg(1), jpeg(2)
DIGEST = hashlib.sha256(OURS).hexdigest()


@pytest.fixture
def place(tmp_path: Path) -> tuple[Path, Path]:
    """A file in a category folder of a root, and a file outside."""
    inside, outside = tmp_path / "root/cat", tmp_path / "outside"
    inside.mkdir(parents=True)
    outside.mkdir()
    (inside / "a.jpg").write_bytes(OURS)
    (outside / "a.jpg").write_bytes(FOREIGN)
    (outside / "linked.jpg").symlink_to(outside / "a.jpg")
    return inside / "a.jpg", outside / "a.jpg"


def file_swap(file: Path, foreign: Path) -> None:
    """The file is a link for a moment."""
    link = file.with_suffix(".link")
    link.symlink_to(foreign)
    aside = file.with_suffix(".aside")
    os.link(file, aside)
    link.replace(file)
    aside.replace(file)


def folder_swap(file: Path, foreign: Path) -> None:
    """Its folder is a link for a moment."""
    aside = file.parent.with_name(".aside")
    file.parent.rename(aside)
    file.parent.symlink_to(foreign.parent)
    file.parent.unlink()
    aside.rename(file.parent)


@contextmanager
def swapping(swap: Callable[[Path, Path], None], place: tuple[Path, Path]) -> Iterator[list[int]]:
    """Swap all the time; how often it was done."""
    done, count = threading.Event(), [0]

    def work() -> None:
        while not done.is_set():
            swap(*place)
            count[0] += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield count
    finally:
        done.set()
        thread.join()


@pytest.mark.parametrize("swap", [file_swap, folder_swap])
def test_what_is_sent_is_what_was_checked_or_nothing(swap, place):
    """Ten thousand readings while a file or folder is swapped for a link: our bytes, or an error of its kind."""
    path, size = os.fsencode(place[0]), len(OURS)
    outcomes = {"read": 0, "error": 0}
    with swapping(swap, place) as count:
        until = time.monotonic() + 20
        while (sum(outcomes.values()) < 10_000 or min(outcomes.values()) < 100) and time.monotonic() < until:
            try:
                assert b"".join(read_verified(path, size, DIGEST)) == OURS
                outcomes["read"] += 1
            except (Changed, Unreadable):
                outcomes["error"] += 1
    assert count[0] > 10
    assert min(outcomes.values()) >= 100, "the swapping was never met: this test proves nothing"


def test_a_file_swapped_for_a_link_is_not_reported(place):
    """The watcher, made to read the file at every look, reports its own content and never that of the link's target."""

    class Forgetful(MemoryCatalogue):
        """Has every file read at every look."""

        def known(self, folder, names=None):
            return None, {}

    root = place[0].parent.parent
    with (
        swapping(file_swap, place),
        watching(root, catalogue=Forgetful(), rules=quick(settle=0.0), start=False) as watch,
    ):
        end = time.monotonic() + 1.0

        def looked_enough() -> bool:
            watch.catalogue.rescan = True
            return time.monotonic() > end and bool(watch.catalogue.history)

        watch.until(looked_enough)
    assert {sighting.sha256 for sighting in watch.catalogue.history} == {DIGEST}


def test_a_link_as_root_means_its_target_and_nothing_in_it_leads_out(place, tmp_path):
    """Whoever configures a link means its target; links inside, to files, folders or the root itself, lead nowhere."""
    root = tmp_path / "link-to-root"
    root.symlink_to(place[0].parent.parent)
    (root / "out").symlink_to(place[1].parent)
    (root / "cat/out.jpg").symlink_to(place[1])
    (root / "cat/round").symlink_to(root)
    with watching(root) as watch:
        assert watch.catalogue.paths(root) == {"cat/a.jpg"}
        assert {sighting.sha256 for sighting in watch.catalogue.history} == {DIGEST}
