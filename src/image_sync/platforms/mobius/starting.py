"""Starts trainings: one of ours is a task for each tag that changed.

A Mobius SDK gives a training no name and lists no tasks, so what is under way is written down before each step, and
starting a training of the same name once more goes on where the first start was. The call that starts a task
(``custom/train``) is never repeated as long as its task may exist. When its answer got lost, two things can tell:
the model's marks, which change when it is trained, and the grace time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Transient
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, TrainingPlan
from image_sync.platforms.mobius.api import Api
from image_sync.platforms.mobius.assigning import RESETTING, Assigning
from image_sync.platforms.mobius.following import Following
from image_sync.platforms.mobius.marks import marks_of, probes_of, proves
from image_sync.platforms.mobius.pictures import Pictures
from image_sync.platforms.mobius.records import RESET, STARTED, TRAINED, Attempt, Records, Start, Tag, Training
from image_sync.platforms.mobius.survey import Rule, Survey
from image_sync.platforms.mobius.tags import Naming, short

_log = get_logger(__name__)

_ASKING, _ASKED = "asking", "asked"
_SLICE = 240.0
"""Seconds that one call takes at the most, about: whoever watches over the daemon wants a sign of life."""
_AFOOT = frozenset({STARTED, TRAINED})


@dataclass(frozen=True, slots=True)
class _Work:
    """What the start of one tag needs to know."""

    run: str
    survey: Survey
    attempts: Mapping[str, Mapping[str, Attempt]]
    from_beginning: bool
    until: float
    """Monotonic time at which the rest is left to the next call."""

    def attempts_of(self, tag: Tag) -> Mapping[str, Attempt]:
        return self.attempts.get(short(tag.name), {})


class Starting:
    """The part that starts trainings.

    Args:
        grace: seconds in which a request without an answer may still be carried out, and a tag's training ends.
        clock: seconds, only their difference matters.
    """

    def __init__(
        self,
        api: Api,
        records: Records,
        pictures: Pictures,
        assigning: Assigning,
        following: Following,
        naming: Naming,
        rule: Rule,
        *,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._records = records
        self._pictures = pictures
        self._assigning = assigning
        self._following = following
        self._naming = naming
        self._rule = rule
        self._grace = grace
        self._clock = clock
        self._lock = threading.Lock()
        self._slice = _SLICE
        self._doubts: dict[tuple[str, str], float] = {}
        """(tag, step) -> when it was first seen that its outcome is not known."""

    def start(self, plan: TrainingPlan) -> str:
        """Prepare and start every tag that changed; the same plan again goes on where it was.

        Raises:
            Transient: no task of this training was started. Ambiguous: call it again. Refused: nothing can be started.
        """
        with self._lock:
            training = self._records.training(short(plan.name)) or Training(plan.name, plan.dataset.id, time.time())
            if training.complete:
                return training.id
            self._check_base(plan)
            # In this order: what is assigned from here on is found by the next training.
            flying, attempts = self._pictures.in_flight, self._records.attempts()
            settled = {
                tag: {name: one for name, one in found.items() if name not in flying} for tag, found in attempts.items()
            }
            contents = ((one.remote_id, one.category) for one in plan.contents())
            survey = Survey(plan.dataset, contents, self._naming, self._rule)
            self._tidy(plan)
            return self._start_all(
                plan.dataset,
                self._records.save_training(training),
                _Work(plan.name, survey, settled, not plan.base, time.monotonic() + self._slice),
            )

    def _start_all(self, dataset: DatasetRef, training: Training, work: _Work) -> str:
        known = {tag.name: tag for tag in self._records.tags(dataset.id)}
        doubt: Ambiguous | None = None
        for name in sorted({*known, *work.survey.categories} - training.tags.keys()):
            tag = known.get(name) or Tag(name, dataset.id, work.survey.categories[name])
            if doubt and time.monotonic() > work.until:
                break
            try:
                outcome = self._start_one(tag, work)
            except Ambiguous as error:
                _log.warning("mobius.start_doubtful", tag=name, error=error.what)
                doubt = error
                continue
            except Transient as error:
                if doubt or not _AFOOT.isdisjoint(training.tags.values()):
                    raise Ambiguous(f"{error.what}; other tags are being trained already") from error
                raise
            except (Refused, NotFound) as error:
                _log.error("mobius.start_refused", tag=name, error=error.what, hint=error.hint)
                outcome = str(error)
            if outcome:
                training = self._records.save_training(training, tags={**training.tags, name: outcome})
        if doubt is not None:
            raise doubt
        return self._finished(training)

    def _finished(self, training: Training) -> str:
        """Every tag was dealt with: the training's id, or Refused when there is none to follow."""
        if training.tags and {STARTED, TRAINED, RESET}.isdisjoint(training.tags.values()):
            self._records.forget_training(training)
            raise Refused("; ".join(f"tag {name}: {why}" for name, why in training.tags.items()))
        if not training.tags:
            _log.info("mobius.nothing_changed", model=training.name)
        return self._records.save_training(training, complete=True).id

    def _start_one(self, tag: Tag, work: _Work) -> str:
        """Bring one tag as far as to be trained. Returns what came of it; empty: there was nothing to do."""
        start = tag.start
        if start is not None and start.step == _ASKED:
            if start.run == work.run:
                return STARTED
            tag, start = self._concluded(tag, start), None
        if start is not None and start.step == RESETTING:
            self._wait_out(tag, start)
        if start is not None and start.step == _ASKING:
            if self._was_trained(tag, start):
                return TRAINED
            self._ask(tag, work.run, start.probes)
            return STARTED
        attempts, positives = work.attempts_of(tag), work.survey.positives(tag.name)
        if start is None and not work.survey.standing(tag, attempts).changed:
            return ""
        if not positives:
            self._records.save(self._assigning.reset(tag, attempts, work.run), start=None)
            _log.info("mobius.reset", tag=tag.name, reason="no picture is left of it")
            return RESET
        if work.survey.lacks_negatives(tag.name):
            raise Refused(
                "there are no pictures of another category to tell it from",
                hint='Add another category or a folder _negative_, or set mobius.negatives to "none"',
            )
        tag = self._assigning.prepare(
            tag, work.survey, attempts, work.run, from_beginning=work.from_beginning, until=work.until
        )
        self._ask(tag, work.run, probes_of(positives, tag.negatives))
        return STARTED

    def _ask(self, tag: Tag, run: str, probes: tuple[str, ...]) -> None:
        """Start the task, written down before and after."""
        unasked = tag.start
        asking = Start(run, _ASKING, "", tag.assigned, probes, marks_of(self._api, tag.name, probes))
        self._records.save(tag, start=asking)
        try:
            task = self._api.train(tag.name)
        except Ambiguous:
            self._doubts[tag.name, _ASKING] = self._clock()
            raise
        except (Refused, NotFound):
            self._records.save(tag, start=None)
            self._assigning.forget(tag.name)
            raise
        except PlatformError:
            self._records.save(tag, start=unasked)  # turned away: there is no task
            raise
        self._records.save(tag, start=replace(asking, step=_ASKED, task=task))
        self._assigning.forget(tag.name)
        _log.info("mobius.tag_started", tag=tag.name, task=task, positives=tag.assigned.size)

    def _was_trained(self, tag: Tag, start: Start) -> bool:
        """Whether a task whose start got no answer was carried out. Raises Ambiguous as long as it may yet be."""
        now = marks_of(self._api, tag.name, start.probes)
        if proves(start.marks, now):
            self._doubts.pop((tag.name, _ASKING), None)
            self._assigning.forget(tag.name)
            self._following.trained(tag, start)
            _log.info("mobius.training_adopted", tag=tag.name, reason="its scores have changed")
            return True
        self._wait_out(tag, start)
        hint = "" if start.marks and now else "it is not known whether it was trained before"
        _log.warning("mobius.asked_again", tag=tag.name, hint=hint)
        return False

    def _wait_out(self, tag: Tag, start: Start) -> None:
        """Raise Ambiguous until a request without an answer can no longer be carried out."""
        key = (tag.name, start.step)
        since = self._doubts.setdefault(key, self._clock())
        if self._clock() - since < self._grace:
            raise Ambiguous(f"It is not known yet what became of {start.step} the tag {tag.name}")
        del self._doubts[key]

    def _concluded(self, tag: Tag, start: Start) -> Tag:
        """The tag after a training that an earlier start of ours left behind. Raises Transient while that goes on."""
        outcome = self._following.look(tag, start)
        if outcome in {Phase.WAITING, Phase.RUNNING}:
            raise Transient(f"An earlier training of the tag {tag.name} still goes on")
        if outcome == TRAINED:
            return self._records.tag(tag.name, tag.dataset, tag.category)
        return self._records.save(tag, start=None)

    def _check_base(self, plan: TrainingPlan) -> None:
        current = self._following.current(plan.dataset)
        if plan.base and (current is None or plan.base != current.id):
            raise NotFound(
                f"The Mobius SDK has no model {plan.base} to continue from",
                hint="It keeps only what was trained last; leave model.pretrained_model out",
            )

    def _tidy(self, plan: TrainingPlan) -> None:
        """Forget all trainings but this one and the one whose models are in use."""
        current = self._following.current(plan.dataset)
        for training in self._records.trainings(plan.dataset.id):
            if training.name != plan.name and (current is None or training.name != current.name):
                self._records.forget_training(training)
