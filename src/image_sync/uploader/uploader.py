"""Sends what is due: claims a batch, uploads it, writes down what became of every picture.

Several threads may call :meth:`Uploader.help`; one calls :meth:`Uploader.step`, which also decides. What becomes of
requests whose answer was lost is the reconciler's business.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from image_sync.backoff import Backoff
from image_sync.domain import Annotation, Batch, DatasetRef, Picture, Verdict
from image_sync.errors import (
    Ambiguous,
    ImageSyncError,
    LedgerError,
    NotFound,
    PictureError,
    PlatformError,
    Refused,
    Unfit,
)
from image_sync.ledger import Ledger
from image_sync.ledger.keys import digest_of
from image_sync.log import get_logger
from image_sync.platforms.base import Outcome, Platform, RemotePicture
from image_sync.tracker import Quiet, Thresholds, upload_verdict
from image_sync.uploader.cargo import reader
from image_sync.uploader.size import Size

STAGE = "upload"
_IDLE = 5.0
_SURE = 0.2  # seconds for which a decision to send stands: counting after each batch would hold up the others
_ENOUGH = 5  # single pictures refused in a row, after which the fault is looked for elsewhere
_IN_A_ROW = 20  # batches that a thread sends before it looks up

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadRules:
    """How to upload. Times in seconds."""

    batch_files: int = 500
    batch_bytes: int = 32 << 20
    grace: float = 180.0
    """So long an unconfirmed request may still be carried out at the platform; written down for people to read."""
    impatient: bool = False
    """``run --once``: the quiet time is not waited for."""
    trusting: bool = False
    """Files rest before they are hashed, so that an unchanged stamp proves an unchanged file."""


class Uploader:
    """The upload stage.

    Args:
        ledger: what is owed, and where it is written down.
        platform: where pictures go.
        thresholds: when to send.
        rules: how.
        stop: set when the program is to end: nothing new is begun then.
        backoff: the platform's. clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        thresholds: Thresholds,
        rules: UploadRules,
        stop: threading.Event,
        backoff: Backoff,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._platform = platform
        self._thresholds = thresholds
        self._rules = rules
        self._stop = stop
        self._clock = clock
        self._quiet = Quiet()
        self._lock = threading.Lock()
        traits = platform.traits
        self._size = Size(min(rules.batch_files, traits.batch_files), min(rules.batch_bytes, traits.batch_bytes))
        self._open = False
        self._stranded = False
        self._said = ""
        self._sure_until = 0.0
        self.backoff = backoff.stage(STAGE)

    def step(self, now: float) -> float:
        """Decide, settle, send one batch. Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.backoff.remaining():
            return self.backoff.remaining()
        if not self._ledger.remote_index.checked:
            return _IDLE  # what lies at the platform must be known before anything is sent there
        if self._stranded:
            self._stranded = False
            try:
                self._ledger.batches.doubt_all(not_before=self._clock() + self._rules.grace)
            except LedgerError:
                self._stranded = True
                raise
        if now < self._sure_until and self.send():
            return 0.0
        verdict = self._decide(now)
        self._sure_until = now + _SURE
        if self._open and self.send():
            return 0.0
        if self.backoff.remaining():
            return self.backoff.remaining()
        return _IDLE if verdict.wait is None else min(_IDLE, verdict.wait)

    def send(self, most: int = 1) -> bool:
        """Send one batch, if one is cleared. Returns whether there may be more to send at once.

        Args:
            most: so many batches, if one follows the other.
        """
        if not self._open or self._stop.is_set() or self.backoff.remaining():
            return False
        try:
            dataset = self._dataset()
        except ImageSyncError as error:
            self._fail(error)
            return False
        try:
            batch = self._ledger.batches.claim(dataset, self._size.files, self._size.bytes)
        except LedgerError:
            self._stranded = True  # a database that went away may have written it down all the same
            raise
        if batch is None:
            self._open = False
            return False
        more: Batch | bool = batch
        while isinstance(more, Batch):
            most -= 1
            more = self._carry(more, further=most > 0)
        return more

    def _carry(self, batch: Batch, *, further: bool) -> Batch | bool:
        try:
            return self._send(batch, further=further)
        except LedgerError:
            # What was sent could not be written down: it is in doubt as soon as it can. No longer in flight first, or
            # the step that doubts the stranded would pass it over.
            self._ledger.batches.put_down(batch.id)
            self._stranded = True
            raise
        finally:
            self._ledger.batches.put_down(batch.id)

    def help(self, _now: float) -> float:
        """What the pool's other threads do: send for as long as there is something. Returns seconds to wait."""
        return 0.0 if self.send(_IN_A_ROW) else _IDLE

    @property
    def thresholds(self) -> Thresholds:
        """When it sends, now."""
        return self._thresholds

    @property
    def busy(self) -> bool:
        """Whether pictures that passed the threshold are still to be sent."""
        return self._open

    def _decide(self, now: float) -> Verdict:
        again = self._ledger.batches.take_up()
        if again:
            log.info("picture.tried_again", pictures=again)
        tally = self._ledger.tally()
        quiet, reached = self._quiet.observe(tally, self._thresholds.upload, now)
        if self._rules.impatient:
            quiet = float("inf")
        verdict = upload_verdict(tally, self._thresholds, quiet_for=quiet, reached_for=reached)
        if verdict.due and not tally.cleared:
            self._ledger.batches.clear()
        self._open = verdict.due
        if verdict.due and self._rules.impatient:
            # The folders may not be read to their end yet: what is still found belongs to the same "everything".
            self._thresholds = replace(self._thresholds, upload=1)
        said = f"{verdict.have}/{verdict.need} {verdict.due}"
        if said != self._said and (verdict.have or self._said):
            self._said = said
            log.info(
                "upload.counted",
                ready=verdict.have,
                threshold=verdict.need,
                short_by=verdict.short_by,
                reason=verdict.reason,
            )
        return verdict

    def _dataset(self) -> DatasetRef:
        with self._lock:
            target = self._ledger.target
            if not target.dataset_id:
                made = self._platform.pictures.ensure_dataset(target.dataset_name)
                self._ledger.dataset(made)
                log.info("dataset.found", dataset=made.name, id=made.id)
                target = self._ledger.target
            return target.dataset

    def _send(self, batch: Batch, *, further: bool) -> Batch | bool:
        """Send a batch. Returns the next one, if ``further`` and it could be claimed on the way, or as ``send``."""
        spoiled: list[Picture] = []
        present = [item for item in batch.pictures if self._still_there(item, spoiled)]
        if not present:  # nobody was asked anything, so this tells nothing of the platform
            self._ledger.batches.release(batch.id)
            self._forget(spoiled)
            return True
        read = reader(spoiled, trusting=self._rules.trusting)
        try:
            there = self._there(batch, present)
            items = tuple(item for item in present if item.key not in there)
            began = time.monotonic()
            outcomes = self._platform.pictures.upload(batch._replace(pictures=items), read) if items else []
            took = time.monotonic() - began
        except (PictureError, Ambiguous) as error:
            # The server may have stored part of what it got: ask before sending any of it again.
            self._doubt(batch, spoiled, error)
            return True
        except Refused as error:
            return self._refused(batch, error)
        except ImageSyncError as error:
            self._ledger.batches.release(batch.id)
            if isinstance(error, NotFound):
                self._ledger.remote_index.doubt()  # the dataset may be gone: looked into before anything is sent
            self._fail(error)
            return False
        self._forget(spoiled)
        ids = {outcome.key: outcome.remote_id for outcome in outcomes if not outcome.refused}
        ids |= {key: stored.remote_id for key, stored in there.items()}
        marked = {outcome.key for outcome in outcomes if outcome.annotated}
        if not all(ids.values()):  # stored, but the platform does not say under which ids: the reconciler will ask
            self._doubt(batch, [], Ambiguous("the platform did not say under which ids it stored them"))
            return True
        refused = {outcome.key: outcome for outcome in outcomes if outcome.refused}
        unmarked = [item for item in batch.pictures if item.annotation and item.key in ids.keys() - marked]
        with self._ledger.annotations.in_hand([item.picture_id for item in unmarked]):
            further = further and not (unmarked or self._stop.is_set() or self.backoff.remaining())
            following = self._confirm(batch, ids, refused, marked, further=further)
            if unmarked:
                self._annotate(batch.dataset, unmarked, ids)
        for item in batch.pictures:
            if item.key in there:
                self._ledger.changes.arrived(item.picture_id, ids[item.key], there[item.key].category)
        self._size.taken(len(items), sum(item.size for item in items), took)
        self.backoff.succeeded()
        return following or True

    def _there(self, batch: Batch, present: Iterable[Picture]) -> dict[str, RemotePicture]:
        """What others have sent of it already, the oldest of each: asked only where they are known to do that."""
        if not self._ledger.remote_index.shared:
            return {}
        keyed = tuple(item for item in present if digest_of(item.key))  # a plain name says too little
        copies = self._platform.pictures.copies(batch._replace(pictures=keyed))
        return {key: stored[0] for key, stored in copies.items()}

    def _annotate(self, dataset: DatasetRef, pictures: Iterable[Picture], ids: dict[str, str]) -> None:
        """Mark what could not be sent with the pictures. Whatever fails is owed; the reconciler pays it."""
        done: dict[int, str] = {}
        for item in pictures:
            if self._stop.is_set():
                break
            try:
                self._platform.pictures.annotate(dataset, ids[item.key], Annotation.from_text(item.annotation))
            except (NotFound, Refused) as error:
                log.warning("annotation.owed", key=item.key, error=error.what)
            except PlatformError as error:
                log.warning("annotation.owed", key=item.key, error=error.what)
                break
            else:
                done[item.picture_id] = item.annotation
        self._ledger.annotations.sent(done)

    def _confirm(
        self,
        batch: Batch,
        ids: dict[str, str],
        refused: dict[str, Outcome],
        marked: Collection[str] = (),
        *,
        further: bool = False,
    ) -> Batch | None:
        stored = {item.picture_id: ids[item.key] for item in batch.pictures if item.key in ids}
        final = {
            item.picture_id: refused[item.key].refused for item in batch.pictures if _is(item, refused, unfit=True)
        }
        passing = {
            item.picture_id: refused[item.key].refused for item in batch.pictures if _is(item, refused, unfit=False)
        }
        annotated = {item.picture_id: item.annotation for item in batch.pictures if item.key in marked}
        then = (batch.dataset, self._size.files, self._size.bytes) if further else None
        following = self._ledger.batches.confirm(
            batch.id, stored, final, passing=passing, annotated=annotated, then=then
        )
        for item in batch.pictures:
            if item.key in refused:
                why = refused[item.key]
                log.warning("picture.refused", path=item.path, reason=why.refused, tried_again=not why.unfit)
        log.info("batch.uploaded", batch=batch.id, category=batch.category, pictures=len(stored), refused=len(refused))
        return following

    def _doubt(self, batch: Batch, spoiled: list[Picture], error: ImageSyncError) -> None:
        self._ledger.batches.doubt(batch.id, not_before=self._clock() + self._rules.grace)
        self._forget(spoiled)
        log.warning("batch.doubtful", batch=batch.id, pictures=len(batch.pictures), error=error.what)

    def _refused(self, batch: Batch, error: Refused) -> bool:
        """The whole request was refused: find the picture that is to blame by sending fewer at a time.

        When several in a row are refused alone, it is not the pictures: the others are spared, and a person is told.
        From then on until one is taken, a refusal that does not name a fault of the picture is not held against it.
        """
        if len(batch.pictures) > 1:
            self._size.halve(len(batch.pictures))  # first, or another thread would claim as many again
            self._ledger.batches.release(batch.id)
            log.warning("batch.refused", batch=batch.id, pictures=len(batch.pictures), error=error.what)
            return True
        alone = self._size.refused_alone()
        unfit = isinstance(error, Unfit)
        if unfit or alone < _ENOUGH:
            self._confirm(batch, {}, {item.key: Outcome(item.key, "", error.what, unfit) for item in batch.pictures})
        else:
            self._ledger.batches.release(batch.id)
        if alone % _ENOUGH if unfit else alone < _ENOUGH:
            return True
        self._fail(error)
        return False

    def _still_there(self, item: Picture, spoiled: list[Picture]) -> bool:
        try:
            found = os.lstat(item.path)
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != item.size:
            spoiled.append(item)
            return False
        return True

    def _forget(self, spoiled: Iterable[Picture]) -> None:
        for item in spoiled:
            self._ledger.files.look_again(item.path, item.sha256)
            log.info("picture.changed", path=item.path)

    def _fail(self, error: ImageSyncError) -> None:
        if not self._stop.is_set():
            self.backoff.failed(error)


def _is(item: Picture, refused: Mapping[str, Outcome], *, unfit: bool) -> bool:
    return item.key in refused and refused[item.key].unfit is unfit
