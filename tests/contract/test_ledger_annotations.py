"""What every ledger promises about annotations, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import select

from image_sync.domain import DatasetRef, RemotePicture, Sighting, Stamp
from image_sync.ledger import Ledger, counters, open_ledger
from image_sync.ledger.schema import annotation, annotation_text, file

ROOT = b"/pictures"
DATASET = DatasetRef("d-1", "parts")
MIB = 1 << 20


@pytest.fixture
def opened(state) -> Iterator[Callable[..., Ledger]]:
    ledgers: list[Ledger] = []
    ticks = itertools.count(1_000_000)

    def make(annotations: str = "required", setting: str = "parts", **options) -> Ledger:
        made = open_ledger(state, clock=lambda: float(next(ticks)), annotations=annotations, **options)
        ledgers.append(made)
        made.use_target("mvi", "http://server", setting, "append", setting)
        made.dataset(DATASET)
        return made

    yield make
    for ledger in ledgers:
        assert_true(ledger)
        ledger.close()


@pytest.fixture
def ledger(opened) -> Ledger:
    made: Ledger = opened()
    return made


def assert_true(ledger: Ledger) -> None:
    """Counts agree with what they count, and what is due is exactly what a look at every picture finds."""
    with ledger._context.db.reading() as tx:
        assert counters.correct(tx)
        rows = tx.execute(select(annotation)).mappings().all()
        found = tx.exec_driver_sql("SELECT id FROM picture WHERE state = 'confirmed'").scalars().all()
    due = {
        row["picture_id"]
        for row in rows
        if row["picture_id"] in found and row["wanted"] not in {row["sent"], row["refused"]}
    }
    assert {row["picture_id"] for row in rows if row["due"]} == due


def seen(
    where: str, content: str, text: str = "", *labels: str, waits: bool = False, fault: str = "", version: int = 1
) -> Sighting:
    """A sighting; ``text`` stands for what is marked in the picture."""
    folder, _, name = where.rpartition("/")
    path = ROOT + (b"/" + folder.encode() if folder else b"")
    mark = "-" if waits else hashlib.md5(f"{text}{fault}".encode()).hexdigest()[:24] if text or fault else ""
    sha256 = content.encode().hex().ljust(64, "0")
    stamp = Stamp(10, version, version, 2**64 - 1, mark)
    category = folder.split("/")[0]
    return Sighting(path, name.encode(), stamp, category, sha256, "jpg", fault, text, labels, waits)


def record(ledger: Ledger, *sightings: Sighting) -> None:
    ledger.files.record(ROOT, list(sightings))


def gone(ledger: Ledger, where: str) -> None:
    folder, _, name = where.rpartition("/")
    ledger.files.gone(ROOT + b"/" + folder.encode(), [name.encode()])


def send(ledger: Ledger, *, annotated: bool = False) -> list[str]:
    """Confirm all that is ready, with or without its annotation; returns what was claimed, ``key: annotation``."""
    sent = []
    ledger.batches.clear()
    while batch := ledger.batches.claim(DATASET, 100, 64 * MIB):
        stored = {item.picture_id: f"r-{item.key}" for item in batch.pictures}
        texts = {item.picture_id: item.annotation for item in batch.pictures if item.annotation}
        ledger.batches.confirm(batch.id, stored, {}, annotated=texts if annotated else {})
        sent += [f"{item.key.partition('.')[0]}: {item.annotation}" for item in batch.pictures]
    return sent


def pay(ledger: Ledger) -> dict[str, str]:
    """Mark everything that is due; returns the texts by remote id."""
    debts = ledger.annotations.due(100)
    ledger.annotations.sent({debt.picture_id: debt.text for debt in debts})
    return {debt.remote_id.partition(".")[0]: debt.text for debt in debts}


def state_of(ledger: Ledger, where: str) -> str:
    found = ledger.history.of(ROOT + b"/" + where.encode())
    return "unknown" if found is None else found.state


def test_stamps_come_back_with_the_annotations(ledger: Ledger) -> None:
    """So that one comparison says whether picture or annotation changed."""
    first, second, third = seen("good/1.jpg", "a", "A"), seen("good/2.jpg", "b", waits=True), seen("good/3.jpg", "c")
    record(ledger, first, second, third)

    known = ledger.files.known(ROOT + b"/good")[1]

    assert known == {b"1.jpg": first.stamp, b"2.jpg": second.stamp, b"3.jpg": third.stamp}


def test_a_picture_is_claimed_with_its_annotation(ledger: Ledger) -> None:
    """Newcomers in bulk and single ones alike."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"), seen("good/2.jpg", "b"))
    record(ledger, seen("good/3.jpg", "c", "C"), seen("good/4.jpg", "c", "C"))

    assert sorted(send(ledger)) == ["1: A", "2: ", "3: C"]


def test_what_was_not_sent_with_the_picture_is_due(ledger: Ledger) -> None:
    """Until it is sent; then it counts by its labels."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole", "dent"), seen("good/2.jpg", "b", "B", "hole"))
    assert ledger.annotations.due(100) == []
    send(ledger)
    assert (ledger.tally().unmarked, ledger.tally().labelled) == (2, {})
    assert pay(ledger) == {"r-1": "A", "r-2": "B"}

    assert (ledger.tally().unmarked, ledger.tally().labelled) == (0, {"dent": 1, "hole": 2})


def test_what_was_sent_with_the_picture_is_not_due(ledger: Ledger) -> None:
    """The platform said so in the same answer."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)

    assert ledger.annotations.due(100) == []
    assert ledger.tally().labelled == {"hole": 1}


def test_a_changed_annotation_is_due_again(ledger: Ledger) -> None:
    """The picture stays what it is; afterwards its old labels no longer count."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    record(ledger, seen("good/1.jpg", "a", "A2", "dent"))

    assert (ledger.tally().confirmed, ledger.tally().ready, ledger.tally().unmarked) == (1, 0, 1)
    assert pay(ledger) == {"r-1": "A2"}
    assert ledger.tally().labelled == {"dent": 1}


def test_a_file_saved_unchanged_changes_its_stamp_only(ledger: Ledger) -> None:
    """Nothing is due for it."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    again = seen("good/1.jpg", "a", "A", "hole", version=2)
    again = again._replace(stamp=again.stamp._replace(annotation="another"))
    record(ledger, again)

    assert ledger.files.known(ROOT + b"/good")[1] == {b"1.jpg": again.stamp}
    assert ledger.tally().unmarked == 0


def test_an_annotation_changed_before_the_upload_replaces_the_old_one(ledger: Ledger) -> None:
    """Only what is true when it is sent is sent; without one any more, the picture goes without."""
    record(ledger, seen("good/1.jpg", "a", "A"), seen("good/2.jpg", "b", "B"))
    record(ledger, seen("good/1.jpg", "a", "A2"), seen("good/2.jpg", "b"))

    assert sorted(send(ledger)) == ["1: A2", "2: "]


def test_an_annotation_changed_during_the_upload_is_due_afterwards(ledger: Ledger) -> None:
    """What was sent is not what is wanted by then."""
    record(ledger, seen("good/1.jpg", "a", "A"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 100, MIB)
    assert batch is not None
    record(ledger, seen("good/1.jpg", "a", "A2"))
    (item,) = batch.pictures
    ledger.batches.confirm(batch.id, {item.picture_id: "r-1"}, {}, annotated={item.picture_id: item.annotation})

    assert pay(ledger) == {"r-1": "A2"}


def test_a_waiting_picture_is_not_sent(ledger: Ledger) -> None:
    """It has a state of its own, needs no person, and is ready as soon as its annotation is there."""
    record(ledger, seen("good/1.jpg", "a", waits=True))

    assert (ledger.tally().ready, ledger.census().total.waiting, ledger.history.faults()) == (0, 1, [])
    history = ledger.history.of(ROOT + b"/good/1.jpg")
    assert history is not None
    assert (history.state, history.reason) == ("waiting", "waits for its annotation")
    record(ledger, seen("good/1.jpg", "a", "A"))
    assert send(ledger) == ["1: A"]
    assert ledger.census().total.waiting == 0


@pytest.mark.parametrize("trouble", [{"waits": True}, {"fault": "its annotation cannot be used"}], ids=str)
def test_trouble_with_an_annotation_takes_no_picture_from_the_platform(ledger: Ledger, trouble) -> None:
    """The stored picture and its boxes stay; it is not taken for deleted; the next annotation is sent to it."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    record(ledger, seen("good/1.jpg", "a", **trouble))

    assert (ledger.tally().confirmed, ledger.tally().unmarked, ledger.tally().labelled) == (1, 0, {"hole": 1})
    assert ledger.changes.orphans(before=2e9, limit=10).pictures == ()
    assert state_of(ledger, "good/1.jpg") in {"waiting", "quarantined"}
    record(ledger, seen("good/1.jpg", "a", "A2", "dent"))
    assert state_of(ledger, "good/1.jpg") == "confirmed"
    assert pay(ledger) == {"r-1": "A2"}
    gone(ledger, "good/1.jpg")
    assert len(ledger.changes.orphans(before=2e9, limit=10).pictures) == 1


def test_what_is_checked_again_leaves_its_picture_to_another_copy(ledger: Ledger) -> None:
    """`retry` forgets the file that stood for a stored picture: the next in line stands for it, as after any loss."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    record(ledger, seen("good/2.jpg", "a", "A", "hole"))
    record(ledger, seen("good/1.jpg", "a", fault="its annotation cannot be used"))
    assert (state_of(ledger, "good/1.jpg"), state_of(ledger, "good/2.jpg")) == ("quarantined", "duplicate")

    assert ledger.files.recheck_quarantined() == 1
    assert state_of(ledger, "good/2.jpg") == "confirmed"


@pytest.mark.parametrize("trouble", [{"waits": True}, {"fault": "its annotation cannot be used"}], ids=str)
def test_trouble_with_an_annotation_holds_back_what_is_not_sent(ledger: Ledger, trouble) -> None:
    """A picture that was ready no longer is."""
    record(ledger, seen("good/1.jpg", "a", "A"))
    record(ledger, seen("good/1.jpg", "a", **trouble))

    assert ledger.tally().ready == 0
    assert send(ledger) == []
    record(ledger, seen("good/1.jpg", "a", "A"))
    assert send(ledger) == ["1: A"]


def test_new_content_while_its_annotation_is_awaited_is_another_picture(ledger: Ledger) -> None:
    """The old one has no file any more."""
    record(ledger, seen("good/1.jpg", "a", "A"))
    send(ledger, annotated=True)
    record(ledger, seen("good/1.jpg", "b", waits=True))

    assert len(ledger.changes.orphans(before=2e9, limit=10).pictures) == 1
    record(ledger, seen("good/1.jpg", "b", "B"))
    assert send(ledger) == ["1: B"]


def test_a_moved_picture_brings_its_annotation(ledger: Ledger) -> None:
    """Also one that was changed on the way."""
    record(ledger, seen("good/1.jpg", "a", "A"), seen("good/2.jpg", "b", "B"))
    send(ledger, annotated=True)
    record(ledger, seen("bad/1.jpg", "a", "A"), seen("bad/2.jpg", "b", "B2"))
    assert ledger.tally().unmarked == 0
    gone(ledger, "good/1.jpg")
    gone(ledger, "good/2.jpg")

    assert pay(ledger) == {"r-2": "B2"}


def test_a_refused_annotation_is_told_and_can_be_tried_again(ledger: Ledger) -> None:
    """It is not due as it is; a change of the file or `retry` makes it so."""
    record(ledger, seen("good/1.jpg", "a", "A"), seen("good/2.jpg", "b", "B"))
    send(ledger)
    for debt in ledger.annotations.due(10):
        ledger.annotations.refused(debt, "too many boxes")

    assert (ledger.annotations.due(10), ledger.annotations.refusals(), ledger.tally().unmarked) == ([], 2, 0)
    assert {(path, state, why) for path, state, why in ledger.history.faults()} == {
        (ROOT + b"/good/1.jpg", "annotation refused", "too many boxes"),
        (ROOT + b"/good/2.jpg", "annotation refused", "too many boxes"),
    }
    record(ledger, seen("good/1.jpg", "a", "A2"))
    assert [debt.text for debt in ledger.annotations.due(10)] == ["A2"]
    assert ledger.changes.requeue_refused() == 2
    assert pay(ledger) == {"r-1": "A2", "r-2": "B"}
    assert ledger.annotations.refusals() == 0


def test_no_training_begins_while_an_annotation_is_due(ledger: Ledger) -> None:
    """A training contains what is marked, and says what."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"), seen("good/2.jpg", "b"))
    send(ledger)
    assert ledger.trainings.begin("m-1", "") is None
    pay(ledger)

    assert ledger.trainings.begin("m-1", "") is not None
    assert [(key.partition(".")[0], text) for _, key, _, text in ledger.trainings.contents()] == [("1", "A"), ("2", "")]


def test_another_copy_at_the_platform_has_to_be_marked(ledger: Ledger) -> None:
    """What was marked went with the copy that is no longer the picture's."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    (item,) = ledger.changes.of_pictures([1]).pictures
    ledger.changes.arrived(item.picture_id, "r-1.another", "good")
    assert (ledger.tally().unmarked, ledger.tally().labelled) == (1, {})
    assert pay(ledger) == {"r-1": "A"}
    ledger.changes.arrived(item.picture_id, "r-1.another", "good")
    assert ledger.tally().unmarked == 0


def test_a_picture_that_arrived_after_all_has_to_be_marked(ledger: Ledger) -> None:
    """A batch in doubt says nothing of boxes."""
    record(ledger, seen("good/1.jpg", "a", "A"))
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 100, MIB)
    assert batch is not None
    ledger.batches.doubt(batch.id, not_before=0)
    ledger.batches.confirm(batch.id, {batch.pictures[0].picture_id: "r-1"}, {}, sweep_at=1e9)

    assert pay(ledger) == {"r-1": "A"}


def test_nobody_knows_what_is_marked_while_it_is_being_changed(ledger: Ledger) -> None:
    """The answer may get lost: a file that goes back to its old self is sent again; a clear no leaves the old."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    record(ledger, seen("good/1.jpg", "a", "A2", "dent"))
    assert [debt.text for debt in ledger.annotations.due(10)] == ["A2"]
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    assert pay(ledger) == {"r-1": "A"}

    record(ledger, seen("good/1.jpg", "a", "A3", "dent"))
    (debt,) = ledger.annotations.due(10)
    ledger.annotations.refused(debt, "no")
    assert (ledger.tally().labelled, ledger.tally().unmarked) == ({"hole": 1}, 0)
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    assert (ledger.tally().unmarked, ledger.annotations.refusals()) == (0, 0)


@pytest.mark.parametrize("listed_first", [True, False])
def test_an_adopted_picture_has_to_be_marked(ledger: Ledger, listed_first: bool) -> None:
    """What lies there from before this ledger's time may be marked in another way."""
    sighting = seen("good/1.jpg", "a", "A")
    remote = RemotePicture("r-1", f"1.{sighting.sha256[:16]}.jpg", "good", 10, uploaded_at=1.0)
    if not listed_first:
        record(ledger, sighting)
    ledger.remote_index.adopt([remote], trained_until=None)
    if listed_first:
        record(ledger, sighting)

    assert pay(ledger) == {"r-1": "A"}


def test_a_removed_picture_no_longer_counts(ledger: Ledger) -> None:
    """Neither its labels nor its debts remain."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    record(ledger, seen("good/1.jpg", "a", "A2"))
    gone(ledger, "good/1.jpg")
    ledger.changes.forget(1, ["r-1"])

    assert (ledger.tally().labelled, ledger.tally().unmarked) == ({}, 0)


def test_what_somebody_sees_to_is_nobody_elses(ledger: Ledger) -> None:
    """While the uploader marks what it stored, the reconciler is not told of it."""
    record(ledger, seen("good/1.jpg", "a", "A"), seen("good/2.jpg", "b", "B"))
    with ledger.annotations.in_hand([1]):
        send(ledger)
        assert [debt.picture_id for debt in ledger.annotations.due(1)] == [2]
        assert ledger.tally().unmarked == 2

    assert [debt.picture_id for debt in ledger.annotations.due(10)] == [1, 2]


def test_another_dataset_gets_everything_with_its_annotations(opened, ledger: Ledger) -> None:
    """And the first one's are known when it is used again."""
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)
    other = opened(setting="other")

    assert other.tally().labelled == {}
    assert send(other) == ["1: A"]
    first = opened(setting="parts")
    assert (first.tally().labelled, first.tally().unmarked) == ({"hole": 1}, 0)


def test_equal_annotations_are_kept_once(ledger: Ledger) -> None:
    """Thousands of pictures without any object are one text."""
    record(ledger, *(seen(f"good/{number}.jpg", f"{number:04}", "nothing") for number in range(50)))

    with ledger._context.db.reading() as tx:
        assert len(tx.execute(select(annotation_text)).all()) == 1
    assert len(send(ledger)) == 50


@pytest.mark.parametrize(("before", "after"), [("none", "required"), ("required", "none"), ("optional", "required")])
def test_when_annotations_are_used_differently_what_is_not_sent_is_looked_at_anew(
    opened, before: str, after: str
) -> None:
    """Nothing goes out that was recorded under other rules; what was sent stays."""
    first = opened(before)
    record(first, seen("good/1.jpg", "a", "A" if before != "none" else ""))
    send(first, annotated=True)
    record(first, seen("good/2.jpg", "b"), seen("good/3.jpg", "c", waits=before == "required"))
    second = opened(after)

    assert second.tally().ready == 0
    assert {name: stamp.annotation for name, stamp in second.files.known(ROOT + b"/good")[1].items()} == {b"1.jpg": ""}
    assert second.tally().confirmed == 1
    third = opened(after)
    record(third, seen("good/2.jpg", "b"))
    assert opened(after).tally().ready == 1


def test_without_annotations_nothing_is_kept_of_them(opened) -> None:
    """Their tables stay empty, and stamps are those of the files."""
    ledger = opened("none")
    record(ledger, seen("good/1.jpg", "a", "A", "hole"))
    send(ledger, annotated=True)

    with ledger._context.db.reading() as tx:
        assert [tx.execute(select(table)).all() for table in (annotation_text, annotation)] == [[], []]
        assert tx.execute(select(file.c.annotation, file.c.annotation_text)).all() == [("", "")]
    assert ledger.files.known(ROOT + b"/good")[1][b"1.jpg"].annotation == ""
    assert ledger.annotations.due(10) == []


def test_pictures_without_a_category_are_counted_as_such(opened) -> None:
    """Where annotations are used; else they are left alone and not shown."""
    ledger = opened("optional")
    record(ledger, seen("1.jpg", "a", "A"))
    assert list(ledger.census().categories) == [""]
    assert send(ledger) == ["1: A"]
    assert ledger.tally().trainable == {"": 1}
