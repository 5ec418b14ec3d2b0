"""The switches of the platform in memory; what it shares with the others is in the contract suite."""

from __future__ import annotations

import threading
import time

import pytest

from image_sync.domain import Batch, DatasetRef
from image_sync.errors import Ambiguous, Refused, Transient
from image_sync.platforms.base import Phase, TrainingPlan
from image_sync_contract import held, read_held
from support.memory import MemoryPlatform


def batch_of(dataset: DatasetRef, category: str = "cat", count: int = 5) -> Batch:
    """A batch of so many pictures."""
    items = tuple(
        held(f"{category}{n}.jpg", 2, "0" * 64, lambda n=n: category[0].encode() + bytes([n]))  # type: ignore[misc]
        for n in range(count)
    )
    return Batch("b" * 32, dataset, category, items)


def test_fault_before_does_nothing() -> None:
    """A call that fails before it is carried out leaves no trace, and only so many calls fail."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.fail_next("upload", Transient("away"), times=2)
    for _ in range(2):
        with pytest.raises(Transient, match="away"):
            memory.upload(batch_of(dataset), read_held)
    assert list(memory.listing(dataset)) == []

    assert len(memory.upload(batch_of(dataset), read_held)) == 5
    assert memory.calls["upload"] == 3


def test_fault_after_loses_the_answer() -> None:
    """A call whose answer is lost was carried out, whole or in part."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    memory.fail_next("upload", Ambiguous("lost"), after=True, applied=2)
    with pytest.raises(Ambiguous):
        memory.upload(batch_of(dataset), read_held)
    assert set(memory.find(batch_of(dataset))) == {"cat0.jpg", "cat1.jpg"}


def test_repeating_stores_a_second_copy() -> None:
    """As at MVI, sending twice stores twice: whoever repeats blindly is found out."""
    memory = MemoryPlatform()
    dataset = memory.ensure_dataset("d")
    first = memory.upload(batch_of(dataset), read_held)
    memory.upload(batch_of(dataset), read_held)

    assert len(list(memory.listing(dataset))) == 10
    assert memory.find(batch_of(dataset)) == {outcome.key: outcome.remote_id for outcome in first}


def test_unknown_methods_cannot_fail() -> None:
    """A misspelt fault is a mistake of the test."""
    with pytest.raises(ValueError, match="no method uplaod"):
        MemoryPlatform().fail_next("uplaod", Transient("away"))


def test_delay_ends_with_the_program() -> None:
    """A delayed call takes its time, but not beyond the stop event."""
    stop = threading.Event()
    memory = MemoryPlatform(stop)
    memory.delay("sign_in", 0.05)
    began = time.monotonic()
    memory.sign_in()
    assert time.monotonic() - began >= 0.05
    memory.delay("sign_in", 60)
    stop.set()

    memory.sign_in()

    assert time.monotonic() - began < 10


def test_training_advances_with_each_look() -> None:
    """A training takes as many looks as it has steps; its model is there only then."""
    memory = MemoryPlatform(steps=3)
    dataset = memory.ensure_dataset("d")
    with pytest.raises(Refused, match="too small"):
        memory.start_training(TrainingPlan("m", dataset))
    for category in ("cat", "dog"):
        memory.upload(batch_of(dataset, category), read_held)
    task = memory.start_training(TrainingPlan("m", dataset))

    seen: list[Phase] = []
    while not seen or seen[-1] is not Phase.TRAINED:
        assert memory.model_of(task) is None
        seen.append(memory.progress(task).phase)

    assert seen == [Phase.RUNNING, Phase.RUNNING, Phase.TRAINED]
    model = memory.model_of(task)
    assert model is not None
    assert model.accuracy is None
    memory.deploy(model)
    assert [(one.category, one.confidence) for one in memory.predict(model, b"d\x01")] == [("dog", 1.0)]
    assert {one.category: one.confidence for one in memory.predict(model, b"?")} == {"cat": 0.5, "dog": 0.5}
