"""What is marked in pictures, inside a transaction of the caller's: what files say, and what the platform has.

Texts are kept once, under their fingerprints. A picture has the one that is *wanted* (its file's), the one that was
*sent*, and the one that was *refused*; when it is at the platform and what is wanted is neither of the others, sending
it is *due*. A file that loses its annotation changes nothing about a picture that was sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, and_, bindparam, case, delete, insert, select, update

from image_sync.domain import PictureState, Sighting
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.database import Database
from image_sync.ledger.schema import annotation, label, marks, picture, word

SENT = (PictureState.CONFIRMED, PictureState.CLAIMED)
"""States of a picture that is at the platform or on its way there."""


def fingerprint(text: str) -> str:
    """Stands for an annotation's text; empty for none."""
    return hashlib.sha256(text.encode()).hexdigest() if text else ""


def keep(tx: Connection, database: Database, sightings: Iterable[Sighting]) -> None:
    """Remember what these sightings say is marked."""
    new = {seen.annotation: seen.labels for seen in sightings if seen.annotation}
    if new:
        rows = [
            {"fingerprint": fingerprint(text), "text": text, "labels": json.dumps(labels)}
            for text, labels in new.items()
        ]
        tx.execute(database.insert(marks).on_conflict_do_nothing(index_elements=["fingerprint"]), rows)


def follow(tx: Connection, database: Database, target_id: int, picture_id: int, wanted: str) -> None:
    """The picture's file says this now: a fingerprint, or empty when there is no annotation (any more)."""
    this = annotation.c.picture_id == picture_id
    if not wanted:
        sent = select(picture.c.id).where(picture.c.id == picture_id, picture.c.state.in_(list(map(str, SENT))))
        tx.execute(delete(annotation).where(this, ~sent.exists()))
        return
    was = tx.execute(select(annotation.c.wanted).where(this)).scalar()
    if was == wanted:
        return
    statement = database.insert(annotation).values(picture_id=picture_id, target_id=target_id, wanted=wanted)
    tx.execute(statement.on_conflict_do_update(index_elements=["picture_id"], set_={"wanted": wanted}))
    reckon(tx, this)


def texts(tx: Connection, picture_ids: Collection[int]) -> dict[int, str]:
    """What is to be marked in these pictures, by picture id; those of which nothing is known are left out."""
    rows = tx.execute(_TEXTS, {"these": list(picture_ids)})
    return {row.picture_id: row.text for row in rows}


def sent(tx: Connection, done: Mapping[int, str]) -> None:
    """The platform has marked this (fingerprints, by picture id)."""
    known = tx.execute(
        select(annotation.c.picture_id, annotation.c.target_id).where(annotation.c.picture_id.in_(list(done)))
    ).all()
    if not known:
        return
    ids = [row.picture_id for row in known]
    rows = tx.execute(select(marks.c.fingerprint, marks.c.labels).where(marks.c.fingerprint.in_(set(done.values()))))
    labels = {row.fingerprint: json.loads(row.labels) for row in rows}
    _SEND(tx, [(key, done[key]) for key in ids])
    tx.execute(delete(label).where(label.c.picture_id.in_(ids)))
    carried = [
        {"picture_id": row.picture_id, "target_id": row.target_id, "label": name}
        for row in known
        for name in labels.get(done[row.picture_id], ())
    ]
    if carried:
        tx.execute(insert(label), carried)
    reckon(tx, annotation.c.picture_id.in_(ids))


def lost(tx: Connection, picture_ids: Collection[int]) -> None:
    """Nobody knows any more what the platform has marked in these pictures."""
    these = list(picture_ids)
    tx.execute(update(annotation).where(annotation.c.picture_id.in_(these)).values(sent="", refused="", reason=""))
    tx.execute(delete(label).where(label.c.picture_id.in_(these)))


def reckon(tx: Connection, which: Any) -> None:
    """See anew which of these annotations are due."""
    owed = and_(
        annotation.c.wanted != annotation.c.sent,
        annotation.c.wanted != annotation.c.refused,
        select(picture.c.id)
        .where(picture.c.id == annotation.c.picture_id, picture.c.state == _THERE)
        .correlate(annotation)
        .exists(),
    )
    tx.execute(update(annotation).where(which).values(due=case((owed, 1), else_=0)))


def sent_text() -> Any:
    """What the platform has marked in the picture of the row, as a column ``text``."""
    return (
        select(marks.c.text)
        .join(annotation, annotation.c.sent == marks.c.fingerprint)
        .where(annotation.c.picture_id == picture.c.id)
        .correlate(picture)
        .scalar_subquery()
        .label("text")
    )


def of_batch(batch_id: str) -> Any:
    """Annotations of the pictures that a batch brought to the platform."""
    brought = select(picture.c.id).where(
        picture.c.batch_id == batch_id, picture.c.batch_id != word(""), picture.c.state == _THERE
    )
    return annotation.c.picture_id.in_(brought)


_THERE = str(PictureState.CONFIRMED)
_SEND = Bulk.update(
    annotation, "sent = text, refused = '', reason = ''", "annotation.picture_id = given.id", "id", "text"
)
_TEXTS = (
    select(annotation.c.picture_id, marks.c.text)
    .join(marks, marks.c.fingerprint == annotation.c.wanted)
    .where(annotation.c.picture_id.in_(bindparam("these", expanding=True)))
)
