"""The uploader's side of the ledger: what to send next, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from image_sync.domain import Batch, BatchState, Claimed, DatasetRef, PictureState
from image_sync.ledger import moves
from image_sync.ledger.book import Book
from image_sync.ledger.places import OWNER
from image_sync.ledger.schema import batch, folder, picture, place, target


@dataclass(frozen=True, slots=True)
class Relabel:
    """A stored picture whose file now lies in another category."""

    picture_id: int
    remote_id: str
    category: str


class Batches:
    """Claims and confirmations. A picture is in at most one open batch."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def clear(self) -> None:
        """The upload threshold is reached: everything that is ready now is to be sent, whatever comes later."""
        newest = select(func.max(picture.c.id)).where(
            picture.c.target_id == self._target, picture.c.state == PictureState.READY
        )
        with self._book.db.writing() as tx:
            mark = tx.execute(newest).scalar()
            if mark is not None:
                this = (target.c.id == self._target) & (target.c.cleared_to < mark)
                tx.execute(update(target).where(this).values(cleared_to=mark))

    def claim(self, dataset: DatasetRef, files: int, size: int) -> Batch | None:
        """The oldest cleared pictures of one category as a new batch, or None if there are none.

        Args:
            dataset: where they will go.
            files: most pictures in it.
            size: most bytes in it; a single larger picture goes alone.
        """
        cleared = select(target.c.cleared_to).where(target.c.id == self._target).scalar_subquery()
        waiting = (
            (picture.c.target_id == self._target) & (picture.c.state == PictureState.READY) & (picture.c.id <= cleared)
        )
        with self._book.db.writing() as tx:
            first = tx.execute(select(picture.c.category).where(waiting).order_by(picture.c.id).limit(1)).first()
            if first is None:
                return None
            rows = tx.execute(
                select(picture.c.id, picture.c.key, picture.c.size, picture.c.sha256, folder.c.path, place.c.name)
                .join(place, (place.c.picture_id == picture.c.id) & (place.c.role == OWNER))
                .join(folder, folder.c.id == place.c.folder_id)
                .where(waiting, picture.c.category == first.category)
                .order_by(picture.c.id)
                .limit(files)
            ).all()
            claimed = Batch(
                id=uuid.uuid4().hex,
                dataset=dataset,
                category=first.category,
                pictures=tuple(_claimed(row) for row in _fitting(rows, size)),
                claimed_at=self._book.clock(),
            )
            self._write_down(tx, claimed)
        return claimed

    def confirm(self, batch_id: str, stored: Mapping[int, str], refused: Mapping[int, str]) -> None:
        """The platform answered for these pictures of the batch; any others go back in line.

        Args:
            stored: picture id -> remote id. refused: picture id -> the platform's reason.
        """
        with self._book.db.writing() as tx:
            self._settle(tx, batch_id, stored, refused)
        self._book.changed()

    def release(self, batch_id: str) -> None:
        """Nothing of the batch is at the platform: its pictures go back in line."""
        self.confirm(batch_id, {}, {})

    def doubt(self, batch_id: str, *, not_before: float) -> None:
        """It is not known what of the batch arrived. Absence is not believed before ``not_before`` (Unix time)."""
        with self._book.db.writing() as tx:
            self._move(tx, batch_id, BatchState.DOUBTFUL, not_before=not_before)
        self._book.changed()

    def doubt_all(self, *, not_before: float) -> int:
        """At start: every batch that was being sent when the last process ended is doubtful. Returns how many."""
        sending = (batch.c.target_id == self._target) & (batch.c.state == BatchState.SENDING)
        with self._book.db.writing() as tx:
            result = tx.execute(update(batch).where(sending).values(state=BatchState.DOUBTFUL, not_before=not_before))
        return int(result.rowcount)

    def doubtful(self) -> list[tuple[Batch, float]]:
        """Batches whose outcome the platform must be asked for, oldest first, with their ``not_before``."""
        with self._book.db.reading() as tx:
            ref = _dataset(tx, self._target)
            rows = tx.execute(
                select(batch)
                .where(batch.c.target_id == self._target, batch.c.state == BatchState.DOUBTFUL)
                .order_by(batch.c.claimed_at)
            ).all()
            return [(_stored(tx, row, ref), row.not_before or 0.0) for row in rows]

    def relabels(self, limit: int) -> list[Relabel]:
        """Stored pictures that the platform has under another category than the folders say."""
        with self._book.db.reading() as tx:
            rows = tx.execute(
                select(picture.c.id, picture.c.remote_id, picture.c.category)
                .where(
                    picture.c.target_id == self._target,
                    picture.c.state == PictureState.CONFIRMED,
                    picture.c.category != picture.c.sent_category,
                )
                .order_by(picture.c.id)
                .limit(limit)
            )
            return [Relabel(row.id, row.remote_id, row.category) for row in rows]

    def relabelled(self, picture_id: int, category: str) -> None:
        """The platform has the picture under this category now."""
        with self._book.db.writing() as tx:
            tx.execute(update(picture).where(picture.c.id == picture_id).values(sent_category=category))

    def removals(self, *, orphaned_before: float, limit: int) -> list[tuple[int, str]]:
        """(picture id, remote id) of stored pictures whose last file was deleted before that Unix time."""
        owners = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        with self._book.db.reading() as tx:
            rows = tx.execute(
                select(picture.c.id, picture.c.remote_id)
                .where(
                    picture.c.target_id == self._target,
                    picture.c.state == PictureState.CONFIRMED,
                    picture.c.orphaned_at < orphaned_before,
                    ~owners,
                )
                .order_by(picture.c.id)
                .limit(limit)
            )
            return [(row.id, row.remote_id) for row in rows]

    def removed(self, picture_id: int) -> None:
        """The platform no longer has the picture."""
        with self._book.db.writing() as tx:
            tx.execute(delete(picture).where(picture.c.id == picture_id))

    def requeue_refused(self) -> int:
        """Refused pictures go back in line (``image-sync retry``). Returns how many."""
        refused = (picture.c.target_id == self._target) & (picture.c.state == PictureState.REFUSED)
        with self._book.db.writing() as tx:
            result = tx.execute(
                update(picture).where(refused).values(state=PictureState.READY, reason="", ready_at=self._book.clock())
            )
        self._book.changed()
        return int(result.rowcount)

    @property
    def _target(self) -> int:
        return self._book.aimed().id

    def _write_down(self, tx: Connection, claimed: Batch) -> None:
        tx.execute(
            insert(batch).values(
                id=claimed.id,
                target_id=self._target,
                category=claimed.category,
                state=BatchState.SENDING,
                files=len(claimed.pictures),
                size=sum(item.size for item in claimed.pictures),
                claimed_at=claimed.claimed_at,
            )
        )
        tx.execute(
            update(picture)
            .where(picture.c.id.in_([item.picture_id for item in claimed.pictures]))
            .values(
                state=PictureState.CLAIMED,
                batch_id=claimed.id,
                sent_category=claimed.category,
                attempts=picture.c.attempts + 1,
            )
        )

    def _settle(self, tx: Connection, batch_id: str, stored: Mapping[int, str], refused: Mapping[int, str]) -> None:
        now = self._book.clock()
        claimed = (picture.c.batch_id == batch_id) & (picture.c.state == PictureState.CLAIMED)
        for picture_id, remote_id in stored.items():
            tx.execute(
                update(picture)
                .where(claimed, picture.c.id == picture_id)
                .values(state=PictureState.CONFIRMED, remote_id=remote_id, reason="", confirmed_at=now)
            )
        for picture_id, reason in refused.items():
            tx.execute(
                update(picture)
                .where(claimed, picture.c.id == picture_id)
                .values(state=PictureState.REFUSED, reason=reason)
            )
        owners = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        tx.execute(delete(picture).where(claimed, ~owners))  # its file went while it was on its way
        tx.execute(update(picture).where(claimed).values(state=PictureState.READY, batch_id=""))
        self._move(tx, batch_id, BatchState.CONFIRMED if stored or refused else BatchState.RELEASED, ended_at=now)

    def _move(self, tx: Connection, batch_id: str, to: BatchState, **values: Any) -> None:
        allowed = batch.c.state.in_(moves.sources(moves.BATCH, to))
        moved = tx.execute(update(batch).where(batch.c.id == batch_id, allowed).values(state=to, **values))
        if moved.rowcount != 1:
            raise moves.IllegalMove(f"batch {batch_id} cannot become {to}")


def _fitting(rows: Sequence[Any], size: int) -> Sequence[Any]:
    total = 0
    for count, row in enumerate(rows):
        total += row.size
        if total > size and count:
            return rows[:count]
    return rows


def _claimed(row: Any) -> Claimed:
    path = row.path.rstrip(b"/") + b"/" + row.name if row.path is not None else b""
    return Claimed(picture_id=row.id, key=row.key, path=path, size=row.size, sha256=row.sha256)


def _dataset(tx: Connection, target_id: int) -> DatasetRef:
    row = tx.execute(select(target.c.dataset_id, target.c.dataset_name).where(target.c.id == target_id)).one()
    return DatasetRef(row.dataset_id, row.dataset_name)


def _stored(tx: Connection, row: Any, ref: DatasetRef) -> Batch:
    pictures = tx.execute(
        select(picture.c.id, picture.c.key, picture.c.size, picture.c.sha256, folder.c.path, place.c.name)
        .outerjoin(place, (place.c.picture_id == picture.c.id) & (place.c.role == OWNER))
        .outerjoin(folder, folder.c.id == place.c.folder_id)
        .where(picture.c.batch_id == row.id, picture.c.state == PictureState.CLAIMED)
        .order_by(picture.c.id)
    )
    return Batch(row.id, ref, row.category, tuple(_claimed(item) for item in pictures), row.claimed_at)
