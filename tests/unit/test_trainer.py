"""The training stage, stepped by hand on a real ledger, with a platform in memory."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from image_sync.domain import RunState, Sighting, Stamp
from image_sync.errors import Ambiguous, NotFound, Refused, Transient
from image_sync.ledger import Ledger, open_ledger
from image_sync.platforms.base import Item, Model, Phase, Progress, Shipment
from image_sync.platforms.memory import MemoryPlatform
from image_sync.tracker import REFUSAL_WAIT, Thresholds
from image_sync.trainer import Recipe, Trainer, newest_of

NEVER = Thresholds(training=10**6)


class World:
    """A ledger with uploaded pictures, a platform that has them, and the stage, with clocks that a test turns."""

    def __init__(self, folder: Path) -> None:
        self.stop = threading.Event()
        self.now = 1000.0
        self.unix = 1_767_225_600.0  # 2026-01-01 00:00 UTC
        self.ledger: Ledger = open_ledger(folder / "state", clock=lambda: self.unix)
        self.ledger.aim("memory", "", "parts", "append", "parts")
        self.platform = MemoryPlatform(self.stop, clock=lambda: self.unix)
        self.dataset = self.platform.ensure_dataset("parts")
        self.ledger.dataset(self.dataset)
        self.stage()
        self._numbers = iter(range(10**6))

    def stage(self, *, training: int = 10, **recipe) -> Trainer:
        self.trainer = Trainer(
            self.ledger,
            self.platform,
            Thresholds(training=training),
            Recipe(name="plates", poll=15, **recipe),
            self.stop,
            clock=lambda: self.unix,
        )
        return self.trainer

    def upload(self, *categories: str) -> None:
        """Store one new picture in each category, at the platform and in the ledger."""
        for category in categories:
            name = f"{next(self._numbers)}.jpg"
            sighting = Sighting(
                f"/p/{category}".encode(),
                name.encode(),
                Stamp(3, 1, 1, 1),
                category,
                name.encode().hex().zfill(64),
                "jpg",
            )
            self.ledger.places.record(b"/p", [sighting])
        self.ledger.batches.clear()
        while batch := self.ledger.batches.claim(self.dataset, 100, 1 << 20):
            items = tuple(Item(one.key, 3, one.sha256, one.key.encode) for one in batch.pictures)
            outcomes = self.platform.upload(Shipment(batch.id, self.dataset, batch.category, items))
            ids = {outcome.key: outcome.remote_id for outcome in outcomes}
            self.ledger.batches.confirm(batch.id, {one.picture_id: ids[one.key] for one in batch.pictures}, {})

    def work(self, seconds: float = 120.0) -> None:
        until = self.now + seconds
        for _ in range(1000):
            pause = self.trainer.step(self.now)
            if self.now >= until:
                return
            self.now += max(0.1, pause)
            self.unix += max(0.1, pause)

    @property
    def runs(self) -> list[RunState]:
        return [run.state for run in self.ledger.runs.history()]


ENOUGH = ("good",) * 5 + ("scratch",) * 5


@pytest.fixture
def world(tmp_path: Path):
    made = World(tmp_path)
    yield made
    made.ledger.close()


def test_a_training_is_started_once_and_followed_to_its_end(world: World) -> None:
    """At the threshold one training starts, named by UTC time; its end and its counts are written down."""
    world.upload(*ENOUGH)
    world.work()

    (run,) = world.ledger.runs.history()
    assert (run.state, run.name, run.pictures) == (RunState.TRAINED, "plates-20260101-000000", 10)
    assert (run.iteration, run.iterations) == (3, 3)
    assert world.platform.calls["start_training"] == 1
    assert world.ledger.tally().untrained == 0


def test_below_the_threshold_nothing_is_trained(world: World) -> None:
    """Nine of ten wait."""
    world.upload(*ENOUGH[:9])
    world.work()

    assert world.runs == []
    assert world.trainer.verdict().short_by == 1


def test_pictures_that_arrive_during_a_training_count_towards_the_next(world: World) -> None:
    """The next training starts when enough came after the start of the first, and not while that one runs."""
    world.upload(*ENOUGH)
    world.work(1)
    world.upload(*ENOUGH)
    assert world.trainer.verdict().reason.startswith("training plates-20260101-000000 is running")
    world.work(300)

    first, second = reversed(world.ledger.runs.history())
    assert (first.pictures, second.pictures) == (10, 20)
    assert first.ended_at is not None
    assert second.started_at is not None
    assert second.started_at >= first.ended_at


def test_the_platforms_minimum_is_waited_for(world: World) -> None:
    """Ten pictures in one category cannot be trained; the reason is told, nothing is asked of the platform."""
    world.upload(*("good",) * 10)
    world.work()

    assert world.platform.calls["start_training"] == 0
    assert "1 more category needed" in world.trainer.verdict().reason


def test_train_begins_from_the_beginning(world: World) -> None:
    """With `model.action: "train"` no base model is asked for."""
    world.upload(*ENOUGH)
    world.work()
    world.upload(*ENOUGH)
    world.work()

    assert [run.base for run in world.ledger.runs.history()] == ["", ""]


def test_retrain_continues_from_the_newest_trained_model(world: World) -> None:
    """The first time there is none; then it is the one before, found at the platform."""
    world.stage(continues=True)
    world.upload(*ENOUGH)
    world.work()
    world.upload(*ENOUGH)
    world.work()

    second, first = world.ledger.runs.history()
    assert first.base == ""
    assert second.base == first.task_id


@pytest.mark.parametrize(
    ("pretrained", "continues", "expected"),
    [("model-77", False, "model-77"), ("none", True, ""), ("latest", False, ""), (None, False, "")],
)
def test_pretrained_model_overrides_the_action(
    world: World, pretrained: str | None, continues: bool, expected: str
) -> None:
    """An id, `latest` or `none` is obeyed whatever `action` says."""
    world.stage(continues=continues, pretrained=pretrained)
    world.platform.fail_next("start_training", Refused("unknown model"))
    world.upload(*ENOUGH)
    world.work(10)

    assert [run.base for run in world.ledger.runs.history()] == [expected]


def test_strategy_and_architecture_are_passed_on_whole(world: World) -> None:
    """The platform gets what the configuration says, and how many pictures each category has."""
    world.stage(strategy={"max_iter": 100, "own_key": "x"}, nn_arch="frcnn")
    plans = []
    start = world.platform.start_training

    def noted(plan):
        plans.append(plan)
        return start(plan)

    world.platform.start_training = noted  # type: ignore[method-assign]
    world.upload(*ENOUGH)
    world.work(10)

    assert dict(plans[0].strategy) == {"max_iter": 100, "own_key": "x"}
    assert (plans[0].nn_arch, dict(plans[0].categories)) == ("frcnn", {"good": 5, "scratch": 5})
    assert len(list(plans[0].contents())) == 10


def test_a_refused_start_is_told_and_tried_again_later(world: World) -> None:
    """The counter keeps its pictures, and after five minutes it is tried once more."""
    world.platform.fail_next("start_training", Refused("no GPU is free"))
    world.upload(*ENOUGH)
    world.work(REFUSAL_WAIT - 60)
    assert world.runs == [RunState.REFUSED]
    assert "no GPU is free" in world.trainer.verdict().reason
    world.work(300)

    assert world.runs == [RunState.TRAINED, RunState.REFUSED]


def test_a_server_that_cannot_be_reached_leaves_no_trace(world: World) -> None:
    """Nothing was started: the same training is begun again when the server is back."""
    world.platform.fail_next("start_training", Transient("no answer"))
    world.upload(*ENOUGH)
    world.trainer.step(world.now)
    assert world.runs == []
    assert world.ledger.troubles()[0].stage == "training"
    world.work()

    assert world.runs == [RunState.TRAINED]
    assert world.ledger.troubles() == []


def test_a_start_whose_answer_was_lost_is_found_by_name(world: World) -> None:
    """It is adopted, not started a second time."""
    world.platform.fail_next("start_training", Ambiguous("the connection broke"), after=True)
    world.upload(*ENOUGH)
    world.work()

    assert world.platform.calls["start_training"] == 1
    assert world.runs == [RunState.TRAINED]


def test_a_start_that_never_arrived_is_repeated_after_the_grace_time(world: World) -> None:
    """Absence is believed after `model.grace` seconds, not before."""
    world.stage(grace=600)
    world.platform.fail_next("start_training", Ambiguous("the connection broke"))
    world.upload(*ENOUGH)
    world.work(590)
    assert world.platform.calls["start_training"] == 1
    world.work(120)

    assert world.platform.calls["start_training"] == 2
    assert world.runs == [RunState.TRAINED]


def test_after_a_crash_between_writing_down_and_starting_the_platform_is_asked(world: World) -> None:
    """A run that was being started when the process died is adopted if it is there."""
    world.upload(*ENOUGH)
    run = world.ledger.runs.begin("plates-20260101-000000", "")
    assert run is not None
    assert world.ledger.runs.doubt_all(not_before=world.unix + 600) == 1
    world.work(700)

    assert world.platform.calls["start_training"] == 1
    assert world.runs == [RunState.TRAINED]


def test_a_failed_training_is_told_with_the_platforms_reason(world: World) -> None:
    """It is not repeated by itself."""
    world.upload(*ENOUGH)
    world.platform.progress = lambda task_id: Progress(Phase.FAILED, reason="out of memory")  # type: ignore[method-assign]
    world.work()

    (run,) = world.ledger.runs.history()
    assert (run.state, run.reason) == (RunState.FAILED, "out of memory")
    assert world.platform.calls["start_training"] == 1


def test_a_training_that_somebody_deleted_is_told(world: World) -> None:
    """It ends as failed instead of being waited for without end."""
    world.upload(*ENOUGH)
    world.platform.fail_next("progress", NotFound("there is no such task"))
    world.work()

    (run,) = world.ledger.runs.history()
    assert run.state is RunState.FAILED
    assert "no longer knows" in run.reason


def test_trouble_while_following_ends_nothing(world: World) -> None:
    """A platform that does not answer for a while is asked again."""
    world.upload(*ENOUGH)
    world.platform.fail_next("progress", Transient("no answer"), times=3)
    world.work()

    assert world.runs == [RunState.TRAINED]


def test_a_training_asked_for_by_a_person_starts_at_once(world: World) -> None:
    """`image-sync train` needs no threshold."""
    world.stage(training=10**6)
    world.upload(*ENOUGH)
    world.ledger.runs.request()
    world.work()

    assert world.runs == [RunState.TRAINED]


def test_two_trainings_never_share_a_name(world: World) -> None:
    """Within one second the stamp moves on."""
    world.upload(*ENOUGH)
    run = world.ledger.runs.begin("plates-20260101-000000", "")
    assert run is not None
    world.ledger.runs.refused(run.id, "no")
    world.ledger.runs.request()
    world.trainer.step(world.now)

    assert world.ledger.runs.history(1)[0].name == "plates-20260101-000001"


def test_after_stop_no_training_is_begun(world: World) -> None:
    """A stage that is told to stop starts nothing."""
    world.upload(*ENOUGH)
    world.stop.set()
    world.work()

    assert world.platform.calls["start_training"] == 0


def test_the_newest_model_of_a_name_is_chosen_by_time() -> None:
    """Models of other names, even longer ones, do not count."""
    models = [
        Model("1", "plates-20260101-000000", "d", created_at=1.0),
        Model("2", "plates-20260102-000000", "d", created_at=2.0),
        Model("3", "other-20260103-000000", "d", created_at=3.0),
        Model("4", "platesxl-20260104-000000", "d", created_at=4.0),
    ]

    chosen = newest_of("plates", models)

    assert chosen is not None
    assert chosen.id == "2"
    assert newest_of("none", models) is None
