"""Looks after the training that runs: how far it is, whether it ended, vanished or hangs."""

from __future__ import annotations

import re
from collections.abc import Callable

from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Training
from image_sync.errors import NotFound
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Platform, Progress

log = get_logger(__name__)

# Platforms give no code for it, only words, and most often English ones. What is not recognised is not repeated: a
# person who stopped a training, or a dataset that cannot be learnt, would only meet it again.
_TEMPORARY = re.compile(
    r"\bgpus?\b|memory|resources?\b|capacity|time[sd]?[ -]?out|restart|interrupt|evict|preempt|unavailable"
    r"|no space left|disk is full|connection|server (?:was |has )?(?:stopped|ended|shut)|\bbusy\b",
    re.IGNORECASE,
)


def is_temporary_failure(reason: str) -> bool:
    """Whether the platform's words name a cause that is likely to be gone a little later: a second try is worth it.

    >>> is_temporary_failure("No free GPU"), is_temporary_failure("It was stopped on request.")
    (True, False)
    """
    return _TEMPORARY.search(reason) is not None


class Follower:
    """Writes down what the platform says of the running training.

    Args:
        clock: Unix time in seconds.
    """

    def __init__(
        self, ledger: Ledger, platform: Platform, settings: TrainingSettings, clock: Callable[[], float]
    ) -> None:
        self._trainings = ledger.trainings
        self._platform = platform
        self._settings = settings
        self._clock = clock
        self._watched: tuple[int, float] | None = None

    def pause(self, training: Training) -> float:
        """Seconds until the next look: a short training is watched closely, a long one every ``poll`` seconds."""
        age = self._clock() - (training.started_at or 0.0)
        return min(self._settings.poll, max(1.0, age / 10))

    def look(self, training: Training, now: float) -> None:
        """One look. ``now`` is monotonic time in seconds."""
        try:
            seen = self._platform.trainings.progress(training.task_id)
        except NotFound as error:
            if training.task_id in self._platform.trainings.find(training.dataset, training.name):
                log.warning("training.unreadable", model=training.name, task=training.task_id, error=error.what)
                return
            self._trainings.failed(training.id, f"the platform no longer knows this training ({error.what})")
            log.error("training.vanished", model=training.name, task=training.task_id)
            return
        self._trainings.progress(
            training.id,
            iteration=seen.iteration,
            iterations=seen.iterations,
            loss=seen.loss,
            accuracy=seen.accuracy,
            remaining=seen.remaining,
            curve=seen.curve,
        )
        if seen.anew and training.base:
            self._trainings.from_the_beginning(training.id)
            base = training.base_name or training.base
            log.warning("training.not_continued", model=training.name, base=base, reason=seen.anew)
        if seen.phase is Phase.TRAINED or seen.phase is Phase.FAILED:
            self._ended(training, seen)
        elif self._age(training, now) > self._settings.deadline:
            deadline = f"{self._settings.deadline:g} s (model.deadline)"
            reason = f"it has not ended after {deadline}; it may still run at the platform"
            self._trainings.failed(training.id, reason, ended=False)
            hint = "stop it at the platform if it hangs; its pictures count as trained on"
            log.error("training.late", model=training.name, task=training.task_id, reason=reason, hint=hint)
        elif (seen.iteration or 0, seen.accuracy) != (training.iteration, training.accuracy):
            log.info(
                "training.progress",
                model=training.name,
                iteration=seen.iteration,
                of=seen.iterations,
                loss=seen.loss,
                accuracy=seen.accuracy,
            )

    def _ended(self, training: Training, seen: Progress) -> None:
        told = {"billed_seconds": seen.billed, "log": seen.log}
        paid = {name: value for name, value in told.items() if value}
        if seen.phase is Phase.TRAINED:
            model = self._platform.models.of_task(training.task_id)
            accuracy = seen.accuracy if model is None or model.accuracy is None else model.accuracy
            self._trainings.trained(training.id, accuracy)
            log.info("training.trained", model=training.name, accuracy=accuracy, pictures=training.pictures, **paid)
        else:
            reason = seen.reason or "the platform gave no reason"
            temporary = is_temporary_failure(reason) if seen.repeat is None else seen.repeat
            again = training.retry_of is None and temporary
            self._trainings.failed(training.id, reason, retry=again)
            log.error("training.failed", model=training.name, reason=reason, tried_again=again, **paid)
        # A start that was repeated after the grace time may have been carried out twice all the same.
        tasks = self._platform.trainings.find(training.dataset, training.name) if training.doubts else []
        if len(tasks) > 1:
            hint = "the platform carried out two starts: delete the model that you do not need, and raise model.grace"
            log.error("training.double", model=training.name, tasks=tasks, hint=hint)

    def _age(self, training: Training, now: float) -> float:
        """Seconds since it was started: by the calendar up to the first look, by the monotonic clock from then on."""
        if self._watched is None or self._watched[0] != training.id:
            age = max(0.0, self._clock() - (training.started_at or self._clock()))
            self._watched = (training.id, now - age)
        return now - self._watched[1]
