"""Files that are being written, are cut off, block, lead elsewhere, or change under the reader's eyes."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from image_sync.domain import WatchMode
from image_sync.watcher import image_check, scan
from image_sync.watcher.folders import open_folder
from support.catalogue import MemoryCatalogue, assert_true_to_disk
from support.pictures import jpeg
from support.watching import Watching, quick, watching

WHOLE = jpeg(1, 120, 90)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one category folder."""
    (tmp_path / "parts" / "cat").mkdir(parents=True)
    return tmp_path / "parts"


def sound(watch: Watching) -> list[str]:
    """Hashes of everything that was ever reported as a sound picture."""
    return [sighting.sha256 for sighting in watch.catalogue.history if not sighting.fault]


def writer(path: Path, body: str) -> subprocess.Popen[bytes]:
    """Another process that has the file open, and says so on its standard output."""
    code = f"import sys, time\nf = open({str(path)!r}, 'ab', buffering=0)\nprint(flush=True)\n{body}"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


@pytest.mark.parametrize("settle", [0.0, 0.15])
def test_a_slow_writer_is_waited_for(root, settle):
    """Longer pauses than settle between its writes do not matter: it has the file open."""
    path = root / "cat" / "a.jpg"
    with watching(root, rules=quick(settle=settle)) as watch:
        half = len(WHOLE) // 2
        with writer(
            path, "for n in range(2): f.write(sys.stdin.buffer.read(int(sys.stdin.buffer.readline())))"
        ) as slow:
            assert slow.stdin is not None
            for piece in (WHOLE[:half], WHOLE[half:]):
                slow.stdin.write(b"%d\n" % len(piece) + piece)
                slow.stdin.flush()
                watch.spend(0.4 if piece != WHOLE[half:] else 0.0)
                if piece != WHOLE[half:]:
                    assert watch.catalogue.history == []
                    assert not watch.watcher.idle
            slow.stdin.close()
        watch.until(lambda: watch.catalogue.history)
        assert [sighting.sha256 for sighting in watch.catalogue.history] == [hashlib.sha256(WHOLE).hexdigest()]


def test_a_killed_writer_leaves_a_fault_and_its_successor_a_picture(root):
    """The system closes the file of a killed program too; only its end tells."""
    path = root / "cat" / "a.jpg"
    with watching(root) as watch:
        with writer(path, f"f.write({WHOLE[: len(WHOLE) // 2]!r}); print(flush=True); time.sleep(60)") as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.kill()
        watch.until(lambda: watch.catalogue.history)
        assert "cut short" in watch.catalogue.at(path).fault
        path.write_bytes(WHOLE)
        watch.until(lambda: sound(watch))
        assert sound(watch) == [hashlib.sha256(WHOLE).hexdigest()]


def test_an_upload_in_several_sessions_is_reported_when_it_rests(root):
    """Open, append, close, three times: within settle it is one picture."""
    path = root / "cat" / "a.jpg"
    third = len(WHOLE) // 3
    with watching(root, rules=quick(settle=0.3)) as watch:
        for piece in (WHOLE[:third], WHOLE[third : 2 * third], WHOLE[2 * third :]):
            with path.open("ab") as file:
                file.write(piece)
            watch.spend(0.1)
        watch.until(lambda: watch.catalogue.history)
        assert [sighting.sha256 for sighting in watch.catalogue.history] == [hashlib.sha256(WHOLE).hexdigest()]


def test_pictures_grown_in_random_pieces_are_never_reported_cut(root):
    """Two hundred files, four programs writing in bursts: every sound report is the final content."""
    expected: dict[str, str] = {}
    with watching(root, rules=quick(settle=0.05)) as watch:

        def write(worker: int) -> None:
            for number in range(50):
                content = jpeg(worker * 100 + number, 60, 40)
                path = root / "cat" / f"{worker}-{number}.jpg"
                with path.open("wb", buffering=0) as file:
                    for at in range(0, len(content), 1500):
                        file.write(content[at : at + 1500])
                        pauses.wait(0.001)
                expected[path.name] = hashlib.sha256(content).hexdigest()

        pauses = threading.Event()
        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        watch.until(lambda: not any(thread.is_alive() for thread in threads) and len(watch.catalogue.places) == 200)
        watch.until_idle()
    assert {os.fsdecode(name): s.sha256 for (_, name), s in watch.catalogue.places.items()} == expected
    assert len(watch.catalogue.history) == 200


def test_a_file_that_changes_while_it_is_read_is_read_again(root, monkeypatch):
    """The stamp before and after the reading must be the same."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(WHOLE)
    original, other = image_check.examine, jpeg(2, 120, 90)
    reads: list[int] = []

    def examine_and_change(fd, *rest):
        verdict = original(fd, *rest)
        reads.append(fd)
        if len(reads) == 1:
            path.write_bytes(other)
        return verdict

    monkeypatch.setattr(image_check, "examine", examine_and_change)
    with watching(root) as watch:
        assert [sighting.sha256 for sighting in watch.catalogue.history] == [hashlib.sha256(other).hexdigest()]
        assert len(reads) == 2


def test_a_file_replaced_at_random_moments_is_never_mixed_up(root):
    """Whatever is reported is one of the versions, whole; the last one is the last report."""
    path, versions = root / "cat" / "a.jpg", [jpeg(seed, 50 + seed, 40) for seed in range(20)]
    hashes = [hashlib.sha256(version).hexdigest() for version in versions]
    done = threading.Event()

    def replace() -> None:
        for round_ in range(300):
            temporary = root / "cat" / ".a.tmp"
            temporary.write_bytes(versions[round_ % 20])
            temporary.replace(path)
            done.wait(0.002)
        done.set()

    with watching(root, rules=quick(settle=0.0)) as watch:
        thread = threading.Thread(target=replace)
        thread.start()
        watch.until(done.is_set)
        thread.join()
        watch.until(lambda: watch.catalogue.history[-1].sha256 == hashes[299 % 20])
        watch.until_idle()
    assert {sighting.sha256 for sighting in watch.catalogue.history} <= set(hashes)
    assert all(not sighting.fault for sighting in watch.catalogue.history)
    assert_true_to_disk(watch.catalogue)


def test_a_file_with_times_in_the_future_is_reported(root):
    """Cameras with a wrong clock: two looks, settle apart, are enough."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(WHOLE)
    os.utime(path, (time.time() + 1e8, time.time() + 1e8))
    with watching(root, rules=quick(settle=0.1)) as watch:
        assert len(sound(watch)) == 1


@pytest.mark.parametrize("mtime", [-1e9, 0, 1e8])
def test_old_times_do_not_hide_a_file(root, mtime):
    """Copies and archives keep the time of the original: the ledger decides what is new, not the time."""
    path = root / "cat" / "a.jpg"
    with watching(root) as watch:
        path.write_bytes(WHOLE)
        os.utime(path, (mtime, mtime))
        watch.until(lambda: sound(watch))
        assert len(sound(watch)) == 1


def test_a_clock_that_jumps_back_only_delays(root):
    """With every file in the future, looking twice still settles it."""
    with watching(root, rules=quick(settle=0.1), clock=lambda: time.time() - 86_400) as watch:
        (root / "cat" / "a.jpg").write_bytes(WHOLE)
        watch.until(lambda: sound(watch), limit=3)
        assert len(sound(watch)) == 1


def test_pipes_sockets_links_and_devices_never_block(root, tmp_path):
    """None is opened; the picture beside them is reported."""
    folder = root / "cat"
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "s.jpg"))
        (folder / "zero.jpg").symlink_to("/dev/zero")
        (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
        (folder / "folder.jpg").mkdir()
        (folder / "a.jpg").write_bytes(WHOLE)
        with watching(root) as watch:
            assert watch.catalogue.paths(root) == {"cat/a.jpg"}
            assert max(watch.steps) < 2


def test_a_folder_swapped_for_a_link_is_not_followed(root, tmp_path):
    """Between a check and the reading somebody may swap a folder: nothing outside is ever reported."""
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = jpeg(66)
    (outside / "a.jpg").write_bytes(secret)
    inside, aside = root / "cat", root / ".aside"
    (inside / "a.jpg").write_bytes(WHOLE)
    (root / "keep").mkdir()
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            inside.rename(aside)
            inside.symlink_to(outside)
            inside.unlink()
            aside.rename(inside)

    class Forgetful(MemoryCatalogue):
        """Has every file read at every look."""

        def known(self, folder, names=None):
            return None, {}

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        with watching(root, catalogue=Forgetful(), rules=quick(settle=0.0), start=False) as watch:
            end = time.monotonic() + 1.5

            def looked_enough() -> bool:
                watch.catalogue.rescan = True
                return time.monotonic() > end and bool(watch.catalogue.history)

            watch.until(looked_enough)
    finally:
        done.set()
        thread.join()
    assert {sighting.sha256 for sighting in watch.catalogue.history} == {hashlib.sha256(WHOLE).hexdigest()}
    inside.rename(aside)
    inside.symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        open_folder(os.fsencode(root), os.fsencode(inside))


def test_a_disk_that_cannot_read_one_file_is_reported_and_the_rest_goes_on(root, monkeypatch):
    """An input/output error is one warning and a reason, and is tried again; no verdict on the picture."""
    for name in "abc":
        (root / "cat" / f"{name}.jpg").write_bytes(WHOLE + name.encode())
    original = image_check.examine
    broken = [True]

    def examine(fd, size, name, *rest):
        if name == b"b.jpg" and broken[0]:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return original(fd, size, name, *rest)

    monkeypatch.setattr(image_check, "examine", examine)
    with capture_logs() as lines, watching(root) as watch:
        watch.catalogue.rescan = True
        watch.until_idle()
        assert watch.catalogue.paths(root) == {"cat/a.jpg", "cat/c.jpg"}
        watch.until(lambda: "Input/output error" in watch.report(root).reason)
        assert [line["event"] for line in lines].count("watch.cannot_look") == 1
        broken[0] = False
        watch.catalogue.rescan = True
        watch.until(lambda: len(watch.catalogue.places) == 3)
        watch.until(lambda: not watch.report(root).reason)


def test_a_listing_that_breaks_off_loses_nothing(root, monkeypatch):
    """A stale handle in the middle of a folder says nothing about the files that were not met."""
    for number in range(20):
        (root / "cat" / f"{number}.jpg").write_bytes(jpeg(number))
    with watching(root) as watch:
        original = os.scandir

        class Stale:
            def __init__(self, place: int) -> None:
                self.inner = original(place)

            def __enter__(self) -> Iterator[os.DirEntry[str]]:
                first = next(self.inner)

                def entries() -> Iterator[os.DirEntry[str]]:
                    yield first
                    raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

                return entries()

            def __exit__(self, *_args: object) -> None:
                self.inner.close()

        def scandir(place: Any) -> Any:
            inside = sys._getframe(1).f_globals["__name__"] == scan.__name__
            return Stale(place) if inside else original(place)

        monkeypatch.setattr(os, "scandir", scandir)
        watch.catalogue.rescan = True
        watch.until(lambda: "Stale" in watch.report(root).reason)
        monkeypatch.undo()
        watch.catalogue.rescan = True
        watch.until(lambda: not watch.report(root).reason)
        watch.spend(0.3)
        assert watch.catalogue.losses == []
        assert len(watch.catalogue.history) == 20


def test_a_share_that_fails_when_it_is_asked_about_itself_is_reported_for_its_root(root, monkeypatch):
    """A folder opens, and then its server is gone: one reason, no end of the watcher, no descriptor left open."""
    (root / "cat" / "a.jpg").write_bytes(WHOLE)

    def stale(_fd: int) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched, watching(root, rules=quick(mode="polling")) as watch:
        patched.setattr(os, "fstatvfs", stale)
        for _ in range(3):
            watch.catalogue.rescan = True
            watch.spend(0.1)
        watch.until(lambda: "Stale" in watch.report(root).reason)
        assert watch.catalogue.losses == []
        assert len(os.listdir("/proc/self/fd")) <= before + 1
        patched.undo()
        watch.catalogue.rescan = True
        watch.until(lambda: "Stale" not in watch.report(root).reason)


def test_changes_made_behind_a_mount_are_found_by_polling(root):
    """As on a share: nobody sends events, looking finds everything."""
    with watching(root, rules=quick(mode="polling", poll=0.2)) as watch:
        assert watch.report(root).mode is WatchMode.POLLING
        shutil.copytree(root / "cat", root / "dog")
        (root / "dog" / "a.jpg").write_bytes(WHOLE)
        watch.until(lambda: watch.catalogue.paths(root) == {"dog/a.jpg"}, limit=3)


def test_odd_names_are_reported_as_they_are(root):
    """Any byte but slash and NUL, up to 255 of them."""
    names = [b"caf\xe9.jpg", b"a\nb.jpg", b'"\\;%00.jpg', b"-rf.jpg", b" .jpg", "\u202egpj.jpg".encode()]
    names += [b"x" * 251 + b".jpg", "é.jpg".encode(), "e\u0301.jpg".encode(), b"CON.jpg"]
    for number, name in enumerate(names):
        Path(os.fsdecode(os.fsencode(root / "cat") + b"/" + name)).write_bytes(jpeg(number))
    with watching(root) as watch:
        assert {name for _, name in watch.catalogue.places} == set(names)
        assert all(not sighting.fault for sighting in watch.catalogue.history)


def test_a_person_is_told_of_a_file_that_never_rests(root):
    """One warning after an hour of changing; here the hour passes on the clock that step is given."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(WHOLE)
    with writer(path, "sys.stdin.read()") as process, capture_logs() as lines:
        watch = Watching(root, rules=quick(settle=0.0))
        now = 1000.0
        while now < 1000 + 2 * 3600:
            pause = watch.watcher.step(now)
            assert watch.catalogue.history == []
            now += max(pause, 60.0)
        watch.watcher.close()
        process.communicate()
    assert [line["event"] for line in lines].count("watch.never_rests") == 1
