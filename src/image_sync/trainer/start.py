"""The training stage: starts a training when one is due, and has it followed to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import Annotation, DatasetRef, RemotePicture, Training, TrainingState, Verdict
from image_sync.errors import Ambiguous, ImageSyncError, Permanent, Unauthorised
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Platform, TrainingPlan
from image_sync.tracker import Thresholds, imbalance, left_out, rare_labels_told, training_verdict
from image_sync.trainer.follow import Follower
from image_sync.trainer.lifecycle import Keeper, of_name, stamped

STAGE = "training"
_IDLE = 5.0
_SHORTLY = 0.5
_LOOK_AGAIN = 15.0

log = get_logger(__name__)


class Trainer:
    """The training stage. One thread calls :meth:`step`.

    Args:
        ledger: what was uploaded, and where trainings are written down.
        platform: where trainings run.
        thresholds: when to train.
        settings: what: the section ``model``.
        stop: set when the program is to end: nothing new is begun then; a running training goes on at the platform.
        backoff: the platform's. clock: Unix time in seconds.
        looked: whether all folders were looked at since the program began; no training starts before.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        thresholds: Thresholds,
        settings: TrainingSettings,
        stop: threading.Event,
        backoff: Backoff,
        *,
        clock: Callable[[], float] = time.time,
        looked: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ledger = ledger
        self._trainings = ledger.trainings
        self._platform = platform
        self._thresholds = thresholds
        self._settings = settings
        self._stop = stop
        self._clock = clock
        self._looked = looked
        self._next_look = 0.0
        self._absent: tuple[int, float] | None = None
        self._said = ""
        self._follower = Follower(ledger, platform, settings, clock)
        self.keeper = Keeper(ledger, platform, settings, stop, backoff, clock)
        self.backoff = backoff.stage(STAGE)

    def step(self, now: float) -> float:
        """Start or follow, and take the next steps of trainings that ended.

        Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        try:
            training = self._trainings.active()
            pause = self._consider() if training is None else self._follow(training, now)
        except ImageSyncError as error:
            return 0.0 if self._stop.is_set() else self.backoff.failed(error)
        self.backoff.succeeded()
        return min(pause, self.keeper.step())

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
        if not verdict.due:
            return _IDLE if verdict.wait is None else min(_IDLE, verdict.wait)
        if not self._looked():
            return _SHORTLY
        base, base_name = self._base(self._ledger.target.dataset)
        taken = {training.name for training in self._trainings.history()}
        name = stamped(self._settings.name, self._clock(), taken)
        training = self._trainings.begin(name, base, base_name, without=self._left_out())
        if training is not None:
            self._launch(training)
        return 0.0

    def _launch(self, training: Training) -> None:
        """Ask the platform for a training that is written down already."""
        plan = TrainingPlan(
            name=training.name,
            dataset=training.dataset,
            base=training.base,
            nn_arch=self._settings.nn_arch or "",
            detection=self._settings.is_detection,
            strategy=self._settings.strategy,
            contents=self._contents,
        )
        base = training.base_name or training.base or None
        log.info("training.starting", model=training.name, pictures=training.pictures, base=base)
        warning = imbalance(self._trainings.trainable(), self._thresholds.max_ratio)
        if warning:
            log.warning("training.unbalanced", model=training.name, reason=warning)
        if self._thresholds.min_labelled is not None:
            rare = rare_labels_told(self._ledger.tally(), self._thresholds)
            if rare:
                log.warning("training.rare_labels", model=training.name, reason=rare)
        try:
            task_id = self._platform.trainings.start(plan)
        except Ambiguous as error:
            self._doubt(training)
            log.warning("training.doubtful", model=training.name, error=error.what)
        except Permanent as error:
            if isinstance(error, Unauthorised):  # it was not even looked at
                self._give_up(training)
                raise
            self._trainings.refused(training.id, error.what)
            log.error("training.refused", model=training.name, error=error.what, hint=error.hint)
        except ImageSyncError:
            self._give_up(training)
            raise
        else:
            self._trainings.started(training.id, task_id)
            log.info("training.started", model=training.name, task=task_id, pictures=training.pictures)

    def _doubt(self, training: Training) -> None:
        self._trainings.doubt(training.id, not_before=self._clock() + self._settings.grace)

    def _give_up(self, training: Training) -> None:
        """Nobody was there. What was in doubt before stays so: an earlier request may still be carried out."""
        if training.doubts:
            self._doubt(training)
        else:
            self._trainings.abandon(training.id)

    def _base(self, dataset: DatasetRef) -> tuple[str, str]:
        """Id and name of the model to continue from; both empty to start from the beginning.

        The newest one is asked of the platform, which lists only what is trained: a ledger may be younger than that.
        """
        wanted = self._settings.pretrained_model or ("latest" if self._settings.action == "retrain" else "none")
        if wanted == "none":
            return "", ""
        if wanted != "latest":
            known = self._trainings.named(wanted)
            return wanted, "" if known is None else known.name
        models = of_name(self._settings.name, self._platform.models.of_dataset(dataset))
        if not models:
            log.info("training.no_base", model=self._settings.name, reason="no trained model of this name yet")
            return "", ""
        return models[0].id, models[0].name

    def _left_out(self) -> dict[str, int]:
        return left_out(self._trainings.trainable(), self._thresholds)

    def _contents(self) -> Iterator[RemotePicture]:
        without = self._left_out()
        for remote_id, key, category, text in self._trainings.contents():
            if category not in without:
                annotation = Annotation.from_text(text) if text else None
                yield RemotePicture(remote_id, key, category, annotation=annotation)

    def _follow(self, training: Training, now: float) -> float:
        if now < self._next_look:
            return self._next_look - now
        if training.state is TrainingState.RUNNING:
            pause = self._follower.pause(training)
            self._next_look = now + pause
            self._follower.look(training, now)
        else:
            pause = max(0.05, min(_LOOK_AGAIN, self._settings.grace / 4))
            self._next_look = now + pause
            self._settle(training, now)
        return pause

    def _settle(self, training: Training, now: float) -> None:
        """It is not known whether the training was started: ask for its name.

        Absence is believed at the second look at the earliest, and after the grace time on the monotonic clock.
        """
        found = self._platform.trainings.find(training.dataset, training.name)
        if training.state is TrainingState.STARTING:  # the ledger failed while it was being started
            self._doubt(training)
        if found:
            self._trainings.started(training.id, found[0])
            self._next_look, self._absent = 0.0, None
            log.info("training.adopted", model=training.name, task=found[0])
        elif self._platform.traits.idempotent_starts:
            log.info("training.start_continued", model=training.name)
            self._trainings.again(training.id)
            self._launch(training)
        elif self._absent is None or self._absent[0] != training.id:
            self._absent = (training.id, now)
        elif now - self._absent[1] >= self._settings.grace:
            self._absent, self._next_look = None, 0.0
            log.warning("training.not_started", model=training.name)
            self._trainings.again(training.id)
            self._launch(training)
