"""Compares ledger and platform, and takes note of what lies there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from itertools import islice

from image_sync.domain import DatasetRef
from image_sync.errors import Changed
from image_sync.ledger import Ledger, Remote
from image_sync.logs import get_logger
from image_sync.platforms.base import Platform, RemotePicture
from image_sync.reconciler.copies import Copies
from image_sync.reconciler.question import shipment

_CHORES = 100
_FIRST_PAGE = 200

log = get_logger(__name__)


class Adoption:
    """The comparison, at the start and whenever all has been quiet.

    Args:
        dataset: the dataset, if there is one yet.
        copies: removes second copies that turn up.
        grace: seconds within which an unconfirmed request may still be carried out.
        stop: set when the program is to end.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        dataset: Callable[[], DatasetRef | None],
        copies: Copies,
        grace: float,
        stop: threading.Event,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._dataset = dataset
        self._copies = copies
        self._grace = grace
        self._stop = stop
        self._audited = (0, 0.0)

    def check(self, *, first: bool) -> None:
        """Compare ledger and platform: if more lies there than we know of, read the whole listing before anything
        is sent. A ledger that was lost, rebuilt or restored from a backup repeats nothing that way."""
        dataset = self._dataset()
        if dataset is not None and self._platform.describe().lists_pictures:
            count, expected = self._platform.count(dataset), self._ledger.inventory.expected()
            agreed = count is not None and count <= expected
            if agreed and first and count:
                newest = islice(self._platform.listing(dataset), _FIRST_PAGE)
                agreed = self._ledger.inventory.recognises(map(_remote, newest))
            if not agreed:
                self._adopt(dataset)
        self._ledger.inventory.agree()

    def _adopt(self, dataset: DatasetRef) -> None:
        trained = max((model.created_at or 0.0 for model in self._platform.models(dataset)), default=None)
        rows = map(_remote, self._platform.listing(dataset))
        seen = self._ledger.inventory.adopt(self._interruptible(rows), trained_until=trained)
        log.info(
            "platform.listed",
            dataset=dataset.name,
            listed=seen.listed,
            adopted=seen.adopted,
            remembered=seen.remembered,
            strangers=seen.strangers,
        )
        for start in range(0, len(seen.doubles), _CHORES):
            self._copies.tidy(self._ledger.chores.of_pictures(seen.doubles[start : start + _CHORES]))
        for picture_id, remote in seen.strays:
            self._take_or_remove(dataset, picture_id, remote)

    def _take_or_remove(self, dataset: DatasetRef, picture_id: int, stray: Remote) -> None:
        """A picture of ours under an old name of its file: needless if the content is there, welcome if it is not."""
        if self._platform.copies(shipment(self._ledger.chores.of_pictures([picture_id]))):
            self._platform.remove(dataset, stray.remote_id)
            log.warning("picture.double_removed", key=stray.key, remote_id=stray.remote_id)
        else:
            self._ledger.chores.arrived(picture_id, stray.remote_id, stray.category)

    def _interruptible(self, rows: Iterable[Remote]) -> Iterable[Remote]:
        for row in rows:
            if self._stop.is_set():
                raise Changed("the listing was left because the program ends")
            yield row

    def audit(self, now: float) -> None:
        """When nothing is on its way: does more lie there than was sent? Then somebody doubled a request."""
        tally = self._ledger.tally()
        confirmed, since = self._audited
        if tally.confirmed != confirmed or tally.sending or tally.cleared:
            self._audited = (tally.confirmed, now)
        elif since and now - since >= 2 * self._grace:
            self.check(first=False)
            self._audited = (tally.confirmed, 0.0)  # not before: one that failed is made again


def _remote(stored: RemotePicture) -> Remote:
    return Remote(stored.remote_id, stored.key, stored.category, stored.size, stored.uploaded_at, stored.batch_id)
