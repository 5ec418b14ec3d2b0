"""The training stage on a real ledger, with a platform in memory and clocks that a test turns."""

from __future__ import annotations

import tempfile
import threading
from dataclasses import replace
from pathlib import Path

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Batch, DatasetRef, Sighting, Stamp, Training, TrainingState
from image_sync.ledger import Ledger, open_ledger
from image_sync.platforms.base import Model, TrainingPlan
from image_sync.tracker import Thresholds
from image_sync.trainer.start import Trainer
from image_sync_contract import held, read_held
from support import temporary
from support.memory import MemoryPlatform, StoredTraining

LONG = 300 * 86_400.0
"""Longer than any training here, in seconds."""
ENOUGH = ("good",) * 5 + ("scratch",) * 5


class Graded(MemoryPlatform):
    """The platform in memory with accuracies that a test hands out, and a diary of what is done to models."""

    def __init__(self, *args, **options) -> None:
        super().__init__(*args, **options)
        self.next_accuracy: float | None = None
        self.accuracies: dict[str, float | None] = {}
        self.diary: list[str] = []

    def start_training(self, plan: TrainingPlan) -> str:
        task_id = super().start_training(plan)
        self.accuracies[task_id] = self.next_accuracy
        return task_id

    def deploy(self, model: Model) -> None:
        super().deploy(model)
        self.diary.append(f"deploy {model.id}")

    def undeploy(self, model: Model) -> None:
        super().undeploy(model)
        self.diary.append(f"undeploy {model.id}")

    def delete_model(self, model: Model) -> None:
        super().delete_model(model)
        self.diary.append(f"delete {model.id}")

    def _seen(self, training: StoredTraining) -> Model:
        seen = super()._seen(training)
        return replace(seen, accuracy=self.accuracies.get(seen.id))


class World:
    """A ledger with uploaded pictures, a platform that has them, and the stage, with clocks that a test turns."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.now = 1000.0
        self.unix = 1_767_225_600.0  # 2026-01-01 00:00 UTC
        self.platform = Graded(self.stop, clock=lambda: self.unix)
        self.dataset: DatasetRef = self.platform.ensure_dataset("parts")
        self.ledger: Ledger = self._opened()
        self.stage()
        self._numbers = iter(range(10**6))

    def _opened(self) -> Ledger:
        # In memory: what is tested is what is decided, in thousands of steps, and not what a disk does.
        ledger = open_ledger(Path(tempfile.mkdtemp(dir=temporary.FAST)), clock=lambda: self.unix)
        ledger.use_target("memory", "", "parts", "append", "parts")
        ledger.dataset(self.dataset)
        return ledger

    def forget(self) -> None:
        """Go on with another, empty ledger: a new machine."""
        self.ledger.close()
        self.ledger = self._opened()

    def stage(self, *, training: int = 10, max_ratio: float | None = None, **settings) -> Trainer:
        """A new process with these settings."""
        self.trainer = Trainer(
            self.ledger,
            self.platform,
            Thresholds(training=training, max_ratio=max_ratio),
            TrainingSettings(**{"name": "plates", "poll": 15, "deadline": LONG, **settings}),
            self.stop,
            Backoff(self.ledger.trouble, clock=lambda: self.now),
            clock=lambda: self.unix,
        )
        return self.trainer

    def upload(self, *categories: str) -> None:
        """Store one new picture in each category, at the platform and in the ledger."""
        sightings = []
        for category in categories:
            name = f"{next(self._numbers)}.jpg".encode()
            where = f"/p/{category}".encode()
            sightings.append(Sighting(where, name, Stamp(3, 1, 1, 1), category, name.hex().ljust(64, "0"), "jpg"))
        self.ledger.files.record(b"/p", sightings)
        self.ledger.batches.clear()
        while batch := self.ledger.batches.claim(self.dataset, 100, 1 << 20):
            items = tuple(held(one.key, 3, one.sha256, one.key.encode) for one in batch.pictures)
            outcomes = self.platform.upload(Batch(batch.id, self.dataset, batch.category, items), read_held)
            ids = {outcome.key: outcome.remote_id for outcome in outcomes}
            self.ledger.batches.confirm(batch.id, {one.picture_id: ids[one.key] for one in batch.pictures}, {})

    def work(self, seconds: float = 120.0) -> None:
        """Step, and let time pass as the stage wants it."""
        until = self.now + seconds
        for _ in range(5000):
            pause = self.trainer.step(self.now)
            if self.now >= until:
                return
            self.pass_time(max(0.1, pause))

    def pass_time(self, seconds: float) -> None:
        """Let it be later."""
        self.now += seconds
        self.unix += seconds

    def train(self, accuracy: float | None = None) -> Training:
        """One more training to its end, with all that follows it."""
        self.platform.next_accuracy = accuracy
        self.upload(*ENOUGH)
        self.work()
        run = self.ledger.trainings.history(1)[0]
        assert run.state is TrainingState.TRAINED
        return run

    def train_elsewhere(self, name: str, *, accuracy: float | None = None, finished: bool = True) -> str:
        """A training that this ledger knows nothing of; its id."""
        self.platform.next_accuracy = accuracy
        task_id = self.platform.start_training(TrainingPlan(name, self.dataset))
        while finished and self.platform.model_of(task_id) is None:
            self.platform.progress(task_id)
        return task_id

    @property
    def runs(self) -> list[TrainingState]:
        """The states of all trainings, newest first."""
        return [run.state for run in self.ledger.trainings.history()]
