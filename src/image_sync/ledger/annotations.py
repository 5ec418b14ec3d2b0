"""What is marked in pictures: what their files say, what the platform has, and what it has still to be told.

Texts are kept once, under their fingerprints. A picture has the one that is *wanted* (its file's), the one that was
*sent*, and the one that was *refused*; when it is at the platform and what is wanted is neither of the others, sending
it is *due*. A file that loses its annotation changes nothing about a picture that was sent.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Connection,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    update,
)

from image_sync.domain import PictureState, Sighting
from image_sync.ledger.bulk import execute_rows
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.database import Database
from image_sync.ledger.schema import annotation, annotation_text, label, label_count, picture, word

SENT = (PictureState.CONFIRMED, PictureState.CLAIMED)
"""States of a picture that is at the platform or on its way there."""
_THERE = str(PictureState.CONFIRMED)


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
    """The annotations that the platform has still to be told. May be used from several threads."""

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
            found = tx.execute(_DUE, {"target": self._context.target.id, "most": most}).all()
        # Asked afterwards: whatever was due by then and is being seen to is still in hand, or done.
        with self._lock:
            found = [row for row in found if row.picture_id not in self._in_hand][:limit]
        if again := [row.picture_id for row in found if row.sent]:
            with self._context.db.writing() as tx:
                mark_unknown(tx, again)
        return [Debt(row.picture_id, row.remote_id, row.key, row.text, row.sent) for row in found]

    def sent(self, done: Mapping[int, str]) -> None:
        """The platform has marked this: texts by picture id."""
        if done:
            marked = {picture_id: fingerprint(text) for picture_id, text in done.items()}
            self._context.db.write(lambda tx: mark_sent(tx, marked))
            self._context.changed()

    def refused(self, debt: Debt, reason: str) -> None:
        """The platform would not mark this, and said why. What was marked before stays."""
        this = annotation.c.picture_id == debt.picture_id

        def refuse(tx: Connection) -> None:
            if debt.before:
                mark_sent(tx, {debt.picture_id: debt.before})
            tx.execute(update(annotation).where(this).values(refused=fingerprint(debt.text), reason=reason))
            update_due(tx, this)

        self._context.db.write(refuse)
        self._context.changed()

    def refusals(self) -> int:
        """How many annotations the platform refused that nobody has changed since."""
        if not self._context.annotated:
            return 0
        with self._context.db.reading() as tx:
            return int(tx.execute(_REFUSALS, {"target": self._context.target.id}).scalar_one())


# -- below: for the rest of the ledger, inside a transaction of the caller's


def fingerprint(text: str) -> str:
    """Stands for an annotation's text; empty for none."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def keep_texts(tx: Connection, database: Database, sightings: Iterable[Sighting]) -> None:
    """Remember what these sightings say is marked."""
    new = {seen.annotation: seen.labels for seen in sightings if seen.annotation}
    if new:
        values = [
            {"fingerprint": fingerprint(text), "text": text, "labels": json.dumps(labels)}
            for text, labels in new.items()
        ]
        tx.execute(database.insert(annotation_text).on_conflict_do_nothing(index_elements=["fingerprint"]), values)


def set_wanted(tx: Connection, database: Database, target_id: int, picture_id: int, wanted: str) -> None:
    """The picture's file says this now: a fingerprint, or empty when there is no annotation (any more)."""
    this = annotation.c.picture_id == picture_id
    if not wanted:
        there = select(picture.c.id).where(picture.c.id == picture_id, picture.c.state.in_(list(map(str, SENT))))
        tx.execute(delete(annotation).where(this, ~there.exists()))
        return
    if tx.execute(select(annotation.c.wanted).where(this)).scalar() == wanted:
        return
    statement = database.insert(annotation).values(picture_id=picture_id, target_id=target_id, wanted=wanted)
    tx.execute(statement.on_conflict_do_update(index_elements=["picture_id"], set_={"wanted": wanted}))
    update_due(tx, this)


def texts_of(tx: Connection, picture_ids: Collection[int]) -> dict[int, str]:
    """What is to be marked in these pictures, by picture id; those of which nothing is known are left out."""
    return {row.picture_id: row.text for row in tx.execute(_TEXTS, {"these": list(picture_ids)})}


def mark_sent(tx: Connection, done: Mapping[int, str]) -> None:
    """The platform has marked this (fingerprints, by picture id)."""
    known = tx.execute(
        select(annotation.c.picture_id, annotation.c.target_id).where(annotation.c.picture_id.in_(list(done)))
    ).all()
    if not known:
        return
    ids = [row.picture_id for row in known]
    told = select(annotation_text.c.fingerprint, annotation_text.c.labels)
    told = told.where(annotation_text.c.fingerprint.in_(set(done.values())))
    labels = {row.fingerprint: json.loads(row.labels) for row in tx.execute(told)}
    execute_rows(tx, _SEND, [(key, done[key]) for key in ids])
    tx.execute(delete(label).where(label.c.picture_id.in_(ids)))
    carried = [
        {"picture_id": row.picture_id, "target_id": row.target_id, "label": name}
        for row in known
        for name in labels.get(done[row.picture_id], ())
    ]
    if carried:
        tx.execute(insert(label), carried)
    update_due(tx, annotation.c.picture_id.in_(ids))


def mark_unknown(tx: Connection, picture_ids: Collection[int]) -> None:
    """Nobody knows any more what the platform has marked in these pictures."""
    these = list(picture_ids)
    tx.execute(update(annotation).where(annotation.c.picture_id.in_(these)).values(sent="", refused="", reason=""))
    tx.execute(delete(label).where(label.c.picture_id.in_(these)))


def update_due(tx: Connection, which: Any) -> None:
    """See anew which of these annotations are due."""
    there = select(picture.c.id).where(picture.c.id == annotation.c.picture_id, picture.c.state == _THERE)
    due = and_(
        annotation.c.wanted != annotation.c.sent,
        annotation.c.wanted != annotation.c.refused,
        there.correlate(annotation).exists(),
    )
    tx.execute(update(annotation).where(which).values(due=case((due, 1), else_=0)))


def update_due_of_batch(tx: Connection, batch_id: str) -> None:
    """The same for the pictures that a batch brought to the platform."""
    brought = select(picture.c.id).where(
        picture.c.batch_id == batch_id, picture.c.batch_id != word(""), picture.c.state == _THERE
    )
    update_due(tx, annotation.c.picture_id.in_(brought))


def retry_refused(tx: Connection, target_id: int) -> int:
    """What was refused is due again. Returns how many."""
    this = (annotation.c.target_id == target_id) & (annotation.c.refused != literal_column("''"))
    ids = list(tx.execute(select(annotation.c.picture_id).where(this)).scalars())
    tx.execute(update(annotation).where(annotation.c.picture_id.in_(ids)).values(refused="", reason=""))
    update_due(tx, annotation.c.picture_id.in_(ids))
    return len(ids)


def number_due(tx: Connection, target_id: int) -> int:
    """How many annotations are due."""
    return int(tx.execute(_NUMBER_DUE, {"target": target_id}).scalar_one())


def labels_there(tx: Connection, target_id: int) -> dict[str, int]:
    """Pictures at the platform that carry each label, in the order of the labels."""
    return {row.label: row.pictures for row in tx.execute(_LABELS, {"target": target_id})}


def sent_text() -> Any:
    """What the platform has marked in the picture of the row, as a column ``text``."""
    return (
        select(annotation_text.c.text)
        .join(annotation, annotation.c.sent == annotation_text.c.fingerprint)
        .where(annotation.c.picture_id == picture.c.id)
        .correlate(picture)
        .scalar_subquery()
        .label("text")
    )


_SEND = (
    "WITH given (id, text) AS (VALUES {(?, ?)}) UPDATE annotation SET sent = given.text, refused = '', reason = ''"
    " FROM given WHERE annotation.picture_id = given.id"
)
_MINE = annotation.c.target_id == bindparam("target")
_IS_DUE = _MINE & (annotation.c.due == literal_column("1"))  # as the partial index says it
_DUE = (
    select(annotation.c.picture_id, annotation.c.sent, picture.c.remote_id, picture.c.key, annotation_text.c.text)
    .join(picture, picture.c.id == annotation.c.picture_id)
    .join(annotation_text, annotation_text.c.fingerprint == annotation.c.wanted)
    .where(_IS_DUE)
    .order_by(annotation.c.picture_id)
    .limit(bindparam("most"))
)
_NUMBER_DUE = select(func.count()).select_from(annotation).where(_IS_DUE)
_REFUSALS = (
    select(func.count())
    .select_from(annotation)
    .where(_MINE, annotation.c.refused != literal_column("''"), annotation.c.refused == annotation.c.wanted)
)
_LABELS = (
    select(label_count.c.label, label_count.c.pictures)
    .where(label_count.c.target_id == bindparam("target"), label_count.c.pictures > 0)
    .order_by(label_count.c.label)
)
_TEXTS = (
    select(annotation.c.picture_id, annotation_text.c.text)
    .join(annotation_text, annotation_text.c.fingerprint == annotation.c.wanted)
    .where(annotation.c.picture_id.in_(bindparam("these", expanding=True)))
)
