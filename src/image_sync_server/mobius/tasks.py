"""Trains tags, one after the other, in a thread of its own."""

from __future__ import annotations

import queue
import threading
import uuid
from dataclasses import dataclass
from typing import Any

import structlog

from image_sync_server.mobius.store import Store, labelled

_log = structlog.stdlib.get_logger(__name__)

_STRATEGY = {"max_iter": 150, "learning_rate": 0.005, "test_interval": 150}
_PATIENCE = 10.0


@dataclass(slots=True)
class Task:
    """One training of one tag."""

    id: str
    tag: str
    status: str = "in_queue"
    message: str = ""
    exception: str = ""

    def as_json(self) -> dict[str, Any]:
        """What ``/status/<task_id>`` answers."""
        fields = {"status": self.status, "message": self.message, "exception": self.exception}
        return {key: value for key, value in fields.items() if value}


class Tasks:
    """The queue, and the thread that works it off."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._queue: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mobius-server-tasks", daemon=True)
        self.all: dict[str, Task] = {}
        """Every task since the start, oldest first."""
        self.doomed = threading.Event()
        """While set, trainings fail."""
        self.gate = threading.Event()
        """While clear, the next task waits in the queue."""
        self.gate.set()

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self) -> None:
        """End promptly."""
        self._stop.set()
        self.gate.set()
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join(_PATIENCE)

    def train(self, tag: str) -> Task:
        """Queue a training."""
        task = Task(str(uuid.uuid4()), tag)
        self.all[task.id] = task
        self._queue.put(task)
        return task

    def _work(self) -> None:
        while (task := self._queue.get()) is not None:
            self.gate.wait()
            if self._stop.is_set():
                return
            task.message, task.status = "training", "ongoing"
            try:
                self._train(task.tag)
            except Exception as error:  # noqa: BLE001 - whatever went wrong, the next task must have its turn
                _log.info("mobius_server.training_failed", tag=task.tag, error=str(error))
                task.exception, task.message, task.status = str(error) or "stopped", "training_error", "error"
            else:
                task.message, task.status = "", "success"

    def _train(self, tag: str) -> None:
        # Late: scikit-learn takes a second to import, and a server may never train.
        from threadpoolctl import threadpool_limits

        from image_sync_server.learn import learner

        if self.doomed.is_set():
            raise ValueError("This failure was asked for.")
        rows = self._store.assigned(tag)
        positives, negatives = labelled(rows, "positive"), labelled(rows, "negative")
        if not negatives:
            negatives = sorted({*self._store.pictures()} - {*positives})
        samples = [
            learner.Sample(self._store.path(image), kind)
            for kind, images in (("positive", positives), ("negative", negatives))
            for image in images
        ]
        base = self._store.model(tag)
        with threadpool_limits(limits=1):
            model = learner.train(samples, _STRATEGY, base=base, report=lambda _point: None, stop=self._stop)
        self._store.keep_model(tag, model)
