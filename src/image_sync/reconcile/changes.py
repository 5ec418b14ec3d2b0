"""Carries over what the folders say: categories, annotations that changed, and files that were deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable

from image_sync.domain import Annotation, DatasetRef
from image_sync.errors import ImageSyncError, NotFound, PlatformError, Refused
from image_sync.ledger import Departed, Ledger
from image_sync.ledger.changes import Relabel
from image_sync.log import get_logger
from image_sync.platforms.base import Platform
from image_sync.reconcile.in_doubt import Deduplicator

REMOVALS = "removals"
"""The name under which ``status`` tells that removals wait for a person."""
_AT_ONCE = 100
_ENOUGH = 5  # annotations refused in a row, after which the fault is looked for elsewhere

log = get_logger(__name__)


class LocalChanges:
    """What the folders want of the platform beside uploads.

    Args:
        dataset: the dataset, if there is one yet.
        copies: knows which stored pictures are ours.
        remove_after: deleted files are removed at the platform after so many seconds; None: never.
        most_removals: how many pictures of a category, of which so many are stored, may be removed at once without a
            person's word.
        stop: set when the program is to end.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        ledger: Ledger,
        platform: Platform,
        dataset: Callable[[], DatasetRef | None],
        copies: Deduplicator,
        remove_after: float | None,
        most_removals: Callable[[int], int],
        stop: threading.Event,
        clock: Callable[[], float],
    ) -> None:
        self._ledger = ledger
        self._changes = ledger.changes
        self._pictures = platform.pictures
        self._dataset = dataset
        self._copies = copies
        self._remove_after = remove_after
        self._most_removals = most_removals
        self._stop = stop
        self._clock = clock
        self._refused_annotations = 0
        self._held: list[Departed] | None = None
        self._lock = threading.Lock()
        self._in_hand: set[int] = set()
        self._refused: dict[int, Refused] = {}

    def relabel(self) -> bool:
        """Moved files: their pictures get the category of their new folder. May be called from several threads.

        A change that the platform refuses holds up no other; when only such are left, the first refusal is raised.

        Returns:
            Whether there may be more.
        """
        changes = self._claim()
        dataset = self._dataset() if changes else None
        if dataset is None:
            return False
        done: list[Relabel] = []
        try:
            self._changes.relabelling(change.picture_id for change in changes)
            for change in changes:
                if self._stop.is_set():
                    break
                if self._told(dataset, change):
                    done.append(change)
                    log.info("picture.relabelled", remote_id=change.remote_id, category=change.category)
        finally:
            try:
                self._changes.relabelled(done)
            finally:
                with self._lock:
                    self._in_hand -= {change.picture_id for change in changes}
        return not self._stop.is_set()

    def _claim(self) -> list[Relabel]:
        """Changes of category that no other thread has in hand."""
        with self._lock:
            apart = self._in_hand | self._refused.keys()
            owed = self._changes.relabels(_AT_ONCE + len(apart))
            changes = [one for one in owed if one.picture_id not in apart][:_AT_ONCE]
            if not changes and self._refused and not self._in_hand:
                error = next(iter(self._refused.values()))
                self._refused.clear()  # they are tried again after the pause
                if owed:
                    raise error
            self._in_hand |= {change.picture_id for change in changes}
        return changes

    def _told(self, dataset: DatasetRef, change: Relabel) -> bool:
        """Whether nothing is left to be told of this change of category."""
        try:
            self._pictures.relabel(dataset, change.remote_id, change.category)
        except NotFound:
            log.warning("picture.missing_at_platform", remote_id=change.remote_id)
            self._ledger.remote_index.doubt()
        except Refused as error:
            log.warning("picture.relabel_refused", remote_id=change.remote_id, error=error.what)
            with self._lock:
                self._refused[change.picture_id] = error
            return False
        return True

    def annotate(self) -> bool:
        """Annotations that changed, or were not sent with their pictures. Returns whether there may be more.

        What the platform refuses is reported and not tried again as it is. When several in a row are refused, it is
        not the annotations: a person is told before the others are tried.
        """
        annotations = self._ledger.annotations
        pending = annotations.due(_AT_ONCE)
        dataset = self._dataset() if pending else None
        if dataset is None:
            return False
        done: dict[int, str] = {}
        try:
            for one in pending:
                if self._stop.is_set():
                    break
                try:
                    self._pictures.annotate(dataset, one.remote_id, Annotation.from_text(one.text))
                except NotFound:
                    log.warning("picture.missing_at_platform", remote_id=one.remote_id)
                except Refused as error:
                    annotations.refused(one, error.what)
                    log.warning("annotation.refused", key=one.key, error=error.what)
                    self._refused_annotations += 1
                    if self._refused_annotations % _ENOUGH == 0:
                        raise
                    continue
                else:
                    self._refused_annotations = 0
                    log.info("picture.annotated", key=one.key, remote_id=one.remote_id)
                done[one.picture_id] = one.text
        except PlatformError:
            annotations.sent(done)
            raise
        annotations.sent(done)
        return len(pending) == _AT_ONCE and not self._stop.is_set()

    def remove(self) -> None:
        """Deleted files: every copy that is ours is written down, then the picture is forgotten, then they go.

        So do pictures that a person had forgotten (``image-sync forget``), whatever is done about deleted files.
        """
        if self._remove_after is not None:
            self._give_up(self._clock() - self._remove_after)
        owed = self._changes.removals(_AT_ONCE)
        dataset = self._dataset() if owed else None
        for remote_id in owed if dataset is not None else ():
            if self._stop.is_set() or dataset is None:
                return
            self._pictures.remove(dataset, remote_id)
            self._changes.removed(remote_id)
            log.info("picture.removed", remote_id=remote_id)

    def _give_up(self, before: float) -> None:
        """Write down what is to be removed of pictures whose last file was deleted before that Unix time."""
        orphans = self._changes.orphans(before=before, limit=_AT_ONCE, but=self._too_many())
        if not orphans.pictures or self._dataset() is None:
            return
        copies = self._pictures.copies(orphans)
        status = self._changes.status([picture.picture_id for picture in orphans.pictures])
        for picture in orphans.pictures:
            here = status[picture.picture_id]
            stored = {copy.remote_id for copy in self._copies.proved(copies.get(picture.key, []), here)}
            self._changes.forget(picture.picture_id, stored | {here.remote_id})

    def _too_many(self) -> set[str]:
        """Categories of which more files were deleted than may go without a person's word; it is said once."""
        held = [one for one in self._changes.departed() if one.pictures > self._most_removals(one.stored)]
        if held != self._held:
            known = {one.category for one in self._held or ()}
            for one in held:
                if one.category not in known:
                    log.error("removals.held", category=one.category, deleted=one.pictures, stored=one.stored)
            self._held = held
            counts = ", ".join(f"{one.pictures} of {one.stored} in category '{one.category}'" for one in held)
            error = ImageSyncError(
                f"the files of many pictures were deleted ({counts}), more than max_removals allows at once: they stay "
                "at the platform until a person confirms it",
                hint="See what would go: image-sync removals. If it is meant: image-sync removals confirm. "
                "If not, put the files back: nothing is removed then.",
            )
            self._ledger.trouble(REMOVALS, error if held else None)
        return {one.category for one in held}
