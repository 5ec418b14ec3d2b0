"""The program ends where it hurts: all the same every picture arrives once, and every due training starts once."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from image_sync.domain import DatasetRef, Sighting, Stamp
from image_sync.errors import Ambiguous, Transient
from image_sync.ledger import Ledger, open_ledger
from image_sync.platforms.base import Progress
from support.daemon import Plant, crashed, stored
from support.model import MODEL_GRACE, UPLOAD_GRACE, World, digest
from support.mvi_server import Caller, picture, serving
from support.soak import UPLOADS, Plan, Soak
from support.soak_crasher import EXIT

DEEP = os.environ.get("HYPOTHESIS_PROFILE") == "deep"
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
    opened.use_target("memory", "", "parts", "append", "parts")
    yield opened
    opened.close()


def see(ledger: Ledger, *places: str) -> None:
    """Files of equal content in the ledger."""
    for place in places:
        folder, _, name = place.encode().rpartition(b"/")
        sighting = Sighting(b"/pictures/" + folder, name, Stamp(1, 1, 1, 1), folder.decode(), "ab" * 32, "jpg")
        ledger.files.record(b"/pictures", [sighting])


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
    ledger.files.gone(b"/pictures/good", [b"1.jpg"])
    ledger.batches.confirm(batch.id, {}, {batch.pictures[0].picture_id: "no picture"})

    assert ledger.changes.requeue_refused() == 0
    assert sent(ledger) == []


def test_files_that_went_while_another_dataset_was_in_use_are_forgotten(ledger: Ledger) -> None:
    """The dataset is changed and changed back; what was deleted meanwhile is not waited for."""
    see(ledger, "good/1.jpg")
    ledger.use_target("memory", "", "other", "append", "other")
    ledger.files.gone(b"/pictures/good", [b"1.jpg"])
    ledger.use_target("memory", "", "parts", "append", "parts")

    assert ledger.tally().ready == 0
    assert sent(ledger) == []


def test_a_folder_loses_its_category_with_two_equal_pictures_in_it(ledger: Ledger) -> None:
    """Neither inherits from the other: both are left alone, and nothing is sent."""
    see(ledger, "good/1.jpg", "good/2.jpg")
    ledger.files.recategorise(b"/pictures/good", None)

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


@pytest.mark.parametrize("lost", ["process", "answer"])
def test_a_file_that_moves_back_while_its_category_is_changed_ends_where_it_lies(lost: str) -> None:
    """The platform took the other category, nobody wrote that down, and the file is where it was: it is told again."""
    world = World()
    try:
        world.put("cat/1.jpg", 1)
        world.work()
        world.rename("cat/1.jpg", "dog/1.jpg")
        world.look()
        world.pass_time(6)
        if lost == "process":
            world.fuse.at = "after relabel"
        else:
            world.remote.fail_next("relabel", Transient("no answer"), after=True)
        world.send()
        assert [category for category, _, _ in world.remote.stored] == ["dog"]
        world.rename("dog/1.jpg", "cat/1.jpg")
        world.finish()

        assert [category for category, _, _ in world.remote.stored] == ["cat"]
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
    world.remote.trick_next("late", 1.3 * UPLOAD_GRACE)
    world.put("cat/1.jpg", 1)
    world.work()
    world.delete("cat/1.jpg")
    world.look()
    world.send()
    world.pass_time(UPLOAD_GRACE + 1)
    world.send()
    assert (world.pictures(), world.remote.stored) == ([], [])  # given up
    world.pass_time(UPLOAD_GRACE / 3)
    assert len(world.remote.stored) == 1
    world.remote.fail_next("upload", LOST, after=True)
    world.put("owl/1.jpg", 1)
    world.work()
    world.finish()

    assert [(category, sha) for category, sha, _ in world.remote.stored] == [("owl", digest(1))]


# -- the real program


def test_six_kills_among_faults_lose_and_double_nothing(tmp_path: Path) -> None:
    """`make soak` in small: SIGKILL at random moments, every fifth upload struck, somebody at work in the folders."""
    kinds = tuple(kind for kind in UPLOADS if kind != "partial")
    plan = Plan(
        seed=5,
        pictures=150,
        categories=3,
        faults=0.02,
        kills=6,
        threshold=40,
        short=(0.4, 1.2),
        long=(1.5, 2.5),
        grace=1.0,
        rescan=1.0,
        kinds=kinds,
    )
    with serving(tmp_path / "server") as server:
        soak = Soak(plan, tmp_path / "plant", server.url)
        outcome = soak.run()

    assert outcome.good, f"{outcome.table(plan)}\n{soak.plant.log()[-5000:]}"
    assert outcome.kills == 6
    assert outcome.started >= 1


def test_the_program_ends_at_chosen_steps_and_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    """The process exits at the n-th transaction or call, with new pictures each time; then it lives, and is right."""
    with serving(tmp_path / "server") as server:
        plant = Plant(tmp_path / "plant", server.url, threshold={"upload": 1, "training": 30}, upload={"grace": 1})
        plant.configure(model={"grace": 1})
        ends = range(8, 88, 4) if DEEP else (9, 17, 26, 31, 36, 41, 47, 60)
        for number, crash_at in enumerate(ends):
            for kind in ("dark", "light"):
                for copy in range(2):
                    plant.put(f"{kind}/{number}-{copy}.jpg", picture(kind, 10 * number + copy))
            assert crashed(plant, crash_at) in {EXIT, 0}
        plant.call("run", "--once")
        plant.call("run", "--once")

        files = stored(server)
        trainings = Caller(server.url).get("/dltasks/")
    assert len(files) == len(set(files)) == 4 * len(ends)
    assert Counter(category for category, _ in files) == {"dark": 2 * len(ends), "light": 2 * len(ends)}
    assert len({task["name"] for task in trainings}) == len(trainings) == len(plant.runs())
    assert len(trainings) == len(files) // 30 or DEEP


# -- every step of one life


def a_life(world: World) -> None:
    """Uploads under two categories, a training, a move, a deletion, a lost answer, another training."""
    for number in range(4):
        world.put(f"{'cat' if number % 2 else 'dog'}/{number}.jpg", number)
    world.work()
    world.rename("cat/1.jpg", "owl/1.jpg")
    world.delete("dog/2.jpg")
    world.remote.fail_next("upload", LOST, after=True, applied=1)
    for number in range(5, 8):
        world.put(f"cat/{number}.jpg", number)
    world.work()
    world.pass_time(UPLOAD_GRACE + 1)
    world.work()


def lived(crash_at: int, deletions: str) -> None:
    """Live, end at that step, live on, and hold platform and folders against each other."""
    world = World(deletions=deletions)
    try:
        world.fuse.left = crash_at
        a_life(world)
        assert world.crashes == 1
        world.finish()
    finally:
        world.close()


@pytest.mark.parametrize("deletions", ["keep", "remove"])
@pytest.mark.timeout(1200 if DEEP else 120)
def test_a_life_may_end_at_any_step(deletions: str) -> None:
    """Before, inside and after every transaction, before and after every call: the next life sets everything right."""
    world = World(deletions=deletions)
    world.fuse.steps.clear()
    a_life(world)
    steps = len(world.fuse.steps)
    world.close()
    assert steps > 80
    for crash_at in range(1, steps, 1 if DEEP else 17):
        lived(crash_at, deletions)


# -- trainings


def ready_to_train(world: World, count: int = 3, first: int = 0) -> None:
    for number in range(first, first + count):
        world.put(f"{'cat' if number % 2 else 'dog'}/{number}.jpg", number)


def test_a_threshold_that_is_jumped_over_makes_one_training_of_all(world: World) -> None:
    """Ten pictures at a threshold of three: one training that counts them all, and the next after three more."""
    ready_to_train(world, 10)
    world.work()
    world.settle()
    assert [(run["pictures"], run["state"]) for run in world.runs()] == [(10, "trained")]
    assert world.tally.untrained == 0
    ready_to_train(world, 2, first=20)
    world.settle()
    assert len(world.remote.plans) == 1
    ready_to_train(world, 1, first=30)
    world.finish()

    assert [run["pictures"] for run in world.runs()] == [10, 13]


def around_the_start() -> list[tuple[int, str]]:
    """The steps from the count to what follows the start of a training, as their numbers and names."""
    world = World()
    ready_to_train(world)
    world.look()
    world.send()
    world.pass_time(6)
    world.send()
    world.fuse.steps.clear()
    world.train()
    steps = list(enumerate(world.fuse.steps, 1))
    world.close()
    start = world.fuse.steps.index("before start_training")
    return steps[: start + 9]


def test_a_training_starts_once_wherever_the_program_ends() -> None:
    """Between the count and the row, the row and the request, the request and its answer: one training, of one name."""
    moments = around_the_start()
    names = [name for _, name in moments]
    assert "before start_training" in names
    assert "after start_training" in names
    for number, name in moments:
        world = World()
        try:
            ready_to_train(world)
            world.look()
            world.send()
            world.pass_time(6)
            world.send()
            world.fuse.left = number
            world.train()
            assert world.crashes == 1, name
            world.finish()
            assert len(world.remote.plans) == 1, name
        finally:
            world.close()


@pytest.mark.parametrize("seconds", [5.0, MODEL_GRACE / 2, MODEL_GRACE - 5])
@pytest.mark.parametrize("crash", [False, True])
def test_a_start_that_hangs_and_happens_later_is_not_repeated(world: World, seconds: float, crash: bool) -> None:
    """No answer, but the training, within `model.grace`: it is found by its name, even after a restart."""
    ready_to_train(world)
    world.remote.late_start_next(seconds)
    world.work()
    if crash:
        world.crash()
    world.finish()

    assert len(world.remote.plans) == 1
    assert [run["state"] for run in world.runs()] == ["trained"]


def test_a_training_that_disappears_is_not_repeated(world: World) -> None:
    """Somebody deleted it at the platform: recorded as failed, and the next one waits for new pictures."""
    ready_to_train(world)
    progress = world.remote.progress

    def deleted(task_id: str) -> Progress:
        world.remote._trainings.pop(task_id, None)
        return progress(task_id)

    world.remote.progress = deleted  # type: ignore[method-assign]
    world.work()
    world.settle()
    world.remote.progress = progress  # type: ignore[method-assign]
    assert [run["state"] for run in world.runs()] == ["failed"]
    ready_to_train(world, 3, first=10)
    world.finish()

    assert [run["state"] for run in world.runs()] == ["failed", "trained"]


# -- requests that are carried out late, twice, or cannot be seen yet


def copies_over_time(world: World) -> int:
    """Most copies of one picture that the platform ever had while time went by; everything settled afterwards."""
    most = 0
    for _ in range(60):
        world.pass_time(5)
        world.look(times=1)
        world.send()
        most = max([most, *Counter(sha for _, sha, _ in world.remote.stored).values()])
    world.finish()
    return most


def late(world: World) -> None:
    world.remote.trick_next("late", UPLOAD_GRACE - 8)


def very_late(world: World) -> None:
    world.remote.trick_next("late", UPLOAD_GRACE + 30)


def twice(world: World) -> None:
    world.remote.trick_next("twice")


def hidden(world: World) -> None:
    world.remote.lag = 20.0
    world.remote.fail_next("upload", LOST, after=True)


@pytest.mark.parametrize(
    ("happens", "most"),
    [(late, 1), (very_late, 2), (twice, 2), (hidden, 1)],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize("crash", [False, True])
def test_no_second_copy_stays(world: World, happens: Callable[[World], None], most: int, crash: bool) -> None:
    """Late within the grace time, or listed late: never doubled. Later, or doubled by a proxy: one is removed again."""
    for number in range(3):
        world.put(f"cat/{number}.jpg", number)
    happens(world)
    world.work()
    if crash:
        world.crash()

    assert copies_over_time(world) <= most
    assert len(world.remote.stored) == 3
