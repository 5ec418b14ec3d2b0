"""What is owed to the platform beside uploads: new categories, removals, and second looks after a doubt."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, func, select, update

from image_sync.domain import Batch, BatchState, PictureState
from image_sync.ledger import contents, markings
from image_sync.ledger.annotations import retry_refused
from image_sync.ledger.batches import dataset_of, given_out, held_by
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.moves import READY_OR_HELD
from image_sync.ledger.remote_index import RELABEL, note_generation, raise_generation
from image_sync.ledger.schema import (
    annotation,
    batch,
    doubt,
    inventory,
    kept,
    note,
    picture,
    picture_count,
    place,
    removal,
    word,
)

_CONFIRMED = "removals confirmed"
_RELABELLED = Bulk.update(picture, "sent_category = given.text", "picture.id = given.id", "id", "text")


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
    """Debts that may be paid at any time, and in any order."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def relabels(self, limit: int) -> list[Relabel]:
        """Stored pictures that the platform has under another category than the folders say, or may have."""
        with self._context.db.reading() as tx:
            owed = _owed(tx, self._target)
            if owed is None:
                return []
            rows = tx.execute(
                select(picture.c.id, picture.c.remote_id, picture.c.category)
                .where(owed)
                .order_by(picture.c.id)
                .limit(limit)
            )
            return [Relabel(row.id, row.remote_id, row.category) for row in rows]

    def relabelling(self, picture_ids: Iterable[int]) -> None:
        """The platform is about to be told the categories of these pictures.

        Until :meth:`relabelled` nobody knows which it has: a file that is moved back meanwhile must be told again.
        """
        telling = self._context.db.insert(note).on_conflict_do_nothing(index_elements=["name"])
        with self._context.db.writing() as tx:
            number = raise_generation(tx, self._context)
            tx.execute(telling, [{"name": f"{RELABEL}{picture_id}", "value": ""} for picture_id in picture_ids])
        note_generation(self._context, number)

    def relabelled(self, changes: Iterable[Relabel]) -> None:
        """The platform has these pictures under these categories now."""
        done = list(changes)

        def write_down(tx: Connection) -> None:
            for change in done:
                contents.close(tx, change.picture_id)
            _RELABELLED(tx, [(change.picture_id, change.category) for change in done])
            begun = [f"{RELABEL}{change.picture_id}" for change in done]
            tx.execute(delete(note).where(note.c.name.in_(begun)))
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
            rows = tx.execute(gone).all()
            if not rows:
                return []
            meant = _confirmed_until(tx)
            there = {row.category: int(row.pictures) for row in tx.execute(stored.group_by(picture_count.c.category))}
        times: dict[str, list[float]] = {}
        for row in rows:
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
            chosen = select(picture.c.id).where(which).order_by(picture.c.id).limit(limit)
            return Batch("", dataset_of(tx, self._target), "", held_by(tx, picture.c.id.in_(chosen)))

    def confirm_removals(self) -> None:
        """A person says that the deletions which were seen up to now are meant."""
        with self._context.db.writing() as tx:
            values = {"value": repr(self._context.clock())}
            statement = self._context.db.insert(note).values(name=_CONFIRMED, **values)
            tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_=values))
        self._context.changed()

    def forget(self, picture_id: int, remote_ids: Collection[str]) -> None:
        """Forget an orphan and write down what is to be removed for it. If a file came back meanwhile: nothing."""
        files = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        with self._context.db.writing() as tx:
            if tx.execute(select(picture.c.id).where(picture.c.id == picture_id, ~files)).first() is not None:
                contents.close(tx, picture_id)
                tx.execute(delete(picture).where(picture.c.id == picture_id))
                tx.execute(delete(note).where(note.c.name == f"{RELABEL}{picture_id}"))
                statement = self._context.db.insert(removal).on_conflict_do_nothing()
                for remote_id in remote_ids:
                    tx.execute(statement.values(target_id=self._target, remote_id=remote_id))

    def removals(self, limit: int) -> list[str]:
        """Remote ids that are still to be removed."""
        with self._context.db.reading() as tx:
            mine = select(removal.c.remote_id).where(removal.c.target_id == self._target)
            return list(tx.execute(mine.limit(limit)).scalars())

    def removed(self, remote_id: str) -> None:
        """The platform no longer has it."""
        with self._context.db.writing() as tx:
            tx.execute(delete(removal).where(removal.c.target_id == self._target, removal.c.remote_id == remote_id))
            this = (inventory.c.target_id == self._target) & (inventory.c.remote_id == remote_id)
            tx.execute(delete(inventory).where(this))

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
                held = picture.c.id.in_(select(doubt.c.picture_id).where(doubt.c.batch_id == row.id))
                found.append((Batch(row.id, ref, row.category, held_by(tx, held), row.claimed_at), row.sweeps))
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
            ref = dataset_of(tx, self._target)
            return Batch("", ref, "", held_by(tx, picture.c.id.in_(picture_ids)))

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
            rows = tx.execute(look.where(picture.c.id.in_(picture_ids)))
            return {
                row.id: PictureStatus(PictureState(row.state), row.remote_id, row.ready_at, row.has) for row in rows
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
                    markings.lost(tx, [picture_id])
            tx.execute(update(picture).where(this).values(**values))
            tx.execute(delete(kept).where(kept.c.picture_id == picture_id))
            if self._context.annotated:
                markings.reckon(tx, annotation.c.picture_id == picture_id)
        self._context.changed()

    @property
    def _orphaned(self) -> Any:
        files = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        mine = (picture.c.target_id == self._target) & (picture.c.state == PictureState.CONFIRMED)
        return mine & picture.c.orphaned_at.is_not(None) & ~files

    @property
    def _target(self) -> int:
        return self._context.target.id


def _confirmed_until(tx: Connection) -> float:
    """Deletions that were seen up to this Unix time were confirmed by a person."""
    return float(tx.execute(select(note.c.value).where(note.c.name == _CONFIRMED)).scalar() or 0.0)


def moving(tx: Connection, aim: int) -> int:
    """Stored pictures whose category is owed to the platform."""
    owed = _owed(tx, aim)
    return 0 if owed is None else int(tx.execute(select(func.count()).where(owed)).scalar_one())


def _owed(tx: Connection, aim: int) -> Any | None:
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
    begun = tx.execute(select(note.c.name).where(note.c.name.startswith(RELABEL))).scalars().all()
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
