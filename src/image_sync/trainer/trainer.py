"""The training stage: starts a training when one is due, and has it followed to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from image_sync.backoff import Backoff
from image_sync.domain import Annotation, DatasetRef, Training, TrainingState, Verdict
from image_sync.errors import Ambiguous, ImageSyncError, Permanent, Unauthorised
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Platform, RemotePicture, TrainingPlan
from image_sync.tracker import Thresholds, imbalance, left_out, rare_labels_told, training_verdict
from image_sync.trainer.following import Follower
from image_sync.trainer.keeping import Keeper
from image_sync.trainer.naming import newest_of, stamped
from image_sync.trainer.recipe import Recipe

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
        recipe: what.
        stop: set when the program is to end: nothing new is begun then; a running training goes on at the platform.
        backoff: the platform's. clock: Unix time in seconds.
        looked: whether all folders were looked at since the program began; no training starts before.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        thresholds: Thresholds,
        recipe: Recipe,
        stop: threading.Event,
        backoff: Backoff,
        *,
        clock: Callable[[], float] = time.time,
        looked: Callable[[], bool] = lambda: True,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._thresholds = thresholds
        self._recipe = recipe
        self._stop = stop
        self._clock = clock
        self._looked = looked
        self._next_look = 0.0
        self._absent: tuple[int, float] | None = None
        self._said = ""
        self._follower = Follower(ledger, platform, recipe, clock)
        self.keeper = Keeper(ledger, platform, recipe, stop, backoff, clock)
        self.backoff = backoff.stage(STAGE)

    def step(self, now: float) -> float:
        """Start or follow, and do what is owed for trainings that ended.

        Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        try:
            run = self._ledger.trainings.active()
            pause = self._consider() if run is None else self._follow(run, now)
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
        if verdict.due and not self._looked():
            return _SHORTLY
        if verdict.due:
            self._start()
            return 0.0
        return _IDLE if verdict.wait is None else min(_IDLE, verdict.wait)

    def _start(self) -> None:
        dataset = self._ledger.target.dataset
        base, base_name = self._base(dataset)
        taken = {run.name for run in self._ledger.trainings.history()}
        name = stamped(self._recipe.name, self._clock(), taken)
        run = self._ledger.trainings.begin(name, base, base_name, without=self._left_out())
        if run is not None:
            self._launch(run)

    def _launch(self, run: Training) -> None:
        """Ask the platform for a training that is written down already."""
        plan = TrainingPlan(
            name=run.name,
            dataset=run.dataset,
            base=run.base,
            nn_arch=self._recipe.nn_arch,
            detection=self._recipe.detection,
            strategy=self._recipe.strategy,
            contents=self._contents,
        )
        base = run.base_name or run.base or None
        log.info("training.starting", model=run.name, pictures=run.pictures, base=base)
        warning = imbalance(self._ledger.trainings.trainable(), self._thresholds.max_ratio)
        if warning:
            log.warning("training.unbalanced", model=run.name, reason=warning)
        if self._thresholds.min_labelled is not None:
            rare = rare_labels_told(self._ledger.tally(), self._thresholds)
            if rare:
                log.warning("training.rare_labels", model=run.name, reason=rare)
        try:
            task_id = self._platform.trainings.start(plan)
        except Ambiguous as error:
            self._ledger.trainings.doubt(run.id, not_before=self._clock() + self._recipe.grace)
            log.warning("training.doubtful", model=run.name, error=error.what)
        except Unauthorised:
            self._give_up(run)  # it was not even looked at
            raise
        except Permanent as error:
            self._ledger.trainings.refused(run.id, error.what)
            log.error("training.refused", model=run.name, error=error.what, hint=error.hint)
        except ImageSyncError:
            self._give_up(run)
            raise
        else:
            self._ledger.trainings.started(run.id, task_id)
            log.info("training.started", model=run.name, task=task_id, pictures=run.pictures)

    def _give_up(self, run: Training) -> None:
        """Nobody was there. What was in doubt before stays so: an earlier request may still be carried out."""
        if run.doubts:
            self._ledger.trainings.doubt(run.id, not_before=self._clock() + self._recipe.grace)
        else:
            self._ledger.trainings.abandon(run.id)

    def _base(self, dataset: DatasetRef) -> tuple[str, str]:
        """Id and name of the model to continue from; both empty to start from the beginning.

        The newest one is asked of the platform, which lists only what is trained: a ledger may be younger than that.
        """
        wanted = self._recipe.pretrained
        if wanted is None:
            wanted = "latest" if self._recipe.continues else "none"
        if wanted == "none":
            return "", ""
        if wanted != "latest":
            known = self._ledger.trainings.named(wanted)
            return wanted, "" if known is None else known.name
        newest = newest_of(self._recipe.name, self._platform.models.of_dataset(dataset))
        if newest is None:
            log.info("training.no_base", model=self._recipe.name, reason="no trained model of this name yet")
            return "", ""
        return newest.id, newest.name

    def _left_out(self) -> dict[str, int]:
        return left_out(self._ledger.trainings.trainable(), self._thresholds)

    def _contents(self) -> Iterator[RemotePicture]:
        without = self._left_out()
        for remote_id, key, category, text in self._ledger.trainings.contents():
            if category in without:
                continue
            yield RemotePicture(remote_id, key, category, annotation=Annotation.from_text(text) if text else None)

    def _follow(self, run: Training, now: float) -> float:
        if now < self._next_look:
            return self._next_look - now
        if run.state is TrainingState.RUNNING:
            pause = self._follower.pause(run)
            self._next_look = now + pause
            self._follower.look(run, now)
            return pause
        between = max(0.05, min(_LOOK_AGAIN, self._recipe.grace / 4))
        self._next_look = now + between
        self._settle(run, now)
        return between

    def _settle(self, run: Training, now: float) -> None:
        """It is not known whether the training was started: ask for its name.

        Absence is believed at the second look at the earliest, and after the grace time on the monotonic clock.
        """
        found = self._platform.trainings.find(run.dataset, run.name)
        if run.state is TrainingState.STARTING:  # the ledger failed while it was being started
            self._ledger.trainings.doubt(run.id, not_before=self._clock() + self._recipe.grace)
        if found:
            self._ledger.trainings.started(run.id, found[0])
            self._next_look, self._absent = 0.0, None
            log.info("training.adopted", model=run.name, task=found[0])
        elif self._platform.traits.idempotent_starts:
            log.info("training.start_continued", model=run.name)
            self._ledger.trainings.again(run.id)
            self._launch(run)
        elif self._absent is None or self._absent[0] != run.id:
            self._absent = (run.id, now)
        elif now - self._absent[1] >= self._recipe.grace:
            self._absent, self._next_look = None, 0.0
            log.warning("training.not_started", model=run.name)
            self._ledger.trainings.again(run.id)
            self._launch(run)
