"""The annotations that are owed to the platform, and how many pictures carry each label there."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, bindparam, func, literal_column, select, update

from image_sync.ledger import markings
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.schema import annotation, label_count, marks, picture


@dataclass(frozen=True, slots=True)
class Debt:
    """A picture at the platform in which something else is to be marked."""

    picture_id: int
    remote_id: str
    key: str
    text: str
    """What is to be marked, as the sighting said it."""
    before: str = ""
    """Stands for what is marked there until then; empty when nobody knows."""


class Annotations:
    """Debts of annotations. May be used from several threads."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context
        self._lock = threading.Lock()
        self._in_hand: set[int] = set()

    @property
    def used(self) -> bool:
        """Whether there is anything to be asked here."""
        return self._context.annotated

    @contextmanager
    def in_hand(self, picture_ids: Collection[int]) -> Iterator[None]:
        """Somebody sees to these pictures: nobody else is told that they are due, until this is over.

        Two who marked one picture at the same time could leave it with what the one sent, and the ledger with what
        the other did.
        """
        with self._lock:
            self._in_hand |= set(picture_ids)
        try:
            yield
        finally:
            with self._lock:
                self._in_hand -= set(picture_ids)

    def due(self, limit: int) -> list[Debt]:
        """What is to be marked now, and is in nobody's hands.

        That it is about to be done is written down before: if the answer gets lost, nobody knows what is marked, and
        a file that goes back to what it said before must not pass for what the platform has.
        """
        if not self._context.annotated:
            return []
        most = limit + len(self._in_hand)
        with self._context.db.reading() as tx:
            rows = tx.execute(_DUE, {"aim": self._context.target.id, "most": most}).all()
        # Asked afterwards: whatever was due by then and is being seen to is still in hand, or done.
        with self._lock:
            rows = [row for row in rows if row.picture_id not in self._in_hand][:limit]
        if again := [row.picture_id for row in rows if row.sent]:
            with self._context.db.writing() as tx:
                markings.lost(tx, again)
        return [Debt(row.picture_id, row.remote_id, row.key, row.text, row.sent) for row in rows]

    def sent(self, done: Mapping[int, str]) -> None:
        """The platform has marked this: texts by picture id."""
        if done:
            self._context.db.write(lambda tx: markings.sent(tx, _fingerprints(done)))
            self._context.changed()

    def refused(self, debt: Debt, reason: str) -> None:
        """The platform would not mark this, and said why. What was marked before stays."""
        this = annotation.c.picture_id == debt.picture_id
        values = {"refused": markings.fingerprint(debt.text), "reason": reason}

        def note(tx: Connection) -> None:
            if debt.before:
                markings.sent(tx, {debt.picture_id: debt.before})
            tx.execute(update(annotation).where(this).values(**values))
            markings.reckon(tx, this)

        self._context.db.write(note)
        self._context.changed()

    def refusals(self) -> int:
        """How many annotations the platform refused that nobody has changed since."""
        if not self._context.annotated:
            return 0
        with self._context.db.reading() as tx:
            return int(tx.execute(_REFUSALS, {"aim": self._context.target.id}).scalar_one())


def unpaid(tx: Connection, target_id: int) -> int:
    """How many annotations are due."""
    return int(tx.execute(_UNPAID, {"aim": target_id}).scalar_one())


def labels(tx: Connection, target_id: int) -> dict[str, int]:
    """Pictures at the platform that carry each label, in the order of the labels."""
    return {row.label: row.pictures for row in tx.execute(_LABELS, {"aim": target_id})}


def retry_refused(tx: Connection, target_id: int) -> int:
    """What was refused is due again. Returns how many."""
    this = (annotation.c.target_id == target_id) & (annotation.c.refused != literal_column("''"))
    ids = list(tx.execute(select(annotation.c.picture_id).where(this)).scalars())
    tx.execute(update(annotation).where(annotation.c.picture_id.in_(ids)).values(refused="", reason=""))
    markings.reckon(tx, annotation.c.picture_id.in_(ids))
    return len(ids)


def _fingerprints(done: Mapping[int, str]) -> dict[int, str]:
    return {picture_id: markings.fingerprint(text) for picture_id, text in done.items()}


_MINE = annotation.c.target_id == bindparam("aim")
_IS_DUE = _MINE & (annotation.c.due == literal_column("1"))  # as the partial index says it
_DUE = (
    select(annotation.c.picture_id, annotation.c.sent, picture.c.remote_id, picture.c.key, marks.c.text)
    .join(picture, picture.c.id == annotation.c.picture_id)
    .join(marks, marks.c.fingerprint == annotation.c.wanted)
    .where(_IS_DUE)
    .order_by(annotation.c.picture_id)
    .limit(bindparam("most"))
)
_UNPAID = select(func.count()).select_from(annotation).where(_IS_DUE)
_REFUSALS = (
    select(func.count())
    .select_from(annotation)
    .where(_MINE, annotation.c.refused != literal_column("''"), annotation.c.refused == annotation.c.wanted)
)
_LABELS = (
    select(label_count.c.label, label_count.c.pictures)
    .where(label_count.c.target_id == bindparam("aim"), label_count.c.pictures > 0)
    .order_by(label_count.c.label)
)
