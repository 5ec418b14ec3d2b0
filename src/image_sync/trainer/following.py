"""Looks after the training that runs: how far it is, whether it ended, vanished or hangs."""

from __future__ import annotations

from collections.abc import Callable

from image_sync.domain import Training
from image_sync.errors import NotFound
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Platform, Progress
from image_sync.trainer.passing import passes
from image_sync.trainer.recipe import Recipe

log = get_logger(__name__)


class Follower:
    """Writes down what the platform says of the running training.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(self, ledger: Ledger, platform: Platform, recipe: Recipe, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._platform = platform
        self._recipe = recipe
        self._clock = clock
        self._watched: tuple[int, float] | None = None

    def pause(self, run: Training) -> float:
        """Seconds until the next look: a short training is watched closely, a long one every ``poll`` seconds."""
        age = self._clock() - (run.started_at or 0.0)
        return min(self._recipe.poll, max(1.0, age / 10))

    def look(self, run: Training, now: float) -> None:
        """One look. ``now`` is monotonic time in seconds."""
        try:
            seen = self._platform.trainings.progress(run.task_id)
        except NotFound as error:
            if run.task_id in self._platform.trainings.find(run.dataset, run.name):
                log.warning("training.unreadable", model=run.name, task=run.task_id, error=error.what)
                return
            self._ledger.trainings.failed(run.id, f"the platform no longer knows this training ({error.what})")
            log.error("training.vanished", model=run.name, task=run.task_id)
            return
        self._ledger.trainings.progress(
            run.id,
            iteration=seen.iteration,
            iterations=seen.iterations,
            loss=seen.loss,
            accuracy=seen.accuracy,
            remaining=seen.remaining,
            curve=seen.curve,
        )
        if seen.anew and run.base:
            self._ledger.trainings.from_the_beginning(run.id)
            log.warning("training.not_continued", model=run.name, base=run.base_name or run.base, reason=seen.anew)
        if seen.phase is Phase.TRAINED:
            self._trained(run, seen)
        elif seen.phase is Phase.FAILED:
            self._failed(run, seen)
        elif self._age(run, now) > self._recipe.deadline:
            self._late(run)
        elif (seen.iteration or 0, seen.accuracy) != (run.iteration, run.accuracy):
            log.info(
                "training.progress",
                model=run.name,
                iteration=seen.iteration,
                of=seen.iterations,
                loss=seen.loss,
                accuracy=seen.accuracy,
            )

    def _trained(self, run: Training, seen: Progress) -> None:
        model = self._platform.models.of_task(run.task_id)
        accuracy = seen.accuracy if model is None or model.accuracy is None else model.accuracy
        self._ledger.trainings.trained(run.id, accuracy)
        self._alarm_if_double(run)
        log.info("training.trained", model=run.name, accuracy=accuracy, pictures=run.pictures, **_paid(seen))

    def _failed(self, run: Training, seen: Progress) -> None:
        reason = seen.reason or "the platform gave no reason"
        again = run.retry_of is None and (passes(reason) if seen.repeat is None else seen.repeat)
        self._ledger.trainings.failed(run.id, reason, retry=again)
        log.error("training.failed", model=run.name, reason=reason, tried_again=again, **_paid(seen))
        self._alarm_if_double(run)

    def _late(self, run: Training) -> None:
        reason = (
            f"it has not ended after {self._recipe.deadline:g} s (model.deadline); it may still run at the platform"
        )
        self._ledger.trainings.failed(run.id, reason, ended=False)
        hint = "stop it at the platform if it hangs; its pictures count as trained on"
        log.error("training.late", model=run.name, task=run.task_id, reason=reason, hint=hint)

    def _age(self, run: Training, now: float) -> float:
        """Seconds since it was started: by the calendar up to the first look, by the monotonic clock from then on."""
        if self._watched is None or self._watched[0] != run.id:
            age = max(0.0, self._clock() - (run.started_at or self._clock()))
            self._watched = (run.id, now - age)
        return now - self._watched[1]

    def _alarm_if_double(self, run: Training) -> None:
        """A start that was repeated after the grace time may have been carried out twice all the same."""
        found = self._platform.trainings.find(run.dataset, run.name) if run.doubts else []
        if len(found) > 1:
            hint = "the platform carried out two starts: delete the model that you do not need, and raise model.grace"
            log.error("training.double", model=run.name, tasks=found, hint=hint)


def _paid(seen: Progress) -> dict[str, float | str]:
    told = {"billed_seconds": seen.billed, "log": seen.log}
    return {name: value for name, value in told.items() if value}
