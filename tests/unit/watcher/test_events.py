"""What is remembered of events."""

from __future__ import annotations

import math

from image_sync.watcher.events import MOST, DirtyFolder, DirtyFolders

ROOT = b"/r"


def all_of(dirty: DirtyFolders, now: float = 0.0) -> list[DirtyFolder]:
    """Everything that is due."""
    return list(iter(lambda: dirty.take(now), None))


def test_a_folder_with_many_events_is_looked_at_once():
    """News about one folder becomes one; the more demanding one counts."""
    woken: list[int] = []
    dirty = DirtyFolders([ROOT], lambda: woken.append(1))
    for _ in range(50):
        dirty.mark(DirtyFolder(ROOT, b"/r/a"))
    dirty.mark(DirtyFolder(ROOT, b"/r/a", tree=True))
    assert all_of(dirty) == [DirtyFolder(ROOT, b"/r/a", tree=True)]
    assert len(woken) == 51
    assert len(dirty) == 0


def test_folders_inside_a_tree_are_covered_by_it():
    """A copied tree names each of its folders; one look at the tree does."""
    dirty = DirtyFolders([ROOT], lambda: None)
    for folder in (b"/r/a/b/c", b"/r/a-b", b"/r/a/b", b"/r/a", b"/r/ab"):
        dirty.mark(DirtyFolder(ROOT, folder, tree=folder == b"/r/a"))
    assert sorted(hint.folder for hint in all_of(dirty)) == [b"/r/a", b"/r/a-b", b"/r/ab"]


def test_a_look_can_wait():
    """One for later is not handed out before its time, and its time is known."""
    dirty = DirtyFolders([ROOT], lambda: None)
    dirty.later(DirtyFolder(ROOT, b"/r/a", not_before=5.0))
    assert dirty.take(4.9) is None
    assert dirty.next_due() == 5.0
    assert dirty.take(5.0) == DirtyFolder(ROOT, b"/r/a", not_before=5.0)
    assert dirty.next_due() == math.inf


def test_too_many_folders_become_the_whole_root():
    """Memory is bounded: beyond the limit only "look at everything" is remembered."""
    dirty = DirtyFolders([ROOT, b"/q"], lambda: None)
    for number in range(MOST + 1):
        dirty.mark(DirtyFolder(ROOT, b"/r/%d" % number))
    assert dirty.take(0) is None
    assert dirty.take_roots() == ({ROOT}, set(), 0)
    assert dirty.take_roots() == (set(), set(), 0)


def test_files_of_one_folder_are_looked_at_together_until_they_are_many():
    """Names gather; beyond some dozens, and where one asks for all of it, the folder is looked at as a whole."""
    dirty = DirtyFolders([ROOT], lambda: None)
    for name in (b"1", b"2", b"1"):
        dirty.mark(DirtyFolder(ROOT, b"/r/a", frozenset((name,))))
    assert all_of(dirty) == [DirtyFolder(ROOT, b"/r/a", frozenset((b"1", b"2")))]
    for number in range(65):
        dirty.mark(DirtyFolder(ROOT, b"/r/a", frozenset((b"%d" % number,))))
    dirty.mark(DirtyFolder(ROOT, b"/r/b", frozenset((b"1",))))
    dirty.mark(DirtyFolder(ROOT, b"/r/b"))
    assert all_of(dirty) == [DirtyFolder(ROOT, b"/r/a"), DirtyFolder(ROOT, b"/r/b")]
