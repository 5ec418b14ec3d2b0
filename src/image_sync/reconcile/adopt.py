"""Compares ledger and platform, and adopts what lies there already."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from itertools import islice

from image_sync.domain import DatasetRef, RemotePicture
from image_sync.errors import Changed, NotFound
from image_sync.ledger import Ledger
from image_sync.ledger.remote_index import same
from image_sync.log import get_logger
from image_sync.platforms.base import Platform
from image_sync.reconcile.in_doubt import Deduplicator

_TOGETHER = 10_000  # pictures in one question about second copies
_FIRST_PAGE = 200
_SAMPLE = 10
_SMALL = 1000  # so many pictures are listed in one request
_REGULARLY, _SOON = 900.0, 60.0
_DATASET, _MISSING = "dataset", "missing"

log = get_logger(__name__)


class Adopter:
    """The comparison, at the start and whenever all has been quiet.

    Args:
        dataset: the dataset, if there is one yet.
        copies: removes second copies that turn up.
        grace: seconds within which an unconfirmed request may still be carried out.
        stop: set when the program is to end.
        auto: what is missing at the platform is sent again without asking.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        dataset: Callable[[], DatasetRef | None],
        copies: Deduplicator,
        grace: float,
        stop: threading.Event,
        *,
        auto: bool = False,
    ) -> None:
        self._ledger = ledger
        self._index = ledger.remote_index
        self._platform = platform
        self._pictures = platform.pictures
        self._dataset = dataset
        self._copies = copies
        self._grace = grace
        self._stop = stop
        self._auto = auto
        self._audited = (0, 0.0)
        self._compare_at: float | None = None
        self._sampled_to = 0
        self._absent: frozenset[int] = frozenset()
        self._changed: frozenset[tuple[int, str]] = frozenset()
        self._again = False

    def check(self, *, first: bool) -> None:
        """Compare ledger and platform: if more lies there than we know of, or less, read the whole listing before
        anything is sent. A ledger that was lost, rebuilt or restored from a backup repeats nothing that way."""
        dataset = self._dataset()
        if dataset is not None and self._platform.traits.lists_pictures:
            least = self._index.least()
            try:
                count = self._pictures.count(dataset)
            except NotFound as error:
                self._lost(dataset, error)
                return
            agreed = count is not None and least <= count <= self._index.expected() and not self._index.restored
            if agreed and first and count:
                agreed = self._index.recognises(islice(self._pictures.listing(dataset), _FIRST_PAGE))
            if not agreed or not (first or self._sampled(dataset, count or 0)):
                self._adopt(dataset, count)
        self._index.agree()
        self._ledger.trouble(_DATASET, None)

    def _sampled(self, dataset: DatasetRef, count: int) -> bool:
        """Whether a few of our pictures lie there as the ledger says; each look takes the next ones."""
        if count <= _SMALL:
            return count == 0  # the whole listing costs as little
        chosen = self._index.sample(self._sampled_to, _SAMPLE)
        self._sampled_to = chosen[-1] if chosen else 0
        status = self._ledger.changes.status(chosen)
        batch = self._ledger.changes.of_pictures(chosen)
        copies = self._pictures.copies(batch._replace(dataset=dataset))
        for picture in batch.pictures:
            here = status[picture.picture_id]
            mine = [one for one in copies.get(picture.key, []) if one.remote_id == here.remote_id]
            if not mine or not same(mine[0].category, here.category):
                return False
        return True

    def _lost(self, dataset: DatasetRef, error: NotFound) -> None:
        """The dataset is no longer there: perhaps another of its name is. Nothing is sent until that is clear."""
        found = self._pictures.find_dataset(dataset.name)
        if found is not None and found.id == dataset.id:
            raise error  # it is listed: this answer says nothing
        self._index.checked = False
        missing = self._index.missed() or self._index.missing()
        if found is not None:
            log.warning("dataset.replaced", dataset=dataset.name, was=dataset.id, now=found.id, pictures=missing)
            self._ledger.dataset(found)
            self._tell_missing()
            return
        gone = NotFound(
            f"the dataset {dataset.name!r} ({dataset.id}) is no longer at the server; "
            f"{missing} pictures were uploaded to it",
            hint="To make it again and send them: image-sync repair",
        )
        if not self._dataset_gone():
            log.error("dataset.missing", dataset=dataset.name, id=dataset.id, pictures=missing, hint=gone.hint)
            self._ledger.trouble(_DATASET, gone)

    def _dataset_gone(self) -> bool:
        return any(trouble.stage == _DATASET for trouble in self._ledger.troubles())

    def repair(self) -> None:
        """What is no longer at the platform is sent again, if a person asked for that, or once and for all
        (``repair: "auto"``)."""
        if not (self._auto or self._index.repair_requested()):
            return
        if self._dataset_gone():
            self._ledger.dataset(DatasetRef("", self._ledger.target.dataset_name))  # it is made with the next upload
            self._ledger.trouble(_DATASET, None)
        if again := self._index.repair():
            self._ledger.trouble(_MISSING, None)
            log.warning("picture.sent_again", pictures=again)

    def _adopt(self, dataset: DatasetRef, count: int | None) -> None:
        trained = max((model.created_at or 0.0 for model in self._platform.models.of_dataset(dataset)), default=None)
        seen = self._index.adopt(self._listing(dataset), trained_until=trained)
        log.info(
            "platform.listed",
            dataset=dataset.name,
            listed=seen.listed,
            adopted=seen.adopted,
            remembered=seen.remembered,
            strangers=seen.foreign,
        )
        self._keep(dataset, frozenset(seen.changed))
        if seen.foreign_copies:
            self._index.share()
            log.warning(
                "dataset.shared",
                dataset=dataset.name,
                copies=seen.foreign_copies,
                hint="Another image-sync sends the same pictures to this dataset: stop one of them, or give it another "
                "dataset. From now on the server is asked for each picture before it is sent",
            )
        for start in range(0, len(seen.doubles), _TOGETHER):
            self._copies.tidy(self._ledger.changes.of_pictures(seen.doubles[start : start + _TOGETHER]))
        for picture_id, stray in seen.misnamed:
            # A picture of ours under an old name of its file: needless if the content is there, welcome if it is not.
            if self._pictures.copies(self._ledger.changes.of_pictures([picture_id])):
                self._pictures.remove(dataset, stray.remote_id)
                log.warning("picture.double_removed", key=stray.key, remote_id=stray.remote_id)
            else:
                self._ledger.changes.arrived(picture_id, stray.remote_id, stray.category)
        self._miss(seen.absent, complete=count is None or seen.listed >= count)

    def _keep(self, dataset: DatasetRef, changed: frozenset[tuple[int, str]]) -> None:
        """What two listings in a row show under a category that we did not tell is a person's: while one is read,
        changes of ours may be under way."""
        certain, self._changed = changed & self._changed, changed
        self._changed -= certain
        self._again = bool(self._changed)
        if certain:
            self._index.keep(certain)
            log.warning(
                "picture.category_changed",
                dataset=dataset.name,
                pictures=len(certain),
                hint="Somebody gave them another category at the server; it is kept. Which they are: "
                "image-sync list --state category-changed. Move their files likewise",
            )

    def _miss(self, absent: frozenset[int], *, complete: bool) -> None:
        """What two complete listings in a row do not show is gone: a listing may lag behind."""
        if not complete:
            return
        gone, self._absent = absent & self._absent, absent
        self._again = self._again or bool(absent - gone)
        if gone:
            self._absent -= gone
            log.warning("picture.missing", pictures=self._index.missed(gone))
        self._tell_missing()

    def _tell_missing(self) -> None:
        missing = self._index.missing()
        if not missing:
            self._ledger.trouble(_MISSING, None)
        else:
            what = f"{missing} uploaded {'picture is' if missing == 1 else 'pictures are'} no longer at the server"
            hint = "To send them again: image-sync repair; which they are: image-sync list --state refused"
            self._ledger.trouble(_MISSING, NotFound(what, hint=hint))

    def _listing(self, dataset: DatasetRef) -> Iterator[RemotePicture]:
        for row in self._pictures.listing(dataset):
            if self._stop.is_set():
                raise Changed("the listing was left because the program ends")
            yield row

    def audit(self, now: float) -> None:
        """Compare when all has been quiet after uploads (did somebody double a request?), and regularly (did others
        delete, add or change something?), also while uploads go on: what is under way counts as sent."""
        tally = self._ledger.tally()
        confirmed, since = self._audited
        if self._compare_at is None:
            self._compare_at = now + self._until_next()
        if tally.confirmed != confirmed or tally.sending or tally.cleared or tally.moving:
            self._audited = (tally.confirmed, since := now)
        quiet = since and now - since >= 2 * self._grace
        if quiet or now >= self._compare_at:
            self._again = False
            self.check(first=False)
            self._audited = (self._ledger.tally().confirmed, 0.0)  # not before: one that failed is made again
            self._compare_at = now + self._until_next()

    def _until_next(self) -> float:
        return min(_SOON, 2 * self._grace) if self._again else _REGULARLY
