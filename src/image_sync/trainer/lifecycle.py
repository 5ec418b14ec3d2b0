"""What becomes of a model once its training has ended: judged, deployed, others retired, old ones deleted.

Models are called ``<name>-<UTC yyyymmdd-hhmmss>``, by which they are known as ours.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from image_sync.backoff import Backoff
from image_sync.config.model import Model as TrainingSettings
from image_sync.domain import ModelOutcome, NextStep, Training
from image_sync.errors import ImageSyncError, NotFound, Refused, Transient, Unsupported
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Model, Platform

STAGE = "models"
_IDLE = 60.0
_TIME = re.compile(r"-\d{8}-\d{6}$")
_APART = " (each measured on its own held-out pictures, which differ)"
_EQUAL = 1e-9  # accuracies come as decimal fractions: 0.9 + 0.05 is a hair more than 0.95

log = get_logger(__name__)


def stamped(name: str, unix: float, taken: Collection[str]) -> str:
    """The name with the time, moved on by a second for as long as it is taken.

    >>> stamped("plates", 0, {"plates-19700101-000000"})
    'plates-19700101-000001'
    """
    second = int(unix)
    while (full := f"{name}-{datetime.fromtimestamp(second, UTC):%Y%m%d-%H%M%S}") in taken:
        second += 1
    return full


def stem_of(full: str) -> str:
    """The name without its time.

    >>> stem_of("plates-xl-20260101-000000"), stem_of("plates")
    ('plates-xl', 'plates')
    """
    return _TIME.sub("", full)


def of_name(name: str, models: Iterable[Model]) -> list[Model]:
    """Those called ``<name>-<time>``, or ``<name>`` itself, newest first."""
    ours = [model for model in models if stem_of(model.name) == name]
    return sorted(ours, key=lambda model: -(model.created_at or 0.0))


class Decision(NamedTuple):
    """Whether a new model is deployed."""

    deploy: bool
    reason: str
    """One clause; never empty."""


def judge(settings: TrainingSettings, accuracy: float | None, deployed: Iterable[Model]) -> Decision:
    """Hold a new model against the rules.

    Args:
        settings: ``deploy``, ``min_gain`` and ``min_accuracy``.
        accuracy: of the new model, 0 to 1; None when the platform does not tell it.
        deployed: the other models of this name that are deployed; looked at only for ``better``.
    """
    word = "mAP" if settings.is_detection else "accuracy"  # what the platform's figure is called
    if settings.deploy == "never":
        return Decision(False, 'model.deploy is "never"')
    if settings.min_accuracy is not None:
        if accuracy is None:
            return Decision(False, "its accuracy is not known, and model.min_accuracy is set")
        if accuracy < settings.min_accuracy - _EQUAL:
            return Decision(False, f"{word} {accuracy:.3f} is below model.min_accuracy {settings.min_accuracy:g}")
    if settings.deploy == "always":
        return Decision(True, 'model.deploy is "always"')
    rivals = list(deployed)
    if not rivals:
        return Decision(True, "no other model of this name was deployed")
    if accuracy is None:
        return Decision(False, "its accuracy is not known, so it cannot be shown to be better")
    unknown = next((model for model in rivals if model.accuracy is None), None)
    if unknown is not None:
        return Decision(False, f"the accuracy of {unknown.name}, which is deployed, is not known")
    rival = max(rivals, key=lambda model: model.accuracy or 0.0)
    best = rival.accuracy or 0.0
    gain = f" and model.min_gain {settings.min_gain:g}" if settings.min_gain else ""
    # Each figure rests on the pictures that were held out of its own training: they are not the same ones.
    held = f"the {best:.3f} of {rival.name}, which is deployed{gain}{_APART}"
    if accuracy < best + settings.min_gain - _EQUAL:
        return Decision(False, f"{word} {accuracy:.3f} does not reach {held}")
    return Decision(True, f"{word} {accuracy:.3f} reaches {held}")


class Keeper:
    """Takes the next step of each ended training, the oldest first.

    Each step is written off when it is done, and may be done twice: deploying and undeploying look first, a model
    that is gone is no error. What cannot be done now is tried again later without holding up trainings.

    Args:
        backoff: the platform's. clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        settings: TrainingSettings,
        stop: threading.Event,
        backoff: Backoff,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._lifecycle = ledger.lifecycle
        self._models = platform.models
        self._settings = settings
        self._stop = stop
        self._clock = clock
        self._always = not platform.traits.keeps_models
        self._steps = {NextStep.JUDGE: self._judge, NextStep.DEPLOY: self._deploy, NextStep.RETIRE: self._retire_others}
        self.backoff = backoff.stage(STAGE)

    @property
    def busy(self) -> bool:
        """Whether something is owed that was not tried in vain just now."""
        return self.backoff.error is None and self._lifecycle.owing() is not None

    def step(self) -> float:
        """Do what can be done. Returns seconds until it wants to be called again."""
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        try:
            while (training := self._lifecycle.owing()) is not None and not self._stop.is_set():
                self._steps.get(training.owed, self._tidy)(training)
        except ImageSyncError as error:
            return 0.0 if self._stop.is_set() else self.backoff.failed(error)
        self.backoff.succeeded()
        return _IDLE

    def _judge(self, training: Training) -> None:
        if self._always:
            decision = Decision(True, "it answers as soon as it is trained")
        else:
            others: list[Model] = []
            if self._settings.deploy == "better":
                named = of_name(stem_of(training.name), self._models.of_dataset(training.dataset))
                others = [model for model in named if model.deployed and model.name != training.name]
            decision = judge(self._settings, training.accuracy, others)
        self._lifecycle.decided(training.id, deploy=decision.deploy, reason=decision.reason)
        log.info("model.judged", model=training.name, deploy=decision.deploy, reason=decision.reason)

    def _deploy(self, training: Training) -> None:
        if self._settings.deploy == "never" and not self._always:
            reason = 'model.deploy was changed to "never" before it was deployed'
            self._lifecycle.not_deployed(training.id, ModelOutcome.DECLINED, reason)
            return
        try:
            model = self._model(training)
            log.info("model.deploying", model=training.name)
            self._models.deploy(model)
        except NotFound as error:
            reason = f"the platform no longer has the model ({error.what})"
            self._lifecycle.not_deployed(training.id, ModelOutcome.GONE, reason)
            log.error("model.gone", model=training.name, error=error.what)
        except (Refused, Unsupported) as error:
            self._lifecycle.not_deployed(training.id, ModelOutcome.REFUSED, error.what)
            hint = error.hint or f"deploy it later: image-sync models deploy {training.name}"
            log.error("model.not_deployed", model=training.name, error=error.what, hint=hint)
        else:
            self._lifecycle.is_deployed(training.id)
            log.info("model.deployed", model=training.name, accuracy=training.accuracy, reason=training.fate_reason)

    def _model(self, training: Training) -> Model:
        """The training's model, which some releases list only a little after the training has ended.

        Raises:
            Transient: it is not there yet. NotFound: it does not come any more.
        """
        model = self._models.of_task(training.task_id)
        if model is not None:
            return model
        if self._clock() - (training.ended_at or 0.0) < self._settings.grace:
            raise Transient(f"The model {training.name} is trained, but not at the platform yet")
        raise NotFound(f"There is no model {training.name} at the platform")

    def _retire_others(self, training: Training) -> None:
        """Take down the older ones of this name; the new one is ready by now."""
        for other in self._lifecycle.deployed():
            if other.id < training.id and stem_of(other.name) == stem_of(training.name):
                self._models.undeploy(Model(other.task_id, other.name, other.dataset.id))
                self._lifecycle.fated(other.id, ModelOutcome.RETIRED, f"replaced by {training.name}")
                log.info("model.undeployed", model=other.name, replaced_by=training.name)
        self._lifecycle.alone(training.id)

    def _tidy(self, training: Training) -> None:
        if self._settings.keep is not None:
            for model in self._surplus(training, self._settings.keep):
                self._delete(model, self._settings.keep)
        self._lifecycle.tidied(training.id)

    def _surplus(self, training: Training, keep: int) -> list[Model]:
        """The models of this name that are not to be kept: neither new, nor deployed, nor the best, nor needed."""
        models = of_name(stem_of(training.name), self._models.of_dataset(training.dataset))
        active = self._ledger.trainings.active()
        needed = {model.id for model in models[:keep]} | {
            self._settings.pretrained_model,
            active.base if active else None,
        }
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
        self._lifecycle.fated(mine.id, ModelOutcome.DELETED, reason)
        try:
            self._models.delete(model)
        except Refused as error:
            self._lifecycle.fated(mine.id, mine.fate, mine.fate_reason)
            log.warning("model.not_deleted", model=model.name, error=error.what)
        else:
            log.info("model.deleted", model=model.name, accuracy=model.accuracy, reason=reason)
