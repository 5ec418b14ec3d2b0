"""How what is marked in pictures gets to the platform: with them, after them, again when it changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Annotation, Box, DatasetRef, Tally
from image_sync.errors import NotFound, Refused, Transient
from image_sync.platforms.base import TrainingPlan
from image_sync.tracker import Thresholds, training_verdict
from image_sync.trainer.start import Trainer
from support.memory import MemoryPlatform
from support.world import World

HOLE = Annotation(40, 30, (Box("hole", 1.0, 2.0, 3.0, 4.0),))
DENT = Annotation(40, 30, (Box("dent", 5.0, 6.0, 7.0, 8.0), Box("dent", 9.0, 6.0, 12.0, 8.0)))
NOTHING = Annotation(40, 30)
OFFLINE = Transient("no connection")


class Noting(MemoryPlatform):
    """Counts how often each picture is marked, and lets something happen meanwhile."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.marked: Counter[str] = Counter()
        self.meanwhile: Callable[[], object] = lambda: None

    def annotate(self, dataset: DatasetRef, remote_id: str, annotation: Annotation) -> None:
        super().annotate(dataset, remote_id, annotation)
        self.marked[remote_id] += 1
        self.meanwhile()


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path, annotations="optional")
    made.platform = Noting(made.stop, clock=lambda: made.unix)
    made.stage(upload=1)
    return made


def marks(world: World) -> dict[str, Annotation | None]:
    """What is marked at the platform, by the stem of the picture."""
    dataset = world.platform.ensure_dataset("parts")
    return {
        one.key.partition(".")[0]: world.platform.annotation(one.remote_id) for one in world.platform.listing(dataset)
    }


def test_a_single_picture_is_sent_with_its_annotation(world: World) -> None:
    """One request for both."""
    world.put("good/1.jpg", marks=HOLE)
    world.work()

    assert marks(world) == {"1": HOLE}
    assert world.platform.calls["annotate"] == 0
    assert world.ledger.tally().unmarked == 0


def test_many_pictures_are_marked_once_each_whoever_else_is_at_work(world: World) -> None:
    """The reconciler, which takes turns all the while, leaves to the uploader what that sees to."""
    world.put("good/1.jpg", marks=HOLE)
    world.put("good/2.jpg", marks=DENT)
    world.put("good/3.jpg", marks=NOTHING)
    world.put("good/4.jpg")
    platform = world.platform
    assert isinstance(platform, Noting)
    platform.meanwhile = lambda: world.reconciler.step(world.now)
    world.work()

    assert marks(world) == {"1": HOLE, "2": DENT, "3": NOTHING, "4": None}
    assert list(platform.marked.values()) == [1, 1, 1]


def test_what_fails_is_paid_later(world: World) -> None:
    """The uploader goes on; the reconciler marks the rest when the platform answers again."""
    for number in range(4):
        world.put(f"good/{number}.jpg", marks=HOLE)
    world.platform.fail_next("annotate", OFFLINE, times=2)
    world.uploader.step(world.now)
    world.pass_time(20)
    world.uploader.step(world.now)
    assert (world.ledger.tally().confirmed, world.ledger.tally().unmarked) == (4, 4)
    world.work(30)

    assert set(marks(world).values()) == {HOLE}
    assert world.ledger.tally().unmarked == 0
    assert world.ledger.troubles() == []


def test_a_changed_annotation_is_sent_and_an_unchanged_one_is_not(world: World) -> None:
    """One call for one change."""
    world.put("good/1.jpg", "good/2.jpg", marks=HOLE)
    world.work()
    before = world.platform.calls["annotate"]
    world.put("good/1.jpg", marks=DENT)
    world.put("good/2.jpg", marks=HOLE)
    world.work()

    assert marks(world) == {"1": DENT, "2": HOLE}
    assert world.platform.calls["annotate"] == before + 1
    assert world.platform.calls["upload"] == 1


def test_one_refusal_is_told_and_does_not_stop_the_others(world: World) -> None:
    """It is not tried again by itself, and the stage is not paused for it."""
    world.put("good/1.jpg", "good/2.jpg", "good/3.jpg", marks=HOLE)
    world.platform.fail_next("annotate", Refused("too many boxes"), times=4)  # three by the uploader
    world.work(30)

    assert sorted(map(str, marks(world).values())) == sorted(map(str, (HOLE, HOLE, None)))
    assert world.ledger.annotations.refusals() == 1
    assert world.ledger.troubles() == []
    calls = world.platform.calls["annotate"]
    world.work(600)
    assert world.platform.calls["annotate"] == calls


def test_when_everything_is_refused_a_person_is_told_before_all_is_tried(world: World) -> None:
    """It is not the annotations, then; once it is mended, the rest goes on."""
    for number in range(12):
        world.put(f"good/{number:02}.jpg", marks=HOLE)
    world.platform.fail_next("annotate", Refused("labels are switched off"), times=12 + 5)
    world.work()

    assert [trouble.what for trouble in world.ledger.troubles()] == ["labels are switched off"]
    assert world.ledger.annotations.refusals() == 5
    world.work(400)
    assert world.ledger.tally().unmarked == 0
    assert Counter(map(str, marks(world).values())) == {str(HOLE): 7, str(None): 5}


def test_a_picture_that_is_gone_at_the_platform_is_not_asked_for_again(world: World) -> None:
    """Somebody deleted it there."""
    world.put("good/1.jpg", "good/2.jpg", marks=HOLE)
    world.work()
    world.platform.fail_next("annotate", NotFound("no such picture"))
    world.put("good/1.jpg", marks=DENT)
    world.work(60)

    assert world.ledger.tally().unmarked == 0
    assert world.ledger.troubles() == []


def test_a_picture_without_a_category_is_stored_without_one(world: World) -> None:
    """No category of an empty name is made."""
    world.put("1.jpg", "2.jpg", marks=HOLE)
    world.put("good/3.jpg", marks=HOLE)
    world.work()

    dataset = world.platform.ensure_dataset("parts")
    assert sorted(one.category for one in world.platform.listing(dataset)) == ["", "", "good"]
    world.put("good/1.jpg", content="1.jpg", marks=HOLE)
    world.ledger.files.gone(str(world.root).encode(), [b"1.jpg"])
    world.work()
    assert sorted(one.category for one in world.platform.listing(dataset)) == ["", "good", "good"]
    assert world.platform.calls["upload"] == 2


def trainer_of(world: World, plans: list[TrainingPlan]) -> Trainer:
    start = world.platform.start_training

    def noted(plan: TrainingPlan) -> str:
        plans.append(plan)
        return start(plan)

    world.platform.start_training = noted  # type: ignore[method-assign]
    thresholds = Thresholds(training=6, min_labelled=5)
    settings = TrainingSettings(name="plates", nn_arch="frcnn")
    return Trainer(
        world.ledger,
        world.platform,
        thresholds,
        settings,
        world.stop,
        Backoff(world.ledger.trouble, clock=lambda: world.now),
        clock=lambda: world.unix,
    )


def test_a_detection_waits_for_one_label_names_the_rare_ones_and_is_told_what_is_marked(
    world: World,
) -> None:
    """One label in enough pictures is enough; the contents of the plan carry all boxes."""
    plans: list[TrainingPlan] = []
    trainer = trainer_of(world, plans)
    for number in range(4):
        world.put(f"good/{number}.jpg", marks=HOLE)
    for number in range(4, 6):
        world.put(f"good/{number}.jpg", marks=DENT)
    world.work()
    assert trainer.verdict().reason == "waits for a label in 5 pictures; the most frequent, 'hole', is in 4"
    world.put("good/6.jpg", marks=HOLE)
    world.work()

    with capture_logs() as logs:
        trainer.step(world.now)

    (plan,) = plans
    assert plan.detection
    assert Counter(str(one.annotation) for one in plan.contents()) == {str(HOLE): 5, str(DENT): 2}
    (warning,) = [one for one in logs if one["event"] == "training.rare_labels"]
    assert "(5 are needed): 'dent' 2;" in warning["reason"]


def test_a_training_waits_for_boxes_that_are_on_their_way(world: World) -> None:
    """It says so; what is trained would not be what is drawn."""
    trainer = trainer_of(world, [])
    for number in range(6):
        world.put(f"good/{number}.jpg", marks=HOLE)
    world.work()
    world.put("good/0.jpg", marks=DENT)

    assert trainer.verdict().reason == "waits until 1 picture is annotated at the platform"


@pytest.mark.parametrize(
    ("labelled", "reason"),
    [
        ({}, "waits for pictures in which something is marked"),
        ({"hole": 3}, "waits for a label in 5 pictures; the most frequent, 'hole', is in 3"),
        ({"dent": 1, "hole": 4}, "waits for a label in 5 pictures; the most frequent, 'hole', is in 4"),
        ({"dent": 4, "hole": 3, "screw": 9}, "threshold reached"),
        ({"dent": 5, "hole": 6}, "threshold reached"),
    ],
)
def test_labels_decide_instead_of_categories(labelled: dict[str, int], reason: str) -> None:
    """However few categories there are."""
    tally = Tally(untrained=10, trainable={"": 10}, labelled=labelled)
    verdict = training_verdict(tally, Thresholds(training=10, min_labelled=5), now=1e9)

    assert (verdict.reason, verdict.due) == (reason, reason == "threshold reached")


def test_pictures_without_a_category_make_none() -> None:
    """A classification counts only what has a category."""
    tally = Tally(untrained=20, trainable={"": 3, "good": 10})
    verdict = training_verdict(tally, Thresholds(training=10), now=1e9)

    assert verdict.reason == "due, waits for 1 more category"
