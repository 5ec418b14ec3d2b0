"""Work that outlives a request: trainings, one at a time, and chores such as imports and deployments."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import structlog

from image_sync_server.mvi import labels, models, tasks
from image_sync_server.mvi.models import ModelCache
from image_sync_server.mvi.request import Failure
from image_sync_server.mvi.store import NO_VIDEO, Store

if TYPE_CHECKING:
    from image_sync_server.learn.detector import Detector
    from image_sync_server.learn.learner import Model, Point

_log = structlog.stdlib.get_logger(__name__)
_PATIENCE = 30.0
"""Seconds to wait at the end for a learner that was told to stop."""


class Curve:
    """A bounded series of messages: when it is full every other point goes, the newest always stays.

    Args:
        most: how many points are kept.
    """

    def __init__(self, most: int) -> None:
        self._most = max(2, most)
        self._points: list[list[dict[str, str]]] = []
        self._stride = 1
        self._seen = 0
        self._last: list[dict[str, str]] = []
        self._lock = threading.Lock()

    def add(self, point: Point) -> None:
        messages = _messages(point)
        with self._lock:
            if self._seen % self._stride == 0:
                self._points.append(messages)
                if len(self._points) >= self._most:
                    del self._points[1::2]
                    self._stride *= 2
            self._seen += 1
            self._last = messages

    def as_json(self) -> list[dict[str, str]]:
        """All messages, oldest first."""
        with self._lock:
            points = list(self._points)
            if self._last and (not points or points[-1] is not self._last):
                points.append(self._last)
            return [message for point in points for message in point]


def _messages(point: Point) -> list[dict[str, str]]:
    # MVI writes all numbers as strings; one client reads remaining_time, IBM's document says remain_time.
    stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    remaining = f"{max(0.0, point.remaining):.0f}"
    messages = [
        {"type": "train_msg", "iter": str(point.iteration), "total_iter": str(point.total),
         "loss": f"{point.loss:.6g}", "remain_time": remaining, "remaining_time": remaining,
         "progress": f"{point.iteration / max(1, point.total):.4f}", "timestamp": stamp}
    ]  # fmt: skip
    if point.test_loss is not None:
        accuracy = "" if point.accuracy is None else f"{point.accuracy:.4f}"
        messages.append({"type": "test_msg", "iter": str(point.iteration), "loss": f"{point.test_loss:.6g}",
                         "accuracy": accuracy, "timestamp": stamp})  # fmt: skip
    return messages


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
        self.stopping = threading.Event()
        """Set when the server ends: long chores look at it."""
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._threads = [
            threading.Thread(target=self._train_all, name="mvi-training", daemon=True),
            threading.Thread(target=self._do_chores, name="mvi-chores", daemon=True),
        ]

    def start(self) -> None:
        """Settle what the last server left, then work."""
        for task_id in tasks.recover(self._store):
            self.train(task_id)
        for model_id in models.starting(self._store):
            self.chore(partial(models.start_deployment, self._store, self._cache, model_id))
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End promptly; a training under way is called failed."""
        self.stopping.set()
        with self._lock:
            if self._running is not None:
                self._running.stop.set()
        self._trainings.put(None)
        self._chores.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join(_PATIENCE)

    def train(self, task_id: str) -> None:
        self._trainings.put(task_id)

    def chore(self, work: Callable[[], None]) -> None:
        """Queue a piece of work; it answers for its own errors."""
        self._chores.put(work)

    def abort(self, task_id: str) -> None:
        """Stop a training that waits or runs, and wait until it has stopped. Raises Failure: 409 when it is over."""
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

    def _do_chores(self) -> None:
        while (work := self._chores.get()) is not None:
            if self.stopping.is_set():
                return
            try:
                work()
            except Exception:  # noqa: BLE001 - the next chore must have its turn
                _log.exception("chore.failed")

    def _train_all(self) -> None:
        while (task_id := self._trainings.get()) is not None:
            if self.stopping.is_set():
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
                if task["status"] == tasks.IDLE and not self.stopping.is_set():
                    self._running = running
            if self._running is not running:
                return
            tasks.set_status(self._store, task_id, tasks.PREPROCESSING)
        try:
            status, fault = self._outcome(running, task)
            if status != tasks.TRAINED:
                self._store.update("tasks", task_id, series=json.dumps(running.curve.as_json()))
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
                model = self._learnt(task, base, running)
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

    def _learnt(self, task: Any, base: Model | Detector | None, running: _Running) -> Model | Detector:
        """The model that a task asks for. Raises ValueError with a sentence for the user, and StopTraining."""
        from image_sync_server.learn import detector, learner, windows  # late, as above
        from image_sync_server.learn.windows import Mark

        begun = False

        def report(point: Point) -> None:
            nonlocal begun
            running.curve.add(point)
            if not begun:
                begun = True
                tasks.set_status(self._store, running.task_id, tasks.TRAINING)

        store, dataset_id, strategy = self._store, task["dataset_id"], json.loads(task["strategy"])
        if base is not None and base.usage != task["usage"]:
            raise ValueError(f"The model to continue from is of usage {base.usage}, not {task['usage']}.")
        if task["usage"] == tasks.CATEGORIES:
            rows = store.rows(
                "SELECT f.file_name, c.name FROM files f JOIN categories c ON c.id = f.category_id"
                f" WHERE f.dataset_id = ? AND {NO_VIDEO} ORDER BY f.seq",
                dataset_id,
            )
            samples = [learner.Sample(store.picture(dataset_id, row["file_name"]), row["name"]) for row in rows]
            teller = base if isinstance(base, learner.Model) else None
            return learner.train(samples, strategy, base=teller, report=report, stop=running.stop)
        # Labels that are too rare are left out, and pictures with no others: as with MVI, they are not empty.
        rare = json.loads(task["summary"]).get("rare_labels", {})
        pictures = []
        for name, boxes in labels.boxes(store, dataset_id).items():
            marks = [
                Mark(label, *(box[corner] for corner in labels.CORNERS)) for label, box in boxes if label not in rare
            ]
            if marks:
                pictures.append(windows.Marked(store.picture(dataset_id, name), tuple(marks)))
        finder = base if isinstance(base, detector.Detector) else None
        return detector.train(pictures, strategy, base=finder, report=report, stop=running.stop)

    def _keep(self, task: Any, model: Model | Detector, running: _Running) -> None:
        raw, table = model.to_bytes(), "tags" if model.usage == tasks.BOXES else "categories"
        rows = self._store.rows(f"SELECT id, name FROM {table} WHERE dataset_id = ?", task["dataset_id"])
        ids = {row["name"]: row["id"] for row in rows}
        same = {key: task[key] for key in ("name", "owner", "dataset_id", "nn_arch", "strategy", "summary",
                                           "project_group_id")}  # fmt: skip
        known = [{"category_id": ids.get(name, ""), "category_name": name} for name in model.names]
        # Model and state change together: whoever reads "trained" finds the model.
        with self._store.transaction():
            models.add(self._store, task["id"], model, raw, categories=known, **same)
            self._store.update("tasks", task["id"], series=json.dumps(running.curve.as_json()))
            tasks.set_status(self._store, task["id"], tasks.TRAINED)
