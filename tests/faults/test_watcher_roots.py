"""Roots that vanish, come back, are replaced, emptied, unreadable, or cannot be watched."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from image_sync.domain import RootState, WatchMode
from image_sync.watcher.events import DirtyFolder, Observer
from image_sync.watcher.folders import listed_below
from image_sync.watcher.rules import Filter
from support.pictures import jpeg
from support.watching import Watching, quick, watching

UNPRIVILEGED = 65534


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with two pictures in two categories."""
    folder = tmp_path / "parts"
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        (folder / name / "a.jpg").write_bytes(jpeg(len(name)))
    return folder


def assert_unavailable(watch: Watching, root: Path, why: str) -> None:
    """Step until the root is given up for this reason, then for long enough to look again, and nothing is gone."""
    watch.until(lambda: watch.report(root).state is RootState.UNAVAILABLE)
    assert why in watch.report(root).reason
    watch.spend(0.3)
    assert watch.catalogue.losses == []
    assert watch.watcher.idle


@pytest.mark.parametrize("mode", ["events", "polling"])
def test_a_vanished_root_is_an_alarm_and_no_loss(root, mode):
    """Once in the log, in the report, and resumed when it is back."""
    with watching(root, rules=quick(mode=mode)) as watch, capture_logs() as lines:
        away = root.rename(root.with_name("away"))
        assert_unavailable(watch, root, "does not exist")
        assert [line["log_level"] for line in lines if line["event"] == "watch.root_unavailable"] == ["error"]
        (away / "cat" / "b.jpg").write_bytes(jpeg(7))
        away.rename(root)
        watch.until(lambda: "cat/b.jpg" in watch.catalogue.paths(root))
        assert watch.report(root).state is RootState.WATCHED
        (root / "cat" / "c.jpg").write_bytes(jpeg(8))
        watch.until(lambda: "cat/c.jpg" in watch.catalogue.paths(root))
        assert watch.catalogue.losses == []
        assert len(watch.catalogue.history) == 4


@pytest.mark.parametrize("successor", ["none", "empty", "other"])
def test_a_root_that_vanishes_between_two_checks_loses_nothing(root, successor):
    """Folders are found missing before the root is: the root is asked about before any loss is reported."""
    with watching(root, rules=quick(poll=30.0)) as watch:
        root.rename(root.with_name("away"))
        if successor != "none":
            root.mkdir()
        if successor == "other":
            (root / "bird").mkdir()
        place = os.fsencode(root)
        watch.watcher._dirty.mark(DirtyFolder(place, place + b"/cat", tree=True))
        watch.until(lambda: watch.watcher._roots[place].departures)
        if successor == "other":  # taken for the root that it is now: what is recorded is not in it
            watch.until(lambda: watch.catalogue.losses)
            assert watch.watcher._roots[place].identity == (root.stat().st_dev, root.stat().st_ino)
        else:
            watch.until(lambda: watch.report(root).state is RootState.UNAVAILABLE, limit=5)
            assert watch.catalogue.losses == []


def test_a_root_that_is_missing_at_start_is_taken_up_when_it_comes(tmp_path, root):
    """The daemon starts without it; the other root is watched meanwhile."""
    late = tmp_path / "late"
    with watching(late, root) as watch:
        assert watch.report(late).state is RootState.UNAVAILABLE
        assert len(watch.catalogue.places) == 2
        (late / "cat").mkdir(parents=True)
        (late / "cat" / "a.jpg").write_bytes(jpeg())
        watch.until(lambda: watch.catalogue.paths(late) == {"cat/a.jpg"})
        assert watch.report(late).mode is WatchMode.EVENTS
        assert watch.report(late).reason == ""


def test_a_root_that_is_a_file_is_unavailable(tmp_path):
    """It says what it should be."""
    (tmp_path / "file").write_bytes(b"")
    with watching(tmp_path / "file") as watch:
        assert "is not a folder" in watch.report(tmp_path / "file").reason


def test_a_replaced_root_is_looked_at_anew_and_heard(root):
    """Another folder under the same name: events of the new one count, those of the old one do not."""
    with watching(root) as watch:
        old = root.rename(root.with_name("old"))
        shutil.copytree(old, root)
        (root / "cat" / "new.jpg").write_bytes(jpeg(5))
        watch.until(lambda: "cat/new.jpg" in watch.catalogue.paths(root))
        (old / "cat" / "stray.jpg").write_bytes(jpeg(6))
        (root / "dog" / "late.jpg").write_bytes(jpeg(7))
        watch.until(lambda: "dog/late.jpg" in watch.catalogue.paths(root))
        watch.spend(0.3)
        assert watch.catalogue.paths(root) == {"cat/a.jpg", "dog/a.jpg", "cat/new.jpg", "dog/late.jpg"}
        assert watch.catalogue.losses == []


def test_an_empty_root_at_start_is_an_unmounted_share_not_a_loss(root):
    """Also with the leavings of a mount point in it; a folder in it says that it was meant."""
    with watching(root) as first:
        catalogue = first.catalogue
    shutil.rmtree(root / "cat")
    shutil.rmtree(root / "dog")
    (root / "NOT MOUNTED.txt").write_bytes(b"")
    (root / "lost+found").mkdir()
    with watching(root, catalogue=catalogue) as watch:
        assert_unavailable(watch, root, "is empty although pictures are recorded below it")
        (root / "cat").mkdir()
        watch.until(lambda: not catalogue.places)
        assert watch.report(root).state is RootState.WATCHED


def test_a_root_emptied_under_our_eyes_is_believed(root):
    """The very folder that had pictures has none: somebody deleted them."""
    with watching(root) as watch:
        shutil.rmtree(root / "cat")
        shutil.rmtree(root / "dog")
        watch.until(lambda: not watch.catalogue.places)
        assert watch.report(root).state is RootState.WATCHED


def test_a_root_replaced_by_an_empty_one_is_not_believed(root):
    """That is what unmounting looks like."""
    with watching(root) as watch:
        root.rename(root.with_name("old"))
        root.mkdir()
        assert_unavailable(watch, root, "is empty although")


def test_a_new_empty_root_is_fine(tmp_path):
    """Nothing is recorded below it, so nothing is missing; what comes and goes in it is believed."""
    with watching(tmp_path) as watch:
        assert watch.report(tmp_path).state is RootState.WATCHED
        (tmp_path / "cat").mkdir()
        (tmp_path / "cat" / "a.jpg").write_bytes(jpeg())
        watch.until(lambda: watch.catalogue.places)
        shutil.rmtree(tmp_path / "cat")
        watch.until(lambda: not watch.catalogue.places)


def mounted(*command: str) -> bool:
    """Run a mount command; whether it worked."""
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.root
def test_an_unmounted_and_remounted_share_loses_nothing(tmp_path):
    """A real mount: unmounted it is unavailable, mounted again it goes on, with events."""
    root = tmp_path / "share"
    root.mkdir()
    image = tmp_path / "kept"
    if not mounted("mount", "-t", "tmpfs", "none", str(root)):
        pytest.skip("mounting needs root")
    try:
        (root / "cat").mkdir()
        (root / "cat" / "a.jpg").write_bytes(jpeg())
        with watching(root) as watch:
            assert len(watch.catalogue.places) == 1
            image.mkdir()
            assert mounted("mount", "--bind", str(root), str(image))
            assert mounted("umount", str(root))
            assert_unavailable(watch, root, "is empty although")
            assert mounted("mount", "--bind", str(image), str(root))
            watch.until(lambda: watch.report(root).state is RootState.WATCHED)
            (root / "cat" / "b.jpg").write_bytes(jpeg(2))
            watch.until(lambda: len(watch.catalogue.places) == 2)
            assert watch.catalogue.losses == []
            assert len(watch.catalogue.history) == 2
    finally:
        mounted("umount", str(root))
        mounted("umount", str(image))


@pytest.fixture
def share(root: Path) -> Iterator[Path]:
    """A category folder that is a file system of its own, with a picture in a folder in it."""
    folder = root / "bird"
    folder.mkdir()
    if not mounted("mount", "-t", "tmpfs", "none", str(folder)):
        pytest.skip("mounting needs root")
    (folder / "inner").mkdir()
    for path in (folder / "a.jpg", folder / "inner" / "b.jpg"):
        path.write_bytes(jpeg(len(path.name)))
    kept = root.parent / "kept"
    kept.mkdir()
    mounted("mount", "--bind", str(folder), str(kept))
    yield folder
    mounted("umount", str(folder))
    mounted("umount", str(kept))


EVERYTHING = {"cat/a.jpg", "dog/a.jpg", "bird/a.jpg", "bird/inner/b.jpg"}


@pytest.mark.root
@pytest.mark.parametrize("mode", ["events", "polling"])
def test_a_share_mounted_inside_a_root_may_be_unmounted(root: Path, share: Path, mode: str) -> None:
    """It is named in the report, nothing in it is gone, the rest of the root works on, and it is back when it is."""
    with watching(root, rules=quick(mode=mode, rescan=0.3)) as watch:
        assert watch.catalogue.paths(root) == EVERYTHING
        assert mounted("umount", str(share))
        watch.until(lambda: "is not mounted" in watch.report(root).reason)
        (root / "cat" / "b.jpg").write_bytes(jpeg(7))
        watch.until(lambda: "cat/b.jpg" in watch.catalogue.paths(root))
        watch.spend(1)
        assert watch.catalogue.losses == []
        assert mounted("mount", "--bind", str(root.parent / "kept"), str(share))
        (share / "c.jpg").write_bytes(jpeg(8))
        watch.until(lambda: "bird/c.jpg" in watch.catalogue.paths(root) and "mounted" not in watch.report(root).reason)
        (share / "a.jpg").unlink()
        watch.until(lambda: "bird/a.jpg" not in watch.catalogue.paths(root))


@pytest.mark.root
def test_a_share_that_the_system_should_mount_is_missed_from_the_start(
    root: Path, share: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restart without it, /etc/fstab says that something belongs there."""
    with watching(root) as first:
        catalogue = first.catalogue
    assert mounted("umount", str(share))
    table = root.parent / "fstab"
    table.write_text(f"# a comment\n\nnas:/birds {share} nfs4 defaults 0 0\nUUID=1 / ext4 defaults 0 1\n")
    monkeypatch.setattr("image_sync.watcher.root.listed_below", lambda path: listed_below(path, table))
    with watching(root, catalogue=catalogue, rules=quick(rescan=0.3)) as watch:
        watch.until(lambda: "is not mounted" in watch.report(root).reason)
        watch.spend(1)
        assert catalogue.paths(root) == EVERYTHING
        # Filled by hand, it is a folder like any other: what is missing in it now is gone.
        (share / "c.jpg").write_bytes(jpeg(8))
        watch.until(lambda: catalogue.paths(root) == {"cat/a.jpg", "dog/a.jpg", "bird/c.jpg"})
        assert "mounted" not in watch.report(root).reason


def test_dead_event_threads_are_replaced(root):
    """Each kind of watchdog's threads may die alone: events are heard again after the next check."""
    with watching(root) as watch:
        for number, kill in enumerate(("emitter", "reader", "observer")):
            observer = watch.watcher._observer._observer
            assert observer is not None
            victims = {
                "emitter": next(iter(observer.emitters)),
                "reader": getattr(observer, "_inotify_fd", observer),
                "observer": observer,
            }
            victims[kill].stop()
            victims[kill].join(5)
            with capture_logs() as lines:
                watch.until(lambda: any(line["event"] == "watch.events_stopped" for line in lines))
            watch.until_idle()
            new = root / "cat" / f"{number}.jpg"
            new.write_bytes(jpeg(number))
            place = (os.fsencode(new.parent), os.fsencode(new.name))
            watch.until(functools.partial(watch.catalogue.places.get, place), limit=5)


def test_an_event_that_cannot_be_understood_leads_to_a_full_look(root, monkeypatch):
    """The handler never raises into watchdog's thread; what it missed is found, and one line tells of it."""

    def refuse(_filter: Filter, name: bytes) -> bool:
        raise ValueError(name)

    original = Filter.file
    calls: list[bytes] = []

    def fail_in_other_threads(filters: Filter, name: bytes) -> bool:
        if threading.current_thread() is threading.main_thread():
            return original(filters, name)
        calls.append(name)
        return refuse(filters, name)

    monkeypatch.setattr(Filter, "file", fail_in_other_threads)
    with watching(root) as watch:
        with capture_logs() as lines:
            (root / "cat" / "new.jpg").write_bytes(jpeg(9))
            watch.until(lambda: "cat/new.jpg" in watch.catalogue.paths(root), limit=15)
            watch.until(lambda: len(calls) > 1)
        assert [line["event"] for line in lines].count("watch.event_not_understood") == 1
        assert watch.watcher._observer.hears(os.fsencode(root))


def test_a_root_with_too_many_folders_is_polled_and_says_so(root):
    """Everything is found all the same, and the reason is in the report."""
    for number in range(30):
        (root / f"c{number}").mkdir()
    with watching(root, rules=quick(max_folders=20)) as watch:
        assert watch.report(root).mode is WatchMode.POLLING
        assert "more than 20 folders" in watch.report(root).reason
        (root / "c7" / "a.jpg").write_bytes(jpeg())
        watch.until(lambda: "c7/a.jpg" in watch.catalogue.paths(root))
        assert watch.watcher._observer._observer is None


def test_a_root_that_grows_too_many_folders_is_polled_from_then_on(root):
    """And watched with events again when they are fewer."""
    with watching(root, rules=quick(max_folders=20, rescan=0.2)) as watch:
        assert watch.report(root).mode is WatchMode.EVENTS
        for number in range(30):
            (root / f"c{number}").mkdir()
        watch.until(lambda: watch.report(root).mode is WatchMode.POLLING)
        for number in range(30):
            (root / f"c{number}").rmdir()
        watch.until(lambda: watch.report(root).mode is WatchMode.EVENTS)
        assert watch.report(root).reason == ""


@pytest.mark.parametrize(("mode", "expected"), [("auto", WatchMode.POLLING), ("events", WatchMode.EVENTS)])
def test_a_network_file_system_is_polled_unless_told_otherwise(root, monkeypatch, mode, expected):
    """Its type is named as the reason; its files need two looks and have no inode in their stamp."""
    monkeypatch.setattr("image_sync.watcher.root.remote_filesystem", lambda _root: "nfs4")
    os.utime(root / "cat" / "a.jpg", (1, 1))
    with watching(root, rules=quick(mode=mode)) as watch:
        assert watch.report(root).mode is expected
        assert ("nfs4" in watch.report(root).reason) == (expected is WatchMode.POLLING)
        assert {sighting.stamp.inode for sighting in watch.catalogue.history} == {0}
        (root / "cat" / "b.jpg").write_bytes(jpeg(4))
        watch.until(lambda: "cat/b.jpg" in watch.catalogue.paths(root))


def test_polling_by_choice_needs_no_events_at_all(root):
    """No thread of watchdog is started."""
    with watching(root, rules=quick(mode="polling")) as watch:
        assert "watch.mode" in watch.report(root).reason
        assert watch.watcher._observer._observer is None


@pytest.mark.parametrize(
    ("code", "says"),
    [("ENOSPC", "max_user_watches"), ("EMFILE", "max_user_instances"), ("EIO", "events cannot be had")],
)
def test_a_refused_subscription_falls_back_to_polling(root, monkeypatch, code, says):
    """The reason names the limit to raise."""
    import errno

    def refuse(*_args: Any, **_kw: Any) -> None:
        number = getattr(errno, code)
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Observer, "_started", refuse)
    with watching(root) as watch:
        assert watch.report(root).mode is WatchMode.POLLING
        assert says in watch.report(root).reason
        assert len(watch.catalogue.places) == 2


SCRIPT = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.pictures import jpeg
from support.watching import quick, watching
root = Path({root!r})
{body}
"""


def in_a_process(root: Path, body: str, *prefix: str) -> str:
    """What a script that watches this root prints; it may have been made less privileged on the way."""
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), root=str(root), body=body)
    done = subprocess.run(
        [*prefix, sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def can(*prefix: str) -> bool:
    """Whether a program can be started this way here."""
    return bool(shutil.which(prefix[0])) and mounted(*prefix, "true")


@pytest.mark.skipif(not can("unshare", "-Ur"), reason="user namespaces are not allowed here")
@pytest.mark.parametrize("grows", [False, True])
def test_running_out_of_inotify_watches_falls_back_to_polling(root, grows):
    """At the start or when folders are added: the root is polled, names the limit to raise, and finds everything."""
    body = f"""
Path("/proc/sys/user/max_inotify_watches").write_text("50")
def grow():
    for number in range(100):
        (root / f"c{{number}}").mkdir()
        (root / f"c{{number}}" / "a.jpg").write_bytes(jpeg(number))
if not {grows}: grow()
with watching(root) as watch:
    print(watch.report(root).mode)
    if {grows}: grow()
    watch.until(lambda: len(watch.catalogue.places) == 102)
    (root / "c99" / "late.jpg").write_bytes(jpeg())
    watch.until(lambda: len(watch.catalogue.places) == 103)
    watch.until(lambda: "max_user_watches" in watch.report(root).reason)
    print(watch.report(root).mode, len(watch.catalogue.history))
"""
    out = in_a_process(root, body, "unshare", "-Ur").splitlines()
    lines = [line for line in out if line.startswith(("events", "polling"))]
    assert lines == ["events" if grows else "polling", "polling 103"]


# By then everything is imported: the interpreter may lie where only root can read.
BECOME_NOBODY = f"""
jpeg(0)
with watching(root):
    pass
if os.geteuid() == 0:
    os.setresuid({UNPRIVILEGED}, {UNPRIVILEGED}, {UNPRIVILEGED})
"""


@pytest.fixture
def foreign(root) -> Iterator[Path]:
    """The root again, in a place that everybody can reach, and somebody else's."""
    with tempfile.TemporaryDirectory() as folder:
        place = shutil.copytree(root, Path(folder) / "parts")
        if os.geteuid() == 0:
            for path in [Path(folder), place, *place.rglob("*")]:
                os.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        yield place


def test_what_may_not_be_read_is_reported_and_the_rest_goes_on(foreign):
    """A folder and a file without permission: one warning each, no loss, found as soon as they may be read."""
    body = """
from structlog.testing import capture_logs
for number in range(3):
    (root / "secret").mkdir(exist_ok=True)
    (root / "secret" / f"{number}.jpg").write_bytes(jpeg(number))
with watching(root) as watch:
    assert len(watch.catalogue.places) == 5, watch.catalogue.paths(root)
    (root / "secret").chmod(0)
    (root / "dog" / "new.jpg").write_bytes(jpeg(8))
    (root / "dog" / "new.jpg").chmod(0)
    (root / "dog" / "other.jpg").write_bytes(jpeg(9))
    with capture_logs() as lines:
        for _ in range(3):
            watch.catalogue.rescan = True
            watch.spend(0.3)
        watch.spend(1.0)
    print("PATHS", sorted(watch.catalogue.paths(root)))
    print("LOSSES", watch.catalogue.losses)
    print("WARNINGS", sorted(os.path.basename(l["path"]) for l in lines if l["event"] == "watch.cannot_look"))
    print("REASON", watch.report(root).reason)
    (root / "secret").chmod(0o700)
    (root / "dog" / "new.jpg").chmod(0o600)
    (root / "secret" / "9.jpg").write_bytes(jpeg(10))
    watch.catalogue.rescan = True
    watch.until(lambda: len(watch.catalogue.places) == 8)
    watch.until(lambda: not watch.report(root).reason)
    print("WELL")
"""
    out = in_a_process(foreign, BECOME_NOBODY + body)
    said = dict(line.split(" ", 1) for line in out.splitlines() if line.split(" ")[0].isupper() and " " in line)
    kept = ["cat/a.jpg", "dog/a.jpg", "dog/other.jpg", "secret/0.jpg", "secret/1.jpg", "secret/2.jpg"]
    assert said["PATHS"] == str(kept)
    assert said["LOSSES"] == "[]"
    assert said["WARNINGS"] == "[b'new.jpg', b'secret']"
    assert said["REASON"].startswith("2 places cannot be looked at, first: ")
    assert "Permission denied" in said["REASON"]
    assert out.splitlines()[-1] == "WELL"


def test_an_unreadable_root_is_unavailable(foreign):
    """It says that its permissions are to be checked, and nothing below it is gone."""
    body = """
with watching(root) as watch:
    root.chmod(0)
    watch.until(lambda: "Permission denied" in watch.report(root).reason)
    watch.spend(0.3)
    print(watch.report(root).state, len(watch.catalogue.places), watch.catalogue.losses)
    root.chmod(0o700)
    watch.until(lambda: watch.report(root).state == "watched")
"""
    out = in_a_process(foreign, BECOME_NOBODY + body)
    assert "unavailable 2 []" in out.splitlines()


def test_stop_ends_a_step_at_once(tmp_path):
    """In the middle of many files: the step returns within a fraction of a second, and what was read is reported."""
    for number in range(3000):
        (tmp_path / f"c{number % 30}").mkdir(exist_ok=True)
        (tmp_path / f"c{number % 30}" / f"{number}.jpg").write_bytes(jpeg(number % 50))
    watch = Watching(tmp_path, rules=quick(settle=0.0))
    watch.watcher.start()
    original = watch.catalogue.record

    def record(root: bytes, sightings: Any) -> None:
        original(root, sightings)
        watch.stop.set()

    watch.catalogue.record = record  # type: ignore[method-assign]
    watch.watcher.step(time.monotonic())
    began = time.monotonic()
    watch.watcher.step(time.monotonic())
    watch.watcher.close()
    assert time.monotonic() - began < 0.5
    assert 200 <= len(watch.catalogue.places) < 3000
    assert len(watch.watcher._scanner.buffer) == 0
