"""Keeps ledger and platform of one mind: adopts what lies there, settles what is in doubt, removes second copies,
and carries moves between categories and deletions over.

Only presence proves itself. That something is *not* there is believed after the grace time on the monotonic clock,
and when two looks agree: a request that was given up may still be carried out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

from image_sync.domain import Batch, DatasetRef, PictureState
from image_sync.errors import Changed, ImageSyncError, NotFound, Transient, Unauthorised
from image_sync.ledger import Ledger, Remote, Standing
from image_sync.ledger.names import digest_of
from image_sync.logs import get_logger
from image_sync.platforms.base import Item, Platform, RemotePicture, Shipment
from image_sync.setback import Setback

STAGE = "reconcile"
_IDLE = 5.0
_LOOK_AGAIN = 15.0
_CHORES = 100
_SWEEPS = 100
_SINGLY = 4  # so many batches are asked about one by one: by their ids, that takes no listing
_TOGETHER = 10_000  # pictures in one question
_FIRST_PAGE = 200
_FAILURES = 3  # questions in a row that nobody answered: then it is not the batches
_DAY = 86_400.0
_SKEW = 60.0  # seconds by which the platform's clock may be behind ours

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Look:
    """The first and the last look at a batch in doubt (monotonic times), and what was there; None: nobody answered."""

    first_at: float
    at: float
    found: frozenset[str] | None


class Reconciler:
    """The stage between ledger and platform. One thread calls :meth:`step`.

    Args:
        ledger: what is believed.
        platform: what is so.
        grace: seconds within which an unconfirmed request may still be carried out.
        remove_after: deleted files are removed at the platform after so many seconds; None: never.
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        stop: threading.Event,
        *,
        grace: float = 180.0,
        remove_after: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._stop = stop
        self._grace = grace
        self._remove_after = remove_after
        self._clock = clock
        self._between = max(0.05, min(_LOOK_AGAIN, grace / 4))
        self._looks: dict[str, Look] = {}
        self._signed_in = False
        self._audited = (0, 0.0)
        self.setback = Setback(STAGE, ledger)

    def step(self, now: float) -> float:
        """Do what is owed. Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.setback.left(now):
            return self.setback.left(now)
        try:
            self._greet()
            if not self._ledger.inventory.checked:
                self._check(first=True)
            rest = self._settle(now)
            self._sweep()
            self._audit(now)
            self._relabel()
            self._remove()
        except ImageSyncError as error:
            return self._fail(error, now)
        self.setback.over()
        return rest

    def _fail(self, error: ImageSyncError, now: float) -> float:
        if self._stop.is_set():
            return 0.0
        pause = self.setback.hit(error, now)
        if isinstance(error, Unauthorised) and not self._signed_in:
            raise error  # nothing will work until a person changes the configuration
        return pause

    def _greet(self) -> None:
        if not self._signed_in:
            self._platform.sign_in()
            self._signed_in = True

    def _dataset(self) -> DatasetRef | None:
        """The dataset, if there is one yet."""
        target = self._ledger.target
        if not target.dataset_id:
            found = self._platform.find_dataset(target.dataset_name)
            if found is None:
                return None
            self._ledger.dataset(found)
            log.info("dataset.found", dataset=found.name, id=found.id)
            return found
        return DatasetRef(target.dataset_id, target.dataset_name)

    # -- what lies there already

    def _check(self, *, first: bool) -> None:
        """Compare ledger and platform: if more lies there than we know of, read the whole listing before anything
        is sent. A ledger that was lost, rebuilt or restored from a backup repeats nothing that way."""
        dataset = self._dataset()
        if dataset is not None:
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
            self._tidy(self._ledger.chores.of_pictures(seen.doubles[start : start + _CHORES]))
        for picture_id, remote in seen.strays:
            self._take_or_remove(dataset, picture_id, remote)

    def _take_or_remove(self, dataset: DatasetRef, picture_id: int, stray: Remote) -> None:
        """A picture of ours under an old name of its file: needless if the content is there, welcome if it is not."""
        if self._platform.copies(_shipment(self._ledger.chores.of_pictures([picture_id]))):
            self._platform.remove(dataset, stray.remote_id)
            log.warning("picture.double_removed", key=stray.key, remote_id=stray.remote_id)
        else:
            self._ledger.chores.arrived(picture_id, stray.remote_id, stray.category)

    def _interruptible(self, rows: Iterable[Remote]) -> Iterable[Remote]:
        for row in rows:
            if self._stop.is_set():
                raise Changed("the listing was left because the program ends")
            yield row

    def _audit(self, now: float) -> None:
        """When nothing is on its way: does more lie there than was sent? Then somebody doubled a request."""
        tally = self._ledger.tally()
        confirmed, since = self._audited
        if tally.confirmed != confirmed or tally.sending or tally.cleared:
            self._audited = (tally.confirmed, now)
        elif since and now - since >= 2 * self._grace:
            self._audited = (tally.confirmed, 0.0)
            self._check(first=False)

    # -- what is in doubt

    def _settle(self, now: float) -> float:
        """Ask the platform what became of batches whose answer was lost. Returns seconds until the next question.

        A question that fails holds up its own batches only, unless several in a row do.
        """
        doubtful = [batch for batch, _ in self._ledger.batches.doubtful()]
        failures = 0
        for group in _groups(self._due(doubtful, now)):
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
        found = self._platform.find(_shipment(_joined(batches)))
        settled = [batch for batch in batches if self._is_settled(batch, found, now)]
        arrived = [item for batch in settled for item in batch.pictures if item.key in found]
        copies = self._platform.copies(_shipment(replace(_joined(settled), pictures=tuple(arrived)))) if arrived else {}
        for batch in settled:
            ours = {item.picture_id: found[item.key] for item in batch.pictures if item.key in found}
            del self._looks[batch.id]
            log.info("batch.settled", batch=batch.id, arrived=len(ours), again=len(batch.pictures) - len(ours))
            self._ledger.batches.confirm(batch.id, ours, {}, sweep_at=self._clock() + 2 * self._grace)
            for item in batch.pictures:
                # A name proves the content, not the category: an earlier request may have left it under another one.
                kept = _preferred(copies.get(item.key, []), batch.id)
                if kept is not None and (kept.category, kept.remote_id) != (batch.category, ours.get(item.picture_id)):
                    self._ledger.chores.arrived(item.picture_id, kept.remote_id, kept.category)

    def _is_settled(self, batch: Batch, found: Collection[str], now: float) -> bool:
        """Whether what was found is believed to be all that will come; else the look is written down."""
        look = self._looks.get(batch.id)
        there = frozenset(item.key for item in batch.pictures if item.key in found)
        first_at = now if look is None else look.first_at
        self._looks[batch.id] = Look(first_at, now, there)
        believed = look is not None and look.found == there and now - first_at >= self._grace
        return believed or len(there) == len(batch.pictures)

    def _sweep(self) -> None:
        """Look again at batches that were in doubt: a request may have been carried out very late, or twice."""
        due = self._ledger.chores.sweeps(self._clock(), _SWEEPS)
        sweeps = {batch.id: count for batch, count in due}
        for group in _groups([batch for batch, _ in due], singly=1):
            if self._stop.is_set():
                return
            self._tidy(_joined(group))
            for batch in group:
                self._ledger.chores.swept(batch.id, again_at=None if sweeps[batch.id] else self._clock() + _DAY)

    def _tidy(self, batch: Batch) -> None:
        """One copy of each picture stays; late arrivals are confirmed."""
        if not batch.pictures:
            return
        copies = self._platform.copies(_shipment(batch))
        standing = self._ledger.chores.standing([item.picture_id for item in batch.pictures])
        for item in batch.pictures:
            stored, here = copies.get(item.key, []), standing.get(item.picture_id)
            if not stored or here is None or here.state is PictureState.CLAIMED:
                continue
            kept = next((copy for copy in stored if copy.remote_id == here.remote_id), stored[0])
            if here.state is not PictureState.CONFIRMED or kept.remote_id != here.remote_id:
                log.warning("picture.arrived_late", key=item.key, remote_id=kept.remote_id)
            if (here.state, here.remote_id, here.category) != (PictureState.CONFIRMED, kept.remote_id, kept.category):
                self._ledger.chores.arrived(item.picture_id, kept.remote_id, kept.category)
            for copy in self._proved(stored, here) if len(stored) > 1 else ():
                if copy.remote_id != kept.remote_id:
                    self._platform.remove(batch.dataset, copy.remote_id)
                    log.warning("picture.double_removed", key=item.key, remote_id=copy.remote_id)

    # -- what the folders say

    def _relabel(self) -> None:
        for change in self._ledger.chores.relabels(_CHORES):
            dataset = self._dataset()
            if self._stop.is_set() or dataset is None:
                return
            try:
                self._platform.relabel(dataset, change.remote_id, change.category)
            except NotFound:
                log.warning("picture.missing_at_platform", remote_id=change.remote_id)
            self._ledger.chores.relabelled(change.picture_id, change.category)
            log.info("picture.relabelled", remote_id=change.remote_id, category=change.category)

    def _remove(self) -> None:
        """Deleted files: every copy that is ours is written down, then the picture is forgotten, then they go."""
        dataset = self._dataset()
        if self._remove_after is None or dataset is None:
            return
        orphans = self._ledger.chores.orphans(before=self._clock() - self._remove_after, limit=_CHORES)
        if orphans.pictures:
            copies = self._platform.copies(_shipment(orphans))
            standing = self._ledger.chores.standing([item.picture_id for item in orphans.pictures])
            for item in orphans.pictures:
                here = standing[item.picture_id]
                stored = {copy.remote_id for copy in self._proved(copies.get(item.key, []), here)}
                self._ledger.chores.forget(item.picture_id, stored | {here.remote_id})
        for remote_id in self._ledger.chores.removals(_CHORES):
            if self._stop.is_set():
                return
            self._platform.remove(dataset, remote_id)
            self._ledger.chores.removed(remote_id)
            log.info("picture.removed", remote_id=remote_id)

    def _proved(self, stored: Iterable[RemotePicture], here: Standing) -> list[RemotePicture]:
        """Those that only this ledger can have sent."""
        found = list(stored)
        mine = self._ledger.chores.ours({copy.batch_id for copy in found})
        return [copy for copy in found if (copy.batch_id in mine if copy.batch_id else _since(copy, here.ready_at))]


def _groups(batches: Sequence[Batch], singly: int = _SINGLY) -> Iterator[list[Batch]]:
    """Batches that one question can be about. A plain name says too little without its category and time."""
    joinable = [batch for batch in batches if all(digest_of(item.key) for item in batch.pictures)]
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


def _joined(batches: Sequence[Batch]) -> Batch:
    """Several batches as one of no category and no id."""
    if len(batches) == 1:
        return batches[0]
    pictures = {item.picture_id: item for batch in batches for item in batch.pictures}
    since = min((batch.claimed_at for batch in batches), default=0.0)
    return Batch("", batches[0].dataset, "", tuple(pictures.values()), since)


def _shipment(batch: Batch) -> Shipment:
    items = tuple(Item(item.key, item.size, item.sha256, _unread) for item in batch.pictures)
    return Shipment(batch.id, batch.dataset, batch.category, items, batch.claimed_at)


def _unread() -> bytes:
    raise Changed("a question needs no bytes")


def _preferred(copies: Sequence[RemotePicture], batch_id: str) -> RemotePicture | None:
    """The copy that this batch brought, else the oldest."""
    own = [copy for copy in copies if copy.batch_id == batch_id]
    return next(iter(own or copies), None)


def _remote(stored: RemotePicture) -> Remote:
    return Remote(stored.remote_id, stored.key, stored.category, stored.size, stored.uploaded_at, stored.batch_id)


def _since(copy: RemotePicture, ready_at: float) -> bool:
    """Whether a copy without a batch id came after the picture became ready, and so can only be ours."""
    return copy.uploaded_at is not None and copy.uploaded_at >= ready_at - _SKEW
