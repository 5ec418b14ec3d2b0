"""The uploader's side of the ledger: what to send next, and what became of it.

What every picture goes through is SQL for the driver, a few statements for each request; see ``bulk.py``.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from sqlalchemy import Connection, case, func, select, update

from image_sync.domain import Batch, BatchState, DatasetRef, Picture, PictureState, Stamp
from image_sync.ledger.annotations import fingerprint, mark_sent, texts_of, update_due_of_batch
from image_sync.ledger.bulk import execute, execute_rows, rows, rows_of
from image_sync.ledger.context import IllegalTransition, LedgerContext
from image_sync.ledger.counters import count
from image_sync.ledger.schema import READY_OR_HELD, batch, picture, target, word

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
        aim = self._context.target.id
        with self._context.db.writing() as tx:
            ((_, newest),) = rows(tx, READY_RANGE, aim)
            if newest is not None:
                this = (target.c.id == aim) & (target.c.cleared_to < newest)
                tx.execute(update(target).where(this).values(cleared_to=newest))

    def claim(self, dataset: DatasetRef, files: int, size: int) -> Batch | None:
        """The oldest cleared pictures of one category as a new batch, or None if there are none.

        Args:
            dataset: where they will go.
            files: most pictures in it.
            size: most bytes in it; a single larger picture goes alone.
        """
        return self._handed_out(lambda tx, new_id: self._claim(tx, new_id, dataset, files, size))

    def put_down(self, batch_id: str) -> None:
        """Nobody is sending this batch any more, whatever became of it."""
        self._in_hand.discard(batch_id)

    def take_up(self) -> int:
        """Refused pictures whose time has come go back in line. Returns how many.

        A clock that was set back must not hold them up.
        """
        now = self._context.clock()
        with self._context.db.reading() as tx:
            if not rows(tx, _ANY_TO_TAKE_UP, self._context.target.id, now, now + PAUSES[-1]):
                return 0
        due = (picture.c.target_id == self._context.target.id) & (picture.c.state == word(PictureState.REFUSED))
        due &= (picture.c.retry_at <= now) | (picture.c.retry_at > now + PAUSES[-1])
        once_more = case((picture.c.attempts < HOPELESS, picture.c.attempts), else_=HOPELESS - 1)
        values = {"state": READY_OR_HELD, "reason": "", "retry_at": None, "attempts": once_more}
        with self._context.db.writing() as tx:
            number = int(tx.execute(update(picture).where(due).values(**values)).rowcount)
        self._context.changed()
        return number

    def next_up(self) -> float | None:
        """When :meth:`take_up` will find something next: Unix time, or None."""
        waits = (picture.c.target_id == self._context.target.id) & (picture.c.state == word(PictureState.REFUSED))
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
        annotated: Mapping[int, str] = MappingProxyType({}),
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
        marked = {key: fingerprint(text) for key, text in annotated.items()}

        def settle(tx: Connection, new_id: str) -> Batch | None:
            self._settle(tx, batch_id, stored, refused, passing, sweep_at, marked)
            return None if then is None else self._claim(tx, new_id, *then)

        following = self._handed_out(settle)
        self._context.changed()
        return following

    def release(self, batch_id: str) -> None:
        """Nothing of the batch was sent: its pictures go back in line, and no attempt is counted."""

        def back(tx: Connection) -> None:
            execute(tx, f"UPDATE picture SET attempts = attempts - 1 WHERE {_HELD}", batch_id)
            self._settle(tx, batch_id, {}, {})

        self._context.db.write(back)
        self._context.changed()

    def doubt(self, batch_id: str, *, not_before: float) -> None:
        """It is not known what of the batch arrived. Absence is not believed before ``not_before`` (Unix time)."""

        def fall(tx: Connection) -> None:
            if execute(tx, _FALL, not_before, batch_id) != 1:
                raise IllegalTransition(f"batch {batch_id} cannot become {BatchState.DOUBTFUL}")
            execute(
                tx, f"INSERT INTO doubt (batch_id, picture_id) SELECT batch_id, id FROM picture WHERE {_HELD}", batch_id
            )

        self._context.db.write(fall)
        self._context.changed()

    def doubt_all(self, *, not_before: float) -> int:
        """Every batch that nobody is sending is doubtful: at start, and when the ledger could not be written.

        Args:
            not_before: Unix time, for people to read.

        Returns:
            How many fell into doubt.
        """
        sending = (batch.c.target_id == self._context.target.id) & (batch.c.state == BatchState.SENDING)
        with self._context.db.reading() as tx:
            found = [row.id for row in tx.execute(select(batch.c.id).where(sending)) if row.id not in self._in_hand]
        for batch_id in found:
            self.doubt(batch_id, not_before=not_before)
        return len(found)

    def doubtful(self) -> list[tuple[Batch, float]]:
        """Batches whose outcome the platform must be asked for, oldest first, with their ``not_before``."""
        aim = self._context.target.id
        which = (batch.c.target_id == aim) & (batch.c.state == BatchState.DOUBTFUL)
        with self._context.db.reading() as tx:
            ref = dataset_of(tx, aim)
            found = []
            for row in tx.execute(select(batch).where(which).order_by(batch.c.claimed_at)).all():
                held = pictures_of(rows(tx, f"{PICTURES} WHERE {_HELD} ORDER BY picture.id", row.id))
                found.append((Batch(row.id, ref, row.category, held, row.claimed_at), row.not_before or 0.0))
            return found

    def _handed_out(self, work: Callable[[Connection, str], Batch | None]) -> Batch | None:
        """What ``work`` claims under the id that it is given, if that is written down."""
        new_id = uuid.uuid4().hex
        claimed: Batch | None = None
        self._in_hand.add(new_id)
        try:
            claimed = self._context.db.write(lambda tx: work(tx, new_id))
            return claimed
        finally:
            if claimed is None:
                self._in_hand.discard(new_id)

    def _claim(self, tx: Connection, new_id: str, dataset: DatasetRef, files: int, size: int) -> Batch | None:
        aim, now = self._context.target.id, self._context.clock()
        oldest = rows(tx, _OLDEST, aim)
        if not oldest:
            return None
        ((first, category, attempts, cleared_to),) = oldest
        # A picture whose requests went wrong before travels alone: it must not take others with it again.
        alone = attempts >= SUSPECT
        company = (aim, category, attempts + 1 if alone else SUSPECT, first)
        found = rows(tx, _COMPANY, *company, cleared_to, 1 if alone else files)
        total = 0
        for number, row in enumerate(found):
            total += row[2]
            if total > size and number:
                total -= row[2]
                del found[number:]
                break
        values = (new_id, aim, category, len(found), total, now)
        execute(tx, "INSERT INTO batch (id, target_id, category, state, files, size, claimed_at)"
                    " VALUES (?, ?, ?, 'sending', ?, ?, ?)", *values)  # fmt: skip
        execute(tx, _TAKE, new_id, *company, found[-1][0])
        was = Counter(row[-2:] for row in found)  # the category at the platform, and whether a training counted it
        changes = [(aim, "ready", category, sent, counted, -number) for (sent, counted), number in was.items()]
        changes += [(aim, "claimed", category, category, counted, number) for (_, counted), number in was.items()]
        count(tx, pictures=changes)
        texts = texts_of(tx, [row[0] for row in found]) if self._context.annotated else {}
        return Batch(new_id, dataset, category, pictures_of(found, texts), now)

    def _settle(
        self,
        tx: Connection,
        batch_id: str,
        stored: Mapping[int, str],
        refused: Mapping[int, str],
        passing: Mapping[int, str] = MappingProxyType({}),
        sweep_at: float | None = None,
        marked: Mapping[int, str] = MappingProxyType({}),
    ) -> None:
        now = self._context.clock()
        held = rows(tx, _KINDS_HELD, batch_id)
        confirmed = execute_rows(tx, _CONFIRM, [*stored.items()], now, batch_id)
        left = rows(tx, _KINDS_HELD, batch_id) if confirmed < sum(row[-1] for row in held) else []
        moved = Counter({row[:-1]: row[-1] for row in held}) - Counter({row[:-1]: row[-1] for row in left})
        changes = [(aim, "claimed", *kind, -number) for (aim, *kind), number in moved.items()]
        changes += [(aim, "confirmed", *kind, number) for (aim, *kind), number in moved.items()]
        count(tx, pictures=changes)
        if self._context.annotated and stored:
            mark_sent(tx, marked)
            update_due_of_batch(tx, batch_id)
        if left:
            execute_rows(tx, _REFUSE, [*refused.items()], batch_id)
            self._turn_away(tx, batch_id, passing)
            execute(
                tx, _DROP, batch_id
            )  # its file went while it was on its way: without one there is nothing left of it
            hopeless = rows(tx, f"SELECT id FROM picture WHERE {_HELD} AND attempts >= {HOPELESS}", batch_id)
            self._turn_away(tx, batch_id, {picture_id: _GIVEN_UP for (picture_id,) in hopeless})
            execute(tx, f"UPDATE picture SET state = {_READY_OR_HELD}, batch_id = '' WHERE {_HELD}", batch_id)
        to = BatchState.CONFIRMED if stored or refused or passing else BatchState.RELEASED
        if execute(tx, _END, str(to), now, sweep_at, batch_id) != 1:
            raise IllegalTransition(f"batch {batch_id} cannot become {to}")

    def _turn_away(self, tx: Connection, batch_id: str, reasons: Mapping[int, str]) -> None:
        """Refused for what may pass: tried again later, until it was refused as often as there are pauses."""
        now = self._context.clock()
        found = rows_of(tx, f"SELECT id, refusals FROM picture WHERE id IN ({{?}}) AND {_HELD}", [*reasons], batch_id)
        for picture_id, refusals in found:
            retry_at = now + PAUSES[refusals] if refusals < len(PAUSES) else None
            execute(tx, "UPDATE picture SET state = 'refused', reason = ?, retry_at = ?, refusals = refusals + 1"
                        " WHERE id = ?", reasons[picture_id], retry_at, picture_id)  # fmt: skip


def pictures_of(
    found: Iterable[tuple[Any, ...]], texts: Mapping[int, str] = MappingProxyType({})
) -> tuple[Picture, ...]:
    """The pictures of rows that ``PICTURES`` found; without a path where the file is gone."""
    made = []
    for picture_id, key, size, sha256, head, name, there, mtime_ns, ctime_ns, inode, *_ in found:
        text = texts.get(picture_id, "")
        if head is None:
            made.append(Picture(picture_id, key, b"", size, sha256, text))
        else:
            stamp = Stamp(there, mtime_ns, ctime_ns, int(inode))
            made.append(Picture(picture_id, key, head.rstrip(b"/") + b"/" + name, size, sha256, text, stamp))
    return tuple(made)


def given_out(tx: Connection, batch_ids: Collection[str]) -> set[str]:
    """Those of the batch ids that this ledger gave out; the rows of old batches are gone, their pictures know them."""
    known = rows_of(tx, "SELECT id FROM batch WHERE id IN ({?})", [*batch_ids])
    known += rows_of(tx, "SELECT batch_id FROM picture WHERE batch_id IN ({?}) AND batch_id <> ''", [*batch_ids])
    return {batch_id for (batch_id,) in known}


def dataset_of(tx: Connection, target_id: int) -> DatasetRef:
    """The target's dataset; its id may still be empty."""
    found = rows(tx, "SELECT dataset_id, dataset_name FROM target WHERE id = ?", target_id)
    return DatasetRef(*found[0]) if found else DatasetRef("", "")


PICTURES = (
    "SELECT picture.id, picture.key, picture.size, picture.sha256, folder.path, file.name, file.size AS there,"
    " file.mtime_ns, file.ctime_ns, file.inode, picture.sent_category,"
    " CASE WHEN picture.training_id IS NULL THEN 0 ELSE 1 END AS counted FROM picture"
    " LEFT JOIN file ON file.picture_id = picture.id AND file.role = 'owner'"
    " LEFT JOIN folder ON folder.id = file.folder_id"
)
"""Pictures with the files that stand for them, for :func:`pictures_of`."""
# The states and the empty text are written out, as the partial indexes say them: else SQLite would not use these.
_READY = "FROM picture WHERE target_id = c.target_id AND state = 'ready' AND category = c.category"
READY_RANGE = (
    "SELECT min(first) AS oldest, max(last) AS newest FROM"
    f" (SELECT (SELECT min(id) {_READY}) AS first, (SELECT max(id) {_READY}) AS last FROM picture_count c"
    " WHERE c.target_id = ? AND c.state = 'ready' AND c.pictures > 0) AS each_category"
)
"""The ids of the oldest and the newest picture that are ready: two looks into the index for each category."""
_OLDEST = (
    "SELECT picture.id, picture.category, picture.attempts, target.cleared_to"
    f" FROM ({READY_RANGE}) AS ready JOIN picture ON picture.id = ready.oldest"
    " JOIN target ON target.id = picture.target_id AND picture.id <= target.cleared_to"
)
_TOGETHER = (
    "picture.target_id = ? AND picture.state = 'ready' AND picture.category = ? AND picture.attempts < ?"
    " AND picture.id >= ? AND picture.id <= ?"
)
_COMPANY = f"{PICTURES} WHERE {_TOGETHER} ORDER BY picture.id LIMIT ?"
_TAKE = (
    "UPDATE picture SET state = 'claimed', batch_id = ?, sent_category = category, attempts = attempts + 1"
    f" WHERE {_TOGETHER}"
)
_HELD = "picture.batch_id = ? AND picture.batch_id <> '' AND picture.state = 'claimed'"
_KINDS_HELD = (
    "SELECT target_id, category, sent_category, CASE WHEN training_id IS NULL THEN 0 ELSE 1 END AS counted, count(*)"
    f" FROM picture WHERE {_HELD} GROUP BY target_id, category, sent_category, counted"
)
_CONFIRM = (
    "WITH given (id, text) AS (VALUES {(?, ?)})"
    " UPDATE picture SET state = 'confirmed', remote_id = given.text, reason = '', confirmed_at = ?"
    " FROM given WHERE picture.id = given.id AND picture.batch_id = ? AND picture.state = 'claimed'"
)
_REFUSE = (
    "WITH given (id, text) AS (VALUES {(?, ?)})"
    " UPDATE picture SET state = 'refused', reason = given.text, retry_at = NULL"
    " FROM given WHERE picture.id = given.id AND picture.batch_id = ? AND picture.state = 'claimed'"
)
_DROP = (
    "DELETE FROM picture WHERE batch_id = ? AND batch_id <> '' AND state IN ('claimed', 'refused')"
    " AND NOT EXISTS (SELECT 1 FROM file WHERE file.picture_id = picture.id)"
)
_READY_OR_HELD = (
    "CASE WHEN EXISTS (SELECT 1 FROM file WHERE file.picture_id = picture.id AND file.role = 'conflict')"
    " THEN 'held' ELSE 'ready' END"
)
_FALL = "UPDATE batch SET state = 'doubtful', not_before = ? WHERE id = ? AND state = 'sending'"
_END = "UPDATE batch SET state = ?, ended_at = ?, sweep_at = ? WHERE id = ? AND state IN ('sending', 'doubtful')"
_ANY_TO_TAKE_UP = (
    "SELECT id FROM picture WHERE target_id = ? AND state = 'refused' AND (retry_at <= ? OR retry_at > ?) LIMIT 1"
)
