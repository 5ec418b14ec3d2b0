"""Sends what is due: claims a batch, uploads it, writes down what became of every picture.

Several threads may call :meth:`Uploader.send`; one calls :meth:`Uploader.step`, which also decides, settles batches
whose outcome is unknown, and carries moves between categories and deletions to the platform.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from image_sync.domain import Batch, Claimed, DatasetRef, Verdict
from image_sync.errors import (
    Ambiguous,
    Changed,
    ImageSyncError,
    NotFound,
    PictureError,
    Refused,
    Unauthorised,
    Unreadable,
)
from image_sync.ledger import Ledger
from image_sync.logs import get_logger
from image_sync.platforms.base import Item, Platform, Shipment
from image_sync.setback import Setback
from image_sync.tracker import Quiet, Thresholds, upload_verdict

STAGE = "upload"
_IDLE = 5.0
_LOOK_AGAIN = 15.0
_CHORES = 100
_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadRules:
    """How to upload. Times in seconds."""

    batch_files: int = 100
    batch_bytes: int = 64 << 20
    grace: float = 180.0
    """So long an unconfirmed request may still be carried out at the platform."""
    remove_after: float | None = None
    """Deleted files are removed at the platform after this time; None: never."""
    impatient: bool = False
    """``run --once``: the quiet time is not waited for."""


class Uploader:
    """The upload stage.

    Args:
        ledger: what is owed, and where it is written down.
        platform: where pictures go.
        thresholds: when to send.
        rules: how.
        stop: set when the program is to end: nothing new is begun then.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        thresholds: Thresholds,
        rules: UploadRules,
        stop: threading.Event,
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
        traits = platform.describe()
        self._most_files = min(rules.batch_files, traits.batch_files)
        self._most_bytes = min(rules.batch_bytes, traits.batch_bytes)
        self._files = self._most_files
        self._open = False
        self._signed_in = False
        self._looked: dict[str, float] = {}
        self._said = ""
        self.setback = Setback(STAGE, ledger)

    def step(self, now: float) -> float:
        """Decide, settle, send one batch. Returns seconds until it wants to be called again without news.

        Args:
            now: monotonic time in seconds.
        """
        if self._stop.is_set() or self.setback.left(now):
            return self.setback.left(now)
        try:
            self._greet()
            rest = self._settle(now)
            self._relabel()
            self._remove()
        except ImageSyncError as error:
            return self._fail(error, now)
        verdict = self._decide(now)
        if self._open and self.send(now):
            return 0.0
        if self.setback.left(now):
            return self.setback.left(now)
        return rest if verdict.wait is None else min(rest, verdict.wait)

    def send(self, now: float) -> bool:
        """Send one batch, if one is cleared. Returns whether there may be more to send at once.

        Args:
            now: monotonic time in seconds.
        """
        if not self._open or self._stop.is_set() or self.setback.left(now):
            return False
        try:
            dataset = self._dataset()
        except ImageSyncError as error:
            self._fail(error, now)
            return False
        batch = self._ledger.batches.claim(dataset, self._files, self._most_bytes)
        if batch is None:
            self._open = False
            return False
        return self._send(batch, now)

    def help(self, now: float) -> float:
        """What the pool's other threads do: send for as long as there is something. Returns seconds to wait."""
        return 0.0 if self.send(now) else _IDLE

    @property
    def busy(self) -> bool:
        """Whether pictures that passed the threshold are still to be sent."""
        return self._open

    def _greet(self) -> None:
        if not self._signed_in:
            self._platform.sign_in()
            self._signed_in = True
            self.setback.over()

    def _decide(self, now: float) -> Verdict:
        tally = self._ledger.tally()
        quiet, reached = self._quiet.observe(tally, self._thresholds.upload, now)
        if self._rules.impatient:
            quiet = float("inf")
        verdict = upload_verdict(tally, self._thresholds, quiet_for=quiet, reached_for=reached)
        if verdict.due and not tally.cleared:
            self._ledger.batches.clear()
        self._open = verdict.due
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
                made = self._platform.ensure_dataset(target.dataset_name)
                self._ledger.dataset(made)
                log.info("dataset.found", dataset=made.name, id=made.id)
                target = self._ledger.target
            return DatasetRef(target.dataset_id, target.dataset_name)

    def _send(self, batch: Batch, now: float) -> bool:
        spoiled: list[Claimed] = []
        present = [item for item in batch.pictures if self._still_there(item, spoiled)]
        shipment = _shipment(batch, present, spoiled)
        try:
            outcomes = self._platform.upload(shipment) if present else []
            ids = {outcome.key: outcome.remote_id for outcome in outcomes if not outcome.refused}
            if not all(ids.values()):  # the platform does not say under which ids it stored them
                ids |= self._platform.find(shipment)
        except (PictureError, Ambiguous) as error:
            # The server may have stored part of what it got: ask before sending any of it again.
            self._doubt(batch, spoiled, error)
            return True
        except Refused as error:
            return self._refused(batch, error)
        except ImageSyncError as error:
            self._ledger.batches.release(batch.id)
            self._fail(error, now)
            return False
        self._forget(spoiled)
        refused = {outcome.key: outcome.refused for outcome in outcomes if outcome.refused}
        self._confirm(batch, ids, refused)
        with self._lock:
            self._files = min(self._most_files, self._files * 2)
        self.setback.over()
        return True

    def _confirm(self, batch: Batch, ids: dict[str, str], refused: dict[str, str]) -> None:
        stored = {item.picture_id: ids[item.key] for item in batch.pictures if item.key in ids}
        reasons = {item.picture_id: refused[item.key] for item in batch.pictures if item.key in refused}
        self._ledger.batches.confirm(batch.id, stored, reasons)
        self._looked.pop(batch.id, None)
        for item in batch.pictures:
            if item.key in refused:
                log.warning("picture.refused", path=item.path, reason=refused[item.key])
        log.info("batch.uploaded", batch=batch.id, category=batch.category, pictures=len(stored), refused=len(reasons))

    def _doubt(self, batch: Batch, spoiled: list[Claimed], error: ImageSyncError) -> None:
        self._ledger.batches.doubt(batch.id, not_before=self._clock() + self._rules.grace)
        self._forget(spoiled)
        log.warning("batch.doubtful", batch=batch.id, pictures=len(batch.pictures), error=error.what)

    def _refused(self, batch: Batch, error: Refused) -> bool:
        """The whole request was refused: find the picture that is to blame by sending fewer at a time."""
        if len(batch.pictures) > 1:
            with self._lock:
                self._files = max(1, len(batch.pictures) // 2)
            self._ledger.batches.release(batch.id)
            log.warning("batch.refused", batch=batch.id, pictures=len(batch.pictures), error=error.what)
        else:
            self._confirm(batch, {}, {item.key: error.what for item in batch.pictures})
        return True

    def _still_there(self, item: Claimed, spoiled: list[Claimed]) -> bool:
        try:
            found = os.lstat(item.path)
        except OSError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != item.size:
            spoiled.append(item)
            return False
        return True

    def _forget(self, spoiled: Iterable[Claimed]) -> None:
        for item in spoiled:
            self._ledger.places.look_again(item.path)
            log.info("picture.changed", path=item.path)

    def _settle(self, now: float) -> float:
        """Ask the platform what became of batches whose answer was lost. Returns seconds until the next question."""
        doubtful = self._ledger.batches.doubtful()
        between = max(0.1, min(_LOOK_AGAIN, self._rules.grace / 4))
        for batch, not_before in doubtful:
            if self._stop.is_set():
                break
            if now < self._looked.get(batch.id, now - between) + between:
                continue
            self._looked[batch.id] = now
            found = self._platform.find(_shipment(batch, batch.pictures, []))
            ours = {item.key: found[item.key] for item in batch.pictures if item.key in found}
            if len(ours) == len(batch.pictures) or self._clock() >= not_before:
                log.info("batch.settled", batch=batch.id, arrived=len(ours), again=len(batch.pictures) - len(ours))
                self._confirm(batch, ours, {})
        return min(_IDLE, between) if doubtful else _IDLE

    def _relabel(self) -> None:
        for change in self._ledger.batches.relabels(_CHORES):
            if self._stop.is_set():
                return
            try:
                self._platform.relabel(self._dataset(), change.remote_id, change.category)
            except NotFound:
                log.warning("picture.missing_at_platform", remote_id=change.remote_id)
            self._ledger.batches.relabelled(change.picture_id, change.category)
            log.info("picture.relabelled", remote_id=change.remote_id, category=change.category)

    def _remove(self) -> None:
        if self._rules.remove_after is None:
            return
        before = self._clock() - self._rules.remove_after
        for picture_id, remote_id in self._ledger.batches.removals(orphaned_before=before, limit=_CHORES):
            if self._stop.is_set():
                return
            self._platform.remove(self._dataset(), remote_id)
            self._ledger.batches.removed(picture_id)
            log.info("picture.removed", remote_id=remote_id)

    def _fail(self, error: ImageSyncError, now: float) -> float:
        if self._stop.is_set():
            return 0.0
        pause = self.setback.hit(error, now)
        if isinstance(error, Unauthorised) and not self._signed_in:
            raise error  # nothing will work until a person changes the configuration
        return pause


def _shipment(batch: Batch, pictures: Iterable[Claimed], spoiled: list[Claimed]) -> Shipment:
    items = tuple(Item(item.key, item.size, item.sha256, _reader(item, spoiled)) for item in pictures)
    return Shipment(batch.id, batch.dataset, batch.category, items, batch.claimed_at)


def _reader(item: Claimed, spoiled: list[Claimed]) -> Callable[[], bytes]:
    def read() -> bytes:
        try:
            return read_verified(item.path, item.size, item.sha256)
        except PictureError:
            spoiled.append(item)
            raise

    return read


def read_verified(path: bytes, size: int, sha256: str) -> bytes:
    """The file's bytes, proved to be the ones that were checked.

    Raises:
        Changed: it holds something else now. Unreadable: it cannot be read.
    """
    shown = os.fsdecode(path)
    try:
        with open(os.open(path, _OPEN), "rb") as file:
            content = file.read(size + 1) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError as error:
        raise Unreadable(f"{shown!a} cannot be read: {error.strerror}") from error
    if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
        raise Changed(f"{shown!a} changed after it was checked")
    return content
