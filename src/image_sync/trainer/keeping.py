"""Does what is owed once a training has ended: judges its model, deploys it, retires others, deletes old ones."""

from __future__ import annotations

import threading
from collections.abc import Callable

from image_sync.backoff import Backoff
from image_sync.domain import ModelOutcome, NextStep, Training
from image_sync.errors import ImageSyncError, NotFound, Refused, Transient, Unsupported
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Model, Platform
from image_sync.trainer.judging import Decision, judge
from image_sync.trainer.naming import of_name, stem_of
from image_sync.trainer.recipe import Recipe

STAGE = "models"
_IDLE = 60.0

log = get_logger(__name__)


class Keeper:
    """Pays the debts of ended trainings, the oldest first.

    Each step is written off when it is done, and may be done twice: deploying and undeploying look first, a model
    that is gone is no error. What cannot be done now is tried again later without holding up trainings.

    Args:
        backoff: the platform's. clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        recipe: Recipe,
        stop: threading.Event,
        backoff: Backoff,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._recipe = recipe
        self._stop = stop
        self._clock = clock
        self._always = not platform.traits.keeps_models
        self.backoff = backoff.stage(STAGE)

    @property
    def busy(self) -> bool:
        """Whether something is owed that was not tried in vain just now."""
        return self.backoff.error is None and self._ledger.lifecycle.owing() is not None

    def step(self) -> float:
        """Pay what can be paid. Returns seconds until it wants to be called again."""
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        try:
            while (run := self._ledger.lifecycle.owing()) is not None and not self._stop.is_set():
                self._pay(run)
        except ImageSyncError as error:
            return 0.0 if self._stop.is_set() else self.backoff.failed(error)
        self.backoff.succeeded()
        return _IDLE

    def _pay(self, run: Training) -> None:
        match run.owed:
            case NextStep.JUDGE:
                self._judge(run)
            case NextStep.DEPLOY:
                self._deploy(run)
            case NextStep.RETIRE:
                self._retire_others(run)
            case _:
                self._tidy(run)

    def _judge(self, run: Training) -> None:
        decision = self._decision(run)
        self._ledger.lifecycle.decided(run.id, deploy=decision.deploy, reason=decision.reason)
        log.info("model.judged", model=run.name, deploy=decision.deploy, reason=decision.reason)

    def _decision(self, run: Training) -> Decision:
        if self._always:
            return Decision(True, "it answers as soon as it is trained")
        others: list[Model] = []
        if self._recipe.deploy == "better":
            named = of_name(stem_of(run.name), self._platform.models.of_dataset(run.dataset))
            others = [model for model in named if model.deployed and model.name != run.name]
        return judge(self._recipe, run.accuracy, others)

    def _deploy(self, run: Training) -> None:
        lifecycle = self._ledger.lifecycle
        if self._recipe.deploy == "never" and not self._always:
            lifecycle.not_deployed(
                run.id, ModelOutcome.DECLINED, 'model.deploy was changed to "never" before it was deployed'
            )
            return
        try:
            model = self._model(run)
            log.info("model.deploying", model=run.name)
            self._platform.models.deploy(model)
        except NotFound as error:
            lifecycle.not_deployed(run.id, ModelOutcome.GONE, f"the platform no longer has the model ({error.what})")
            log.error("model.gone", model=run.name, error=error.what)
        except (Refused, Unsupported) as error:
            lifecycle.not_deployed(run.id, ModelOutcome.REFUSED, error.what)
            hint = error.hint or f"deploy it later: image-sync models deploy {run.name}"
            log.error("model.not_deployed", model=run.name, error=error.what, hint=hint)
        else:
            lifecycle.is_deployed(run.id)
            log.info("model.deployed", model=run.name, accuracy=run.accuracy, reason=run.fate_reason)

    def _model(self, run: Training) -> Model:
        """The run's model, which some releases list only a little after the training has ended.

        Raises:
            Transient: it is not there yet. NotFound: it does not come any more.
        """
        model = self._platform.models.of_task(run.task_id)
        if model is not None:
            return model
        if self._clock() - (run.ended_at or 0.0) < self._recipe.grace:
            raise Transient(f"The model {run.name} is trained, but not at the platform yet")
        raise NotFound(f"There is no model {run.name} at the platform")

    def _retire_others(self, run: Training) -> None:
        """Take down the older ones of this name; the new one is ready by now."""
        for other in self._ledger.lifecycle.deployed():
            if other.id < run.id and stem_of(other.name) == stem_of(run.name):
                self._platform.models.undeploy(Model(other.task_id, other.name, other.dataset.id))
                self._ledger.lifecycle.fated(other.id, ModelOutcome.RETIRED, f"replaced by {run.name}")
                log.info("model.undeployed", model=other.name, replaced_by=run.name)
        self._ledger.lifecycle.alone(run.id)

    def _tidy(self, run: Training) -> None:
        if self._recipe.keep is not None:
            for model in self._surplus(run, self._recipe.keep):
                self._delete(model, self._recipe.keep)
        self._ledger.lifecycle.tidied(run.id)

    def _surplus(self, run: Training, keep: int) -> list[Model]:
        """The models of this name that are not to be kept: neither new, nor deployed, nor the best, nor needed."""
        models = of_name(stem_of(run.name), self._platform.models.of_dataset(run.dataset))
        active = self._ledger.trainings.active()
        needed = {model.id for model in models[:keep]} | {self._recipe.pretrained, active.base if active else None}
        known = [model for model in models if model.accuracy is not None]
        if known:
            needed.add(max(known, key=lambda model: model.accuracy or 0.0).id)
        return [model for model in models if not model.deployed and model.id not in needed]

    def _delete(self, model: Model, keep: int) -> None:
        """Delete a model that this ledger started, and no other."""
        mine = self._ledger.trainings.named(model.id)
        if mine is None or mine.task_id != model.id or mine.owed not in {NextStep.NOTHING, NextStep.TIDY}:
            return
        reason = f"model.keep is {keep}, and it is neither deployed nor the best"
        self._ledger.lifecycle.fated(mine.id, ModelOutcome.DELETED, reason)
        try:
            self._platform.models.delete(model)
        except Refused as error:
            self._ledger.lifecycle.fated(mine.id, mine.fate, mine.fate_reason)
            log.warning("model.not_deleted", model=model.name, error=error.what)
        else:
            log.info("model.deleted", model=model.name, accuracy=model.accuracy, reason=reason)
