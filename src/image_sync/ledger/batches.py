"""The uploader's side of the ledger: what to send next, and what became of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, bindparam, case, delete, func, insert, select, update

from image_sync.domain import Batch, BatchState, DatasetRef, FileRole, Picture, PictureState, Stamp
from image_sync.ledger import markings, moves
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.moves import READY_OR_HELD
from image_sync.ledger.schema import batch, doubt, folder, picture, place, target, word

SUSPECT = 2
"""A picture that was sent so often without an answer travels alone."""
HOPELESS = 8
"""After so many attempts it counts as refused."""
PAUSES = (5.0, 20.0, 60.0, 300.0, 1800.0, 3 * 3600.0, 20 * 3600.0)
"""Seconds until a picture is tried again that was refused for what may pass, by the number of its refusals: a day."""
_GIVEN_UP = f"given up after {HOPELESS} attempts that the platform never confirmed"


class Batches:
    """Claims and confirmations. A picture is in at most one open batch."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context
        self._in_hand: set[str] = set()
        """Batches that somebody in this process is sending. In here before anybody can see them in the database."""

    def clear(self) -> None:
        """The upload threshold is reached: everything that is ready now is to be sent, whatever comes later."""
        newest = select(func.max(picture.c.id)).where(
            picture.c.target_id == self._target, picture.c.state == word(PictureState.READY)
        )
        with self._context.db.writing() as tx:
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
        return self._handed_out(lambda tx: self._claim(tx, dataset, files, size))

    def put_down(self, batch_id: str) -> None:
        """Nobody is sending this batch any more, whatever became of it."""
        self._in_hand.discard(batch_id)

    def take_up(self) -> int:
        """Refused pictures whose time has come go back in line. Returns how many.

        A clock that was set back must not hold them up.
        """
        now = self._context.clock()
        due = (picture.c.target_id == self._target) & (picture.c.state == word(PictureState.REFUSED))
        due &= (picture.c.retry_at <= now) | (picture.c.retry_at > now + PAUSES[-1])
        with self._context.db.reading() as tx:
            if tx.execute(select(picture.c.id).where(due).limit(1)).first() is None:
                return 0
        once_more = case((picture.c.attempts < HOPELESS, picture.c.attempts), else_=HOPELESS - 1)
        values = {"state": READY_OR_HELD, "reason": "", "retry_at": None, "attempts": once_more}
        with self._context.db.writing() as tx:
            number = int(tx.execute(update(picture).where(due).values(**values)).rowcount)
        self._context.changed()
        return number

    def next_up(self) -> float | None:
        """When :meth:`take_up` will find something next: Unix time, or None."""
        waits = (picture.c.target_id == self._target) & (picture.c.state == word(PictureState.REFUSED))
        with self._context.db.reading() as tx:
            found = tx.execute(select(func.min(picture.c.retry_at)).where(waits)).scalar()
            return None if found is None else float(found)

    def confirm(
        self,
        batch_id: str,
        stored: Mapping[int, str],
        refused: Mapping[int, str],
        *,
        passing: Mapping[int, str] = MappingProxyType({}),
        sweep_at: float | None = None,
        annotated: Mapping[int, str] | None = None,
        then: tuple[DatasetRef, int, int] | None = None,
    ) -> Batch | None:
        """The platform answered for these pictures of the batch; any others go back in line.

        A picture that came back so often that there is little hope counts as refused, too.

        Args:
            stored: picture id -> remote id. refused: picture id -> the platform's reason.
            passing: the same for refusals that may pass: tried again after growing pauses, for a day.
            sweep_at: Unix time at which second copies are looked for, for a batch that was in doubt.
            annotated: picture id -> what was marked in it with the same request. For all other pictures of the batch
                that have an annotation it is due from now on.
            then: what to :meth:`claim` in the same stroke: the disk is waited for once.

        Returns:
            The batch that was claimed.
        """

        def settle(tx: Connection) -> Batch | None:
            self._settle(tx, batch_id, stored, refused, passing, sweep_at, marked)
            return None if then is None else self._claim(tx, *then)

        marked = {key: markings.fingerprint(text) for key, text in (annotated or {}).items()}
        following = self._handed_out(settle)
        self._context.changed()
        return following

    def release(self, batch_id: str) -> None:
        """Nothing of the batch was sent: its pictures go back in line, and no attempt is counted."""

        def back(tx: Connection) -> None:
            tx.execute(_UNCOUNT, {"the_batch": batch_id})
            self._settle(tx, batch_id, {}, {})

        self._context.db.write(back)
        self._context.changed()

    def doubt(self, batch_id: str, *, not_before: float) -> None:
        """It is not known what of the batch arrived. Absence is not believed before ``not_before`` (Unix time)."""

        def fall(tx: Connection) -> None:
            self._move(tx, batch_id, BatchState.DOUBTFUL, not_before=not_before)
            held = select(picture.c.batch_id, picture.c.id).where(_HELD)
            tx.execute(insert(doubt).from_select(["batch_id", "picture_id"], held), {"the_batch": batch_id})

        self._context.db.write(fall)
        self._context.changed()

    def doubt_all(self, *, not_before: float) -> int:
        """Every batch that nobody is sending is doubtful: at start, and when the ledger could not be written.

        Args:
            not_before: Unix time, for people to read.

        Returns:
            How many fell into doubt.
        """
        sending = (batch.c.target_id == self._target) & (batch.c.state == BatchState.SENDING)
        with self._context.db.reading() as tx:
            found = [row.id for row in tx.execute(select(batch.c.id).where(sending)) if row.id not in self._in_hand]
        for batch_id in found:
            self.doubt(batch_id, not_before=not_before)
        return len(found)

    def doubtful(self) -> list[tuple[Batch, float]]:
        """Batches whose outcome the platform must be asked for, oldest first, with their ``not_before``."""
        with self._context.db.reading() as tx:
            ref = dataset_of(tx, self._target)
            rows = tx.execute(
                select(batch)
                .where(batch.c.target_id == self._target, batch.c.state == BatchState.DOUBTFUL)
                .order_by(batch.c.claimed_at)
            ).all()
            found = []
            for row in rows:
                held = (
                    (picture.c.batch_id == row.id)
                    & (picture.c.batch_id != word(""))
                    & (picture.c.state == PictureState.CLAIMED)
                )
                found.append(
                    (Batch(row.id, ref, row.category, held_by(tx, held), row.claimed_at), row.not_before or 0.0)
                )
            return found

    @property
    def _target(self) -> int:
        return self._context.target.id

    def _handed_out(self, work: Callable[[Connection], Batch | None]) -> Batch | None:
        """What ``work`` claims, if that is written down; it may be done more than once until then."""
        made: list[Batch] = []

        def tried(tx: Connection) -> Batch | None:
            found = work(tx)
            if found is not None:
                made.append(found)
                self._in_hand.add(found.id)
            return found

        kept: Batch | None = None
        try:
            kept = self._context.db.write(tried)
            return kept
        finally:
            self._in_hand -= {one.id for one in made if one is not kept}

    def _claim(self, tx: Connection, dataset: DatasetRef, files: int, size: int) -> Batch | None:
        first = tx.execute(_FIRST, {"aim": self._target}).first()
        if first is None:
            return None
        # A picture whose requests went wrong before travels alone: it must not take others with it again.
        alone = first.attempts >= SUSPECT
        company = {
            "aim": self._target,
            "the_category": first.category,
            "the_attempts": first.attempts + 1 if alone else SUSPECT,
            "the_first": first.id,
        }
        rows = _fitting(tx.execute(_COMPANY, company | {"most": 1 if alone else files}).all(), size)
        texts = markings.texts(tx, [row.id for row in rows]) if self._context.annotated else {}
        claimed = Batch(
            id=uuid.uuid4().hex,
            dataset=dataset,
            category=first.category,
            pictures=tuple(_claimed(row, texts.get(row.id, "")) for row in rows),
            claimed_at=self._context.clock(),
        )
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
        tx.execute(_TAKE, company | {"the_last": rows[-1].id, "the_batch": claimed.id})
        return claimed

    def _settle(
        self,
        tx: Connection,
        batch_id: str,
        stored: Mapping[int, str],
        refused: Mapping[int, str],
        passing: Mapping[int, str] = MappingProxyType({}),
        sweep_at: float | None = None,
        marked: Mapping[int, str] | None = None,
    ) -> None:
        now = self._context.clock()
        _CONFIRM(tx, list(stored.items()), now, batch_id)
        _REFUSE(tx, list(refused.items()), batch_id)
        self._turn_away(tx, batch_id, passing)
        if self._context.annotated and stored:
            markings.sent(tx, marked or {})
            markings.reckon(tx, markings.of_batch(batch_id))
        held = {"the_batch": batch_id}
        if refused or passing or tx.execute(_ANY_HELD, held).first() is not None:
            # Its file went while it was on its way: without one there is nothing left of it.
            tx.execute(_DROP, held)
            hopeless = tx.execute(_HOPELESS, held).scalars().all()
            self._turn_away(tx, batch_id, dict.fromkeys(hopeless, _GIVEN_UP))
            tx.execute(_QUEUE, held)
        to = BatchState.CONFIRMED if stored or refused or passing else BatchState.RELEASED
        self._move(tx, batch_id, to, ended_at=now, sweep_at=sweep_at)

    def _turn_away(self, tx: Connection, batch_id: str, reasons: Mapping[int, str]) -> None:
        """Refused for what may pass: tried again later, until it was refused as often as there are pauses."""
        if not reasons:
            return
        now = self._context.clock()
        held = {"the_batch": batch_id}
        for row in tx.execute(_REFUSALS.where(picture.c.id.in_(list(reasons))), held).all():
            retry_at = now + PAUSES[row.refusals] if row.refusals < len(PAUSES) else None
            values = {"state": PictureState.REFUSED, "reason": reasons[row.id], "retry_at": retry_at}
            this = update(picture).where(picture.c.id == row.id)
            tx.execute(this.values(**values, refusals=row.refusals + 1))

    def _move(self, tx: Connection, batch_id: str, to: BatchState, **values: Any) -> None:
        allowed = batch.c.state.in_(moves.sources(moves.BATCH, to))
        moved = tx.execute(update(batch).where(batch.c.id == batch_id, allowed).values(state=to, **values))
        if moved.rowcount != 1:
            raise moves.IllegalTransition(f"batch {batch_id} cannot become {to}")


def held_by(tx: Connection, which: Any) -> tuple[Picture, ...]:
    """The pictures that meet the condition, oldest first; without a path where the file is gone."""
    return tuple(_claimed(row) for row in tx.execute(_claimable().where(which).order_by(picture.c.id)))


def given_out(tx: Connection, batch_ids: Collection[str]) -> set[str]:
    """Those of the batch ids that this ledger gave out; the rows of old batches are gone, their pictures know them."""
    known = select(batch.c.id).where(batch.c.id.in_(batch_ids))
    carried = select(picture.c.batch_id).where(picture.c.batch_id.in_(batch_ids), picture.c.batch_id != word(""))
    return {*tx.execute(known).scalars(), *tx.execute(carried).scalars()}


def dataset_of(tx: Connection, target_id: int) -> DatasetRef:
    """The target's dataset; its id may still be empty."""
    row = tx.execute(select(target.c.dataset_id, target.c.dataset_name).where(target.c.id == target_id)).first()
    return DatasetRef("", "") if row is None else DatasetRef(row.dataset_id, row.dataset_name)


def _claimable() -> Any:
    """Pictures with their files; without a path where the file is gone."""
    owner = (place.c.picture_id == picture.c.id) & (place.c.role == FileRole.OWNER)
    content = (picture.c.id, picture.c.key, picture.c.size, picture.c.sha256)
    stamp = (place.c.size.label("bytes"), place.c.mtime_ns, place.c.ctime_ns, place.c.inode)
    lies = picture.join(place, owner, isouter=True).join(folder, folder.c.id == place.c.folder_id, isouter=True)
    return select(*content, folder.c.path, place.c.name, *stamp).select_from(lies)


# Statements are made once: making one costs more than carrying it out.
_CLEARED = select(target.c.cleared_to).where(target.c.id == bindparam("aim")).scalar_subquery()
_WAITING = (
    (picture.c.target_id == bindparam("aim"))
    & (picture.c.state == word(PictureState.READY))
    & (picture.c.id <= _CLEARED)
)
_FIRST = select(picture.c.id, picture.c.category, picture.c.attempts).where(_WAITING).order_by(picture.c.id).limit(1)
_TOGETHER = (
    _WAITING
    & (picture.c.category == bindparam("the_category"))
    & (picture.c.attempts < bindparam("the_attempts"))
    & (picture.c.id >= bindparam("the_first"))
)
_COMPANY = _claimable().where(_TOGETHER).order_by(picture.c.id).limit(bindparam("most"))
_TAKE = (
    update(picture)
    .where(_TOGETHER, picture.c.id <= bindparam("the_last"))
    .values(
        state=PictureState.CLAIMED,
        batch_id=bindparam("the_batch"),
        sent_category=picture.c.category,
        attempts=picture.c.attempts + 1,
    )
)
_OF_BATCH = (picture.c.batch_id == bindparam("the_batch")) & (picture.c.batch_id != word(""))
_HELD = _OF_BATCH & (picture.c.state == PictureState.CLAIMED)
_ANY_HELD = select(picture.c.id).where(_HELD).limit(1)
_UNCOUNT = update(picture).where(_HELD).values(attempts=picture.c.attempts - 1)
_ONE = f"picture.id = given.id AND batch_id = ? AND state = '{PictureState.CLAIMED}'"
_CONFIRM = Bulk.update(
    picture,
    f"state = '{PictureState.CONFIRMED}', remote_id = given.text, reason = '', confirmed_at = ?",
    *(_ONE, "id", "text"),
)
_REFUSE = Bulk.update(
    picture, f"state = '{PictureState.REFUSED}', reason = given.text, retry_at = NULL", _ONE, "id", "text"
)
_DROP = delete(picture).where(
    _OF_BATCH,
    picture.c.state.in_([str(PictureState.CLAIMED), str(PictureState.REFUSED)]),
    ~select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists(),
)
_HOPELESS = select(picture.c.id).where(_HELD, picture.c.attempts >= HOPELESS)
_REFUSALS = select(picture.c.id, picture.c.refusals).where(_HELD)
_QUEUE = update(picture).where(_HELD).values(state=READY_OR_HELD, batch_id="")


def _fitting(rows: Sequence[Any], size: int) -> Sequence[Any]:
    total = 0
    for count, row in enumerate(rows):
        total += row.size
        if total > size and count:
            return rows[:count]
    return rows


def _claimed(row: Any, annotation: str = "") -> Picture:
    picture_id, key, size, sha256, head, name, found, mtime_ns, ctime_ns, inode = row
    if head is None:
        return Picture(picture_id, key, b"", size, sha256, annotation)
    path = head.rstrip(b"/") + b"/" + name
    return Picture(picture_id, key, path, size, sha256, annotation, Stamp(found, mtime_ns, ctime_ns, int(inode)))
