"""Stages towards a platform at which sending and starting twice is sending and starting once: nothing is waited for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import RemotePicture, TrainingState
from image_sync.errors import Ambiguous
from image_sync.platforms.base import TrainingPlan
from image_sync.tracker import Thresholds
from image_sync.trainer.start import Trainer
from support.world import World


class _Idempotent(World):
    """The usual world, with a platform that says so of itself, and that tells nothing of what it has."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        platform = self.platform
        platform.traits = replace(
            platform.traits, idempotent_uploads=True, idempotent_starts=True, lists_pictures=False
        )
        platform.find = lambda batch: {}  # type: ignore[method-assign]
        self.stage(upload=1)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = _Idempotent(tmp_path)
    yield made
    made.ledger.close()


def test_a_batch_in_doubt_is_sent_again_at_once(world: World) -> None:
    """Whether the first request was carried out does not matter."""
    world.platform.fail_next("upload", Ambiguous("lost"))
    world.put("cat/1.jpg")
    world.work(0)
    world.work(11)

    assert world.state_of("cat/1.jpg") == "confirmed"
    assert world.unix < 1_000_000 + 180


def test_what_cannot_be_listed_is_not_compared(world: World) -> None:
    """Before the first upload nothing is asked, and what was sent counts as sent."""
    world.ledger.remote_index.checked = False
    world.platform.ensure_dataset("parts")
    world.put("cat/1.jpg")
    world.work(11)

    assert world.state_of("cat/1.jpg") == "confirmed"
    assert world.platform.calls["listing"] == world.platform.calls["count"] == 0


def test_a_start_in_doubt_is_called_again_by_the_same_name(world: World) -> None:
    """The platform goes on where it was: the name and the pictures are those of the first call."""
    for number in range(5):
        for category in ("cat", "dog"):
            world.put(f"{category}/{number}.jpg")
    world.work(11)
    plans: list[TrainingPlan] = []
    contents: list[list[RemotePicture]] = []

    def start(plan: TrainingPlan) -> str:
        plans.append(plan)
        contents.append(list(plan.contents()))
        if len(plans) < 3:
            raise Ambiguous("not all of it is started")
        return "task-1"

    world.platform.start_training = start  # type: ignore[method-assign]
    thresholds = Thresholds(upload=1, training=10, trains=True, min_categories=1, min_pictures=1)
    trainer = Trainer(
        world.ledger,
        world.platform,
        thresholds,
        TrainingSettings(name="parts"),
        threading.Event(),
        Backoff(world.ledger.trouble, clock=lambda: world.now),
        clock=lambda: world.unix,
    )
    for _ in range(3):
        trainer.step(world.now)
        world.pass_time(16)

    (run,) = world.ledger.trainings.history()
    assert (run.state, run.task_id) == (TrainingState.RUNNING, "task-1")
    assert len({plan.name for plan in plans}) == 1
    assert [len(each) for each in contents] == [10, 10, 10]
