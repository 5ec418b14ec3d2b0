"""What single actions on files lead to, with real files and real events."""

from __future__ import annotations

import hashlib
import mmap
import os
import shutil
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from image_sync.domain import RootState, Sighting, WatchMode
from image_sync.errors import LedgerError
from image_sync.watcher.watcher import Watcher
from support.catalogue import MemoryCatalogue, assert_true_to_disk
from support.pictures import jpeg, png
from support.watching import Watching, quick, watching


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with one category folder."""
    folder = tmp_path / "parts"
    (folder / "cat").mkdir(parents=True)
    return folder


@pytest.fixture(params=["events", "polling"])
def watch(request, root):
    """A watcher that hears events, and one that polls: both must get there."""
    with watching(root, rules=quick(mode=request.param, rescan=3600 if request.param == "events" else 0.1)) as watch:
        assert watch.report(root).mode == WatchMode(request.param)
        yield watch


def recorded(watch: Watching, path: Path) -> None:
    """Step until the file is reported as a sound picture with the right hash."""
    content = path.read_bytes()
    watch.until(lambda: (os.fsencode(path.parent), os.fsencode(path.name)) in watch.catalogue.places)
    sighting = watch.catalogue.at(path)
    assert sighting.sha256 == hashlib.sha256(content).hexdigest()
    assert sighting.fault == ""


def test_a_new_picture_is_reported_with_everything_there_is_to_know(root, watch):
    """Folder, name, stamp, category, hash and type."""
    path = root / "cat" / "a.JPG"
    path.write_bytes(jpeg())
    recorded(watch, path)
    sighting = watch.catalogue.at(path)
    found = path.stat()
    assert sighting.stamp == (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, "")
    assert (sighting.category, sighting.suffix) == ("cat", "jpg")
    assert watch.report(root).state is RootState.WATCHED


def test_an_empty_file_is_set_aside_until_it_has_content(root, watch):
    """A touch makes a fault; writing it makes a picture."""
    path = root / "cat" / "a.jpg"
    path.touch()
    watch.until(lambda: watch.catalogue.places)
    assert "empty" in watch.catalogue.at(path).fault
    path.write_bytes(jpeg())
    watch.until(lambda: watch.catalogue.at(path).sha256)
    assert watch.catalogue.at(path).fault == ""


def test_a_picture_is_reported_again_only_when_it_changes(root, watch):
    """Reading it, and looking again and again, changes nothing; new content does, even of the same size and time."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(jpeg() + b"1")
    recorded(watch, path)
    times = path.stat()
    path.read_bytes()
    watch.catalogue.rescan = True
    watch.spend(0.3)
    watch.until_idle()
    assert len(watch.catalogue.history) == 1
    path.write_bytes(jpeg() + b"2")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    watch.until(lambda: len(watch.catalogue.history) == 2)
    assert_true_to_disk(watch.catalogue)


def test_a_finished_download_is_reported_under_its_final_name(root, watch):
    """Written under a temporary name and renamed, also over an existing picture."""
    final = root / "cat" / "a.jpg"
    for seed in (1, 2):
        temporary = root / "cat" / ".a.jpg.Xy12"
        temporary.write_bytes(jpeg(seed))
        temporary.rename(final)
        content = hashlib.sha256(jpeg(seed)).hexdigest()
        watch.until(lambda expected=content: expected in {s.sha256 for s in watch.catalogue.places.values()})
    assert watch.catalogue.paths(root) == {"cat/a.jpg"}


def test_a_file_or_folder_moved_in_from_outside_is_found(root, watch, tmp_path):
    """Neither is ever closed in the root; a hard link neither."""
    outside = tmp_path / "outside"
    (outside / "dog" / "deep").mkdir(parents=True)
    (outside / "a.jpg").write_bytes(jpeg(1))
    (outside / "dog" / "deep" / "b.jpg").write_bytes(jpeg(2))
    (outside / "c.jpg").write_bytes(jpeg(3))
    (outside / "a.jpg").rename(root / "cat" / "a.jpg")
    (outside / "dog").rename(root / "dog")
    (root / "cat" / "c.jpg").hardlink_to(outside / "c.jpg")
    watch.until(lambda: watch.catalogue.paths(root) == {"cat/a.jpg", "dog/deep/b.jpg", "cat/c.jpg"})
    (root / "dog" / "deep" / "later.jpg").write_bytes(jpeg(4))
    watch.until(lambda: "dog/deep/later.jpg" in watch.catalogue.paths(root))
    assert watch.catalogue.at(root / "dog" / "deep" / "b.jpg").category == "dog"


def test_a_picture_moved_to_another_category_is_seen_there_before_it_is_gone_here(root, watch):
    """So that a ledger can tell a move from a loss and a find."""
    (root / "dog").mkdir()
    old, new = root / "cat" / "a.jpg", root / "dog" / "a.jpg"
    old.write_bytes(jpeg())
    recorded(watch, old)
    seen: list[bool] = []
    original = watch.catalogue.gone

    def gone(folder: bytes, names: Sequence[bytes], *, deleted: bool) -> None:
        seen.append("dog/a.jpg" in watch.catalogue.paths(root))
        original(folder, names, deleted=deleted)

    watch.catalogue.gone = gone
    old.rename(new)
    watch.until(lambda: watch.catalogue.paths(root) == {"dog/a.jpg"})
    assert seen == [True]
    assert watch.catalogue.at(new).category == "dog"


def test_a_renamed_category_folder_takes_its_pictures_along(root, watch):
    """All are seen in the new folder, and gone from the old one, however deep."""
    (root / "cat" / "deep").mkdir()
    for path in (root / "cat" / "a.jpg", root / "cat" / "deep" / "b.jpg"):
        path.write_bytes(jpeg())
    watch.until(lambda: len(watch.catalogue.places) == 2)
    (root / "cat").rename(root / "tiger")
    watch.until(lambda: watch.catalogue.paths(root) == {"tiger/a.jpg", "tiger/deep/b.jpg"})
    assert {sighting.category for sighting in watch.catalogue.places.values()} == {"tiger"}


def test_two_folders_that_change_names_are_told_apart(root, watch):
    """A to B and B to A: the disk decides, not the events."""
    (root / "dog").mkdir()
    (root / "cat" / "a.jpg").write_bytes(jpeg(1))
    (root / "dog" / "b.jpg").write_bytes(jpeg(2))
    watch.until(lambda: len(watch.catalogue.places) == 2)
    (root / "cat").rename(root / "x")
    (root / "dog").rename(root / "cat")
    (root / "x").rename(root / "dog")
    watch.until(lambda: watch.catalogue.paths(root) == {"dog/a.jpg", "cat/b.jpg"})
    assert_true_to_disk(watch.catalogue)


def test_what_is_deleted_or_moved_out_is_gone(root, watch, tmp_path):
    """Files and folders, deleted and moved out of the root."""
    for name in ("a/1.jpg", "a/2.jpg", "b/1.jpg", "c/1.jpg", "c/d/2.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(jpeg())
    watch.until(lambda: len(watch.catalogue.places) == 5)
    (root / "a" / "1.jpg").unlink()
    (root / "b" / "1.jpg").rename(tmp_path / "1.jpg")
    (root / "c").rename(tmp_path / "c")
    (tmp_path / "c" / "late.jpg").write_bytes(jpeg())
    watch.until(lambda: watch.catalogue.paths(root) == {"a/2.jpg"})
    shutil.rmtree(root / "a")
    watch.until(lambda: not watch.catalogue.places)
    assert sorted(watch.catalogue.losses) == sorted(set(watch.catalogue.losses))
    assert len(watch.catalogue.losses) == 5


def test_a_file_that_comes_back_at_once_is_never_gone(root, watch):
    """A program that saves by deleting and writing anew does not lose the picture."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(jpeg(1))
    recorded(watch, path)
    path.unlink()
    watch.watcher.step(time.monotonic())
    path.write_bytes(jpeg(2))
    watch.until(lambda: len(watch.catalogue.history) == 2)
    watch.spend(0.3)
    assert watch.catalogue.losses == []


def test_pictures_directly_in_a_root_are_uncategorised_until_the_map_names_the_root(root, watch):
    """They are recorded without being read; when the configuration changes, they are read."""
    path = root / "a.jpg"
    path.write_bytes(jpeg())
    watch.until(lambda: watch.catalogue.places)
    assert watch.catalogue.at(path).category is None
    assert watch.catalogue.at(path).sha256 == ""
    assert watch.catalogue.at(path).fault == ""
    watch.watcher.close()
    with watching(root, catalogue=watch.catalogue, rules=quick(categories={"parts": "Parts"}), start=False) as again:
        assert not again.watcher.idle
        again.watcher.start()
        again.until(lambda: again.catalogue.places and again.catalogue.at(path).sha256)
        assert again.catalogue.at(path).category == "Parts"


def test_a_changed_map_recategorises_without_reading_again(root, watch):
    """Only the answer changes, not the files."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(jpeg())
    recorded(watch, path)
    watch.watcher.close()
    with watching(root, catalogue=watch.catalogue, rules=quick(categories={"cat": "Cats"})) as again:
        again.until(lambda: again.catalogue.recategorised)
        again.catalogue.rescan = True
        again.until_idle()
        again.spend(0.2)
        assert again.catalogue.recategorised == [(os.fsencode(root / "cat"), "Cats")]
        assert len(again.catalogue.history) == 1


def test_a_folder_name_that_is_no_text_is_a_fault(root, watch):
    """Its pictures are set aside with the remedy; renaming the folder makes them pictures."""
    folder = os.fsencode(root) + b"/caf\xe9"
    os.mkdir(folder)
    Path(os.fsdecode(folder), "a\n\udcff.jpg").write_bytes(jpeg())
    watch.until(lambda: watch.catalogue.places)
    ((place, sighting),) = watch.catalogue.places.items()
    assert place == (folder, b"a\n\xff.jpg")
    assert "rename the folder" in sighting.fault
    os.rename(folder, os.fsencode(root) + b"/cafe")
    watch.until(lambda: not any(s.fault for s in watch.catalogue.places.values()) and len(watch.catalogue.places) == 1)
    assert next(iter(watch.catalogue.places.values())).category == "cafe"


def test_files_that_are_none_of_our_business_are_left_alone(root, watch, tmp_path):
    """Other suffixes, hidden and temporary files, folders of file servers, links in and out, folders named .jpg."""
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s.jpg").write_bytes(jpeg(9))
    for name in ("a.gif", ".a.jpg", "._b.jpg", "a.jpg.part", "Thumbs.db", "@eaDir/x.jpg", ".git/y.jpg", "z.jpg/w.txt"):
        (root / "cat" / name).parent.mkdir(exist_ok=True)
        (root / "cat" / name).write_bytes(jpeg())
    (root / "cat" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (root / "cat" / "dangling.jpg").symlink_to(tmp_path / "none.jpg")
    (root / "links").symlink_to(tmp_path / "secrets")
    (root / "loop").symlink_to(root)
    (root / "cat" / "real.jpg").write_bytes(jpeg(1))
    watch.until(lambda: watch.catalogue.places)
    watch.catalogue.rescan = True
    watch.until_idle()
    assert watch.catalogue.paths(root) == {"cat/real.jpg"}


def test_only_the_category_folder_is_looked_at_when_not_recursive(root):
    """Deeper folders stay unseen; what was recorded in them before is not called gone."""
    (root / "cat" / "deep").mkdir()
    (root / "cat" / "deep" / "b.jpg").write_bytes(jpeg())
    (root / "cat" / "a.jpg").write_bytes(jpeg())
    with watching(root, rules=quick(recursive=False)) as watch:
        assert watch.catalogue.paths(root) == {"cat/a.jpg"}
    with watching(root, catalogue=watch.catalogue, rules=quick()) as watch:
        assert watch.catalogue.paths(root) == {"cat/a.jpg", "cat/deep/b.jpg"}
    with watching(root, catalogue=watch.catalogue, rules=quick(recursive=False)) as watch:
        watch.spend(0.3)
        assert watch.catalogue.losses == []


def test_a_restart_reports_only_what_changed(root):
    """What is recorded with the same stamp is not read again; what vanished meanwhile is gone."""
    for name in "abc":
        (root / "cat" / f"{name}.png").write_bytes(png(ord(name)))
    with watching(root) as first:
        catalogue = first.catalogue
    (root / "cat" / "a.png").unlink()
    (root / "cat" / "b.png").write_bytes(png(0))
    with watching(root, catalogue=catalogue) as watch:
        watch.until_idle()
        assert watch.catalogue.paths(root) == {"cat/b.png", "cat/c.png"}
    assert [sighting.name for sighting in catalogue.history[3:]] == [b"b.png"]
    assert_true_to_disk(catalogue)


def test_a_root_that_is_a_symbolic_link_is_watched_with_events(root, tmp_path):
    """Whoever configured the link meant its target; paths are reported under the configured name."""
    link = tmp_path / "link"
    link.symlink_to(root)
    with watching(link) as watch:
        assert watch.report(link).mode is WatchMode.EVENTS
        (root / "cat" / "a.jpg").write_bytes(jpeg())
        watch.until(lambda: watch.catalogue.paths(link) == {"cat/a.jpg"})


def test_a_root_inside_another_is_looked_at_only_as_itself(root):
    """Its pictures have one category, and are reported once."""
    (root / "cat" / "inner" / "dog").mkdir(parents=True)
    (root / "cat" / "inner" / "dog" / "a.jpg").write_bytes(jpeg())
    with watching(root, root / "cat" / "inner") as watch:
        assert [sighting.category for sighting in watch.catalogue.history] == ["dog"]
        (root / "cat" / "inner" / "dog" / "b.jpg").write_bytes(jpeg(2))  # both hear of it
        (root / "cat" / "inner" / "owl").mkdir()
        (root / "cat" / "inner" / "owl" / "c.jpg").write_bytes(jpeg(3))
        watch.until(lambda: len(watch.catalogue.places) == 3)
        watch.until_idle()
        assert [sighting.category for sighting in watch.catalogue.history] == ["dog", "dog", "owl"]
        assert watch.catalogue.recategorised == []


def test_a_mapped_write_is_found_by_the_next_full_look(root):
    """Writing through a mapping makes no event; stamps tell."""
    path = root / "cat" / "a.jpg"
    path.write_bytes(jpeg() + b"x")
    with watching(root, rules=quick(rescan=0.2)) as watch:
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as view:
            view[-1:] = b"y"
        watch.until(lambda: len(watch.catalogue.history) == 2)
        assert_true_to_disk(watch.catalogue)


def test_a_picture_is_reported_within_50_ms_when_nothing_has_to_settle(root):
    """From closing the file to the catalogue, on a real thread that sleeps as long as the watcher says."""
    catalogue, stop, woken, reported = MemoryCatalogue(), threading.Event(), threading.Event(), threading.Event()
    original = catalogue.record

    def record(root: bytes, sightings: Sequence[Sighting]) -> None:
        original(root, sightings)
        reported.set()

    catalogue.record = record  # type: ignore[method-assign]
    watcher = Watcher([os.fsencode(root)], catalogue, quick(settle=0.0, poll=10.0), stop, woken.set)
    watcher.start()

    def work() -> None:
        while not stop.is_set():
            woken.clear()
            if pause := watcher.step(time.monotonic()):
                woken.wait(pause)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        delays = []
        for number in range(12):
            content = jpeg(number)
            reported.clear()
            (root / "cat" / f"{number}.jpg").write_bytes(content)
            closed = time.monotonic()
            assert reported.wait(5)
            delays.append(time.monotonic() - closed)
        assert sorted(delays)[len(delays) // 2] < 0.05
    finally:
        stop.set()
        woken.set()
        thread.join(5)
        watcher.close()
    assert not thread.is_alive()


def test_the_wait_is_hardly_longer_than_settle(root):
    """The watcher asks to be woken when the file will have rested."""
    with watching(root, rules=quick(settle=0.5, poll=30.0)) as watch:
        (root / "cat" / "a.jpg").write_bytes(jpeg())
        closed = time.monotonic()
        watch.until(lambda: watch.catalogue.places)
        assert 0.45 < time.monotonic() - closed < 0.8


def test_a_broken_catalogue_is_passed_on_and_nothing_is_lost(root):
    """The error comes out of step; once the catalogue works again, everything is reported."""
    for number in range(30):
        (root / "cat" / f"{number}.jpg").write_bytes(jpeg(number))
    watch = Watching(root, rules=quick(settle=0.0))
    try:
        watch.watcher.start()
        watch.catalogue.broken = LedgerError("the disk is full")
        for _ in range(3):
            with pytest.raises(LedgerError):
                watch.watcher.step(time.monotonic())
        watch.catalogue.broken = None
        watch.until_idle()
        assert len(watch.catalogue.places) == 30
        original = watch.catalogue.record

        def fail_once(root, sightings):
            watch.catalogue.record = original  # type: ignore[method-assign]
            raise LedgerError("the disk is full")

        watch.catalogue.record = fail_once  # type: ignore[method-assign]
        (root / "cat" / "late.jpg").write_bytes(jpeg())
        with pytest.raises(LedgerError):
            watch.until(lambda: len(watch.catalogue.places) == 31)
        watch.until(lambda: len(watch.catalogue.places) == 31)
    finally:
        watch.watcher.close()


def test_what_the_rules_leave_alone_from_now_on_is_forgotten_and_not_deleted(root):
    """By a pattern, a folder's new name in the rules, or an underscore: nothing of it counts as a loss."""
    for place in ("cat/a.jpg", "cat/b.jpg", "typo/c.jpg", "deep/trash/d.jpg"):
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(jpeg(len(place)))
    with watching(root, rules=quick()) as watch:
        catalogue = watch.catalogue
        assert len(catalogue.places) == 4
    rules = quick(exclude=("trash/", "b.*"), categories={"typo": None})
    with watching(root, rules=rules, catalogue=catalogue) as watch:
        watch.until(lambda: catalogue.paths(root) == {"cat/a.jpg"})
        assert len(catalogue.hidden) == 3
        (root / "cat" / "b2.jpg").write_bytes(jpeg(9))
        watch.until(lambda: catalogue.paths(root) == {"cat/a.jpg", "cat/b2.jpg"})


def test_what_is_passed_over_is_counted_and_named_with_what_to_do(root):
    """Formats that are not taken and links to folders; a .jfif is a JPEG and is taken."""
    (root / "cat").mkdir(exist_ok=True)
    for name in ("a.tif", "b.TIFF", "c.heic", "d.nef", "notes.txt"):
        (root / "cat" / name).write_bytes(b"x")
    (root / "cat" / "e.jfif").write_bytes(jpeg(1))
    (root / "linked").symlink_to(root / "cat")
    with watching(root, rules=quick()) as watch:
        assert watch.catalogue.paths(root) == {"cat/e.jfif"}
        assert watch.catalogue.at(root / "cat" / "e.jfif").suffix == "jpg"
        reason = watch.report(root).reason
        assert "1 HEIC, 1 RAW, 2 TIFF files are not taken: convert to JPEG or PNG" in reason
        assert "1 symbolic link to a folder is not followed" in reason
        for path in (root / "cat").glob("*.[tThn]*"):
            path.unlink()
        (root / "linked").unlink()
        watch.catalogue.rescan = True
        watch.until(lambda: watch.report(root).reason == "")
