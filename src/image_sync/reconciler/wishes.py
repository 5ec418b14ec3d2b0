"""Carries over what the folders say: categories, annotations that changed, and files that were deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable

from image_sync.domain import DatasetRef
from image_sync.errors import NotFound, PlatformError, Refused
from image_sync.ledger import Ledger
from image_sync.logs import get_logger
from image_sync.platforms.base import Platform
from image_sync.reconciler.copies import Copies
from image_sync.reconciler.question import shipment

_CHORES = 100
_ENOUGH = 5  # annotations refused in a row, after which the fault is looked for elsewhere

log = get_logger(__name__)


class Wishes:
    """What the folders want of the platform beside uploads.

    Args:
        dataset: the dataset, if there is one yet.
        copies: knows which stored pictures are ours.
        remove_after: deleted files are removed at the platform after so many seconds; None: never.
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        dataset: Callable[[], DatasetRef | None],
        copies: Copies,
        remove_after: float | None,
        stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._dataset = dataset
        self._copies = copies
        self._remove_after = remove_after
        self._stop = stop
        self._clock = clock
        self._turned_away = 0

    def relabel(self) -> None:
        """Moved files: their pictures get the category of their new folder."""
        changes = self._ledger.chores.relabels(_CHORES)
        dataset = self._dataset() if changes else None
        if dataset is None:
            return
        self._ledger.chores.relabelling(change.picture_id for change in changes)
        for change in changes:
            if self._stop.is_set():
                return
            try:
                self._platform.relabel(dataset, change.remote_id, change.category)
            except NotFound:
                log.warning("picture.missing_at_platform", remote_id=change.remote_id)
            self._ledger.chores.relabelled(change.picture_id, change.category)
            log.info("picture.relabelled", remote_id=change.remote_id, category=change.category)

    def annotate(self) -> bool:
        """Annotations that changed, or were not sent with their pictures. Returns whether there may be more.

        What the platform refuses is reported and not tried again as it is. When several in a row are refused, it is
        not the annotations: a person is told before the others are tried.
        """
        debts = self._ledger.annotations.due(_CHORES)
        dataset = self._dataset() if debts else None
        if dataset is None:
            return False
        from image_sync.annotations import from_text  # late: most daemons never need it

        done: dict[int, str] = {}
        for debt in debts:
            if self._stop.is_set():
                break
            try:
                self._platform.annotate(dataset, debt.remote_id, from_text(debt.text))
            except NotFound:
                log.warning("picture.missing_at_platform", remote_id=debt.remote_id)
            except Refused as error:
                self._ledger.annotations.refused(debt, error.what)
                log.warning("annotation.refused", key=debt.key, error=error.what)
                self._turned_away += 1
                if self._turned_away % _ENOUGH:
                    continue
                self._ledger.annotations.sent(done)
                raise
            except PlatformError:
                self._ledger.annotations.sent(done)
                raise
            else:
                self._turned_away = 0
                log.info("picture.annotated", key=debt.key, remote_id=debt.remote_id)
            done[debt.picture_id] = debt.text
        self._ledger.annotations.sent(done)
        return len(debts) == _CHORES and not self._stop.is_set()

    def remove(self) -> None:
        """Deleted files: every copy that is ours is written down, then the picture is forgotten, then they go."""
        dataset = self._dataset()
        if self._remove_after is None or dataset is None:
            return
        orphans = self._ledger.chores.orphans(before=self._clock() - self._remove_after, limit=_CHORES)
        if orphans.pictures:
            copies = self._platform.copies(shipment(orphans))
            standing = self._ledger.chores.standing([item.picture_id for item in orphans.pictures])
            for item in orphans.pictures:
                here = standing[item.picture_id]
                stored = {copy.remote_id for copy in self._copies.proved(copies.get(item.key, []), here)}
                self._ledger.chores.forget(item.picture_id, stored | {here.remote_id})
        for remote_id in self._ledger.chores.removals(_CHORES):
            if self._stop.is_set():
                return
            self._platform.remove(dataset, remote_id)
            self._ledger.chores.removed(remote_id)
            log.info("picture.removed", remote_id=remote_id)
