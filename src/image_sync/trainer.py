"""Starts a training when one is due, follows it to its end, and writes down what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from image_sync.domain import DatasetRef, Run, RunState, Verdict
from image_sync.errors import Ambiguous, ImageSyncError, NotFound, Permanent
from image_sync.ledger import Ledger
from image_sync.logs import get_logger
from image_sync.platforms.base import Model, Phase, Platform, RemotePicture, TrainingPlan
from image_sync.setback import Setback
from image_sync.tracker import Thresholds, training_verdict

STAGE = "training"
_IDLE = 5.0
_LOOK_AGAIN = 15.0

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train. Times in seconds."""

    name: str
    """Models are called ``<name>-<UTC yyyymmdd-hhmmss>``."""
    continues: bool = False
    """``model.action: "retrain"``: begin with the newest model of this name in the dataset."""
    pretrained: str | None = None
    """``model.pretrained_model``: an id, ``latest`` or ``none``; overrides ``continues``."""
    nn_arch: str = ""
    strategy: Mapping[str, object] = field(default_factory=dict)
    grace: float = 600.0
    """So long an unconfirmed start may still be carried out at the platform."""
    poll: float = 15.0


class Trainer:
    """The training stage. One thread calls :meth:`step`.

    Args:
        ledger: what was uploaded, and where trainings are written down.
        platform: where trainings run.
        thresholds: when to train.
        recipe: what.
        stop: set when the program is to end: nothing new is begun then; a running training goes on at the platform.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        thresholds: Thresholds,
        recipe: Recipe,
        stop: threading.Event,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._thresholds = thresholds
        self._recipe = recipe
        self._stop = stop
        self._clock = clock
        self._next_look = 0.0
        self._absent: tuple[int, float] | None = None
        self._said = ""
        self.setback = Setback(STAGE, ledger)

    def step(self, now: float) -> float:
        """Start or follow. Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.setback.left(now):
            return self.setback.left(now)
        try:
            run = self._ledger.runs.active()
            pause = self._consider() if run is None else self._follow(run, now)
        except ImageSyncError as error:
            return 0.0 if self._stop.is_set() else self.setback.hit(error, now)
        self.setback.over()
        return pause

    def verdict(self) -> Verdict:
        """Whether a training is due now."""
        return training_verdict(self._ledger.tally(), self._thresholds, now=self._clock())

    def _consider(self) -> float:
        verdict = self.verdict()
        said = f"{verdict.have}/{verdict.need} {verdict.due} {verdict.wait is None and verdict.reason}"
        if said != self._said and (verdict.have or self._said):
            self._said = said
            log.info(
                "training.counted",
                uploaded=verdict.have,
                threshold=verdict.need,
                short_by=verdict.short_by,
                reason=verdict.reason,
            )
        if verdict.due:
            self._start()
            return 0.0
        return _IDLE if verdict.wait is None else min(_IDLE, verdict.wait)

    def _start(self) -> None:
        target = self._ledger.target
        dataset = DatasetRef(target.dataset_id, target.dataset_name)
        run = self._ledger.runs.begin(self._name(), self._base(dataset))
        if run is not None:
            self._launch(run)

    def _launch(self, run: Run) -> None:
        """Ask the platform for a training that is written down already."""
        plan = TrainingPlan(
            name=run.name,
            dataset=run.dataset,
            base=run.base,
            nn_arch=self._recipe.nn_arch,
            strategy=self._recipe.strategy,
            categories=self._ledger.runs.trainable(),
            contents=self._contents,
        )
        log.info("training.starting", model=run.name, pictures=run.pictures, base=run.base or None)
        try:
            task_id = self._platform.start_training(plan)
        except Ambiguous as error:
            self._ledger.runs.doubt(run.id, not_before=self._clock() + self._recipe.grace)
            log.warning("training.doubtful", model=run.name, error=error.what)
        except Permanent as error:
            self._ledger.runs.refused(run.id, error.what)
            log.error("training.refused", model=run.name, error=error.what, hint=error.hint)
        except ImageSyncError:
            self._give_up(run)
            raise
        else:
            self._ledger.runs.started(run.id, task_id)
            log.info("training.started", model=run.name, task=task_id, pictures=run.pictures)

    def _give_up(self, run: Run) -> None:
        """Nobody was there. What was in doubt before stays so: an earlier request may still be carried out."""
        if run.doubts:
            self._ledger.runs.doubt(run.id, not_before=self._clock() + self._recipe.grace)
        else:
            self._ledger.runs.abandon(run.id)

    def _base(self, dataset: DatasetRef) -> str:
        """The model to continue from: an id, or empty."""
        wanted = self._recipe.pretrained
        if wanted is None:
            wanted = "latest" if self._recipe.continues else "none"
        if wanted == "none":
            return ""
        if wanted != "latest":
            return wanted
        newest = newest_of(self._recipe.name, self._platform.models(dataset))
        if newest is None:
            log.info("training.no_base", model=self._recipe.name, reason="no trained model of this name yet")
        return "" if newest is None else newest.id

    def _name(self) -> str:
        """``<name>-<UTC stamp>``, moved on by a second for as long as the ledger has that name already."""
        taken = {run.name for run in self._ledger.runs.history()}
        second = int(self._clock())
        while (name := f"{self._recipe.name}-{datetime.fromtimestamp(second, UTC):%Y%m%d-%H%M%S}") in taken:
            second += 1
        return name

    def _contents(self) -> Iterator[RemotePicture]:
        for remote_id, key, category in self._ledger.runs.contents():
            yield RemotePicture(remote_id, key, category)

    def _follow(self, run: Run, now: float) -> float:
        if now < self._next_look:
            return self._next_look - now
        if run.state is RunState.RUNNING:
            # A short training is watched closely, a long one every ``poll`` seconds.
            age = self._clock() - (run.started_at or 0.0)
            pause = min(self._recipe.poll, max(1.0, age / 10))
            self._next_look = now + pause
            self._look(run)
            return pause
        between = max(0.05, min(_LOOK_AGAIN, self._recipe.grace / 4))
        self._next_look = now + between
        self._settle(run, now)
        return between

    def _settle(self, run: Run, now: float) -> None:
        """It is not known whether the training was started: ask for its name.

        Absence is believed at the second look at the earliest, and after the grace time on the monotonic clock.
        """
        found = self._platform.find_trainings(run.dataset, run.name)
        if run.state is RunState.STARTING:  # the ledger failed while it was being started
            self._ledger.runs.doubt(run.id, not_before=self._clock() + self._recipe.grace)
        if found:
            self._ledger.runs.started(run.id, found[0])
            self._next_look, self._absent = 0.0, None
            log.info("training.adopted", model=run.name, task=found[0])
        elif self._platform.describe().idempotent_starts:
            log.info("training.start_continued", model=run.name)
            self._ledger.runs.again(run.id)
            self._launch(run)
        elif self._absent is None or self._absent[0] != run.id:
            self._absent = (run.id, now)
        elif now - self._absent[1] >= self._recipe.grace:
            self._absent, self._next_look = None, 0.0
            log.warning("training.not_started", model=run.name)
            self._ledger.runs.again(run.id)
            self._launch(run)

    def _look(self, run: Run) -> None:
        try:
            seen = self._platform.progress(run.task_id)
        except NotFound as error:
            self._ledger.runs.failed(run.id, f"the platform no longer knows this training ({error.what})")
            log.error("training.vanished", model=run.name, task=run.task_id)
            return
        self._ledger.runs.progress(
            run.id,
            iteration=seen.iteration,
            iterations=seen.iterations,
            loss=seen.loss,
            accuracy=seen.accuracy,
            remaining=seen.remaining,
        )
        if seen.phase is Phase.TRAINED:
            model = self._platform.model_of(run.task_id)
            accuracy = seen.accuracy if model is None or model.accuracy is None else model.accuracy
            self._ledger.runs.trained(run.id, accuracy)
            self._alarm_if_double(run)
            log.info("training.trained", model=run.name, accuracy=accuracy, pictures=run.pictures)
        elif seen.phase is Phase.FAILED:
            reason = seen.reason or "the platform gave no reason"
            self._ledger.runs.failed(run.id, reason)
            log.error("training.failed", model=run.name, reason=reason)
            self._alarm_if_double(run)
        else:
            log.info(
                "training.progress",
                model=run.name,
                iteration=seen.iteration,
                of=seen.iterations,
                loss=seen.loss,
                accuracy=seen.accuracy,
            )

    def _alarm_if_double(self, run: Run) -> None:
        """A start that was repeated after the grace time may have been carried out twice all the same."""
        found = self._platform.find_trainings(run.dataset, run.name) if run.doubts else []
        if len(found) > 1:
            hint = "the platform carried out two starts: delete the model that you do not need, and raise model.grace"
            log.error("training.double", model=run.name, tasks=found, hint=hint)


def newest_of(name: str, models: list[Model]) -> Model | None:
    """The newest of our models of this name: ``<name>-<stamp>``, or ``<name>`` itself."""
    ours = [model for model in models if model.name == name or model.name.startswith(f"{name}-")]
    return max(ours, key=lambda model: model.created_at or 0.0, default=None)
