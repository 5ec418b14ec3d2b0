"""Many files at once, in every way that trees are made; events get lost, pictures do not."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from image_sync.watcher.image_check import ImageCheck, examine
from image_sync.watcher.settle import SettleQueue
from support import temporary
from support.catalogue import assert_true_to_disk
from support.pictures import jpeg
from support.watching import Watching, quick, watching

CONTENT = jpeg()


@pytest.fixture
def fast() -> Iterator[Path]:
    """A folder in memory where there is one: slow disks hide lost events."""
    with tempfile.TemporaryDirectory(dir=temporary.FAST) as folder:
        yield Path(folder)


def assert_each_once(watch: Watching) -> None:
    """Every place was reported once, and is as it was reported."""
    counted = Counter((sighting.folder, sighting.name, sighting.stamp) for sighting in watch.catalogue.history)
    assert set(counted.values()) == {1}
    assert_true_to_disk(watch.catalogue)


BURST = """
import sys
from pathlib import Path
from typing import Any
folder, begin, end = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
content = sys.stdin.buffer.read()
for number in range(begin, end):
    (folder / f"{number}.jpg").write_bytes(content)
"""


def test_a_burst_that_overflows_the_queue_is_found_whole(fast):
    """20,000 files by four programs at once: all found, each once, few full looks, one line a look."""
    number = 20_000
    (fast / "cat").mkdir()
    with capture_logs() as lines, watching(fast, rules=quick(settle=0.1)) as watch:
        writers = []
        for part in range(4):
            span = str(part * number // 4), str((part + 1) * number // 4)
            command = [sys.executable, "-c", BURST, str(fast / "cat"), *span]
            writers.append(subprocess.Popen(command, stdin=subprocess.PIPE))
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write(CONTENT)
            writer.stdin.close()
        # Nobody empties the hints meanwhile, as when the ledger's disk is slow.
        for writer in writers:
            assert writer.wait(60) == 0
        watch.until(lambda: len(watch.catalogue.places) == number, limit=60)
        watch.until_idle(limit=60)
        assert max(watch.steps) < 2.0
    # On a busy machine an event's look may overlap the full look: the ledger takes a repeated sighting as one.
    assert len({(seen.folder, seen.name, seen.stamp) for seen in watch.catalogue.history}) == number
    assert max(watch.catalogue.batches) <= 1000
    scans = [line for line in lines if line["event"] == "watch.scanned"]
    overflows = [line for line in lines if line["event"] == "watch.events_lost"]
    assert len(scans) <= 4
    assert len(overflows) <= 4


def test_an_overflow_leads_to_a_full_look_at_once(fast):
    """What watchdog logs, and tells nobody, is heard: a file without any event is found."""
    (fast / "cat").mkdir()
    with watching(fast) as watch:
        observer = watch.watcher._observer
        observer.unwatch(os.fsencode(fast))
        (fast / "cat" / "a.jpg").write_bytes(CONTENT)
        watch.watcher._monitor.subscribe(watch.watcher._roots[os.fsencode(fast)])
        logging.getLogger("watchdog.observers.inotify_c").warning("Inotify queue overflowed; events were lost")
        began = time.monotonic()
        watch.until(lambda: watch.catalogue.places)
        assert time.monotonic() - began < 2


def mkdir_and_write(top: Path, names: list[str]) -> None:
    """Each folder and its files, from above to below."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(CONTENT)


def make_folders_first(top: Path, names: list[str]) -> None:
    """All folders, then the files."""
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
    mkdir_and_write(top, names)


def move_in(top: Path, names: list[str]) -> None:
    """Trees made elsewhere and moved in."""
    away = top.with_name(top.name + "-away")
    mkdir_and_write(away, names)
    for tree in list(away.iterdir()):
        tree.rename(top / tree.name)
    away.rmdir()


def copytree(top: Path, names: list[str]) -> None:
    """Copied by Python."""
    away = top.with_name(top.name + "-away")
    mkdir_and_write(away, names)
    for tree in away.iterdir():
        shutil.copytree(tree, top / tree.name)
    shutil.rmtree(away)


def cp(top: Path, names: list[str]) -> None:
    """Copied by cp -r."""
    away = top.with_name(top.name + "-away")
    mkdir_and_write(away, names)
    subprocess.run(["cp", "-r", *sorted(map(str, away.iterdir())), str(top)], check=True)
    shutil.rmtree(away)


def write_and_rename(top: Path, names: list[str]) -> None:
    """Written to a hidden tree, which is renamed when it is complete."""
    for tree in sorted({name.split("/")[0] for name in names}):
        mkdir_and_write(top, ["." + name for name in names if name.split("/")[0] == tree])
        (top / ("." + tree)).rename(top / tree)


WAYS = [mkdir_and_write, make_folders_first, move_in, copytree, cp, write_and_rename]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_trees_made_in_any_way_are_found_whole(fast, way):
    """40 trees, 5 deep, 4 pictures a folder: 800 pictures found by events and looks, each reported once."""
    top = fast / "root"
    top.mkdir()
    names = [f"t{tree}/{'d/' * depth}{file}.jpg" for tree in range(40) for depth in range(5) for file in range(4)]
    with watching(top) as watch:
        way(top, names)
        watch.until(lambda: watch.catalogue.paths(top) == set(names), limit=10)
        watch.until_idle()
        # And what is put there later is found, for all that the watching of new folders may have missed.
        (top / "t7" / "d" / "d" / "later.jpg").write_bytes(CONTENT)
        watch.until(lambda: "t7/d/d/later.jpg" in watch.catalogue.paths(top))
    assert_each_once(watch)


def test_folders_that_watchdog_lost_sight_of_are_watched_again_after_a_full_look(fast):
    """The system says how many folders it watches: if they are too few, all are subscribed anew."""
    for number in range(10):
        (fast / f"c{number}").mkdir()
    with watching(fast) as watch:
        observer = watch.watcher._observer
        assert observer.watching() == 11
        assert observer._observer is not None
        group: Any = vars(next(iter(observer._observer.emitters)))["_inotify"]
        group._remove_callbacks([group._active_callbacks_by_path[os.fsencode(fast / "c3")]])
        assert observer.watching() == 10
        for root in watch.watcher._roots.values():  # the regular full look is due
            root.arm_due = 0.0
            root.scan_by(0.0)
        watch.until(lambda: observer.watching() == 11)
        (fast / "c3" / "a.jpg").write_bytes(CONTENT)
        watch.until(lambda: watch.catalogue.places, limit=3)


def test_more_restless_files_than_can_be_remembered_are_all_found(fast, monkeypatch):
    """Memory for settling files is bounded; folders of the others are looked at again."""
    (fast / "cat").mkdir()
    with watching(fast, rules=quick(settle=0.3)) as watch:
        watch.watcher._scanner.settling = SettleQueue(quick(settle=0.3), limit=50)
        for number in range(500):
            (fast / "cat" / f"{number}.jpg").write_bytes(CONTENT)
        most = 0

        def done() -> bool:
            nonlocal most
            most = max(most, len(watch.watcher._scanner.settling))
            return len(watch.catalogue.places) == 500

        watch.until(done)
        assert most == 50
        watch.until_idle()
    assert_each_once(watch)


def test_new_pictures_do_not_wait_for_a_full_look_to_end(fast, monkeypatch):
    """While a large backlog is read, a new picture is reported within a step or two."""
    (fast / "old").mkdir()
    (fast / "new").mkdir()
    for number in range(400):
        (fast / "old" / f"{number}.jpg").write_bytes(CONTENT)

    def examine_slowly(*args: Any) -> ImageCheck | None:
        watch.stop.wait(0.005)
        return examine(*args)

    monkeypatch.setattr("image_sync.watcher.image_check.examine", examine_slowly)
    # To this clock everything rests already.
    watch = Watching(fast, rules=quick(settle=0.05), clock=lambda: time.time() + 1)
    try:
        watch.watcher.start()
        watch.watcher.step(time.monotonic())
        (fast / "new" / "a.jpg").write_bytes(CONTENT)
        watch.until(lambda: "new/a.jpg" in watch.catalogue.paths(fast))
        assert len(watch.catalogue.places) < 395
        watch.until(lambda: len(watch.catalogue.places) == 401)
        assert max(watch.steps) < 1.0
    finally:
        watch.watcher.close()
    assert_each_once(watch)


def test_a_folder_that_is_replaced_at_once_takes_its_inner_folders_along(tmp_path):
    """What was recorded deep in the old one is gone, although a folder of that name is there again."""
    (tmp_path / "dog" / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "dog" / "deep" / "deeper" / "a.jpg").write_bytes(jpeg(1))
    with watching(tmp_path) as watch:
        shutil.rmtree(tmp_path / "dog")
        (tmp_path / "dog").mkdir()
        (tmp_path / "dog" / "b.jpg").write_bytes(jpeg(2))
        watch.until(lambda: watch.catalogue.paths(tmp_path) == {"dog/b.jpg"})
