"""What each file is to the picture of its content: the one that is sent, a copy, or a contradiction.

A picture has one *owner*, the file that is sent. Another file with the same content is a *duplicate* in the same
category and a *conflict* in another one. When the owner goes, the next file in line inherits; if that one lies in
another category, the picture has been moved and is labelled anew. So the order in which two folders are looked at
does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, select, update

from image_sync.domain import FileRole, PictureState
from image_sync.ledger import markings
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.moves import hold
from image_sync.ledger.names import LONGEST, key_of, plain_key
from image_sync.ledger.remote_index import BEFORE, waiting_for
from image_sync.ledger.schema import folder, picture, place


class Owners:
    """Gives files their roles, inside a transaction of the caller's."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def attach(self, tx: Connection, folder_id: int, name: bytes, category: str | None) -> None:
        """Find or make the picture of a sound file and say what the file is to it."""
        if self._context.current_target is None or category is None:
            return
        target = self._context.current_target.id
        here = and_(place.c.folder_id == folder_id, place.c.name == name)
        file = tx.execute(select(place.c.sha256, place.c.suffix, place.c.size, place.c.marks).where(here)).one()
        owned = (
            select(place.c.picture_id)
            .where(place.c.picture_id == picture.c.id, place.c.role == FileRole.OWNER)
            .exists()
        )
        candidates = tx.execute(
            select(picture.c.id, picture.c.category, picture.c.copy, owned.label("owned"))
            .where(picture.c.target_id == target, picture.c.sha256 == file.sha256)
            .order_by(picture.c.category != category, picture.c.id)
        ).all()
        orphans = [row for row in candidates if not row.owned]
        if orphans:
            chosen, role = orphans[0].id, FileRole.OWNER
            tx.execute(update(picture).where(picture.c.id == chosen).values(category=category, orphaned_at=None))
        elif candidates and self._context.skip_duplicates:
            chosen, role = (
                candidates[0].id,
                FileRole.DUPLICATE if candidates[0].category == category else FileRole.CONFLICT,
            )
        else:
            copy = 1 + max((row.copy for row in candidates), default=-1)
            chosen, role = self._new_picture(tx, target, name, category, file, copy), FileRole.OWNER
        tx.execute(update(place).where(here).values(picture_id=chosen, role=role))
        if candidates:
            hold(tx, chosen)
        if self._context.annotated and role is FileRole.OWNER:
            self.mark(tx, chosen, file.marks)

    def mark(self, tx: Connection, picture_id: int, marks: str) -> None:
        """This (a fingerprint) is marked in the picture, says the file that stands for it; empty: it says nothing."""
        markings.follow(tx, self._context.db, self._context.target.id, picture_id, marks)

    def _new_picture(self, tx: Connection, target: int, name: bytes, category: str, file: Any, copy: int) -> int:
        there = waiting_for(tx, target, file.sha256, file.size)
        if there is not None:
            return self._adopted(tx, target, category, file, copy, there)
        keys = [key_of(name, file.sha256, file.suffix, copy), key_of(name, file.sha256, file.suffix, copy, whole=True)]
        plain = plain_key(name) if self._context.plain_names else None
        if plain is not None:
            keys.insert(0, plain)
        taken = set(
            tx.execute(select(picture.c.key).where(picture.c.target_id == target, picture.c.key.in_(keys))).scalars()
        )
        key = next(one for one in keys if one not in taken)
        made = tx.execute(
            insert(picture)
            .values(
                target_id=target,
                sha256=file.sha256,
                copy=copy,
                category=category,
                key=key,
                size=file.size,
                state=PictureState.READY,
                ready_at=self._context.clock(),
            )
            .returning(picture.c.id)
        ).scalar_one()
        return int(made)

    def _adopted(self, tx: Connection, target: int, category: str, file: Any, copy: int, there: Any) -> int:
        """The picture lies at the platform already, from before this ledger knew of it."""
        now = self._context.clock()
        made = tx.execute(
            insert(picture)
            .values(
                target_id=target,
                sha256=file.sha256,
                copy=copy,
                category=category,
                sent_category=there.category,
                key=there.key[:LONGEST],
                size=file.size,
                state=PictureState.CONFIRMED,
                remote_id=there.remote_id,
                run_id=BEFORE if there.counted else None,
                ready_at=now,
                confirmed_at=now,
            )
            .returning(picture.c.id)
        ).scalar_one()
        return int(made)

    def bereave(self, tx: Connection, gone: Sequence[Any], *, deleted: bool) -> None:
        """Many files no longer stand for their pictures, at most some thousands: see :meth:`inherit`."""
        owners = {row.picture_id: row for row in gone if row.role == FileRole.OWNER}
        these = list(owners)
        left = set(tx.execute(select(place.c.picture_id).where(place.c.picture_id.in_(these))).scalars())
        for picture_id in left:
            self.inherit(tx, owners[picture_id], deleted=deleted)
        alone = picture.c.id.in_([picture_id for picture_id in these if picture_id not in left])
        self._leave(tx, alone, deleted=deleted)
        for picture_id in {row.picture_id for row in gone if row.role == FileRole.CONFLICT} - owners.keys():
            hold(tx, picture_id)

    def inherit(self, tx: Connection, was: Any, *, deleted: bool) -> None:
        """The file ``was`` no longer stands for its picture: let the next in line do so, if there is one."""
        if was.role != FileRole.OWNER:
            hold(tx, was.picture_id)
            return
        this = picture.c.id == was.picture_id
        heir = tx.execute(
            select(place.c.folder_id, place.c.name, place.c.marks, folder.c.category)
            .join(folder, folder.c.id == place.c.folder_id)
            .where(place.c.picture_id == was.picture_id, place.c.role != FileRole.OWNER)
            .order_by(place.c.role != FileRole.DUPLICATE, place.c.seen_at, place.c.name)
            .limit(1)
        ).first()
        if heir is not None:
            tx.execute(update(place).where(at(heir)).values(role=FileRole.OWNER))
            tx.execute(update(picture).where(this).values(category=heir.category))
            set_roles(tx, was.picture_id)
            if self._context.annotated and heir.marks:
                self.mark(tx, was.picture_id, heir.marks)
            return
        self._leave(tx, this, deleted=deleted)

    def _leave(self, tx: Connection, these: Any, *, deleted: bool) -> None:
        """No file stands for these pictures any more."""
        # Not at the platform and not on its way there: without a file there is nothing left of it.
        tx.execute(delete(picture).where(these, unsent()))
        if deleted:
            tx.execute(update(picture).where(these).values(orphaned_at=self._context.clock()))


def set_roles(tx: Connection, picture_id: int) -> None:
    """Say of every other file of the picture whether it repeats or contradicts the owner's category."""
    category = select(picture.c.category).where(picture.c.id == picture_id).scalar_subquery()
    for role, same in ((FileRole.DUPLICATE, True), (FileRole.CONFLICT, False)):
        inside = select(folder.c.id).where((folder.c.category == category) == same)
        tx.execute(
            update(place)
            .where(place.c.picture_id == picture_id, place.c.role != FileRole.OWNER, place.c.folder_id.in_(inside))
            .values(role=role)
        )
    hold(tx, picture_id)


def unsent() -> Any:
    """Pictures that are neither at the platform nor on their way there."""
    return picture.c.state.in_([str(PictureState.READY), str(PictureState.HELD), str(PictureState.REFUSED)])


def files_where(which: Any) -> Any:
    """The files that meet the condition, with what they are to their pictures."""
    return (
        select(
            place.c.folder_id,
            place.c.name,
            place.c.sha256,
            place.c.state,
            place.c.reason,
            place.c.role,
            place.c.picture_id,
            folder.c.category,
        )
        .join(folder, folder.c.id == place.c.folder_id)
        .where(which)
    )


def at(row: Any) -> Any:
    """The file that this row is about."""
    return and_(place.c.folder_id == row.folder_id, place.c.name == row.name)
