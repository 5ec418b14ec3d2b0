"""What is not compared again because it looks as it did, and that nothing is missed for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from image_sync.watcher.folders import fingerprint
from support.catalogue import MemoryCatalogue, assert_true_to_disk
from support.pictures import jpeg
from support.watching import Watching, quick, watching


class Counting(MemoryCatalogue):
    """Counts how often files are compared one by one."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: list[bytes] = []

    def known(self, folder, names=None):
        self.compared.append(folder)
        return super().known(folder, names)


@pytest.fixture
def root(tmp_path):
    """A root with two pictures in one folder and one in another."""
    for place in ("cat/a.jpg", "cat/b.jpg", "dog/c.jpg"):
        path = tmp_path / "root" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(len(place)) + place.encode())
    return tmp_path / "root"


def look(watch: Watching, times: int = 1) -> list[bytes]:
    """Full looks to their end; the folders whose files were compared one by one."""
    catalogue = watch.catalogue
    assert isinstance(catalogue, Counting)
    catalogue.compared.clear()
    for _ in range(times):
        for one in watch.watcher._roots.values():
            one.scan_by(0.0)
        watch.until(lambda: all(one.scan is None and one.scan_due > 0 for one in watch.watcher._roots.values()))
    return catalogue.compared


@pytest.fixture
def watch(root):
    """A watcher that hears nothing, after so many looks that it takes the folders for granted."""
    with watching(root, catalogue=Counting(), rules=quick(settle=0.0, poll=3600.0, mode="polling")) as one:
        look(one, 2)
        yield one


def test_folders_that_look_as_before_are_not_compared(watch):
    """From the third look on the catalogue is not asked for a single file."""
    assert look(watch) == []


def _rewrite(root):
    path = root / "cat/a.jpg"
    was = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(was.st_atime_ns, was.st_mtime_ns))


def _rename(root: Path, *names: str) -> None:
    for old, new in zip(names[::2], names[1::2], strict=True):
        (root / old).rename(root / new)


def _replace_by_link(root):
    (root / "cat/a.jpg").unlink()
    (root / "cat/a.jpg").symlink_to(root / "cat/b.jpg")


def _fill_new_folder(root):
    (root / "cat/deep").mkdir()
    (root / "cat/deep/d.jpg").write_bytes(jpeg(7))


CHANGES: dict[str, Callable[[Path], object]] = {
    "rewritten, with size and time as before": _rewrite,
    "deleted": lambda root: os.unlink(root / "cat/a.jpg"),
    "new": lambda root: (root / "cat/new.jpg").write_bytes(jpeg(9)),
    "renamed": lambda root: _rename(root, "cat/a.jpg", "cat/z.jpg"),
    "moved": lambda root: _rename(root, "cat/a.jpg", "dog/a.jpg"),
    "swapped": lambda root: _rename(root, "cat/a.jpg", "cat/x", "cat/b.jpg", "cat/a.jpg", "cat/x", "cat/b.jpg"),
    "in a new folder": _fill_new_folder,
    "replaced by a link": _replace_by_link,
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found_all_the_same(root, watch, change):
    """Nothing was heard of it, and the folder was taken for granted before: the next look finds it."""
    CHANGES[change](root)
    look(watch)
    look(watch)  # a loss is reported after what may be its new place

    expected = {str(path.relative_to(root)) for path in root.rglob("*.jpg") if path.is_file() and not path.is_symlink()}
    watch.until(lambda: watch.catalogue.paths(root) == expected)
    assert_true_to_disk(watch.catalogue)


def test_what_was_forgotten_behind_its_back_is_recorded_again(root, watch):
    """Rows that went without the disk changing are missed at the next look, though nobody asked for it."""
    folder = os.fsencode(root / "cat")
    watch.catalogue.gone(folder, [b"b.jpg"])
    look(watch)

    assert watch.catalogue.paths(root) == {"cat/a.jpg", "cat/b.jpg", "dog/c.jpg"}


def test_a_folder_whose_recorded_category_is_another_is_compared(root, watch):
    """It gets the category that it should have."""
    watch.catalogue.category_of[os.fsencode(root / "cat")] = "other"
    look(watch)

    assert watch.catalogue.category_of[os.fsencode(root / "cat")] == "cat"


def test_new_rules_and_requests_have_everything_compared(root, watch):
    """Neither what is wanted nor what was asked for may be taken for granted."""
    watch.watcher.close()
    catalogue = watch.catalogue
    catalogue.compared.clear()
    rules = quick(settle=0.0, poll=3600.0, mode="polling", category_from="parent")
    with watching(root, catalogue=catalogue, rules=rules) as again:
        assert len(catalogue.compared) >= 3
        look(again, 2)
        assert look(again) == []

        catalogue.rescan = True
        again.until(lambda: len(catalogue.compared) >= 3)


def test_a_file_that_cannot_be_read_is_tried_again_at_each_look(root, watch, monkeypatch):
    """A folder with something open is never taken for granted."""
    from image_sync.watcher import image_check

    def broken(*_args, **_more):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(image_check, "examine", broken, raising=True)
    (root / "cat/d.jpg").write_bytes(jpeg(4))
    for _ in range(3):
        assert look(watch) == [os.fsencode(root / "cat")]


def test_memory_of_folders_is_bounded(root, monkeypatch):
    """Beyond a number of folders the others are compared each time; those that are remembered stay up to date."""
    monkeypatch.setattr("image_sync.watcher.scan._FOLDERS", 2)  # of three: the root is one
    with watching(root, catalogue=Counting(), rules=quick(settle=0.0, poll=3600.0, mode="polling")) as watch:
        look(watch, 2)
        assert len(look(watch)) == 1
        remembered = {root / "cat", root / "dog"} - {Path(os.fsdecode(look(watch)[0]))}
        (remembered.pop() / "new.jpg").write_bytes(jpeg(5))
        assert len(look(watch)) == 2
        assert len(look(watch)) == 2  # with another number of records than it began with
        assert len(look(watch)) == 1


def test_an_entry_that_vanishes_leaves_no_fingerprint(tmp_path, monkeypatch):
    """What was listed and cannot be asked about makes the look one that proves nothing."""
    for number in range(5):
        (tmp_path / f"{number}.jpg").write_bytes(b"x")
    fd = os.open(tmp_path, os.O_RDONLY)
    real = os.scandir

    class Entry:
        def __init__(self, entry):
            self.name = entry.name

        def is_file(self, *, follow_symlinks):
            return True

        def stat(self, *, follow_symlinks):
            raise FileNotFoundError(self.name)

    class Listing:
        def __init__(self, fd):
            self._inner = real(fd)

        def __enter__(self):
            return map(Entry, self._inner)

        def __exit__(self, *_):
            self._inner.close()

    monkeypatch.setattr(os, "scandir", Listing)
    try:
        with pytest.raises(StopIteration) as ended:
            next(fingerprint(fd, [], local=True))
    finally:
        os.close(fd)
    assert ended.value.value is None
