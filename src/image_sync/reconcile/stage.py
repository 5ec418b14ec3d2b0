"""The reconcile stage: signs in, adopts what lies there, settles what is in doubt, then carries changes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from image_sync.backoff import Backoff
from image_sync.domain import DatasetRef
from image_sync.errors import ImageSyncError
from image_sync.ledger import Ledger
from image_sync.log import get_logger
from image_sync.platforms.base import Platform
from image_sync.reconcile.adopt import Adopter
from image_sync.reconcile.changes import LocalChanges
from image_sync.reconcile.in_doubt import Deduplicator, InDoubtBatches

STAGE = "reconcile"
_IDLE = 5.0

log = get_logger(__name__)


class Reconciler:
    """The stage between ledger and platform. One thread calls :meth:`step`; others may :meth:`help`.

    Args:
        ledger: what is believed.
        platform: what is so.
        grace: seconds within which an unconfirmed request may still be carried out.
        remove_after: deleted files are removed at the platform after so many seconds; None: never.
        most_removals: how many pictures of a category, of which so many are stored, may be removed at once without a
            person's word.
        repair: what is missing at the platform is sent again without asking.
        stop: set when the program is to end.
        backoff: the platform's. clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        stop: threading.Event,
        backoff: Backoff,
        *,
        grace: float = 180.0,
        remove_after: float | None = None,
        most_removals: Callable[[int], int] = lambda stored: stored,
        repair: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._stop = stop
        self._monotonic = backoff.clock
        self._signed_in = False
        self._crowded = False
        self._in_doubt = InDoubtBatches(ledger, platform, grace, stop, clock)
        self._copies = Deduplicator(ledger, platform, stop, clock)
        self._adopter = Adopter(ledger, platform, self._dataset, self._copies, grace, stop, auto=repair)
        self._changes = LocalChanges(
            ledger, platform, self._dataset, self._copies, remove_after, most_removals, stop, clock
        )
        self.backoff = backoff.stage(STAGE)

    def step(self, _now: float) -> float:
        """Do what is to be done. Returns seconds until it wants to be called again without news."""
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        try:
            if not self._signed_in:
                self._platform.sign_in()
                self._signed_in = True
            self._adopter.repair()
            if not self._ledger.remote_index.checked:
                self._adopter.check(first=True)
            # The time is asked anew: reading a listing may have taken minutes, which are no part of a grace time.
            rest = self._in_doubt.settle(self._monotonic())
            self._copies.sweep()
            self._copies.prune(self._monotonic())
            self._adopter.audit(self._monotonic())
            self._crowded = self._changes.relabel()
            more = self._changes.annotate() or self._crowded
            self._changes.remove()
        except ImageSyncError as error:
            return 0.0 if self._stop.is_set() else self.backoff.failed(error)
        self.backoff.succeeded()
        return 0.0 if more else rest

    def help(self, _now: float) -> float:
        """What threads of other stages do that have no work of their own: changes of category, when there are many.

        Returns seconds until they may look again without being woken.
        """
        if not self._crowded or self._stop.is_set() or self.backoff.remaining():
            return _IDLE
        try:
            self._crowded = self._changes.relabel()
        except ImageSyncError as error:
            return _IDLE if self._stop.is_set() else self.backoff.failed(error)
        return 0.0

    def _dataset(self) -> DatasetRef | None:
        """The dataset, if there is one yet."""
        target = self._ledger.target
        if target.dataset_id:
            return target.dataset
        found = self._platform.pictures.find_dataset(target.dataset_name)
        if found is not None:
            self._ledger.dataset(found)
            log.info("dataset.found", dataset=found.name, id=found.id)
        return found
