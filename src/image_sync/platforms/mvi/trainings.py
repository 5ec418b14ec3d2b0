"""Trainings at MVI: started, found by name, and followed through the odd moments of their status call."""

from __future__ import annotations

from collections.abc import Iterator

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound, PlatformError, Refused, Transient, Unanswered, Unsupported
from image_sync.platforms.base import Phase, Progress, TrainingPlan
from image_sync.platforms.mvi import wire
from image_sync.platforms.mvi.api import Api
from image_sync.platforms.mvi.models import Models

_CLASSIFIERS = {"", "none", "null", "default", "cic", "googlenet"}
"""Values of ``nn_arch`` that mean the platform's own image classifier; every other one is a detector."""
_DETECTOR = "frcnn"
"""The detector that IBM's own tool asks for when none is named."""
_PHASES = {
    "idle": Phase.WAITING,
    "preprocessing": Phase.WAITING,
    "training": Phase.RUNNING,
    "trained": Phase.TRAINED,
    "completed": Phase.TRAINED,
    "failed": Phase.FAILED,
    "aborted": Phase.FAILED,
}


class Trainings:
    """The training part of the platform."""

    def __init__(self, api: Api, models: Models) -> None:
        self._api = api
        self._models = models

    def start(self, plan: TrainingPlan) -> str:
        """Start a training and return its task id."""
        detection = plan.detection or plan.nn_arch.lower() not in _CLASSIFIERS
        task: dict[str, object] = {
            "action": "create-cod-task" if detection else "create",
            "usage": "cod" if detection else "cic",
            "name": plan.name,
            "dataset_id": plan.dataset.id,
        }
        if detection:
            task["nn_arch"] = plan.nn_arch or _DETECTOR
        if plan.strategy:
            task["strategy"] = dict(plan.strategy)
        if plan.base:
            task["pretrained_model"] = plan.base
        return self._api.create_task(task).task_id

    def find(self, dataset: DatasetRef, name: str) -> list[str]:
        """The ids of all trainings of this name, running or ended, oldest first.

        A model has its task's id, so one training counts once. Both lists are read: a person may have cleaned up one.
        """
        began: dict[str, float] = {}
        lists: tuple[Iterator[wire.Task | wire.TrainedModel], ...] = (self._api.tasks(), self._api.trained_models())
        for listed in lists:
            ours = [found for found in listed if (found.name, found.dataset_id) == (name, dataset.id)]
            for found in reversed(ours):
                began.setdefault(found.id, found.created_at or 0.0)
        return sorted(began, key=lambda task_id: began[task_id])

    def progress(self, task_id: str) -> Progress:
        """How far it is.

        Just when a training ends, the status call can fail although the training did not. So a failed call is
        believed only if the task itself and its model cannot be read either.
        """
        wire.checked(task_id, "training")
        try:
            status = self._api.task_status(task_id)
        except (NotFound, Refused, Transient) as error:
            if isinstance(error, Unanswered) or (isinstance(error, Transient) and error.retry_after is not None):
                raise  # nobody is there, or wants to be left alone
            status = wire.TaskStatus(status=self._cross_checked(task_id, error))
        phase = _PHASES.get(status.status.lower(), Phase.RUNNING)
        steps = [entry for entry in status.data if entry.iter is not None]
        tests = [entry for entry in status.data if entry.accuracy is not None]
        last = max(steps, key=lambda entry: (entry.iter or 0, entry.type == "train_msg"), default=None)
        losses = [entry for entry in steps if entry.loss is not None and entry.type != "test_msg"]
        accuracy = tests[-1].accuracy if tests else None
        if phase is Phase.TRAINED:
            accuracy = self._accuracy(task_id, accuracy)
        return Progress(
            phase,
            iteration=last.iter if last else None,
            iterations=max((entry.total_iter or 0 for entry in status.data), default=0) or None,
            loss=losses[-1].loss if losses else None,
            accuracy=accuracy,
            remaining=last.remaining if last and phase is Phase.RUNNING else None,
            curve=_curve(steps),
            reason=(status.fault or f"the platform says {status.status}") if phase is Phase.FAILED else "",
        )

    def stop(self, task_id: str) -> None:
        """Stop it, if it has not ended."""
        wire.checked(task_id, "training")
        task = self._api.task(task_id)
        phase = _PHASES.get(task.status.lower(), Phase.RUNNING)
        if task.status.lower() == "aborted":
            return
        if phase in {Phase.TRAINED, Phase.FAILED}:
            raise Refused(f"The training {task.name} has ended already: it is {task.status}")
        try:
            self._api.stop_task(task_id)
        except Refused as error:
            raise Refused(
                error.what, hint="This release may not take it: stop the training in MVI's own pages"
            ) from error

    def log(self, task_id: str) -> Iterator[str]:
        """Not here."""
        raise Unsupported(
            f"MVI has no log of the training {task_id} that can be read from outside",
            hint="`image-sync models plot` draws its curve; MVI's own pages show the rest",
        )

    def _cross_checked(self, task_id: str, error: PlatformError) -> str:
        try:
            return self._api.task(task_id).status
        except (NotFound, Refused, Transient):
            pass
        if self._models.of_task(task_id) is not None:
            return "trained"
        raise error

    def _accuracy(self, task_id: str, last_test: float | None) -> float | None:
        try:
            model = self._models.of_task(task_id)
        except Transient:
            return last_test
        return last_test if model is None or model.accuracy is None else model.accuracy


def _curve(steps: list[wire.StatusEntry]) -> tuple[tuple[int, float | None, float | None], ...]:
    """Loss (of what is learnt from) and accuracy (of what is held out) come in separate entries."""
    losses = {entry.iter: entry.loss for entry in steps if entry.type != "test_msg"}
    accuracies = {entry.iter: entry.accuracy for entry in steps if entry.accuracy is not None}
    iterations = sorted({entry.iter for entry in steps if entry.iter is not None})
    return tuple((iteration, losses.get(iteration), accuracies.get(iteration)) for iteration in iterations)
