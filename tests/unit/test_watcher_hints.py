"""What is remembered of events, and how sightings are handed over."""

from __future__ import annotations

from pathlib import Path

import pytest

from image_sync.domain import Sighting, Stamp
from image_sync.errors import LedgerError
from image_sync.watcher.hints import MOST, Hint, Hints
from image_sync.watcher.mounts import remote_filesystem
from image_sync.watcher.outbox import Outbox
from support.catalogue import MemoryCatalogue

ROOT = b"/r"


def all_of(hints: Hints, now: float = 0.0) -> list[Hint]:
    """Everything that is due."""
    return list(iter(lambda: hints.take(now), None))


def test_a_folder_with_many_events_is_looked_at_once():
    """Hints about one folder become one; the more demanding one counts."""
    woken: list[int] = []
    hints = Hints([ROOT], lambda: woken.append(1))
    for _ in range(50):
        hints.mark(Hint(ROOT, b"/r/a"))
    hints.mark(Hint(ROOT, b"/r/a", tree=True))
    assert all_of(hints) == [Hint(ROOT, b"/r/a", tree=True)]
    assert len(woken) == 51
    assert len(hints) == 0


def test_folders_inside_a_tree_are_covered_by_it():
    """A copied tree names each of its folders; one look at the tree does."""
    hints = Hints([ROOT], lambda: None)
    for folder in (b"/r/a/b/c", b"/r/a-b", b"/r/a/b", b"/r/a", b"/r/ab"):
        hints.mark(Hint(ROOT, folder, tree=folder == b"/r/a"))
    assert sorted(hint.folder for hint in all_of(hints)) == [b"/r/a", b"/r/a-b", b"/r/ab"]


def test_a_hint_can_wait():
    """A hint for later is not handed out before its time, and its time is known."""
    hints = Hints([ROOT], lambda: None)
    hints.later(Hint(ROOT, b"/r/a", not_before=5.0))
    assert hints.take(4.9) is None
    assert hints.next_due() == 5.0
    assert hints.take(5.0) == Hint(ROOT, b"/r/a", not_before=5.0)
    assert hints.next_due() is None


def test_too_many_folders_become_the_whole_root():
    """Memory is bounded: beyond the limit only "look at everything" is remembered."""
    hints = Hints([ROOT, b"/q"], lambda: None)
    for number in range(MOST + 1):
        hints.mark(Hint(ROOT, b"/r/%d" % number))
    assert hints.take(0) is None
    assert hints.take_roots() == ({ROOT}, set(), 0)
    assert hints.take_roots() == (set(), set(), 0)


def sighting(name: bytes, folder: bytes = b"/r/a") -> Sighting:
    """A sighting of a file of this name."""
    return Sighting(folder, name, Stamp(1, 2, 3, 4), "a")


def test_sightings_go_in_batches_and_none_is_lost_when_the_catalogue_fails():
    """A thousand at once at most; what could not be handed over is kept for the next time."""
    catalogue = MemoryCatalogue()
    outbox = Outbox(catalogue)
    for number in range(2050):
        outbox.put(ROOT, sighting(b"%d" % number), now=1.0)
    assert catalogue.batches == [1000, 1000]
    catalogue.broken = LedgerError("the disk is full")
    with pytest.raises(LedgerError):
        outbox.flush()
    catalogue.broken = None
    outbox.flush()
    outbox.flush()
    assert catalogue.batches == [1000, 1000, 50]
    assert len(catalogue.places) == 2050


def test_a_sighting_does_not_wait_long_for_company():
    """A slow trickle is handed over four times a second."""
    catalogue = MemoryCatalogue()
    outbox = Outbox(catalogue)
    outbox.put(ROOT, sighting(b"1"), now=1.0)
    assert not outbox.overdue(1.2)
    assert outbox.overdue(1.25)
    outbox.put(ROOT, sighting(b"2"), now=1.3)
    assert catalogue.batches == [2]


def test_a_look_that_goes_on_learns_what_was_reported_meanwhile():
    """So that no file is reported twice for the same stamp."""
    catalogue = MemoryCatalogue()
    outbox = Outbox(catalogue)
    outbox.put(ROOT, sighting(b"early"), now=1.0)
    look = outbox.open(b"/r/a")
    assert catalogue.batches == [1]
    outbox.put(ROOT, sighting(b"late"), now=1.0)
    outbox.put(ROOT, sighting(b"other", b"/r/b"), now=1.0)
    assert look.news == {b"late": Stamp(1, 2, 3, 4)}


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        (b"/home/x", ""),
        (b"/mnt/share", "nfs4"),
        (b"/mnt/share/deep", "nfs4"),
        (b"/mnt/shared", ""),
        (b"/mnt", "nfs4"),
        (b"/a b/c", "cifs"),
        (b"/fuse", "fuse.sshfs"),
        (b"/twice", ""),
    ],
)
def test_network_file_systems_are_known_from_the_mount_table(tmp_path, folder, kind):
    """The innermost, latest mount decides; a network mount below a folder counts too."""
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        b"2 1 0:40 / /mnt/share rw,relatime shared:1 - nfs4 server:/x rw\n"
        b"3 1 0:41 / /a\\040b rw - cifs //s/x rw\n"
        b"4 1 0:42 / /fuse rw - fuse.sshfs x rw\n"
        b"5 1 0:43 / /twice rw - nfs x rw\n"
        b"6 1 0:44 / /twice rw - xfs x rw\n"
        b"broken line\n"
    )
    assert remote_filesystem(folder, table) == kind


def test_without_a_mount_table_every_file_system_is_local(tmp_path):
    """Systems other than Linux have none."""
    assert remote_filesystem(b"/", Path(tmp_path / "none")) == ""
