"""Sends what is due: claims a batch, uploads it, writes down what became of every picture.

Several threads may call :meth:`Uploader.help`; one calls :meth:`Uploader.step`, which also decides. What becomes of
requests whose answer was lost is the reconciler's business.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

from image_sync.backoff import Backoff
from image_sync.domain import Annotation, Batch, DatasetRef, Picture, RemotePicture, Stamp, Verdict
from image_sync.errors import (
    Ambiguous,
    Changed,
    ImageSyncError,
    LedgerError,
    NotFound,
    PictureError,
    PlatformError,
    Refused,
    Unfit,
    Unreadable,
)
from image_sync.fresh import FreshPictures
from image_sync.ledger import Ledger
from image_sync.ledger.keys import digest_of
from image_sync.log import get_logger
from image_sync.platforms.base import Outcome, Platform
from image_sync.tracker import Quiet, Thresholds, upload_verdict

STAGE = "upload"
_IDLE = 5.0
_SURE = 0.2  # seconds for which a decision to send stands: counting after each batch would hold up the others
_SURE_OF_EVERYTHING = 2.0
_ENOUGH = 5  # single pictures refused in a row, after which the fault is looked for elsewhere
_IN_A_ROW = 20  # batches that a thread sends before it looks up
_QUICK, _SLOW = 2.0, 10.0
"""Seconds: a request that took less is followed by larger ones, one that took more by smaller ones. So a fast server
gets few large requests, and on a slow line little is repeated when one is lost."""
_FIRST_FILES, _FIRST_BYTES = 100, 8 << 20
_FASTEST_GROWTH = 8
_PIECE = 1 << 18
"""Bytes of a large picture that are in memory at a time; a picture that has no more is small, and read at once."""
_OPEN = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class UploadRules:
    """How to upload. Times in seconds."""

    batch_files: int = 500
    batch_bytes: int = 32 << 20
    grace: float = 180.0
    """So long an unconfirmed request may still be carried out at the platform; written down for people to read."""
    once: bool = False
    """``run --once``: the quiet time is not waited for."""
    trusting: bool = False
    """Files rest before they are hashed, so that an unchanged stamp proves an unchanged file."""


class RequestSize:
    """How much goes into one request. May be used from several threads.

    Args:
        most_files: pictures in one, at most.
        most_bytes: bytes of pictures in one, at most; a single larger picture goes alone.
    """

    def __init__(self, most_files: int, most_bytes: int) -> None:
        self._most_files = most_files
        self._most_bytes = most_bytes
        self.files = min(_FIRST_FILES, most_files)
        """So many pictures go into the next one."""
        self.bytes = min(_FIRST_BYTES, most_bytes)
        """So many bytes of pictures go into the next one."""
        self._alone = 0
        self._lock = threading.Lock()

    def taken(self, pictures: int, size: int, seconds: float) -> None:
        """A request with so many pictures of so many bytes in all was taken within so many seconds."""
        with self._lock:
            self._alone = 0
            if seconds < _QUICK:
                times = max(2, min(_FASTEST_GROWTH, int(_QUICK / max(seconds, 0.01))))
                self.files = min(self._most_files, max(self.files, times * pictures))
                self.bytes = min(self._most_bytes, max(self.bytes, times * size))
            elif seconds > _SLOW:
                self.files = max(1, min(self.files, pictures // 2))
                self.bytes = max(1, min(self.bytes, size // 2))

    def halve(self, pictures: int) -> None:
        """A request with so many pictures was refused: half as many go into the next, to find the one to blame."""
        with self._lock:
            self.files = max(1, pictures // 2)

    def refused_alone(self) -> int:
        """A picture was refused that was alone in its request. How many were so in a row."""
        with self._lock:
            self._alone += 1
            return self._alone


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
        fresh: FreshPictures | None = None,
    ) -> None:
        self._fresh = fresh or FreshPictures()
        self._ledger = ledger
        self._pictures = platform.pictures
        self.thresholds = thresholds
        """When it sends, now."""
        self._rules = rules
        self._stop = stop
        self._clock = clock
        self._monotonic = backoff.clock
        self._quiet = Quiet()
        self._lock = threading.Lock()
        traits = platform.traits
        self._size = RequestSize(min(rules.batch_files, traits.batch_files), min(rules.batch_bytes, traits.batch_bytes))
        self.busy = False
        """Whether pictures that passed the threshold are still to be sent."""
        self._stranded = False
        self._everything = False
        """Whether whatever is found is sent without counting."""
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
        if now < self._sure_until:
            if self._everything and not self.busy:
                self._ledger.batches.clear()
                self.busy = True
            if self.send():
                return 0.0
        verdict = self._decide(now)
        self._sure_until = now + (_SURE_OF_EVERYTHING if self._everything else _SURE)
        if self.busy and self.send():
            return 0.0
        if self.backoff.remaining():
            return self.backoff.remaining()
        return _IDLE if verdict.wait is None else min(_IDLE, verdict.wait)

    def help(self, _now: float) -> float:
        """What the pool's other threads do: send for as long as there is something. Returns seconds to wait."""
        return 0.0 if self.send(_IN_A_ROW) else _IDLE

    def send(self, most: int = 1) -> bool:
        """Send one batch, if one is cleared. Returns whether there may be more to send at once.

        Args:
            most: so many batches, if one follows the other.
        """
        if not self.busy or self._stop.is_set() or self.backoff.remaining():
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
            self.busy = False
            return False
        more: Batch | bool = batch
        while isinstance(more, Batch):
            most -= 1
            carried = more
            try:
                more = self._send(carried, further=most > 0)
            except LedgerError:
                # What was sent could not be written down: it is in doubt as soon as it can. No longer in flight first,
                # or the step that doubts the stranded would pass it over.
                self._ledger.batches.put_down(carried.id)
                self._stranded = True
                raise
            finally:
                self._ledger.batches.put_down(carried.id)
                self._fresh.drop(picture.sha256 for picture in carried.pictures)
        return more

    def _decide(self, now: float) -> Verdict:
        again = self._ledger.batches.take_up()
        if again:
            log.info("picture.tried_again", pictures=again)
        tally = self._ledger.tally()
        quiet, reached = self._quiet.observe(tally, self.thresholds.upload, now)
        if self._rules.once:
            quiet = float("inf")
        verdict = upload_verdict(tally, self.thresholds, quiet_for=quiet, reached_for=reached)
        if verdict.due and not tally.cleared:
            self._ledger.batches.clear()
        self.busy = verdict.due
        if verdict.due and self._rules.once:
            # The folders may not be read to their end yet: what is still found belongs to the same "everything".
            self._everything = True
            self.thresholds = replace(self.thresholds, upload=1)
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
                made = self._pictures.ensure_dataset(target.dataset_name)
                self._ledger.dataset(made)
                log.info("dataset.found", dataset=made.name, id=made.id)
                target = self._ledger.target
            return target.dataset

    def _send(self, batch: Batch, *, further: bool) -> Batch | bool:
        """Send a batch. Returns the next one, if ``further`` and it could be claimed on the way, or as ``send``."""
        spoiled: list[Picture] = []
        trusting = self._rules.trusting
        fresh = self._fresh.find([picture.sha256 for picture in batch.pictures])
        present = _unchanged(batch.pictures, spoiled, fresh, trusting=trusting)
        if not present:  # nobody was asked anything, so this tells nothing of the platform
            self._ledger.batches.release(batch.id)
            self._forget(spoiled)
            return True
        try:
            there = self._there(batch, present) if self._ledger.remote_index.shared else {}
            sent = [picture for picture in present if picture.key not in there] if there else present
            began = self._monotonic()
            read = partial(_read, fresh, spoiled, trusting)
            outcomes = self._pictures.upload(batch._replace(pictures=tuple(sent)), read) if sent else []
            took = self._monotonic() - began
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
        self._size.taken(len(sent), sum(picture.size for picture in sent), took)
        arrived = [(picture, there[picture.key]) for picture in present if picture.key in there]
        more = self._settle(batch, zip(sent, outcomes, strict=True), arrived, further=further)
        self.backoff.succeeded()
        return more

    def _settle(
        self,
        batch: Batch,
        results: Iterable[tuple[Picture, Outcome]],
        arrived: Sequence[tuple[Picture, RemotePicture]],
        *,
        further: bool,
    ) -> Batch | bool:
        """Write down what the platform answered, and what others had sent already. Returns what :meth:`_send` does."""
        stored: dict[int, str] = {}
        refused: list[tuple[Picture, Outcome]] = []
        annotated: dict[int, str] = {}
        unmarked: list[Picture] = []
        for picture, outcome in results:
            if outcome.refused:
                refused.append((picture, outcome))
                continue
            stored[picture.picture_id] = outcome.remote_id
            if outcome.annotated:
                annotated[picture.picture_id] = picture.annotation
            elif picture.annotation:
                unmarked.append(picture)
        for picture, remote in arrived:
            stored[picture.picture_id] = remote.remote_id
            if picture.annotation:
                unmarked.append(picture)
        if not all(stored.values()):  # stored, but the platform does not say under which ids: the reconciler will ask
            self._doubt(batch, [], Ambiguous("the platform did not say under which ids it stored them"))
            return True
        further = further and not (unmarked or self._stop.is_set() or self.backoff.remaining())
        then = (batch.dataset, self._size.files, self._size.bytes) if further else None
        with self._ledger.annotations.in_hand([picture.picture_id for picture in unmarked]):
            following = self._confirm(batch, stored, refused, annotated, then=then)
            if unmarked:
                self._annotate(batch.dataset, unmarked, stored)
        for picture, remote in arrived:
            self._ledger.changes.arrived(picture.picture_id, remote.remote_id, remote.category)
        return following or True

    def _there(self, batch: Batch, present: Iterable[Picture]) -> dict[str, RemotePicture]:
        """What others have sent of it already, the oldest of each."""
        keyed = tuple(picture for picture in present if digest_of(picture.key))  # a plain name says too little
        copies = self._pictures.copies(batch._replace(pictures=keyed))
        return {key: stored[0] for key, stored in copies.items()}

    def _annotate(self, dataset: DatasetRef, pictures: Iterable[Picture], stored: Mapping[int, str]) -> None:
        """Mark what could not be sent with the pictures. Whatever fails is owed; the reconciler pays it."""
        done: dict[int, str] = {}
        for picture in pictures:
            if self._stop.is_set():
                break
            try:
                annotation = Annotation.from_text(picture.annotation)
                self._pictures.annotate(dataset, stored[picture.picture_id], annotation)
            except PlatformError as error:
                log.warning("annotation.owed", key=picture.key, error=error.what)
                if not isinstance(error, NotFound | Refused):
                    break
            else:
                done[picture.picture_id] = picture.annotation
        self._ledger.annotations.sent(done)

    def _confirm(
        self,
        batch: Batch,
        stored: Mapping[int, str],
        refused: Sequence[tuple[Picture, Outcome]],
        annotated: Mapping[int, str] = MappingProxyType({}),
        then: tuple[DatasetRef, int, int] | None = None,
    ) -> Batch | None:
        final = {picture.picture_id: outcome.refused for picture, outcome in refused if outcome.unfit}
        passing = {picture.picture_id: outcome.refused for picture, outcome in refused if not outcome.unfit}
        following = self._ledger.batches.confirm(
            batch.id, stored, final, passing=passing, annotated=annotated, then=then
        )
        for picture, outcome in refused:
            log.warning("picture.refused", path=picture.path, reason=outcome.refused, tried_again=not outcome.unfit)
        log.info("batch.uploaded", batch=batch.id, category=batch.category, pictures=len(stored), refused=len(refused))
        return following

    def _doubt(self, batch: Batch, spoiled: Iterable[Picture], error: ImageSyncError) -> None:
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
            (picture,) = batch.pictures
            self._confirm(batch, {}, [(picture, Outcome(picture.key, "", error.what, unfit))])
        else:
            self._ledger.batches.release(batch.id)
        if alone % _ENOUGH if unfit else alone < _ENOUGH:
            return True
        self._fail(error)
        return False

    def _forget(self, spoiled: Iterable[Picture]) -> None:
        for picture in spoiled:
            self._ledger.files.look_again(picture.path, picture.sha256)
            log.info("picture.changed", path=picture.path)

    def _fail(self, error: ImageSyncError) -> None:
        if not self._stop.is_set():
            self.backoff.failed(error)


def _unchanged(
    pictures: Iterable[Picture], spoiled: list[Picture], fresh: Mapping[str, bytes], *, trusting: bool
) -> list[Picture]:
    """Those of the pictures that can be sent; the others are added to ``spoiled``.

    One that has changed is left out now without harm to the others: found in the middle of the request, it would put
    all of them in doubt.
    """
    present = []
    for picture in pictures:
        if picture.sha256 in fresh:
            present.append(picture)
            continue
        stamp = picture.stamp if trusting else None
        try:
            found = os.lstat(picture.path)
            if found.st_size != picture.size or not stat.S_ISREG(found.st_mode):
                spoiled.append(picture)
                continue
            if stamp is not None and stamp.inode and not _has(found, stamp):
                for _ in read_verified(picture.path, picture.size, picture.sha256):
                    pass  # it was touched: its hash tells whether it is another one
        except (OSError, PictureError):
            spoiled.append(picture)
        else:
            present.append(picture)
    return present


def _read(
    fresh: Mapping[str, bytes], spoiled: list[Picture], trusting: bool, picture: Picture
) -> bytes | Iterator[bytes]:
    """The bytes of a picture whose turn has come, or pieces of a large one; see :func:`read_verified`."""
    path, size, sha256, stamp = picture.path, picture.size, picture.sha256, picture.stamp
    if sha256 in fresh:
        return fresh[sha256]
    if size > _PIECE:
        return _noted(picture, spoiled, trusting=trusting)
    try:
        handle = os.open(path, _OPEN)
        try:
            content = os.read(handle, size + 1)
            found = os.fstat(handle)
        finally:
            os.close(handle)
    except OSError as error:
        spoiled.append(picture)
        raise Unreadable(f"{os.fsdecode(path)!a} cannot be read: {error.strerror}") from error
    # A stamp that is, now that all is read, still the one that the file was hashed with was so all the while.
    same = trusting and stamp is not None and stamp.inode and _has(found, stamp)
    if len(content) == size and (same or hashlib.sha256(content).hexdigest() == sha256):
        return content
    return b"".join(_noted(picture, spoiled, trusting=trusting))


def _noted(picture: Picture, spoiled: list[Picture], *, trusting: bool) -> Iterator[bytes]:
    try:
        yield from read_verified(picture.path, picture.size, picture.sha256, picture.stamp if trusting else None)
    except PictureError:
        spoiled.append(picture)
        raise


def read_verified(path: bytes, size: int, sha256: str, stamp: Stamp | None = None) -> Iterator[bytes]:
    """The file's bytes, piece by piece; the last piece comes only if all are proved to be the ones that were checked.

    The proof is the stamp that the file had when it was hashed, if it has it before and after it is read, else the
    hash. On file systems whose stamps prove nothing (their inode number is 0), it is always the hash.

    Raises:
        Changed: it holds something else now. Unreadable: it cannot be read.
    """
    left = size
    try:
        handle = os.open(path, _OPEN)
        try:
            found = os.fstat(handle)
            trusted = stamp if stamp is not None and stamp.inode and _has(found, stamp) else None
            digest = None if trusted else hashlib.sha256()
            piece = b""
            while left >= 0 and stat.S_ISREG(found.st_mode):
                piece = os.read(handle, min(_PIECE, left + 1))
                left -= len(piece)
                if digest is not None:
                    digest.update(piece)
                if left <= 0 or not piece:
                    break
                yield piece
            same = _has(os.fstat(handle), trusted) if trusted else digest is not None and digest.hexdigest() == sha256
        finally:
            os.close(handle)
    except OSError as error:
        raise Unreadable(f"{os.fsdecode(path)!a} cannot be read: {error.strerror}") from error
    if left or not same:
        when = "while it was sent" if trusted else "after it was checked"
        raise Changed(f"{os.fsdecode(path)!a} changed {when}")
    yield piece


def _has(found: os.stat_result, stamp: Stamp) -> bool:
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino) == stamp[:4]
