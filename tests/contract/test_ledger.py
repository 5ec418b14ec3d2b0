"""What every ledger promises, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_sync.domain import (
    DatasetRef,
    PictureState,
    RemotePicture,
    RootReport,
    RootState,
    Sighting,
    Stamp,
    TrainingState,
    WatchMode,
)
from image_sync.errors import AlreadyRunning, LedgerError, Transient
from image_sync.ledger import Ledger, exists, open_ledger
from image_sync.ledger.context import IllegalTransition
from image_sync.ledger.lock import Holder, Lock, holder_of
from support.postgres import cut, stopped

ROOT = b"/pictures"
DATASET = DatasetRef("d-1", "parts")
MIB = 1 << 20


class Clock:
    """Unix time that goes on by a second whenever it is asked."""

    def __init__(self) -> None:
        self._ticks = itertools.count(1_000_000)

    def __call__(self) -> float:
        return float(next(self._ticks))


@pytest.fixture
def opened(state) -> Iterator[Callable[..., Ledger]]:
    ledgers: list[Ledger] = []

    def make(**options) -> Ledger:
        ledgers.append(open_ledger(state, clock=Clock(), **options))
        ledgers[-1].use_target("mvi", "http://server", "parts", "append", "parts")
        return ledgers[-1]

    yield make
    for ledger in ledgers:
        ledger.close()


@pytest.fixture
def ledger(opened) -> Ledger:
    made: Ledger = opened()
    made.dataset(DATASET)
    return made


def seen(place: str, content: str, *, fault: str = "", size: int = 10, version: int = 1) -> Sighting:
    """A sighting of /pictures/<place>; the first folder is the category, ``content`` stands for the bytes."""
    folder, _, name = place.rpartition("/")
    path = ROOT + (b"/" + folder.encode() if folder else b"")
    category = folder.split("/")[0] or None
    sha256 = "" if fault or category is None else content.encode().hex().ljust(64, "0")
    return Sighting(path, name.encode(), Stamp(size, version, version, 2**64 - 1), category, sha256, "jpg", fault)


def record(ledger: Ledger, *places: tuple[str, str], **options) -> None:
    ledger.files.record(ROOT, [seen(place, content, **options) for place, content in places])


def gone(ledger: Ledger, place: str) -> None:
    folder, _, name = place.rpartition("/")
    ledger.files.gone(ROOT + b"/" + folder.encode(), [name.encode()])


def send_everything(ledger: Ledger) -> list[str]:
    """Confirm all that is ready; returns what was sent, as ``category/key``."""
    sent = []
    ledger.batches.clear()
    while batch := ledger.batches.claim(DATASET, 100, 64 * MIB):
        ledger.batches.confirm(batch.id, {item.picture_id: f"r-{item.key}" for item in batch.pictures}, {})
        sent += [f"{batch.category}/{item.key}" for item in batch.pictures]
    return sent


def state_of(ledger: Ledger, place: str) -> str:
    found = ledger.history.of(ROOT + b"/" + place.encode())
    return "unknown" if found is None else found.state


# -- what lies where


def test_of_two_looks_at_a_file_the_later_one_counts(ledger: Ledger) -> None:
    """Also when both are recorded at one stroke, together with files that are new."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"), ("good/1.jpg", "c"))

    assert sorted(key.partition(".")[2][:2] for key in send_everything(ledger)) == [
        char.encode().hex() for char in "bc"
    ]


def test_recorded_files_are_known_by_their_stamps(ledger: Ledger) -> None:
    """The watcher gets back exactly the stamps it gave, category included; 64-bit inodes survive."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))

    category, files = ledger.files.known(ROOT + b"/good")

    assert category == "good"
    assert files == {b"1.jpg": Stamp(10, 1, 1, 2**64 - 1), b"2.jpg": Stamp(10, 1, 1, 2**64 - 1)}
    assert ledger.files.known(ROOT + b"/other") == (None, {})
    assert ledger.files.recorded(ROOT + b"/good") == ("good", len(files))
    assert ledger.files.recorded(ROOT + b"/other") == (None, 0)
    ledger.files.gone(ROOT + b"/good", list(files))
    assert ledger.files.recorded(ROOT + b"/good") == ("good", 0)
    assert ledger.files.folders(ROOT) == []


def test_paths_are_bytes(ledger: Ledger) -> None:
    """A name that is not text in any encoding is kept, found and forgotten like any other."""
    name = b"caf\xe9\n.jpg"
    sighting = Sighting(ROOT + b"/g\xff", name, Stamp(1, 2, 3, 4), "good", "ab" * 32, "jpg")

    ledger.files.record(ROOT, [sighting])

    assert name in ledger.files.known(ROOT + b"/g\xff")[1]
    history = ledger.history.of(ROOT + b"/g\xff/" + name)
    assert history is not None
    assert history.key == "caf.abababababababab.jpg"
    ledger.files.gone(ROOT + b"/g\xff", [name])
    assert ledger.files.folders(ROOT) == []


def test_folders_with_files_are_listed(ledger: Ledger) -> None:
    """Only folders below the root asked for, and only while files are recorded in them."""
    record(ledger, ("good/1.jpg", "a"), ("bad/deep/2.jpg", "b"))
    gone(ledger, "good/1.jpg")

    assert ledger.files.folders(ROOT) == [ROOT + b"/bad/deep"]
    assert ledger.files.folders(b"/elsewhere") == []


def test_a_sound_picture_is_ready(ledger: Ledger) -> None:
    """A sound file becomes a picture that waits for the threshold."""
    record(ledger, ("good/1.jpg", "a"))

    assert ledger.tally().ready == 1
    assert state_of(ledger, "good/1.jpg") == "ready"


def test_only_some_files_of_a_folder_may_be_asked_for(ledger: Ledger) -> None:
    """By their names; those that are not recorded are left out."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"), ("bad/1.jpg", "c"))
    category, stamps = ledger.files.known(ROOT + b"/good", [b"2.jpg", b"3.jpg"])
    assert (category, list(stamps)) == ("good", [b"2.jpg"])
    assert stamps[b"2.jpg"] == ledger.files.known(ROOT + b"/good")[1][b"2.jpg"]


def test_a_broken_picture_is_quarantined_with_its_reason(ledger: Ledger) -> None:
    """It is counted, explained and never ready."""
    record(ledger, ("good/1.jpg", "a"), fault="cut short")

    found = ledger.history.of(ROOT + b"/good/1.jpg")
    assert found is not None
    assert (found.state, found.reason) == ("quarantined", "cut short")
    assert ledger.tally().ready == 0
    assert ledger.census().total.quarantined == 1


def test_a_mended_picture_leaves_quarantine(ledger: Ledger) -> None:
    """When the file changes and is sound, it is ready."""
    record(ledger, ("good/1.jpg", "a"), fault="cut short")
    record(ledger, ("good/1.jpg", "a"), version=2)

    assert state_of(ledger, "good/1.jpg") == "ready"
    assert ledger.census().total.quarantined == 0


def test_a_picture_directly_in_a_root_is_left_alone(ledger: Ledger) -> None:
    """Without a category it is counted and not sent."""
    record(ledger, ("1.jpg", ""))

    assert state_of(ledger, "1.jpg") == "uncategorised"
    assert ledger.census().uncategorised == 1
    assert send_everything(ledger) == []


def test_the_same_content_twice_in_one_category_is_a_duplicate(ledger: Ledger) -> None:
    """It is sent once."""
    record(ledger, ("good/1.jpg", "a"), ("good/copy.jpg", "a"))

    assert state_of(ledger, "good/copy.jpg") == "duplicate"
    assert len(send_everything(ledger)) == 1


def test_the_same_content_in_two_categories_is_a_conflict(ledger: Ledger) -> None:
    """Where the first was sent, the second is held back and names the first."""
    record(ledger, ("good/1.jpg", "a"))
    assert send_everything(ledger) == ["good/1.6100000000000000.jpg"]
    record(ledger, ("scratch/1.jpg", "a"))

    found = ledger.history.of(ROOT + b"/scratch/1.jpg")
    assert found is not None
    assert (found.state, found.sent_as, found.sent_category) == ("conflict", ROOT + b"/good/1.jpg", "good")
    assert ledger.census().categories["scratch"].conflicts == 1


@pytest.mark.parametrize("together", [True, False])
def test_of_two_categories_for_one_unsent_picture_neither_is_sent(ledger: Ledger, together: bool) -> None:
    """Nobody but a person knows which is right: both need one, also after a failed request and a `retry`."""
    record(ledger, ("other/2.jpg", "b"), ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = None if together else ledger.batches.claim(DATASET, 100, 64 * MIB)
    record(ledger, ("scratch/1.jpg", "a"), ("good/copy.jpg", "a"))
    while batch is not None:
        ledger.batches.confirm(batch.id, {}, {one.picture_id: "no" for one in batch.pictures})
        batch = ledger.batches.claim(DATASET, 100, 64 * MIB)
    ledger.changes.requeue_refused()

    assert send_everything(ledger) == ["other/2.6200000000000000.jpg"]
    needy = {(path, state) for path, state, why in ledger.history.faults() if "delete one of the two" in why}
    assert needy == {(ROOT + b"/good/1.jpg", "conflict"), (ROOT + b"/scratch/1.jpg", "conflict")}
    assert {path for path, _, _ in ledger.history.in_state("conflict")} == {path for path, _ in needy}
    assert (ledger.census().categories["good"].conflicts, ledger.census().categories["scratch"].conflicts) == (1, 1)
    gone(ledger, "scratch/1.jpg")
    assert send_everything(ledger) == ["good/1.6100000000000000.jpg"]


def test_a_conflict_is_solved_by_deleting_one_of_the_two(ledger: Ledger) -> None:
    """When the first is deleted, the second is what the picture is."""
    record(ledger, ("good/1.jpg", "a"), ("scratch/1.jpg", "a"))
    gone(ledger, "good/1.jpg")

    assert state_of(ledger, "scratch/1.jpg") == "ready"
    assert send_everything(ledger) == ["scratch/1.6100000000000000.jpg"]


def test_with_skip_duplicates_off_every_file_is_a_picture(opened) -> None:
    """`skip_duplicates: 0` sends each copy, under a key of its own."""
    ledger = opened(skip_duplicates=False)
    ledger.dataset(DATASET)
    record(ledger, ("good/1.jpg", "a"), ("good/copy.jpg", "a"), ("scratch/1.jpg", "a"))

    sent = send_everything(ledger)

    assert len(sent) == len(set(sent)) == 3


@pytest.mark.parametrize("new_first", [True, False])
def test_a_moved_picture_is_relabelled_and_not_sent_again(ledger: Ledger, new_first: bool) -> None:
    """Whichever of the two folders is looked at first, a move after the upload changes the category only."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    if new_first:
        record(ledger, ("scratch/1.jpg", "a"))
    gone(ledger, "good/1.jpg")
    if not new_first:
        record(ledger, ("scratch/1.jpg", "a"))

    (change,) = ledger.changes.relabels(10)
    assert (change.remote_id, change.category) == ("r-1.6100000000000000.jpg", "scratch")
    ledger.changes.relabelled([change])
    assert ledger.changes.relabels(10) == []
    assert send_everything(ledger) == []
    assert state_of(ledger, "scratch/1.jpg") == "confirmed"


def test_a_move_before_the_upload_needs_no_relabelling(ledger: Ledger) -> None:
    """The picture is simply sent under its new category."""
    record(ledger, ("good/1.jpg", "a"))
    gone(ledger, "good/1.jpg")
    record(ledger, ("scratch/1.jpg", "a"))

    assert send_everything(ledger) == ["scratch/1.6100000000000000.jpg"]
    assert ledger.changes.relabels(10) == []


def test_a_move_during_the_upload_is_relabelled_afterwards(ledger: Ledger) -> None:
    """The request in flight carries the old category; the new one follows."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    gone(ledger, "good/1.jpg")
    record(ledger, ("scratch/1.jpg", "a"))
    ledger.batches.confirm(batch.id, {batch.pictures[0].picture_id: "r-1"}, {})

    assert [change.category for change in ledger.changes.relabels(10)] == ["scratch"]


def test_a_rename_is_a_rename(ledger: Ledger) -> None:
    """A new name in the same category changes nothing at the platform."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    gone(ledger, "good/1.jpg")
    record(ledger, ("good/renamed.jpg", "a"))

    assert send_everything(ledger) == []
    assert ledger.changes.relabels(10) == []
    assert state_of(ledger, "good/renamed.jpg") == "confirmed"


def test_new_content_under_an_old_name_is_a_new_picture(ledger: Ledger) -> None:
    """And the old content, should it come back, is already there."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    record(ledger, ("good/1.jpg", "b"), version=2)
    assert len(send_everything(ledger)) == 1
    record(ledger, ("good/1.jpg", "a"), version=3)

    assert send_everything(ledger) == []


def test_a_touched_file_stays_what_it_is(ledger: Ledger) -> None:
    """The same content with a new stamp is not sent again."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    record(ledger, ("good/1.jpg", "a"), version=2)

    assert send_everything(ledger) == []
    assert ledger.files.known(ROOT + b"/good")[1][b"1.jpg"].mtime_ns == 2


def test_a_file_deleted_before_its_upload_is_not_sent(ledger: Ledger) -> None:
    """Nothing is left of it."""
    record(ledger, ("good/1.jpg", "a"))
    gone(ledger, "good/1.jpg")

    assert send_everything(ledger) == []
    assert ledger.tally().ready == 0


def test_a_deletion_after_the_upload_is_remembered_for_removal(ledger: Ledger) -> None:
    """The picture stays confirmed; after a while it may be removed where that is configured."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    gone(ledger, "good/1.jpg")

    assert ledger.tally().confirmed == 1
    assert ledger.changes.orphans(before=0.0, limit=10).pictures == ()
    (orphan,) = ledger.changes.orphans(before=float("inf"), limit=10).pictures
    ledger.changes.forget(orphan.picture_id, {"r-1.6100000000000000.jpg", "another-copy"})
    assert ledger.tally().confirmed == 0
    assert sorted(ledger.changes.removals(10)) == ["another-copy", "r-1.6100000000000000.jpg"]
    ledger.changes.removed("another-copy")
    assert ledger.changes.removals(10) == ["r-1.6100000000000000.jpg"]


def test_a_folder_of_any_size_may_go(ledger: Ledger) -> None:
    """33,000 files of one folder vanish: more than a statement may have parameters."""
    names = [f"{number:05}.jpg" for number in range(33_000)]
    for start in range(0, len(names), 4000):
        ledger.files.record(ROOT, [seen(f"good/{name}", name) for name in names[start : start + 4000]])
    ledger.files.record(ROOT, [seen("bad/other.jpg", names[0]), seen("good/stays.jpg", names[1])])
    ledger.files.record(ROOT, [seen("good/last.jpg", "last")])
    ledger.files.gone(ROOT + b"/good", [name.encode() for name in names])

    assert set(ledger.files.known(ROOT + b"/good")[1]) == {b"stays.jpg", b"last.jpg"}
    census = ledger.census()
    assert census.total.ready == 3
    assert census.categories["bad"].ready == 1  # it inherited


def test_roots_of_any_size_may_go(ledger: Ledger) -> None:
    """A root with more files than one page is no longer configured: all of them are forgotten."""
    ledger.files.record(ROOT, [seen(f"good/{number}.jpg", f"{number}") for number in range(2500)])
    ledger.files.keep_roots([b"/elsewhere"])

    assert ledger.census().total.found == 0
    assert ledger.tally().ready == 0


def test_an_orphan_whose_file_came_back_is_not_forgotten(ledger: Ledger) -> None:
    """Between the question and the answer the file may be there again: nothing is removed then."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    gone(ledger, "good/1.jpg")
    (orphan,) = ledger.changes.orphans(before=float("inf"), limit=10).pictures
    record(ledger, ("good/again.jpg", "a"))
    ledger.changes.forget(orphan.picture_id, {"r-1.6100000000000000.jpg"})

    assert ledger.changes.removals(10) == []
    assert ledger.tally().confirmed == 1


def test_a_refused_picture_whose_file_went_on_the_way_is_let_go(ledger: Ledger) -> None:
    """There is nothing to retry, and no empty batch is ever claimed."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 1, MIB)
    assert batch is not None
    gone(ledger, "good/1.jpg")
    ledger.batches.confirm(batch.id, {}, {batch.pictures[0].picture_id: "no"})
    assert ledger.changes.requeue_refused() == 0
    rest = ledger.batches.claim(DATASET, 10, MIB)

    assert rest is not None
    assert [item.path for item in rest.pictures] == [ROOT + b"/good/2.jpg"]


def test_files_deleted_while_another_dataset_was_in_use_are_not_sent(ledger: Ledger) -> None:
    """Going back to a dataset finds what is there, not what is gone."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))
    ledger.use_target("mvi", "http://server", "other", "append", "other")
    gone(ledger, "good/1.jpg")
    ledger.use_target("mvi", "http://server", "parts", "append", "parts")

    assert send_everything(ledger) == ["good/2.6200000000000000.jpg"]


def test_equal_files_in_a_folder_that_loses_its_category_are_left_alone(ledger: Ledger) -> None:
    """Neither inherits from the other."""
    record(ledger, ("good/1.jpg", "a"), ("good/copy.jpg", "a"))
    ledger.files.recategorise(ROOT + b"/good", None)

    assert state_of(ledger, "good/1.jpg") == state_of(ledger, "good/copy.jpg") == "uncategorised"
    assert ledger.tally().ready == 0


def test_a_newer_look_is_not_forgotten_for_an_older_content(ledger: Ledger) -> None:
    """The uploader found the old content gone; the watcher has recorded the new one already: it stands."""
    record(ledger, ("good/1.jpg", "a"))
    record(ledger, ("good/1.jpg", "b"), version=2)
    ledger.files.look_again(ROOT + b"/good/1.jpg", b"a".hex().ljust(64, "0"))
    assert state_of(ledger, "good/1.jpg") == "ready"
    ledger.files.look_again(ROOT + b"/good/1.jpg", b"b".hex().ljust(64, "0"))

    assert state_of(ledger, "good/1.jpg") == "unknown"


def test_files_of_a_folder_that_is_no_longer_watched_are_not_removed(ledger: Ledger) -> None:
    """Taking a folder out of the configuration is no deletion."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    record(ledger, ("good/2.jpg", "b"))
    ledger.files.keep_roots([b"/another"])

    assert ledger.changes.orphans(before=float("inf"), limit=10).pictures == ()
    assert (ledger.tally().confirmed, ledger.tally().ready) == (1, 0)


def test_a_folder_given_another_category_relabels_its_pictures(ledger: Ledger) -> None:
    """A changed `categories` map is a move of everything in the folder."""
    record(ledger, ("crk/1.jpg", "a"))
    send_everything(ledger)
    record(ledger, ("crk/2.jpg", "b"), ("other/copy.jpg", "b"))
    ledger.files.recategorise(ROOT + b"/crk", "crack")

    assert [change.category for change in ledger.changes.relabels(10)] == ["crack"]
    assert state_of(ledger, "crk/2.jpg") == state_of(ledger, "other/copy.jpg") == "conflict"
    gone(ledger, "other/copy.jpg")
    assert send_everything(ledger) == ["crack/2.6200000000000000.jpg"]
    assert ledger.files.known(ROOT + b"/crk")[0] == "crack"


def test_a_folder_that_loses_its_category_is_left_alone(ledger: Ledger) -> None:
    """Its unsent pictures are withdrawn."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.files.recategorise(ROOT + b"/good", None)

    assert state_of(ledger, "good/1.jpg") == "uncategorised"
    assert send_everything(ledger) == []


def test_roots_are_reported(ledger: Ledger) -> None:
    """The last report of each root stands."""
    report = RootReport(ROOT, WatchMode.POLLING, RootState.UNAVAILABLE, "not mounted", 3)
    ledger.files.report(RootReport(ROOT, WatchMode.EVENTS, RootState.STARTING))
    ledger.files.report(report)

    assert ledger.roots() == [report]
    assert ledger.census().settling == 3


def test_a_rescan_is_asked_for_once(ledger: Ledger) -> None:
    """`retry` asks for a full look; the watcher takes the request once."""
    record(ledger, ("good/1.jpg", "a"), fault="cut short")

    assert not ledger.files.rescan_requested()
    assert ledger.files.recheck_quarantined() == 1
    assert ledger.files.known(ROOT + b"/good")[1] == {}
    assert ledger.files.rescan_requested()
    assert not ledger.files.rescan_requested()


def test_two_contents_that_share_the_first_digits_get_two_names(ledger: Ledger) -> None:
    """By bad luck or bad intent 16 digits may be equal: the second content is sent under all 64."""
    same = "ab" * 8
    sightings = [
        Sighting(ROOT + b"/good/" + folder, b"1.jpg", Stamp(9, 1, 1, 1), "good", same + tail * 48, "jpg")
        for folder, tail in ((b"a", "1"), (b"b", "2"))
    ]
    ledger.files.record(ROOT, sightings)

    assert sorted(send_everything(ledger)) == [f"good/1.{same}.jpg", f"good/1.{same}{'2' * 48}.jpg"]


# -- batches


def test_only_what_passed_the_threshold_is_claimed(ledger: Ledger) -> None:
    """Pictures that become ready after the clearing wait for the next one."""
    record(ledger, ("good/1.jpg", "a"))
    assert ledger.batches.claim(DATASET, 10, MIB) is None
    ledger.batches.clear()
    record(ledger, ("good/2.jpg", "b"))

    batch = ledger.batches.claim(DATASET, 10, MIB)

    assert batch is not None
    assert [item.path for item in batch.pictures] == [ROOT + b"/good/1.jpg"]
    assert (ledger.tally().ready, ledger.tally().sending) == (1, 1)


def test_a_batch_has_one_category_and_keeps_its_limits(ledger: Ledger) -> None:
    """Oldest first, at most so many files and bytes; a picture larger than the limit goes alone."""
    record(ledger, ("good/1.jpg", "a"), ("scratch/2.jpg", "b"), ("good/3.jpg", "c"), ("good/4.jpg", "d"), size=40)
    record(ledger, ("good/5.jpg", "e"), size=500)
    ledger.batches.clear()

    claimed = []
    while batch := ledger.batches.claim(DATASET, 2, 100):
        claimed.append((batch.category, [item.path.rpartition(b"/")[2] for item in batch.pictures]))

    assert claimed == [
        ("good", [b"1.jpg", b"3.jpg"]),
        ("scratch", [b"2.jpg"]),
        ("good", [b"4.jpg"]),
        ("good", [b"5.jpg"]),
    ]


def test_confirmed_and_refused_pictures_are_told_apart(ledger: Ledger) -> None:
    """One answer may accept some pictures and refuse others; the refused ones keep the reason and are not retried."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    first, second = batch.pictures
    ledger.batches.confirm(batch.id, {first.picture_id: "r-1"}, {second.picture_id: "too dark"})

    found = ledger.history.of(second.path)
    assert found is not None
    assert (found.state, found.reason) == ("refused", "too dark")
    assert state_of(ledger, "good/1.jpg") == "confirmed"
    assert send_everything(ledger) == []
    assert ledger.history.faults() == [(second.path, "refused", "too dark")]


def test_refused_pictures_go_back_in_line_when_asked(ledger: Ledger) -> None:
    """`image-sync retry` sends them again."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.batches.confirm(batch.id, {}, {batch.pictures[0].picture_id: "no"})

    assert ledger.changes.requeue_refused() == 1
    assert len(send_everything(ledger)) == 1


def test_a_released_batch_goes_back_in_line_in_its_old_place(ledger: Ledger) -> None:
    """Nothing is lost and nothing has to pass the threshold twice."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.batches.release(batch.id)

    assert ledger.tally().cleared == 1
    again = ledger.batches.claim(DATASET, 10, MIB)
    assert again is not None
    assert again.id != batch.id


def test_a_doubtful_batch_is_settled_by_what_the_platform_has(ledger: Ledger) -> None:
    """What arrived is confirmed, the rest goes back in line."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.batches.doubt(batch.id, not_before=77.0)

    assert (ledger.tally().sending, ledger.tally().doubtful) == (2, 2)
    ((found, not_before),) = ledger.batches.doubtful()
    assert (found, not_before) == (batch, 77.0)
    ledger.batches.confirm(batch.id, {batch.pictures[0].picture_id: "r-1"}, {})
    assert (ledger.tally().confirmed, ledger.tally().cleared, ledger.tally().doubtful) == (1, 1, 0)


def test_a_file_deleted_while_its_batch_is_doubtful_is_not_sent_again(ledger: Ledger) -> None:
    """There is nothing left to send."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.batches.doubt(batch.id, not_before=0.0)
    gone(ledger, "good/1.jpg")
    ((found, _),) = ledger.batches.doubtful()
    assert [item.key for item in found.pictures] == ["1.6100000000000000.jpg"]
    ledger.batches.release(batch.id)

    assert ledger.tally().cleared == 0


def test_after_a_crash_every_open_batch_is_doubtful(opened, ledger: Ledger) -> None:
    """What a process that died was sending is found by the next one."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.close()

    again = opened()

    assert again.batches.doubt_all(not_before=5.0) == 1
    assert [found.id for found, _ in again.batches.doubtful()] == [batch.id]


def test_a_batch_is_settled_once(ledger: Ledger) -> None:
    """A second answer for the same batch is a mistake of the program and raises."""
    record(ledger, ("good/1.jpg", "a"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 10, MIB)
    assert batch is not None
    ledger.batches.release(batch.id)

    with pytest.raises(IllegalTransition):
        ledger.batches.doubt(batch.id, not_before=0.0)


def test_plain_names_are_kept_where_they_are_free(opened) -> None:
    """`upload.names: "original"` keeps the file's name; the second of two equal names gets the safe key."""
    ledger = opened(plain_names=True)
    ledger.dataset(DATASET)
    record(ledger, ("good/1.jpg", "a"), ("scratch/1.jpg", "b"))

    assert send_everything(ledger) == ["good/1.jpg", "scratch/1.6200000000000000.jpg"]


# -- trainings


def ready_to_train(ledger: Ledger) -> None:
    record(ledger, ("good/1.jpg", "a"), ("scratch/2.jpg", "b"))
    send_everything(ledger)


def test_a_training_counts_what_it_contains(ledger: Ledger) -> None:
    """The counter falls by the pictures of the training; later ones count towards the next."""
    ready_to_train(ledger)
    assert ledger.tally().untrained == 2
    run = ledger.trainings.begin("m-1", "")
    assert run is not None
    assert (run.state, run.pictures) == (TrainingState.STARTING, 2)
    ledger.trainings.started(run.id, "t-1")
    record(ledger, ("good/3.jpg", "c"))
    send_everything(ledger)

    assert ledger.tally().untrained == 1
    assert ledger.tally().trainable == {"good": 2, "scratch": 1}
    found = ledger.history.of(ROOT + b"/good/1.jpg")
    assert found is not None
    assert found.training == "m-1"


def test_a_training_is_followed_to_its_end(ledger: Ledger) -> None:
    """Figures are kept, unknown ones leave the earlier; the end is final."""
    ready_to_train(ledger)
    run = ledger.trainings.begin("m-1", "base-7")
    assert run is not None
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.progress(run.id, iteration=40, iterations=100, loss=0.5, accuracy=None)
    ledger.trainings.progress(run.id, iteration=80, loss=None)
    active = ledger.trainings.active()
    assert active is not None
    assert (active.task_id, active.base, active.iteration, active.iterations, active.loss) == (
        "t-1",
        "base-7",
        80,
        100,
        0.5,
    )
    ledger.trainings.trained(run.id, 0.95)

    assert ledger.trainings.active() is None
    last = ledger.tally().last
    assert last is not None
    assert (last.state, last.accuracy) == (TrainingState.TRAINED, 0.95)
    with pytest.raises(IllegalTransition):
        ledger.trainings.failed(run.id, "too late")


def test_only_one_training_at_a_time_is_begun(ledger: Ledger) -> None:
    """While one is active, or a picture is being sent, none is begun."""
    ready_to_train(ledger)
    assert ledger.trainings.begin("m-1", "") is not None
    assert ledger.trainings.begin("m-2", "") is None


def test_no_training_is_begun_while_a_picture_is_being_sent(ledger: Ledger) -> None:
    """The check and the beginning are one step, so that no batch can slip between."""
    ready_to_train(ledger)
    record(ledger, ("good/3.jpg", "c"))
    ledger.batches.clear()
    assert ledger.batches.claim(DATASET, 10, MIB) is not None

    assert ledger.trainings.begin("m-1", "") is None


@pytest.mark.parametrize("doubtful", [True, False])
def test_pictures_of_a_training_that_was_not_started_count_again(ledger: Ledger, doubtful: bool) -> None:
    """A refused or abandoned start gives its pictures back."""
    ready_to_train(ledger)
    run = ledger.trainings.begin("m-1", "")
    assert run is not None
    if doubtful:
        ledger.trainings.doubt(run.id, not_before=9.0)
        ledger.trainings.abandon(run.id)
        assert ledger.tally().refusal is None
    else:
        ledger.trainings.refused(run.id, "no GPU")
        refusal = ledger.tally().refusal
        assert refusal is not None
        assert refusal.reason == "no GPU"

    assert ledger.tally().untrained == 2
    assert ledger.tally().last is None


@pytest.mark.parametrize("ended", [True, False])
def test_a_failed_training_gives_its_pictures_back(ledger: Ledger, ended: bool) -> None:
    """They count towards the next one, unless the training may still run at the platform."""
    ready_to_train(ledger)
    run = ledger.trainings.begin("m-1", "")
    assert run is not None
    ledger.trainings.started(run.id, "t-1")
    ledger.trainings.failed(run.id, "out of memory", ended=ended)

    assert ledger.tally().untrained == (2 if ended else 0)
    assert [one.reason for one in ledger.trainings.history()] == ["out of memory"]


def test_a_request_for_a_training_is_kept_until_it_is_begun(ledger: Ledger) -> None:
    """`image-sync train` may be called while the daemon is down; asking twice is asking once."""
    ready_to_train(ledger)
    ledger.trainings.request()
    ledger.trainings.request()
    assert ledger.tally().train_requested
    assert ledger.trainings.begin("m-1", "") is not None

    assert not ledger.tally().train_requested


def test_contents_lists_what_is_confirmed(ledger: Ledger) -> None:
    """For platforms that want a list."""
    ready_to_train(ledger)

    assert list(ledger.trainings.contents()) == [
        ("r-1.6100000000000000.jpg", "1.6100000000000000.jpg", "good", ""),
        ("r-2.6200000000000000.jpg", "2.6200000000000000.jpg", "scratch", ""),
    ]


# -- the ledger as a whole


def test_everything_survives_a_restart(opened, ledger: Ledger) -> None:
    """Counts come from the ledger, so a restart changes none of them."""
    ready_to_train(ledger)
    record(ledger, ("good/bad.jpg", "x"), fault="empty")
    record(ledger, ("good/9.jpg", "y"))
    before = ledger.tally(), ledger.census()
    ledger.close()

    again = opened()

    assert (again.tally(), again.census()) == before
    assert again.target.dataset_id == "d-1"


def test_another_dataset_gets_everything(opened, ledger: Ledger) -> None:
    """With a new dataset, server or platform, all sound pictures are ready again; going back finds them confirmed."""
    ready_to_train(ledger)
    ledger.use_target("mvi", "http://server", "other", "append", "other")
    assert (ledger.tally().ready, ledger.tally().confirmed) == (2, 0)
    ledger.use_target("mvi", "http://server", "parts", "append", "parts")

    assert (ledger.tally().ready, ledger.tally().confirmed) == (0, 2)
    assert ledger.target.dataset_id == "d-1"


def test_a_dataset_that_was_made_with_a_stamp_is_remembered(opened) -> None:
    """`dataset.action: "create"` makes one dataset, not one for each start."""
    ledger = opened()
    ledger.use_target("mvi", "http://server", "parts", "create", "parts-20260101-000000")
    ledger.use_target("mvi", "http://server", "parts", "create", "parts-20270101-000000")

    assert ledger.target.dataset_name == "parts-20260101-000000"


def test_troubles_are_kept_until_they_pass(ledger: Ledger) -> None:
    """`status` of another process sees why nothing happens."""
    ledger.trouble("upload", Transient("the server does not answer", hint="Is it on?"))
    (trouble,) = ledger.troubles()
    assert (trouble.stage, trouble.what, trouble.hint) == ("upload", "the server does not answer", "Is it on?")
    ledger.trouble("upload", None)

    assert ledger.troubles() == []


def test_listeners_hear_of_changes(ledger: Ledger) -> None:
    """A stage that sleeps is woken when there is news."""
    heard = []
    ledger.listen(lambda: heard.append(1))
    record(ledger, ("good/1.jpg", "a"))

    assert heard


def test_looking_does_not_write(opened, state) -> None:
    """A ledger that nobody aimed at the configured dataset is shown as empty and stays as it is."""
    ledger = opened()
    record(ledger, ("good/1.jpg", "a"))

    assert not ledger.take("mvi", "http://server", "unknown", "append")
    assert ledger.tally().ready == 0
    assert ledger.take("mvi", "http://server", "parts", "append")
    assert ledger.tally().ready == 1


def test_a_ledger_of_a_newer_version_is_refused(ledger: Ledger, state) -> None:
    """It is not touched, and the message says what to do."""
    with ledger._context.db.writing() as tx:
        tx.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    ledger.close()

    with pytest.raises(LedgerError, match="newer image-sync") as caught:
        open_ledger(state)
    assert "Install the newer version" in caught.value.hint


def test_one_daemon_per_ledger(state) -> None:
    """A second one is told who is there; afterwards the ledger is free again."""
    with Lock(state):
        with pytest.raises(AlreadyRunning, match="another image-sync"):
            Lock(state)
        assert holder_of(state) == Holder(os.getpid()) or isinstance(state, str)  # a database knows it by its ledger
    with Lock(state):
        pass
    assert holder_of(state) is None


def test_the_holder_of_a_database_is_known_by_its_ledger(database: str) -> None:
    """`status` and `train` see that a daemon runs, also where the lock is no file."""
    assert holder_of(database) is None
    with Lock(database) as lock:
        open_ledger(database, lock=lock).close()
        assert holder_of(database) == Holder(os.getpid())
        with pytest.raises(AlreadyRunning, match=f"process {os.getpid()}"):
            Lock(database)
    assert holder_of(database) is None


def test_a_cut_connection_is_made_again_and_holds_the_lock(database: str) -> None:
    """The daemon whose session was ended goes on writing, and is alone again."""
    with Lock(database) as lock:
        ledger = open_ledger(database, lock=lock)
        assert cut(database) >= 1
        assert holder_of(database) is None
        lock.keep(0.0)
        assert holder_of(database) == Holder(os.getpid())
        ledger.files.recheck_quarantined()
        ledger.close()
        with pytest.raises(AlreadyRunning):
            Lock(database)


def test_who_was_replaced_writes_nothing_any_more(database: str) -> None:
    """A second daemon that was quicker after a cut has the ledger: each write of the first one is refused."""
    with Lock(database) as first:
        ledger = open_ledger(database, lock=first)
        cut(database)
        with Lock(database) as second:
            other = open_ledger(database, lock=second)
            with pytest.raises(AlreadyRunning, match="taken over"):
                ledger.files.recheck_quarantined()
            with pytest.raises(AlreadyRunning):
                first.keep(0.0)
            other.files.recheck_quarantined()
            other.close()
        with pytest.raises(AlreadyRunning):  # it went again: what the first one remembers is of yesterday all the same
            first.keep(0.0)
        ledger.close()


def test_a_database_that_is_down_is_waited_for(database: str) -> None:
    """What fails meanwhile passes by itself, says the error; afterwards the same ledger works, and is held again."""
    with Lock(database) as lock:
        ledger = open_ledger(database, lock=lock)
        with stopped():
            for use in (ledger.roots, ledger.files.recheck_quarantined, lambda: lock.keep(0.0)):
                with pytest.raises(LedgerError) as caught:
                    use()
                assert caught.value.passing
        lock.keep(0.0)
        ledger.files.recheck_quarantined()
        ledger.close()
        assert holder_of(database) == Holder(os.getpid())


def test_states_are_written_as_plain_words(ledger: Ledger) -> None:
    """The persisted words are part of the format: changing one needs a migration."""
    ready_to_train(ledger)
    with ledger._context.db.reading() as tx:
        words = set(tx.exec_driver_sql("SELECT state FROM picture").scalars())

    assert words == {"confirmed"}
    assert [str(state) for state in PictureState] == ["ready", "held", "claimed", "confirmed", "refused"]
    assert [str(state) for state in TrainingState] == [
        "starting",
        "doubtful",
        "running",
        "trained",
        "failed",
        "refused",
    ]
    assert exists("postgresql://x/y")


# -- what others do at the platform


def listed(*rows: tuple[str, str, str], batch_id: str = "") -> list[RemotePicture]:
    """(remote id, key, category) as the platform lists them."""
    return [RemotePicture(remote_id, key, category, 10, batch_id, 5.0) for remote_id, key, category in rows]


def as_told(ledger: Ledger) -> list[tuple[str, str, str]]:
    """The listing of a platform at which everything is as this ledger told it."""
    batch = ledger.changes.of_pictures(ledger.remote_index.sample(0, 100))
    standing = ledger.changes.status([item.picture_id for item in batch.pictures])
    return [
        (standing[item.picture_id].remote_id, item.key, standing[item.picture_id].category) for item in batch.pictures
    ]


def test_what_is_no_longer_listed_waits_for_a_repair(ledger: Ledger) -> None:
    """It is named, counted and not sent; a repair puts it back in line; what has no file any more is forgotten."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"), ("good/3.jpg", "c"))
    send_everything(ledger)
    gone(ledger, "good/3.jpg")
    here = as_told(ledger)[0]
    seen_now = ledger.remote_index.adopt(listed(here), trained_until=None)
    assert len(seen_now.absent) == 2
    assert ledger.remote_index.missed(seen_now.absent) == ledger.remote_index.missing() == 1
    assert state_of(ledger, "good/2.jpg") == "refused"
    assert ledger.tally().confirmed == 1
    ledger.remote_index.request_repair()
    assert ledger.remote_index.repair_requested()
    assert ledger.remote_index.repair() == 1

    assert not ledger.remote_index.repair_requested()
    assert len(send_everything(ledger)) == 1
    assert ledger.tally().confirmed == 2


def test_a_category_that_was_not_told_is_kept_until_it_is_told_or_taken_back(ledger: Ledger) -> None:
    """A person's is told apart once, named, and believed to be what the platform has."""
    record(ledger, ("good/1.jpg", "a"), ("good/2.jpg", "b"))
    send_everything(ledger)
    told = as_told(ledger)
    theirs = [(remote_id, key, "bad") for remote_id, key, _ in told]
    changed = ledger.remote_index.adopt(listed(*theirs), trained_until=None).changed
    assert [category for _, category in changed] == ["bad", "bad"]
    ledger.remote_index.keep(changed)
    ledger.remote_index.keep(changed)
    assert ledger.remote_index.kept() == 2
    assert as_told(ledger) == theirs
    assert ledger.remote_index.adopt(listed(*theirs), trained_until=None).changed == ()
    assert ledger.changes.relabels(10) == []
    assert [why for *_, why in ledger.history.in_state("category-changed")] == ["'bad' at the server"] * 2

    assert ledger.remote_index.adopt(listed(told[0], theirs[1]), trained_until=None).changed == ()
    assert ledger.remote_index.kept() == 1
    gone(ledger, "good/2.jpg")
    record(ledger, ("ugly/2.jpg", "b"))
    (change,) = ledger.changes.relabels(10)
    ledger.changes.relabelling([change.picture_id])
    ledger.remote_index.keep([(change.picture_id, "odd")])  # it is being told: what is listed meanwhile says nothing
    ledger.changes.relabelled([change])
    assert ledger.remote_index.kept() == 0


def test_copies_of_another_ledger_are_told_from_our_own(ledger: Ledger, opened) -> None:
    """Under our names, with a batch id that is not ours: from then on, also after a restart, the dataset is shared."""
    record(ledger, ("good/1.jpg", "a"))
    send_everything(ledger)
    ((remote_id, key, category),) = as_told(ledger)
    rows = listed((remote_id, key, category)) + listed(("r-other", key, category), batch_id="f" * 32)
    found = ledger.remote_index.adopt(rows, trained_until=None)
    assert (found.foreign_copies, len(found.doubles), found.foreign) == (1, 1, 0)
    before = ledger.remote_index.shared
    ledger.remote_index.share()

    assert (before, ledger.remote_index.shared, opened().remote_index.shared) == (False, True, True)


def test_a_ledger_behind_the_file_beside_it_believes_the_listing(state, opened) -> None:
    """It came from a backup: what is listed is what the platform has, and what the folders say is told anew; once."""
    if not isinstance(state, Path):
        pytest.skip("a database server has no file beside it")
    first = opened()
    first.dataset(DATASET)
    record(first, ("good/1.jpg", "a"))
    send_everything(first)
    ((remote_id, key, _),) = as_told(first)
    backup = (state / "ledger.sqlite").read_bytes()
    first.changes.relabelling([first.remote_index.sample(0, 1)[0]])
    first.close()
    (state / "ledger.sqlite").write_bytes(backup)
    with Lock(state) as lock:
        again = opened(lock=lock)
        before = again.remote_index.restored
        assert again.remote_index.adopt(listed((remote_id, key, "bad")), trained_until=None).changed == ()
        assert [change.category for change in again.changes.relabels(10)] == ["good"]
        assert (before, again.remote_index.restored) == (True, False)
        again.close()
        assert not opened(lock=lock).remote_index.restored


@pytest.mark.parametrize("was", ["3 1000.0\n", "no number", ""])
def test_the_file_beside_the_ledger_is_a_copy_when_it_was_not_written_when_it_says(state, opened, was: str) -> None:
    """Then the whole folder came from a backup; a file that says nothing proves nothing."""
    if not isinstance(state, Path):
        pytest.skip("a database server has no file beside it")
    opened().close()
    (state / "generation").write_text(was)
    with Lock(state) as lock:
        assert opened(lock=lock).remote_index.restored == was.startswith("3 ")
