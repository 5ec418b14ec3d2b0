"""What else the platform is to be told: new categories and removals; and what is looked at again after a doubt."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from image_sync.domain import Batch, BatchState, PictureState
from image_sync.ledger.annotations import mark_unknown, retry_refused, update_due
from image_sync.ledger.batches import PICTURES, dataset_of, given_out, pictures_of
from image_sync.ledger.bulk import execute_rows, rows, rows_of
from image_sync.ledger.context import LedgerContext, value_of
from image_sync.ledger.history import close_membership
from image_sync.ledger.remote_index import RELABEL, note_generation, raise_generation
from image_sync.ledger.schema import (
    READY_OR_HELD,
    annotation,
    batch,
    doubt,
    file,
    kept,
    keyvalue,
    pending_removal,
    picture,
    picture_count,
    remote_index,
    word,
)

_CONFIRMED = "removals confirmed"
_IN_DOUBT = "picture.id IN (SELECT picture_id FROM doubt WHERE batch_id = ?)"
_RELABELLED = (
    "WITH given (id, text) AS (VALUES {(?, ?)}) UPDATE picture SET sent_category = given.text"
    " FROM given WHERE picture.id = given.id"
)


@dataclass(frozen=True, slots=True)
class Relabel:
    """A stored picture whose file now lies in another category."""

    picture_id: int
    remote_id: str
    category: str


@dataclass(frozen=True, slots=True)
class Departed:
    """What was deleted here of one category, and is still stored at the platform."""

    category: str
    pictures: int
    """That nobody has confirmed."""
    confirmed: int
    stored: int
    """All pictures of the category that the platform has, those of the deleted files included."""
    newest: float
    """Unix time of the last deletion."""


@dataclass(frozen=True, slots=True)
class PictureStatus:
    """Where one picture stands, as far as a second look needs it."""

    state: PictureState
    remote_id: str
    ready_at: float
    """Unix time: nothing of it can have been sent earlier."""
    category: str
    """As the platform is believed to have it."""


class PendingChanges:
    """What the platform may be told at any time, and in any order."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def relabels(self, limit: int) -> list[Relabel]:
        """Stored pictures that the platform has under another category than the folders say, or may have."""
        with self._context.db.reading() as tx:
            which = _to_move(tx, self._target)
            if which is None:
                return []
            columns = (picture.c.id, picture.c.remote_id, picture.c.category)
            found = tx.execute(select(*columns).where(which).order_by(picture.c.id).limit(limit))
            return [Relabel(row.id, row.remote_id, row.category) for row in found]

    def relabelling(self, picture_ids: Iterable[int]) -> None:
        """The platform is about to be told the categories of these pictures.

        Until :meth:`relabelled` nobody knows which it has: a file that is moved back meanwhile must be told again.
        """
        telling = self._context.db.insert(keyvalue).on_conflict_do_nothing(index_elements=["name"])
        with self._context.db.writing() as tx:
            number = raise_generation(tx, self._context)
            tx.execute(telling, [{"name": f"{RELABEL}{picture_id}", "value": ""} for picture_id in picture_ids])
        note_generation(self._context, number)

    def relabelled(self, changes: Iterable[Relabel]) -> None:
        """The platform has these pictures under these categories now."""
        done = list(changes)

        def write_down(tx: Connection) -> None:
            for change in done:
                close_membership(tx, change.picture_id)
            execute_rows(tx, _RELABELLED, [(change.picture_id, change.category) for change in done])
            begun = [f"{RELABEL}{change.picture_id}" for change in done]
            tx.execute(delete(keyvalue).where(keyvalue.c.name.in_(begun)))
            tx.execute(delete(kept).where(kept.c.picture_id.in_([change.picture_id for change in done])))

        if done:
            self._context.db.write(write_down)
            self._context.changed()

    def departed(self) -> list[Departed]:
        """The categories in which files of stored pictures were deleted, as long as the pictures are still stored."""
        gone = select(picture.c.category, picture.c.orphaned_at).where(self._orphaned)
        stored = select(picture_count.c.category, func.sum(picture_count.c.pictures).label("pictures")).where(
            picture_count.c.target_id == self._target, picture_count.c.state == PictureState.CONFIRMED
        )
        with self._context.db.reading() as tx:
            found = tx.execute(gone).all()
            if not found:
                return []
            meant = _confirmed_until(tx)
            there = {row.category: int(row.pictures) for row in tx.execute(stored.group_by(picture_count.c.category))}
        times: dict[str, list[float]] = {}
        for row in found:
            times.setdefault(row.category, []).append(row.orphaned_at)
        return [
            Departed(name, sum(at > meant for at in seen), sum(at <= meant for at in seen), there[name], max(seen))
            for name, seen in sorted(times.items())
        ]

    def orphans(self, *, before: float, limit: int, but: Collection[str] = ()) -> Batch:
        """Stored pictures whose last file was deleted before that Unix time, as if they were a batch.

        Args:
            before: the time.
            limit: so many at most.
            but: categories of which only those are wanted whose removal a person has confirmed.
        """
        with self._context.db.reading() as tx:
            allowed = picture.c.category.not_in(but) | (picture.c.orphaned_at <= _confirmed_until(tx))
            which = self._orphaned & (picture.c.orphaned_at < before) & allowed
            chosen = tx.execute(select(picture.c.id).where(which).order_by(picture.c.id).limit(limit)).scalars().all()
            return self._as_batch(tx, chosen)

    def confirm_removals(self) -> None:
        """A person says that the deletions which were seen up to now are meant."""
        with self._context.db.writing() as tx:
            self._context.write_value(tx, _CONFIRMED, repr(self._context.clock()))
        self._context.changed()

    def forget(self, picture_id: int, remote_ids: Collection[str]) -> None:
        """Forget an orphan and write down what is to be removed for it. If a file came back meanwhile: nothing."""
        files = select(file.c.picture_id).where(file.c.picture_id == picture.c.id).exists()
        with self._context.db.writing() as tx:
            if tx.execute(select(picture.c.id).where(picture.c.id == picture_id, ~files)).first() is not None:
                close_membership(tx, picture_id)
                tx.execute(delete(picture).where(picture.c.id == picture_id))
                tx.execute(delete(keyvalue).where(keyvalue.c.name == f"{RELABEL}{picture_id}"))
                statement = self._context.db.insert(pending_removal).on_conflict_do_nothing()
                for remote_id in remote_ids:
                    tx.execute(statement.values(target_id=self._target, remote_id=remote_id))

    def removals(self, limit: int) -> list[str]:
        """Remote ids that are still to be removed."""
        with self._context.db.reading() as tx:
            mine = select(pending_removal.c.remote_id).where(pending_removal.c.target_id == self._target)
            return list(tx.execute(mine.limit(limit)).scalars())

    def removed(self, remote_id: str) -> None:
        """The platform no longer has it."""
        with self._context.db.writing() as tx:
            tx.execute(
                delete(pending_removal).where(
                    pending_removal.c.target_id == self._target, pending_removal.c.remote_id == remote_id
                )
            )
            this = (remote_index.c.target_id == self._target) & (remote_index.c.remote_id == remote_id)
            tx.execute(delete(remote_index).where(this))

    def requeue_refused(self) -> int:
        """Refused pictures go back in line, and refused annotations are due again (``image-sync retry``).

        Returns how many.
        """
        refused = (picture.c.target_id == self._target) & (picture.c.state == word(PictureState.REFUSED))
        values = {
            "state": READY_OR_HELD,
            "reason": "",
            "attempts": 0,
            "refusals": 0,
            "retry_at": None,
            "ready_at": self._context.clock(),
        }
        with self._context.db.writing() as tx:
            number = int(tx.execute(update(picture).where(refused).values(**values)).rowcount)
            number += retry_refused(tx, self._target) if self._context.annotated else 0
        self._context.changed()
        return number

    def sweeps(self, now: float, limit: int) -> list[tuple[Batch, int]]:
        """Batches that were in doubt and are to be looked at again, with the number of sweeps so far.

        Each holds what it held when it fell into doubt, as far as the ledger still knows of it.
        """
        due = (batch.c.target_id == self._target) & (batch.c.sweep_at <= now)
        with self._context.db.reading() as tx:
            ref = dataset_of(tx, self._target)
            found = []
            for row in tx.execute(select(batch).where(due).order_by(batch.c.sweep_at).limit(limit)).all():
                held = pictures_of(rows(tx, f"{PICTURES} WHERE {_IN_DOUBT} ORDER BY picture.id", row.id))
                found.append((Batch(row.id, ref, row.category, held, row.claimed_at), row.sweeps))
            return found

    def swept(self, batch_id: str, *, again_at: float | None) -> None:
        """The batch was looked at; ``again_at`` (Unix time) says when once more, None never."""
        with self._context.db.writing() as tx:
            this = batch.c.id == batch_id
            tx.execute(update(batch).where(this).values(sweep_at=again_at, sweeps=batch.c.sweeps + 1))
            if again_at is None:
                tx.execute(delete(doubt).where(doubt.c.batch_id == batch_id))

    def of_pictures(self, picture_ids: Collection[int]) -> Batch:
        """These pictures as if they were a batch, for asking the platform about them."""
        with self._context.db.reading() as tx:
            return self._as_batch(tx, picture_ids)

    def status(self, picture_ids: Collection[int]) -> dict[int, PictureStatus]:
        """Where each of these pictures stands."""
        columns = (
            picture.c.id,
            picture.c.state,
            picture.c.remote_id,
            picture.c.ready_at,
            func.coalesce(kept.c.category, picture.c.sent_category).label("has"),
        )
        look = select(*columns).outerjoin(kept, kept.c.picture_id == picture.c.id)
        with self._context.db.reading() as tx:
            found = tx.execute(look.where(picture.c.id.in_(picture_ids)))
            return {
                row.id: PictureStatus(PictureState(row.state), row.remote_id, row.ready_at, row.has) for row in found
            }

    def ours(self, batch_ids: Collection[str]) -> set[str]:
        """Those of the batch ids that this ledger gave out."""
        with self._context.db.reading() as tx:
            return given_out(tx, batch_ids)

    def prune(self, *, before: float, limit: int = 1000) -> int:
        """Delete the rows of batches that ended before that Unix time and about which nothing is owed.

        A picture keeps the id of its batch, so what this ledger sent is still told from what others sent.

        Returns:
            How many, at most ``limit``.
        """
        ended = [str(BatchState.CONFIRMED), str(BatchState.RELEASED)]
        old = (batch.c.target_id == self._target) & batch.c.state.in_(ended) & (batch.c.ended_at < before)
        with self._context.db.writing() as tx:
            ids = tx.execute(select(batch.c.id).where(old, batch.c.sweep_at.is_(None)).limit(limit)).scalars().all()
            tx.execute(delete(doubt).where(doubt.c.batch_id.in_(ids)))
            tx.execute(delete(batch).where(batch.c.id.in_(ids)))
        return len(ids)

    def arrived(self, picture_id: int, remote_id: str, category: str) -> None:
        """The picture is at the platform under this id and category, whatever became of its batch."""
        this = (picture.c.id == picture_id) & (picture.c.state != PictureState.CLAIMED)
        values = {
            "state": PictureState.CONFIRMED,
            "remote_id": remote_id,
            "sent_category": category,
            "reason": "",
            "confirmed_at": func.coalesce(picture.c.confirmed_at, self._context.clock()),
        }
        with self._context.db.writing() as tx:
            if self._context.annotated:
                another = select(picture.c.id).where(this, picture.c.remote_id != remote_id)
                if tx.execute(another).first() is not None:
                    mark_unknown(tx, [picture_id])
            tx.execute(update(picture).where(this).values(**values))
            tx.execute(delete(kept).where(kept.c.picture_id == picture_id))
            if self._context.annotated:
                update_due(tx, annotation.c.picture_id == picture_id)
        self._context.changed()

    def _as_batch(self, tx: Connection, picture_ids: Collection[int]) -> Batch:
        found = rows_of(tx, f"{PICTURES} WHERE picture.id IN ({{?}})", sorted(picture_ids))
        return Batch("", dataset_of(tx, self._target), "", pictures_of(sorted(found, key=itemgetter(0))))

    @property
    def _orphaned(self) -> Any:
        files = select(file.c.picture_id).where(file.c.picture_id == picture.c.id).exists()
        mine = (picture.c.target_id == self._target) & (picture.c.state == PictureState.CONFIRMED)
        return mine & picture.c.orphaned_at.is_not(None) & ~files

    @property
    def _target(self) -> int:
        return self._context.target.id


def _confirmed_until(tx: Connection) -> float:
    """Deletions that were seen up to this Unix time were confirmed by a person."""
    return float(value_of(tx, _CONFIRMED) or 0.0)


def number_to_move(tx: Connection, aim: int) -> int:
    """Stored pictures whose category the platform has still to be told."""
    which = _to_move(tx, aim)
    return 0 if which is None else int(tx.execute(select(func.count()).where(which)).scalar_one())


def _to_move(tx: Connection, aim: int) -> Any | None:
    """Which pictures the platform has under another category than the folders say, or may have; None: there are none.

    Asked every few seconds: the counts tell at once when there are none.
    """
    contradicting = select(picture_count.c.category).where(
        picture_count.c.target_id == aim,
        picture_count.c.state == PictureState.CONFIRMED,
        picture_count.c.category != picture_count.c.sent_category,
        picture_count.c.pictures > 0,
    )
    categories = tx.execute(contradicting.distinct()).scalars().all()
    begun = tx.execute(select(keyvalue.c.name).where(keyvalue.c.name.startswith(RELABEL))).scalars().all()
    if not categories and not begun:
        return None
    return (
        (picture.c.target_id == aim)
        & (picture.c.state == PictureState.CONFIRMED)
        & (
            (picture.c.category.in_(categories) & (picture.c.category != picture.c.sent_category))
            | picture.c.id.in_([int(name.removeprefix(RELABEL)) for name in begun])
        )
    )
