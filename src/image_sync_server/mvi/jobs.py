"""Work that outlives a request: trainings, one at a time, and chores such as imports and deployments."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from image_sync_server.mvi import training_job
from image_sync_server.mvi.answers import Failure
from image_sync_server.mvi.records import models, tasks
from image_sync_server.mvi.store import Store
from image_sync_server.mvi.training_job import Curve, ModelCache

if TYPE_CHECKING:
    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.learner import Point
    from image_sync_server.learn.model import Model

_log = structlog.stdlib.get_logger(__name__)
_PATIENCE = 30.0
"""Seconds to wait at the end for a learner that was told to stop."""


class _Running:
    """The training under way."""

    def __init__(self, task_id: str, points: int) -> None:
        self.task_id = task_id
        self.stop = threading.Event()
        self.aborted = False
        self.over = threading.Event()
        self.curve = Curve(points)


class Jobs:
    """The only place of the server that makes threads for work."""

    def __init__(self, store: Store, cache: ModelCache, points: int) -> None:
        self._store = store
        self._cache = cache
        self._points = points
        self._trainings: SimpleQueue[str | None] = SimpleQueue()
        self._chores: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._threads = [
            threading.Thread(target=self._train_all, name="mvi-training", daemon=True),
            threading.Thread(target=self._do_chores, name="mvi-chores", daemon=True),
        ]

    @property
    def stopping(self) -> threading.Event:
        """Set when the server ends: long chores look at it."""
        return self._stopping

    def start(self) -> None:
        """Settle what the last server left, then work."""
        tasks.recover_background(self._store)
        for task_id in tasks.recover(self._store):
            self._trainings.put(task_id)
        for deployment in models.deployments(self._store):
            if deployment["status"] == models.STARTING:
                self.chore(lambda model_id=deployment["_id"]: self.deploy(model_id))  # type: ignore[misc]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End promptly; a training under way is called failed."""
        self._stopping.set()
        with self._lock:
            if self._running is not None:
                self._running.stop.set()
        self._trainings.put(None)
        self._chores.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_PATIENCE)

    def train(self, task_id: str) -> None:
        """Queue a training."""
        self._trainings.put(task_id)

    def chore(self, work: Callable[[], None]) -> None:
        """Queue a piece of work; it answers for its own errors."""
        self._chores.put(work)

    def abort(self, task_id: str) -> None:
        """Stop a training that waits or runs, and wait until it has stopped.

        Raises:
            Failure: 409 when it is over.
        """
        with self._lock:
            running = self._running if self._running and self._running.task_id == task_id else None
            if running is not None:
                running.aborted = True
                running.stop.set()
            elif tasks.find(self._store, task_id)["status"] == tasks.IDLE:
                tasks.set_status(self._store, task_id, tasks.ABORTED, "It was stopped before it began.")
                return
            else:
                raise Failure(409, f"Training task {task_id} is over; there is nothing to stop.")
        running.over.wait(_PATIENCE)

    def curve(self, task_id: str) -> list[dict[str, str]] | None:
        """What the training under way has reported; None when this task is not the one."""
        with self._lock:
            running = self._running
        return running.curve.as_json() if running is not None and running.task_id == task_id else None

    def deploy(self, model_id: str) -> None:
        """Bring a model to memory and call its deployment ready."""
        try:
            self._cache.model(model_id)
        except (OSError, ValueError) as error:
            _log.warning("deployment.failed", model=model_id, reason=str(error))
            models.set_deployment(self._store, model_id, models.FAILED, "The model's file cannot be read.")
        else:
            models.set_deployment(self._store, model_id, models.READY)

    def _do_chores(self) -> None:
        while (work := self._chores.get()) is not None:
            if self._stopping.is_set():
                return
            try:
                work()
            except Exception:  # noqa: BLE001 - the next chore must have its turn
                _log.exception("chore.failed")

    def _train_all(self) -> None:
        while (task_id := self._trainings.get()) is not None:
            if self._stopping.is_set():
                return
            try:
                self._train_one(task_id)
            except Exception:  # noqa: BLE001 - the next training must have its turn
                _log.exception("training.lost", task=task_id)

    def _train_one(self, task_id: str) -> None:
        running = _Running(task_id, self._points)
        with self._lock:
            with suppress(Failure):  # it was deleted while it waited
                task = tasks.find(self._store, task_id)
                if task["status"] == tasks.IDLE and not self._stopping.is_set():
                    self._running = running
            if self._running is not running:
                return
            tasks.set_status(self._store, task_id, tasks.PREPROCESSING)
        try:
            status, fault = self._outcome(running, task)
            tasks.set_series(self._store, task_id, running.curve.as_json())
            if status != tasks.TRAINED:
                tasks.set_status(self._store, task_id, status, fault)
            _log.info("training.ended", task=task_id, status=status, fault=fault)
        finally:
            with self._lock:
                self._running = None
            running.over.set()

    def _outcome(self, running: _Running, task: Any) -> tuple[str, str]:
        # Late: scikit-learn takes a second to import, and a server may never train.
        from threadpoolctl import threadpool_limits

        from image_sync_server.learn.learner import StopTraining

        try:
            base = self._cache.model(task["base"]) if task["base"] else None
            # On a busy machine threads that share one small matrix wait for each other: ten times slower than one.
            with threadpool_limits(limits=1):
                model = training_job.run(self._store, task, base, self._reporter(running), running.stop)
            self._keep(task, model, running)
        except StopTraining:
            if running.aborted:
                return tasks.ABORTED, "It was stopped on request."
            return tasks.FAILED, "The server was stopped while this training was under way. Start it again."
        except ValueError as error:
            return tasks.FAILED, self._named(str(error), task["dataset_id"]) or "The learner refused this training."
        except Exception as error:  # noqa: BLE001 - whatever a learner does wrong, the task must not stay open
            _log.exception("training.broke", task=running.task_id)
            return tasks.FAILED, f"The learner broke off ({type(error).__name__}). The server's log says more."
        return tasks.TRAINED, ""

    def _named(self, fault: str, dataset_id: str) -> str:
        """A fault in words that mean something to the user: pictures by their own names too."""
        if self._store.row("SELECT 1 FROM datasets WHERE id = ?", dataset_id) is None:
            return "The dataset was deleted before its pictures were read."
        for word in fault.split():
            row = self._store.row(
                "SELECT original_file_name FROM files WHERE dataset_id = ? AND file_name = ?", dataset_id, word
            )
            if row is not None:
                return fault.replace(word, f"{row['original_file_name']} ({word})")
        return fault

    def _reporter(self, running: _Running) -> Callable[[Point], None]:
        begun = threading.Event()

        def report(point: Point) -> None:
            running.curve.add(point)
            if not begun.is_set():
                begun.set()
                tasks.set_status(self._store, running.task_id, tasks.TRAINING)

        return report

    def _keep(self, task: Any, model: Model | Detector, running: _Running) -> None:
        new, raw = training_job.model_of(self._store, task, model), model.to_bytes()
        # Model and state change together: whoever reads "trained" finds the model.
        with self._store.transaction():
            models.add(self._store, new, raw)
            tasks.set_series(self._store, running.task_id, running.curve.as_json())
            tasks.set_status(self._store, running.task_id, tasks.TRAINED)
