"""Starts and follows trainings: one of ours is a task for each tag that changed, and over when each of these is.

A Mobius SDK gives a training no name and lists no tasks, so what is under way is written down before each step, and
starting a training of the same name once more goes on where the first start was. The call that starts a task
(``custom/train``) is never repeated as long as its task may exist. When its answer got lost, two things can tell: the
scores of a sample of pictures, which change when the tag is trained, and the grace time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from image_sync.domain import DatasetRef
from image_sync.errors import Ambiguous, NotFound, PlatformError, Refused, Transient, Unsupported
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Progress, TrainingPlan
from image_sync.platforms.http import sanitize
from image_sync.platforms.mobius.api import DONE, NO_TASK, WAITING, Api, Reply
from image_sync.platforms.mobius.assign import Assigner
from image_sync.platforms.mobius.pictures import Pictures
from image_sync.platforms.mobius.records import (
    ASKED,
    ASKING,
    RESET,
    RESETTING,
    STARTED,
    TRAINED,
    Attempt,
    Records,
    Start,
    Tag,
    Training,
    short,
)
from image_sync.platforms.mobius.scores import changed, sample_of, score_fingerprint
from image_sync.platforms.mobius.tags import Naming, Rule, TagPlan

_log = get_logger(__name__)

_SLICE = 240.0
"""Seconds that one start takes at the most, about: whoever watches over the daemon wants a sign of life."""
_GOING = frozenset({Phase.WAITING.value, Phase.RUNNING.value})
_LOST = "the Mobius SDK no longer knows its task, as after a restart"


@dataclass(frozen=True, slots=True)
class _Work:
    """What the start of one tag needs to know.

    Attributes:
        until: monotonic time at which the rest is left to the next call.
    """

    run: str
    plan: TagPlan
    attempts: Mapping[str, Mapping[str, Attempt]]
    from_beginning: bool
    until: float

    def attempts_of(self, tag: Tag) -> Mapping[str, Attempt]:
        return self.attempts.get(short(tag.name), {})


class Trainings:
    """The training part of the platform.

    Args:
        grace: seconds in which a request without an answer may still be carried out, and a tag's training ends.
        clock: seconds, only their difference matters.
    """

    def __init__(
        self,
        api: Api,
        records: Records,
        pictures: Pictures,
        assigner: Assigner,
        naming: Naming,
        rule: Rule,
        *,
        grace: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._records = records
        self._pictures = pictures
        self._assigner = assigner
        self._naming = naming
        self._rule = rule
        self._grace = grace
        self._clock = clock
        self._slice = _SLICE
        self._starting = threading.Lock()
        self._following = threading.Lock()
        self._doubts: dict[tuple[str, str], float] = {}
        """(tag, step) -> when it was first seen that its outcome is not known."""
        self._complaints: dict[str, str] = {}
        """Task -> the failure that was reported of it once."""

    def start(self, plan: TrainingPlan) -> str:
        """Prepare and start every tag that changed; the same plan again goes on where it was.

        Raises:
            Transient: no task of this training was started. Ambiguous: call it again. Refused: nothing can be started.
        """
        if plan.detection:
            raise Unsupported("A Mobius SDK detects no objects", hint="Leave model.nn_arch out")
        with self._starting:
            dataset = plan.dataset
            training = self._records.training(short(plan.name)) or Training(plan.name, dataset.id, time.time())
            if training.complete:
                return training.id
            current = self._records.current(dataset.id)
            if plan.base and (current is None or plan.base != current.id):
                raise NotFound(
                    f"The Mobius SDK has no model {plan.base} to continue from",
                    hint="It keeps only what was trained last; leave model.pretrained_model out",
                )
            # In this order: what is assigned from here on is found by the next training.
            flying, attempts = self._pictures.in_flight, self._records.attempts()
            settled = {
                tag: {name: one for name, one in found.items() if name not in flying} for tag, found in attempts.items()
            }
            contents = ((one.remote_id, one.category) for one in plan.contents())
            tags = TagPlan(dataset, contents, self._naming, self._rule)
            current = self._records.current(dataset.id)  # one may have ended meanwhile
            for earlier in self._records.trainings(dataset.id):
                if earlier.name != plan.name and (current is None or earlier.name != current.name):
                    self._records.forget_training(earlier)
            work = _Work(plan.name, tags, settled, not plan.base, time.monotonic() + self._slice)
            return self._start_all(dataset, self._records.save_training(training), work)

    def find(self, dataset: DatasetRef, name: str) -> list[str]:
        """The training of this name, once all of it was started."""
        training = self._records.training(short(name))
        return [training.id] if training and training.complete and training.dataset == dataset.id else []

    def progress(self, task_id: str) -> Progress:
        """How many of its tags are done. Raises NotFound for a training that is not written down."""
        with self._following:
            training = self._records.training(task_id)
            if training is None:
                raise NotFound(f"There is no training {sanitize(task_id, 60)!r} of ours at the Mobius SDK")
            going = set()
            for name, state in training.tags.items():
                outcome = self._outcome(training, name) if state == STARTED else state
                if outcome in _GOING:
                    going.add(outcome)
                elif state == STARTED:
                    training = self._ended(training, name, outcome)
            if not going and training.ended is None:
                training = self._records.save_training(training, ended=time.time())
        total, done = len(training.tags), sum(state != STARTED for state in training.tags.values())
        if going:
            phase = Phase.RUNNING if done or Phase.RUNNING in going else Phase.WAITING
            return Progress(phase, iteration=done, iterations=total)
        good = {STARTED, TRAINED, RESET}
        failed = "; ".join(f"tag {name}: {why}" for name, why in training.tags.items() if why not in good)
        return Progress(Phase.FAILED if failed else Phase.TRAINED, iteration=total, iterations=total, reason=failed)

    def stop(self, task_id: str) -> None:
        """Not here."""
        raise Unsupported(
            f"The training {task_id} cannot be stopped: a Mobius SDK 1.5 documents no call for it",
            hint="Each tag takes minutes at most; wait until it has ended",
        )

    def log(self, task_id: str) -> Iterator[str]:
        """Not here."""
        raise Unsupported(f"A Mobius SDK keeps no log of the training {task_id}", hint="See its container's own output")

    # starting

    def _start_all(self, dataset: DatasetRef, training: Training, work: _Work) -> str:
        known = {tag.name: tag for tag in self._records.tags(dataset.id)}
        doubt: Ambiguous | None = None
        for name in sorted({*known, *work.plan.categories} - training.tags.keys()):
            tag = known.get(name) or Tag(name, dataset.id, work.plan.categories[name])
            if doubt and time.monotonic() > work.until:
                break
            try:
                outcome = self._start_one(tag, work)
            except Ambiguous as error:
                _log.warning("mobius.start_doubtful", tag=name, error=error.what)
                doubt = error
                continue
            except Transient as error:
                if doubt or not {STARTED, TRAINED}.isdisjoint(training.tags.values()):
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
        if start is not None and start.step == ASKED:
            if start.run == work.run:
                return STARTED
            tag, start = self._concluded(tag, start), None
        if start is not None and start.step == RESETTING:
            self._wait_out(tag, start)
        if start is not None and start.step == ASKING:
            if self._was_trained(tag, start):
                return TRAINED
            self._ask(tag, work.run, start.sample)
            return STARTED
        attempts, positives = work.attempts_of(tag), work.plan.positives(tag.name)
        if start is None and not work.plan.why_changed(tag):
            return ""
        if not positives:
            self._records.save(self._assigner.reset(tag, attempts, work.run), start=None)
            _log.info("mobius.reset", tag=tag.name, reason="no picture is left of it")
            return RESET
        if work.plan.lacks_negatives(tag.name):
            raise Refused(
                "there are no pictures of another category to tell it from",
                hint='Add another category or a folder _negative_, or set mobius.negatives to "none"',
            )
        tag = self._assigner.prepare(
            tag, work.plan, attempts, work.run, from_beginning=work.from_beginning, until=work.until
        )
        self._ask(tag, work.run, sample_of(positives, tag.negatives))
        return STARTED

    def _ask(self, tag: Tag, run: str, sample: tuple[str, ...]) -> None:
        """Start the task, written down before and after."""
        unasked = tag.start
        asking = Start(run, ASKING, "", tag.assigned, sample, score_fingerprint(self._api, tag.name, sample))
        self._records.save(tag, start=asking)
        try:
            task = self._api.train(tag.name)
        except Ambiguous:
            self._doubts[tag.name, ASKING] = self._clock()
            raise
        except (Refused, NotFound):
            self._records.save(tag, start=None)
            self._assigner.forget(tag.name)
            raise
        except PlatformError:
            self._records.save(tag, start=unasked)  # turned away: there is no task
            raise
        self._records.save(tag, start=replace(asking, step=ASKED, task=task))
        self._assigner.forget(tag.name)
        _log.info("mobius.tag_started", tag=tag.name, task=task, positives=tag.assigned.size)

    def _was_trained(self, tag: Tag, start: Start) -> bool:
        """Whether a task whose start got no answer was carried out. Raises Ambiguous as long as it may yet be."""
        now = score_fingerprint(self._api, tag.name, start.sample)
        if changed(start.fingerprint, now):
            self._doubts.pop((tag.name, ASKING), None)
            self._assigner.forget(tag.name)
            self._trained(tag, start)
            _log.info("mobius.training_adopted", tag=tag.name, reason="its scores have changed")
            return True
        self._wait_out(tag, start)
        hint = "" if start.fingerprint and now else "it is not known whether it was trained before"
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
        outcome = self._look(tag, start)
        if outcome in _GOING:
            raise Transient(f"An earlier training of the tag {tag.name} still goes on")
        if outcome == TRAINED:
            return self._records.tag(tag.name, tag.dataset, tag.category)
        return self._records.save(tag, start=None)

    # following

    def _look(self, tag: Tag, start: Start) -> str:
        """What the server says of the tag's task: a phase while it goes on, then TRAINED or why it failed.

        A failure is believed when it is told twice: the call itself can fail, and says so in the same words. A server
        that knows the task no longer may have finished it before it was restarted: the model's scores tell.
        """
        try:
            reply = self._api.status(start.task)
        except NotFound:
            reply = Reply("error", NO_TASK, {})
        if not reply.failed:
            self._complaints.pop(start.task, None)
            if reply.status not in DONE:
                return Phase.WAITING if reply.status in WAITING else Phase.RUNNING
            self._trained(tag, start)
            return TRAINED
        said = sanitize(reply.message) or "error, and no more"
        if self._complaints.get(start.task) != said:
            self._complaints[start.task] = said
            return Phase.RUNNING
        del self._complaints[start.task]
        if reply.message != NO_TASK:
            return f"the Mobius SDK says {said}"
        if not changed(start.fingerprint, score_fingerprint(self._api, tag.name, start.sample)):
            return _LOST
        self._trained(tag, start)
        return TRAINED

    def _trained(self, tag: Tag, start: Start) -> None:
        self._records.save(tag, trained=start.positives, model=start.run, start=None)

    def _outcome(self, training: Training, name: str) -> str:
        tag = self._records.tag(name, training.dataset)
        if tag.start is None or tag.start.run != training.name:
            # Written down of the tag, and then the process ended.
            return TRAINED if tag.model == training.name else "another training took its place"
        return self._look(tag, tag.start)

    def _ended(self, training: Training, name: str, outcome: str) -> Training:
        training = self._records.save_training(training, tags={**training.tags, name: outcome})
        tag = self._records.tag(name, training.dataset)
        if tag.start is not None and tag.start.run == training.name:
            self._records.save(tag, start=None)
        log = _log.info if outcome == TRAINED else _log.error
        log("mobius.tag_ended", tag=name, outcome=outcome)
        return training
