"""The watcher's side of the ledger: which files lie where, and what each is to the picture of its content.

A picture has one *owner*, the file that is sent. Another file with the same content is a *duplicate* in the same
category and a *conflict* in another one. When the owner goes, the next file in line inherits; if that one lies in
another category, the picture has been moved and is labelled anew. So the order in which two folders are looked at
does not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from image_sync.domain import PictureState, PlaceRole, PlaceState, RootReport, Sighting, Stamp
from image_sync.ledger.book import Book
from image_sync.ledger.inventory import BEFORE, waiting_for
from image_sync.ledger.names import LONGEST, key_of, plain_key
from image_sync.ledger.newcomers import columns_of, write_down
from image_sync.ledger.schema import folder, note, picture, place, root

RESCAN = "rescan"


class Places:
    """What the watcher knows and reports; see :class:`image_sync.watcher.catalogue.Catalogue`."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def known(self, path: bytes) -> tuple[str | None, Mapping[bytes, Stamp]]:
        """The category the folder was recorded under, and the recorded files with the stamps they had."""
        with self._book.db.reading() as tx:
            row = tx.execute(select(folder.c.id, folder.c.category).where(folder.c.path == path)).first()
            if row is None:
                return None, {}
            files = tx.execute(
                select(place.c.name, place.c.size, place.c.mtime_ns, place.c.ctime_ns, place.c.inode).where(
                    place.c.folder_id == row.id
                )
            )
            return row.category, {
                file.name: Stamp(file.size, file.mtime_ns, file.ctime_ns, int(file.inode)) for file in files
            }

    def folders(self, root_path: bytes) -> Sequence[bytes]:
        """All folders at or below the root in which files are recorded."""
        recorded = select(place.c.folder_id).distinct().scalar_subquery()
        with self._book.db.reading() as tx:
            rows = tx.execute(select(folder.c.path).where(folder.c.root == root_path, folder.c.id.in_(recorded)))
            return [row.path for row in rows]

    def record(self, root_path: bytes, sightings: Sequence[Sighting]) -> None:
        """Write down what was seen: each sighting replaces what was recorded of its path."""

        def note_down(tx: Connection) -> None:
            folders = {one.folder: one for one in sightings}.values()
            ids = {seen.folder: self._folder(tx, root_path, seen) for seen in folders}
            for seen in write_down(tx, self._book, ids, sightings):
                self._place(tx, ids[seen.folder], seen)

        self._book.db.write(note_down)
        self._book.changed()

    def gone(self, path: bytes, names: Sequence[bytes]) -> None:
        """These files are no longer there."""
        self._forget(place.c.name.in_(names), folder.c.path == path, deleted=True)

    def recategorise(self, path: bytes, category: str | None) -> None:
        """The folder belongs to another category from now on; so do the pictures that its files stand for."""
        with self._book.db.writing() as tx:
            rows = tx.execute(_files(folder.c.path == path)).all()
            tx.execute(update(folder).where(folder.c.path == path).values(category=category))
            if category is None:
                self._uncategorise(tx, rows)
            for row in rows if category is not None else ():
                if row.state == PlaceState.UNCATEGORISED:
                    # Such files are recorded unread: forgotten, they are looked at like new ones.
                    tx.execute(delete(place).where(_at(row)))
                elif row.role == PlaceRole.OWNER:
                    tx.execute(update(picture).where(picture.c.id == row.picture_id).values(category=category))
            for picture_id in {row.picture_id for row in rows if row.role}:
                _roles(tx, picture_id)
        self._book.changed()

    def report(self, seen: RootReport) -> None:
        """How one root is watched, for ``status``."""
        values = {
            "mode": str(seen.mode),
            "state": str(seen.state),
            "reason": seen.reason,
            "settling": seen.settling,
            "looked_at": self._book.clock(),
        }
        statement = self._book.db.insert(root).values(path=seen.path, **values)
        with self._book.db.writing() as tx:
            tx.execute(statement.on_conflict_do_update(index_elements=["path"], set_=values))

    def rescan_requested(self) -> bool:
        """Whether somebody asked for a full look since the last call."""
        if not self.rescan_wanted():
            return False
        with self._book.db.writing() as tx:
            tx.execute(delete(note).where(note.c.name == RESCAN))
        return True

    # -- below: for the rest of the ledger, and for the other stages

    def rescan_wanted(self) -> bool:
        """Whether a full look was asked for and has not begun."""
        with self._book.db.reading() as tx:
            return tx.execute(select(note.c.name).where(note.c.name == RESCAN)).first() is not None

    def want_rescan(self, tx: Connection) -> None:
        """Ask for a full look."""
        statement = self._book.db.insert(note).values(name=RESCAN, value=str(self._book.clock()))
        tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))

    def keep_roots(self, roots: Sequence[bytes]) -> None:
        """Forget files under roots that are no longer configured. Nothing is removed at the platform for it."""
        with self._book.db.writing() as tx:
            tx.execute(delete(root).where(root.c.path.not_in(roots)))
        self._forget(folder.c.root.not_in(roots), deleted=False)

    def look_again(self, path: bytes, sha256: str) -> None:
        """The file did not hold this content, which was recorded of it: forget it, so that it is looked at anew.

        A newer look at it, which found something else, stands.
        """
        head, _, name = path.rpartition(b"/")
        with self._book.db.writing() as tx:
            self._drop(tx, place.c.name == name, folder.c.path == head, place.c.sha256 == sha256, deleted=False)
            self.want_rescan(tx)  # no event will name the file again
        self._book.changed()

    def attach_all(self, tx: Connection) -> None:
        """After the target changed: give every sound file its picture there."""
        tx.execute(update(place).values(role="", picture_id=None))
        rows = tx.execute(
            select(place.c.folder_id, place.c.name, folder.c.category)
            .join(folder, folder.c.id == place.c.folder_id)
            .where(place.c.state == PlaceState.SOUND)
            .order_by(place.c.seen_at, place.c.folder_id, place.c.name)
        ).all()
        for row in rows:
            self._attach(tx, row.folder_id, row.name, row.category)
        files = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        mine = picture.c.target_id == self._book.aimed().id
        tx.execute(delete(picture).where(mine, _unsent(), ~files))  # its file went while another target was in use

    def _folder(self, tx: Connection, root_path: bytes, seen: Sighting) -> int:
        statement = self._book.db.insert(folder).values(path=seen.folder, root=root_path, category=seen.category)
        found = tx.execute(
            statement.on_conflict_do_update(
                index_elements=["path"], set_={"root": root_path, "category": seen.category}
            ).returning(folder.c.id)
        ).scalar_one()
        return int(found)

    def _place(self, tx: Connection, folder_id: int, seen: Sighting) -> None:
        was = tx.execute(_files(and_(place.c.folder_id == folder_id, place.c.name == seen.name))).first()
        state = _state(seen.category, seen.fault)
        values: dict[str, Any] = {**columns_of(seen, self._book.clock()), "state": state}
        same = (
            was is not None and (was.sha256, was.state) == (seen.sha256, str(state)) and was.category == seen.category
        )
        if not same:
            values |= {"role": "", "picture_id": None}
        statement = self._book.db.insert(place).values(folder_id=folder_id, name=seen.name, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["folder_id", "name"], set_=values))
        if same:
            return
        if was is not None and was.role:
            self._inherit(tx, was, deleted=True)
        if state == PlaceState.SOUND:
            self._attach(tx, folder_id, seen.name, seen.category)

    def _attach(self, tx: Connection, folder_id: int, name: bytes, category: str | None) -> None:
        """Find or make the picture of a sound file and say what the file is to it."""
        if self._book.target is None or category is None:
            return
        target = self._book.target.id
        here = and_(place.c.folder_id == folder_id, place.c.name == name)
        file = tx.execute(select(place.c.sha256, place.c.suffix, place.c.size).where(here)).one()
        owned = (
            select(place.c.picture_id)
            .where(place.c.picture_id == picture.c.id, place.c.role == PlaceRole.OWNER)
            .exists()
        )
        candidates = tx.execute(
            select(picture.c.id, picture.c.category, picture.c.copy, owned.label("owned"))
            .where(picture.c.target_id == target, picture.c.sha256 == file.sha256)
            .order_by(picture.c.category != category, picture.c.id)
        ).all()
        orphans = [row for row in candidates if not row.owned]
        if orphans:
            chosen, role = orphans[0].id, PlaceRole.OWNER
            tx.execute(update(picture).where(picture.c.id == chosen).values(category=category, orphaned_at=None))
        elif candidates and self._book.skip_duplicates:
            chosen, role = (
                candidates[0].id,
                PlaceRole.DUPLICATE if candidates[0].category == category else PlaceRole.CONFLICT,
            )
        else:
            copy = 1 + max((row.copy for row in candidates), default=-1)
            chosen, role = self._new_picture(tx, target, name, category, file, copy), PlaceRole.OWNER
        tx.execute(update(place).where(here).values(picture_id=chosen, role=role))

    def _new_picture(self, tx: Connection, target: int, name: bytes, category: str, file: Any, copy: int) -> int:
        there = waiting_for(tx, target, file.sha256, file.size)
        if there is not None:
            return self._adopted(tx, target, category, file, copy, there)
        keys = [key_of(name, file.sha256, file.suffix, copy), key_of(name, file.sha256, file.suffix, copy, whole=True)]
        plain = plain_key(name) if self._book.plain_names else None
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
                ready_at=self._book.clock(),
            )
            .returning(picture.c.id)
        ).scalar_one()
        return int(made)

    def _adopted(self, tx: Connection, target: int, category: str, file: Any, copy: int, there: Any) -> int:
        """The picture lies at the platform already, from before this ledger knew of it."""
        now = self._book.clock()
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

    def _forget(self, *which: Any, deleted: bool) -> None:
        with self._book.db.writing() as tx:
            dropped = self._drop(tx, *which, deleted=deleted)
        if dropped:
            self._book.changed()

    def _drop(self, tx: Connection, *which: Any, deleted: bool) -> int:
        rows = tx.execute(_files(and_(*which))).all()
        for row in rows:
            tx.execute(delete(place).where(_at(row)))
        for row in rows:
            if row.role:
                self._inherit(tx, row, deleted=deleted)
        return len(rows)

    def _uncategorise(self, tx: Connection, rows: Sequence[Any]) -> None:
        sound = [row for row in rows if row.state == PlaceState.SOUND]
        values = {"state": PlaceState.UNCATEGORISED, "role": "", "picture_id": None, "sha256": ""}
        for row in sound:  # all of them first: none of them may inherit from another
            tx.execute(update(place).where(_at(row)).values(**values))
        for row in sound:
            self._inherit(tx, row, deleted=False)

    def _inherit(self, tx: Connection, was: Any, *, deleted: bool) -> None:
        """The file ``was`` no longer stands for its picture: let the next in line do so, if there is one."""
        if was.role != PlaceRole.OWNER:
            return
        this = picture.c.id == was.picture_id
        heir = tx.execute(
            select(place.c.folder_id, place.c.name, folder.c.category)
            .join(folder, folder.c.id == place.c.folder_id)
            .where(place.c.picture_id == was.picture_id, place.c.role != PlaceRole.OWNER)
            .order_by(place.c.role != PlaceRole.DUPLICATE, place.c.seen_at, place.c.name)
            .limit(1)
        ).first()
        if heir is not None:
            tx.execute(update(place).where(_at(heir)).values(role=PlaceRole.OWNER))
            tx.execute(update(picture).where(this).values(category=heir.category))
            _roles(tx, was.picture_id)
            return
        # Not at the platform and not on its way there: without a file there is nothing left of it.
        tx.execute(delete(picture).where(this, _unsent()))
        if deleted:
            tx.execute(update(picture).where(this).values(orphaned_at=self._book.clock()))


def _roles(tx: Connection, picture_id: int) -> None:
    """Say of every other file of the picture whether it repeats or contradicts the owner's category."""
    category = select(picture.c.category).where(picture.c.id == picture_id).scalar_subquery()
    for role, same in ((PlaceRole.DUPLICATE, True), (PlaceRole.CONFLICT, False)):
        inside = select(folder.c.id).where((folder.c.category == category) == same)
        tx.execute(
            update(place)
            .where(place.c.picture_id == picture_id, place.c.role != PlaceRole.OWNER, place.c.folder_id.in_(inside))
            .values(role=role)
        )


def _state(category: str | None, fault: str) -> PlaceState:
    if fault:
        return PlaceState.QUARANTINED
    return PlaceState.UNCATEGORISED if category is None else PlaceState.SOUND


def _unsent() -> Any:
    return or_(picture.c.state == PictureState.READY, picture.c.state == PictureState.REFUSED)


def _files(which: Any) -> Any:
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


def _at(row: Any) -> Any:
    return and_(place.c.folder_id == row.folder_id, place.c.name == row.name)
