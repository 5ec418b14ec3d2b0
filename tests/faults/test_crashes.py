"""The program ends where it hurts: every picture is at the platform once all the same, and every due training started."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image_sync.domain import DatasetRef, PictureState, RunState, Sighting, Stamp
from image_sync.errors import Ambiguous, Transient
from image_sync.ledger import Ledger, open_ledger
from support.model import MODEL_GRACE, UPLOAD_GRACE, World, digest

LOST = Ambiguous("the answer got lost")
DATASET = DatasetRef("d-1", "parts")


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    opened = open_ledger(tmp_path)
    opened.aim("memory", "", "parts", "append", "parts")
    yield opened
    opened.close()


def see(ledger: Ledger, *places: str) -> None:
    """Files of equal content in the ledger."""
    for place in places:
        folder, _, name = place.encode().rpartition(b"/")
        sighting = Sighting(b"/pictures/" + folder, name, Stamp(1, 1, 1, 1), folder.decode(), "ab" * 32, "jpg")
        ledger.places.record(b"/pictures", [sighting])


def sent(ledger: Ledger) -> list[int]:
    """How many pictures each batch holds that is cleared now; a list of at most ten."""
    ledger.batches.clear()
    sizes: list[int] = []
    while len(sizes) < 10 and (batch := ledger.batches.claim(DATASET, 100, 1000)):
        sizes.append(len(batch.pictures))
        ledger.batches.confirm(batch.id, {}, {})
    return sizes


# -- found by the state machine, each made small


def test_a_refused_picture_whose_file_went_is_not_sent_again(ledger: Ledger) -> None:
    """Deleted on its way and refused: `image-sync retry` has nothing to send, and no batch is ever empty."""
    see(ledger, "good/1.jpg")
    ledger.batches.clear()
    batch = ledger.batches.claim(DATASET, 100, 1000)
    assert batch is not None
    ledger.places.gone(b"/pictures/good", [b"1.jpg"])
    ledger.batches.confirm(batch.id, {}, {batch.pictures[0].picture_id: "no picture"})

    assert ledger.chores.requeue_refused() == 0
    assert sent(ledger) == []


def test_files_that_went_while_another_dataset_was_in_use_are_forgotten(ledger: Ledger) -> None:
    """The dataset is changed and changed back; what was deleted meanwhile is not waited for."""
    see(ledger, "good/1.jpg")
    ledger.aim("memory", "", "other", "append", "other")
    ledger.places.gone(b"/pictures/good", [b"1.jpg"])
    ledger.aim("memory", "", "parts", "append", "parts")

    assert ledger.tally().ready == 0
    assert sent(ledger) == []


def test_a_folder_loses_its_category_with_two_equal_pictures_in_it(ledger: Ledger) -> None:
    """Neither inherits from the other: both are left alone, and nothing is sent."""
    see(ledger, "good/1.jpg", "good/2.jpg")
    ledger.places.recategorise(b"/pictures/good", None)

    assert ledger.census().uncategorised == 2
    assert sent(ledger) == []


@pytest.mark.parametrize("moment", ["before remove", "after remove"])
@pytest.mark.parametrize("returns_as", ["cat/1.jpg", "dog/other.jpg"])
def test_a_file_that_returns_while_it_is_being_removed_is_uploaded_again(moment: str, returns_as: str) -> None:
    """The process ends around the removal and the file comes back: the platform has it in the end."""
    world = World(deletions="remove")
    try:
        world.put("cat/1.jpg", 1)
        world.work()
        world.delete("cat/1.jpg")
        world.look()
        world.pass_time(30)
        world.fuse.at = moment
        world.send()
        assert world.crashes == 1
        world.send()
        world.put(returns_as, 1)
        world.finish()

        assert [(category, sha) for category, sha, _ in world.remote.stored] == [(returns_as[:3], digest(1))]
    finally:
        world.close()


def test_the_answer_to_a_removal_is_lost_and_the_file_returns() -> None:
    """Removed there, not known here: the file that comes back counts as new."""
    world = World(deletions="remove")
    try:
        world.put("cat/1.jpg", 1)
        world.work()
        world.delete("cat/1.jpg")
        world.look()
        world.pass_time(30)
        world.remote.fail_next("remove", Transient("no answer"), after=True)
        world.send()
        world.put("cat/1.jpg", 1)
        world.finish()

        assert [sha for _, sha, _ in world.remote.stored] == [digest(1)]
    finally:
        world.close()


def test_a_deleted_picture_goes_with_all_its_copies() -> None:
    """A proxy doubled the request, and the file was deleted before anybody noticed: nothing is left."""
    world = World(deletions="remove")
    try:
        world.remote.trick_next("twice")
        world.put("cat/1.jpg", 1)
        world.work()
        world.delete("cat/1.jpg")
        world.finish()

        assert world.remote.stored == []
    finally:
        world.close()


def test_a_request_that_arrives_after_its_file_was_renamed_leaves_no_second_copy(world: World) -> None:
    """Given up, sent again under the new name, then carried out after all: the stray is known for ours and removed."""
    world.remote.trick_next("late", 1.5 * UPLOAD_GRACE)
    world.put("cat/1.jpg", 1)
    world.work()
    world.delete("cat/1.jpg")
    world.look()
    world.put("cat/2.jpg", 1)
    world.finish()

    assert [sha for _, sha, _ in world.remote.stored] == [digest(1)]


def test_a_stray_of_another_category_is_not_taken_for_the_answer(world: World) -> None:
    """A request that was given up arrived under the old category; the next one's answer is lost: the new one counts."""
    world.remote.trick_next("late", 1.5 * UPLOAD_GRACE)
    world.put("cat/1.jpg", 1)
    world.work()
    world.delete("cat/1.jpg")
    world.look()
    world.send()
    world.pass_time(UPLOAD_GRACE + 1)
    world.send()
    assert (world.pictures(), world.remote.stored) == ([], [])  # given up
    world.pass_time(UPLOAD_GRACE)
    assert len(world.remote.stored) == 1
    world.remote.fail_next("upload", LOST, after=True)
    world.put("owl/1.jpg", 1)
    world.work()
    world.finish()

    assert [(category, sha) for category, sha, _ in world.remote.stored] == [("owl", digest(1))]
