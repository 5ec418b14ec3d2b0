"""Follows trainings: one of ours is over when each of its tags' tasks is."""

from __future__ import annotations

import threading
import time

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound
from image_sync.log import get_logger
from image_sync.platforms.base import Phase, Progress
from image_sync.platforms.http import sanitize
from image_sync.platforms.mobius import wire
from image_sync.platforms.mobius.api import Api
from image_sync.platforms.mobius.marks import marks_of, proves
from image_sync.platforms.mobius.records import RESET, STARTED, TRAINED, Records, Start, Tag, Training
from image_sync.platforms.mobius.tags import short

_log = get_logger(__name__)

_GOING = frozenset({Phase.WAITING.value, Phase.RUNNING.value})
_GOOD = frozenset({STARTED, TRAINED, RESET})
_LOST = "the Mobius SDK no longer knows its task, as after a restart"


class Following:
    """The part that looks at trainings."""

    def __init__(self, api: Api, records: Records) -> None:
        self._api = api
        self._records = records
        self._lock = threading.Lock()
        self._complaints: dict[str, str] = {}
        """Task -> the failure that was reported of it once."""

    def find(self, dataset: DatasetRef, name: str) -> list[str]:
        """The training of this name, once all of it was started."""
        training = self._records.training(short(name))
        return [training.id] if training and training.complete and training.dataset == dataset.id else []

    def current(self, dataset: DatasetRef) -> Training | None:
        """The training whose models are in use: the newest one that ended well for any tag."""
        ended = [one for one in self._records.trainings(dataset.id) if one.ended is not None and succeeded(one)]
        return max(ended, key=lambda one: one.ended or 0.0, default=None)

    def progress(self, task_id: str) -> Progress:
        """How many of its tags are done. Raises NotFound for a training that is not written down."""
        with self._lock:
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
        failed = [f"tag {name}: {why}" for name, why in training.tags.items() if why not in _GOOD]
        open_ = sum(state == STARTED for state in training.tags.values())
        total = len(training.tags)
        if going:
            phase = Phase.RUNNING if open_ < total or Phase.RUNNING in going else Phase.WAITING
            return Progress(phase, iteration=total - open_, iterations=total)
        phase = Phase.FAILED if failed else Phase.TRAINED
        return Progress(phase, iteration=total, iterations=total, reason="; ".join(failed))

    def look(self, tag: Tag, start: Start) -> str:
        """What the server says of the tag's task: a phase while it goes on, then ``trained`` or why it failed.

        A failure is believed when it is told twice: the call itself can fail, and says so in the same words. A server
        that knows the task no longer may have finished it before it was restarted: the model's marks tell.
        """
        try:
            reply = self._api.status(start.task)
        except NotFound:
            reply = wire.Reply("error", wire.NO_TASK, {})
        if not reply.failed:
            self._complaints.pop(start.task, None)
            if reply.status not in wire.DONE:
                return Phase.WAITING if reply.status in wire.WAITING else Phase.RUNNING
            self.trained(tag, start)
            return TRAINED
        said = sanitize(reply.message) or "error, and no more"
        if self._complaints.get(start.task) != said:
            self._complaints[start.task] = said
            return Phase.RUNNING
        del self._complaints[start.task]
        if reply.message != wire.NO_TASK:
            return f"the Mobius SDK says {said}"
        if not proves(start.marks, marks_of(self._api, tag.name, start.probes)):
            return _LOST
        self.trained(tag, start)
        return TRAINED

    def trained(self, tag: Tag, start: Start) -> None:
        """Write down that the tag's training ended well."""
        self._records.save(tag, trained=start.positives, model=start.run, start=None)

    def _outcome(self, training: Training, name: str) -> str:
        tag = self._records.tag(name, training.dataset, "")
        if tag.start is None or tag.start.run != training.name:
            # Written down of the tag, and then the process ended.
            return TRAINED if tag.model == training.name else "another training took its place"
        return self.look(tag, tag.start)

    def _ended(self, training: Training, name: str, outcome: str) -> Training:
        training = self._records.save_training(training, tags={**training.tags, name: outcome})
        tag = self._records.tag(name, training.dataset, "")
        if tag.start is not None and tag.start.run == training.name:
            self._records.save(tag, start=None)
        log = _log.info if outcome == TRAINED else _log.error
        log("mobius.tag_ended", tag=name, outcome=outcome)
        return training


def succeeded(training: Training) -> bool:
    """Whether it left models, or there was nothing to train."""
    return not training.tags or TRAINED in training.tags.values()
