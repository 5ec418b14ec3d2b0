"""Brings a tag to hold what it should: reset if need be, then every picture assigned that is not assigned yet."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from image_sync.errors import Ambiguous, PlatformError, Transient
from image_sync.log import get_logger
from image_sync.platforms.mobius.api import Api, Kind
from image_sync.platforms.mobius.records import ASSIGNING, RESETTING, Attempt, Records, Start, Sum, Tag
from image_sync.platforms.mobius.tags import TagPlan

_log = get_logger(__name__)

_FEW = 10
_HANDED_OUT = 1000
"""Assignments that wait in the pool at one time, each of them taking memory."""
Pair = tuple[str, Kind]


class Assigner:
    """The preparation of a tag's training. May be repeated at any point: it goes on where it was.

    Args:
        parallel: pictures assigned at the same time.
        stop: set when the program is to end.
    """

    def __init__(self, api: Api, records: Records, parallel: int, stop: threading.Event) -> None:
        self._api = api
        self._records = records
        self._parallel = parallel
        self._stop = stop
        self._done: dict[str, set[Pair]] = {}
        """Tag -> what is known in this process to be assigned to it since its preparation began."""

    def prepare(
        self,
        tag: Tag,
        plan: TagPlan,
        attempts: Mapping[str, Attempt],
        run: str,
        *,
        from_beginning: bool,
        until: float = math.inf,
    ) -> Tag:
        """Let the tag hold what the plan says, and write that down.

        Args:
            attempts: what may have been assigned to it since its last training.
            from_beginning: reset it first, whether or not that is needed.
            until: monotonic time at which Ambiguous is raised; called again, it goes on where it was.
        """
        positives = plan.positives(tag.name)
        done = self._resumed(tag, plan, attempts, run)
        if done is None:
            tag, done = self._begun(tag, plan, attempts, run, from_beginning=from_beginning)
            self._done[tag.name] = done
        wanted = _wanted(plan, tag)
        negatives = tuple(sorted(image for image, kind in wanted if kind == "negative"))
        tag = self._records.save(tag, negatives=negatives, start=Start(run, ASSIGNING))
        self._assign(tag.name, sorted(wanted - done), done, until)
        if min(len(positives), len(negatives)) < _FEW:
            _log.warning("mobius.few_pictures", tag=tag.name, positives=len(positives), negatives=len(negatives))
        settled = [name for name, attempt in attempts.items() if attempt.void or positives.issuperset(attempt.ids)]
        return self._records.save(tag, settled, assigned=Sum.of(positives))

    def reset(self, tag: Tag, attempts: Mapping[str, Attempt], run: str) -> Tag:
        """Reset the tag. Raises Ambiguous when the answer is lost: one that is carried out late would undo the rest."""
        before = tag.start
        tag = self._records.save(tag, start=Start(run, RESETTING))
        try:
            self._api.delete(tag.name)
        except Ambiguous:
            raise
        except PlatformError:
            self._records.save(tag, start=before)
            raise
        return self._records.reset(tag, attempts, Start(run, ASSIGNING))

    def forget(self, tag: str) -> None:
        """The preparation is over: the training was asked for."""
        self._done.pop(tag, None)

    def _resumed(self, tag: Tag, plan: TagPlan, attempts: Mapping[str, Attempt], run: str) -> set[Pair] | None:
        """What is assigned already, when this preparation was broken off in this process and nothing has changed."""
        done = self._done.get(tag.name)
        if done is None or tag.start is None or (tag.start.step, tag.start.run) != (ASSIGNING, run):
            return None
        since = {image for attempt in attempts.values() if not attempt.void for image in attempt.ids}
        return done if done <= _wanted(plan, tag) and since <= plan.positives(tag.name) else None

    def _begun(
        self, tag: Tag, plan: TagPlan, attempts: Mapping[str, Attempt], run: str, *, from_beginning: bool
    ) -> tuple[Tag, set[Pair]]:
        """The tag after a reset, if it needs one, and what is known to be assigned to it."""
        why = plan.why_reset(tag, attempts)
        if tag.start is not None and tag.start.step == RESETTING:
            why = "its last reset got no answer"
        if from_beginning or why:
            _log.info("mobius.reset", tag=tag.name, reason=why or "it is to be trained from the beginning")
            return self.reset(tag, attempts, run), set()
        tried = {image for attempt in attempts.values() for image in attempt.ids}
        done: set[Pair] = {(image, "positive") for image in plan.positives(tag.name) - tried}
        if tag.start is None:  # else the last preparation was broken off, and its negatives were only intended
            done |= {(image, "negative") for image in tag.negatives}
        return tag, done

    def _assign(self, tag: str, pairs: Sequence[Pair], done: set[Pair], until: float) -> None:
        """Assign these, a few at a time. After the first error nothing new is begun, and it is raised."""
        failed = threading.Event()

        def assign(pair: Pair) -> None:
            if failed.is_set():
                return
            try:
                self._assign_one(tag, pair, done, until)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self._parallel, "mobius-assign") as pool:
            for first in range(0, len(pairs), _HANDED_OUT):
                list(pool.map(assign, pairs[first : first + _HANDED_OUT]))

    def _assign_one(self, tag: str, pair: Pair, done: set[Pair], until: float) -> None:
        if self._stop.is_set():
            raise Transient("The program ends; the training is started at the next start")
        self._api.assign(*pair, tag)
        done.add(pair)
        if time.monotonic() > until:
            raise Ambiguous(f"The pictures of the tag {tag} are being assigned, {len(done)} so far")


def _wanted(plan: TagPlan, tag: Tag) -> set[Pair]:
    wanted: set[Pair] = {(image, "positive") for image in plan.positives(tag.name)}
    return wanted | {(image, "negative") for image in plan.negatives(tag)}
