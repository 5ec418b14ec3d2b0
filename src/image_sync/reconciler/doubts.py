"""Settles what became of batches whose answer was lost.

Only presence proves itself. That something is *not* there is believed after the grace time on the monotonic clock,
and when two looks agree: a request that was given up may still be carried out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from image_sync.domain import Batch
from image_sync.errors import Transient
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Platform, RemotePicture
from image_sync.reconciler.question import groups, joined

_IDLE = 5.0
_LOOK_AGAIN = 15.0
_SINGLY = 4
_FAILURES = 3  # batches in a row about which nobody answered: then it is not the batches

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """The first and the last look at a batch in doubt (monotonic times), and what was there; None: nobody answered."""

    first_at: float
    at: float
    found: frozenset[str] | None


class Doubts:
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
        self._platform = platform
        self._grace = grace
        self._stop = stop
        self._clock = clock
        self._between = max(0.05, min(_LOOK_AGAIN, grace / 4))
        self._looks: dict[str, Look] = {}
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
                    self._looks[batch.id] = Look(now, now, None) if look is None else replace(look, at=now)
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
        found = self._platform.pictures.find(joined(batches))
        settled = [batch for batch in batches if self._is_settled(batch, found, now)]
        arrived = [item for batch in settled for item in batch.pictures if item.key in found]
        copies = self._platform.pictures.copies(joined(settled)._replace(pictures=tuple(arrived))) if arrived else {}
        for batch in settled:
            ours = {item.picture_id: found[item.key] for item in batch.pictures if item.key in found}
            del self._looks[batch.id]
            log.info("batch.settled", batch=batch.id, arrived=len(ours), again=len(batch.pictures) - len(ours))
            self._ledger.batches.confirm(batch.id, ours, {}, sweep_at=self._clock() + 2 * self._grace)
            for item in batch.pictures:
                # A name proves the content, not the category: an earlier request may have left it under another one.
                kept = _preferred(copies.get(item.key, []), batch.id)
                if kept is not None and (kept.category, kept.remote_id) != (batch.category, ours.get(item.picture_id)):
                    self._ledger.changes.arrived(item.picture_id, kept.remote_id, kept.category)

    def _is_settled(self, batch: Batch, found: Collection[str], now: float) -> bool:
        """Whether what was found is believed to be all that will come; else the look is written down."""
        look = self._looks.get(batch.id)
        there = frozenset(item.key for item in batch.pictures if item.key in found)
        first_at = now if look is None else look.first_at
        self._looks[batch.id] = Look(first_at, now, there)
        believed = self._harmless or (look is not None and look.found == there and now - first_at >= self._grace)
        return believed or len(there) == len(batch.pictures)


def _preferred(copies: Sequence[RemotePicture], batch_id: str) -> RemotePicture | None:
    """The copy that this batch brought, else the oldest."""
    own = [copy for copy in copies if copy.batch_id == batch_id]
    return next(iter(own or copies), None)
