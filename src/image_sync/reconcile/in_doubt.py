"""Settles what became of batches whose answer was lost, and sees to it that one copy of each picture stays.

Only presence proves itself. That something is *not* there is believed after the grace time on the monotonic clock,
and when two looks agree: a request that was given up may still be carried out. So there are second looks, later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from image_sync.domain import Batch, PictureState, RemotePicture
from image_sync.errors import Transient
from image_sync.ledger import Ledger, PictureStatus
from image_sync.ledger.keys import digest_of
from image_sync.log import get_logger
from image_sync.platforms.base import Platform

_IDLE = 5.0
_LOOK_AGAIN = 15.0
_SINGLY = 4
_FAILURES = 3  # batches in a row about which nobody answered: then it is not the batches
_TOGETHER = 10_000  # pictures in one question
_SWEEPS = 100
_PAGE = 1000
_DAY = 86_400.0
_KEPT = 30 * _DAY  # for so long a batch is remembered after its end
_PRUNING = 3600.0
_SKEW = 60.0  # seconds by which the platform's clock may be behind ours

log = get_logger(__name__)


class _Look(NamedTuple):
    """The first and the last look at a batch in doubt (monotonic times), and what was there; None: nobody answered."""

    first_at: float
    at: float
    found: frozenset[str] | None


class InDoubtBatches:
    """Batches in doubt, and what was seen of them so far.

    Args:
        grace: seconds within which an unconfirmed request may still be carried out.
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(
        self, ledger: Ledger, platform: Platform, grace: float, stop: threading.Event, clock: Callable[[], float]
    ) -> None:
        self._ledger = ledger
        self._pictures = platform.pictures
        self._grace = grace
        self._stop = stop
        self._clock = clock
        self._between = max(0.05, min(_LOOK_AGAIN, grace / 4))
        self._looks: dict[str, _Look] = {}
        self._harmless = platform.traits.idempotent_uploads  # sent twice is stored once: no need to wait

    def settle(self, now: float) -> float:
        """Ask the platform what became of batches whose answer was lost. Returns seconds until the next question.

        A question that fails holds up its own batches only, unless several in a row do.
        """
        doubtful = [batch for batch, _ in self._ledger.batches.doubtful()]
        failures = 0
        for group in groups(self._due(doubtful, now), singly=_SINGLY):
            if self._stop.is_set():
                break
            try:
                self._ask(group, now)
            except Transient:
                failures += len(group)
                if failures >= _FAILURES:
                    raise
                for batch in group:
                    look = self._looks.get(batch.id)
                    self._looks[batch.id] = _Look(now, now, None) if look is None else look._replace(at=now)
            else:
                failures = 0
        return min(_IDLE, self._between) if doubtful else _IDLE

    def _due(self, doubtful: Sequence[Batch], now: float) -> list[Batch]:
        """Those that are to be asked about now, and with them those that soon will be: one question serves all."""
        looks = self._looks
        ages = {batch.id: now - looks[batch.id].at if batch.id in looks else self._between for batch in doubtful}
        due = any(age >= self._between for age in ages.values())
        return [batch for batch in doubtful if due and ages[batch.id] >= self._between / 2]

    def _ask(self, batches: Sequence[Batch], now: float) -> None:
        """One question about one batch or about several."""
        found = self._pictures.find(joined(batches))
        settled = [batch for batch in batches if self._is_settled(batch, found, now)]
        arrived = tuple(picture for batch in settled for picture in batch.pictures if picture.key in found)
        copies = self._pictures.copies(joined(settled)._replace(pictures=arrived)) if arrived else {}
        for batch in settled:
            ours = {picture.picture_id: found[picture.key] for picture in batch.pictures if picture.key in found}
            del self._looks[batch.id]
            log.info("batch.settled", batch=batch.id, arrived=len(ours), again=len(batch.pictures) - len(ours))
            self._ledger.batches.confirm(batch.id, ours, {}, sweep_at=self._clock() + 2 * self._grace)
            for picture in batch.pictures:
                # A name proves the content, not the category: an earlier request may have left it under another one.
                # What this batch brought counts, else the oldest.
                stored = copies.get(picture.key, [])
                kept = next((copy for copy in stored if copy.batch_id == batch.id), stored[0] if stored else None)
                here = (batch.category, ours.get(picture.picture_id))
                if kept is not None and (kept.category, kept.remote_id) != here:
                    self._ledger.changes.arrived(picture.picture_id, kept.remote_id, kept.category)

    def _is_settled(self, batch: Batch, found: Collection[str], now: float) -> bool:
        """Whether what was found is believed to be all that will come; else the look is written down."""
        look = self._looks.get(batch.id)
        there = frozenset(picture.key for picture in batch.pictures if picture.key in found)
        first_at = now if look is None else look.first_at
        self._looks[batch.id] = _Look(first_at, now, there)
        believed = self._harmless or (look is not None and look.found == there and now - first_at >= self._grace)
        return believed or len(there) == len(batch.pictures)


class Deduplicator:
    """Second looks after a doubt, and what came late or twice.

    Args:
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(self, ledger: Ledger, platform: Platform, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._changes = ledger.changes
        self._pictures = platform.pictures
        self._stop = stop
        self._clock = clock
        self._prune_at = 0.0

    def prune(self, now: float) -> None:
        """Once an hour: rows of batches that ended long ago go."""
        if now >= self._prune_at:
            pruned = self._changes.prune(before=self._clock() - _KEPT, limit=_PAGE)
            self._prune_at = now if pruned == _PAGE else now + _PRUNING

    def sweep(self) -> None:
        """Look again at batches that were in doubt: a request may have been carried out very late, or twice."""
        due = self._changes.sweeps(self._clock(), _SWEEPS)
        sweeps = {batch.id: count for batch, count in due}
        for group in groups([batch for batch, _ in due], singly=1):
            if self._stop.is_set():
                return
            self.tidy(joined(group))
            for batch in group:
                self._changes.swept(batch.id, again_at=None if sweeps[batch.id] else self._clock() + _DAY)

    def tidy(self, batch: Batch) -> None:
        """One copy of each picture stays; late arrivals are confirmed."""
        if not batch.pictures:
            return
        copies = self._pictures.copies(batch)
        status = self._changes.status([picture.picture_id for picture in batch.pictures])
        for picture in batch.pictures:
            stored, here = copies.get(picture.key, []), status.get(picture.picture_id)
            if not stored or here is None or here.state is PictureState.CLAIMED:
                continue
            kept = _kept(stored, here)
            # A copy that is known keeps what is known of its category: another one may be a person's (``Adopter``).
            if here.state is not PictureState.CONFIRMED or kept.remote_id != here.remote_id:
                log.warning("picture.arrived_late", key=picture.key, remote_id=kept.remote_id)
                self._changes.arrived(picture.picture_id, kept.remote_id, kept.category)
            for copy in self.proved(stored, here) if len(stored) > 1 else ():
                if copy.remote_id != kept.remote_id:
                    self._pictures.remove(batch.dataset, copy.remote_id)
                    log.warning("picture.double_removed", key=picture.key, remote_id=copy.remote_id)

    def proved(self, stored: Iterable[RemotePicture], here: PictureStatus) -> list[RemotePicture]:
        """Those that only this ledger can have sent: in one of its batches or, where none is told, since then."""
        found = list(stored)
        mine = self._changes.ours({copy.batch_id for copy in found})
        since = here.ready_at - _SKEW
        return [
            copy
            for copy in found
            if (copy.batch_id in mine if copy.batch_id else copy.uploaded_at is not None and copy.uploaded_at >= since)
        ]


def _kept(stored: Sequence[RemotePicture], here: PictureStatus) -> RemotePicture:
    """The copy that stays. All ledgers that send to this dataset choose alike, or two would each remove the other's.

    A plain name says too little about the content for that: there it is the one that this ledger knows.
    """
    if digest_of(stored[0].key):
        return min(stored, key=lambda copy: (copy.uploaded_at or 0.0, copy.remote_id))
    return next((copy for copy in stored if copy.remote_id == here.remote_id), stored[0])


def groups(batches: Sequence[Batch], *, singly: int) -> Iterator[list[Batch]]:
    """Batches that one question can be about. A plain name says too little without its category and time.

    Args:
        singly: so few are asked about one by one all the same: by their ids that takes no listing.
    """
    joinable = [batch for batch in batches if all(digest_of(picture.key) for picture in batch.pictures)]
    if len(joinable) <= singly:
        joinable = []
    together = {batch.id for batch in joinable}
    yield from ([batch] for batch in batches if batch.id not in together)
    group: list[Batch] = []
    for batch in joinable:
        if group and sum(len(one.pictures) for one in group) + len(batch.pictures) > _TOGETHER:
            yield group
            group = []
        group.append(batch)
    if group:
        yield group


def joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one of no category and no id."""
    if len(batches) == 1:
        return batches[0]
    pictures = {picture.picture_id: picture for batch in batches for picture in batch.pictures}
    since = min((batch.claimed_at for batch in batches), default=0.0)
    return Batch("", batches[0].dataset, "", tuple(pictures.values()), since)
