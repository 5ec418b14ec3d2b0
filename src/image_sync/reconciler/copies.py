"""Sees to it that one copy of each picture stays: second looks after a doubt, and what came late or twice."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from image_sync.domain import Batch, PictureState
from image_sync.ledger import Ledger, PictureStatus
from image_sync.ledger.keys import digest_of
from image_sync.log import get_logger
from image_sync.platforms.base import Platform, RemotePicture
from image_sync.reconciler.question import groups, joined

_SWEEPS = 100
_PAGE = 1000
_DAY = 86_400.0
_KEPT = 30 * _DAY  # for so long a batch is remembered after its end
_PRUNING = 3600.0
_SKEW = 60.0  # seconds by which the platform's clock may be behind ours

log = get_logger(__name__)


class Copies:
    """What the platform has of our pictures.

    Args:
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(self, ledger: Ledger, platform: Platform, stop: threading.Event, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._platform = platform
        self._stop = stop
        self._clock = clock
        self._prune_at = 0.0

    def prune(self, now: float) -> None:
        """Once an hour: rows of batches that ended long ago go."""
        if now >= self._prune_at:
            pruned = self._ledger.changes.prune(before=self._clock() - _KEPT, limit=_PAGE)
            self._prune_at = now if pruned == _PAGE else now + _PRUNING

    def sweep(self) -> None:
        """Look again at batches that were in doubt: a request may have been carried out very late, or twice."""
        due = self._ledger.changes.sweeps(self._clock(), _SWEEPS)
        sweeps = {batch.id: count for batch, count in due}
        for group in groups([batch for batch, _ in due], singly=1):
            if self._stop.is_set():
                return
            self.tidy(joined(group))
            for batch in group:
                self._ledger.changes.swept(batch.id, again_at=None if sweeps[batch.id] else self._clock() + _DAY)

    def tidy(self, batch: Batch) -> None:
        """One copy of each picture stays; late arrivals are confirmed."""
        if not batch.pictures:
            return
        copies = self._platform.pictures.copies(batch)
        standing = self._ledger.changes.status([item.picture_id for item in batch.pictures])
        for item in batch.pictures:
            stored, here = copies.get(item.key, []), standing.get(item.picture_id)
            if not stored or here is None or here.state is PictureState.CLAIMED:
                continue
            kept = _kept(stored, here)
            # A copy that is known keeps what is known of its category: another one may be a person's (``Adoption``).
            if here.state is not PictureState.CONFIRMED or kept.remote_id != here.remote_id:
                log.warning("picture.arrived_late", key=item.key, remote_id=kept.remote_id)
                self._ledger.changes.arrived(item.picture_id, kept.remote_id, kept.category)
            for copy in self.proved(stored, here) if len(stored) > 1 else ():
                if copy.remote_id != kept.remote_id:
                    self._platform.pictures.remove(batch.dataset, copy.remote_id)
                    log.warning("picture.double_removed", key=item.key, remote_id=copy.remote_id)

    def proved(self, stored: Iterable[RemotePicture], here: PictureStatus) -> list[RemotePicture]:
        """Those that only this ledger can have sent."""
        found = list(stored)
        mine = self._ledger.changes.ours({copy.batch_id for copy in found})
        return [copy for copy in found if (copy.batch_id in mine if copy.batch_id else _since(copy, here.ready_at))]


def _kept(stored: Sequence[RemotePicture], here: PictureStatus) -> RemotePicture:
    """The copy that stays. All ledgers that send to this dataset choose alike, or two would each remove the other's.

    A plain name says too little about the content for that: there it is the one that this ledger knows.
    """
    if digest_of(stored[0].key):
        return min(stored, key=lambda copy: (copy.uploaded_at or 0.0, copy.remote_id))
    return next((copy for copy in stored if copy.remote_id == here.remote_id), stored[0])


def _since(copy: RemotePicture, ready_at: float) -> bool:
    """Whether a copy without a batch id came after the picture became ready, and so can only be ours."""
    return copy.uploaded_at is not None and copy.uploaded_at >= ready_at - _SKEW
