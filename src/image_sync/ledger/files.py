"""The watcher's side of the ledger: which files lie where."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, bindparam, delete, func, or_, select, update

from image_sync.domain import FileRole, FileState, PictureState, RootReport, Sighting, Stamp
from image_sync.ledger import markings
from image_sync.ledger.bulk import Bulk
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.newcomers import LOOK, columns_of, marks_of, write_down
from image_sync.ledger.owners import Owners, at, files_where, set_roles, unsent
from image_sync.ledger.schema import folder, note, picture, place, place_count, root, word

RESCAN = "rescan"
_PAGE = 1000
_STAMPS = select(
    place.c.name, place.c.size, place.c.mtime_ns, place.c.ctime_ns, place.c.inode, place.c.annotation
).where(place.c.folder_id == bindparam("folder"))
_NUMBER = (
    select(folder.c.category, func.coalesce(func.sum(place_count.c.files), 0).label("files"))
    .outerjoin(place_count, place_count.c.folder_id == folder.c.id)
    .where(folder.c.path == bindparam("folder"))
    .group_by(folder.c.id)
)
_DROP = Bulk("DELETE FROM place WHERE (folder_id, name) IN (VALUES {rows})", "(?, ?)")


class Files:
    """What the watcher knows and reports; see :class:`image_sync.watcher.catalogue.Catalogue`."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context
        self._owners = Owners(context)

    def known(self, path: bytes, names: Collection[bytes] | None = None) -> tuple[str | None, Mapping[bytes, Stamp]]:
        """The category the folder was recorded under, and its recorded files (of these names) with their stamps."""
        stamps = _STAMPS if names is None else _STAMPS.where(place.c.name.in_(bindparam("names", expanding=True)))
        with self._context.db.reading() as tx:
            row = tx.execute(select(folder.c.id, folder.c.category).where(folder.c.path == path)).first()
            if row is None:
                return None, {}
            # A million of these are read at each full look: by position, since looking up names takes as long again.
            return row.category, {
                name: Stamp(size, mtime_ns, ctime_ns, int(inode), annotation)
                for files in tx.execute(stamps, {"folder": row.id, "names": list(names or ())}).partitions(_PAGE)
                for name, size, mtime_ns, ctime_ns, inode, annotation in files
            }

    def recorded(self, path: bytes) -> tuple[str | None, int]:
        """The category the folder was recorded under, and the number of recorded files."""
        with self._context.db.reading() as tx:
            row = tx.execute(_NUMBER, {"folder": path}).first()
            return (None, 0) if row is None else (row.category, int(row.files))

    def folders(self, root_path: bytes) -> Sequence[bytes]:
        """All folders at or below the root in which files are recorded."""
        recorded = select(place_count.c.folder_id).where(place_count.c.files > 0)
        with self._context.db.reading() as tx:
            rows = tx.execute(select(folder.c.path).where(folder.c.root == root_path, folder.c.id.in_(recorded)))
            return [row.path for row in rows]

    def record(self, root_path: bytes, sightings: Sequence[Sighting]) -> None:
        """Write down what was seen: each sighting replaces what was recorded of its path."""

        def note_down(tx: Connection) -> None:
            folders = {one.folder: one for one in sightings}.values()
            ids = {seen.folder: self._folder(tx, root_path, seen) for seen in folders}
            if self._context.annotated:
                markings.keep(tx, self._context.db, sightings)
            for seen in write_down(tx, self._context, ids, sightings):
                self._place(tx, ids[seen.folder], seen)

        self._context.db.write(note_down)
        self._context.changed()

    def gone(self, path: bytes, names: Sequence[bytes], *, deleted: bool = True) -> None:
        """These files are no longer there; if they were not ``deleted``, their pictures stay at the platform."""
        for start in range(0, len(names), _PAGE):
            self._forget(place.c.name.in_(names[start : start + _PAGE]), folder.c.path == path, deleted=deleted)

    def ground(self, path: bytes) -> str | None:
        """On which file system and in which root all files of the folder were last seen; None: it is not known."""
        with self._context.db.reading() as tx:
            return tx.execute(select(folder.c.ground).where(folder.c.path == path)).scalar()

    def stands(self, path: bytes, ground: str) -> None:
        """All files of the folder were seen there."""
        with self._context.db.writing() as tx:
            tx.execute(update(folder).where(folder.c.path == path).values(ground=ground))

    def recategorise(self, path: bytes, category: str | None) -> None:
        """The folder belongs to another category from now on; so do the pictures that its files stand for."""
        with self._context.db.writing() as tx:
            rows = tx.execute(files_where(folder.c.path == path)).all()
            tx.execute(update(folder).where(folder.c.path == path).values(category=category))
            if category is None:
                self._uncategorise(tx, rows)
            for row in rows if category is not None else ():
                if row.state == FileState.UNCATEGORISED:
                    # Such files are recorded unread: forgotten, they are looked at like new ones.
                    tx.execute(delete(place).where(at(row)))
                elif row.role == FileRole.OWNER:
                    tx.execute(update(picture).where(picture.c.id == row.picture_id).values(category=category))
            for picture_id in {row.picture_id for row in rows if row.role}:
                set_roles(tx, picture_id)
        self._context.changed()

    def report(self, seen: RootReport) -> None:
        """How one root is watched, for ``status``."""
        values = {
            "mode": str(seen.mode),
            "state": str(seen.state),
            "reason": seen.reason,
            "settling": seen.settling,
            "looked_at": self._context.clock(),
        }
        statement = self._context.db.insert(root).values(path=seen.path, **values)
        with self._context.db.writing() as tx:
            tx.execute(statement.on_conflict_do_update(index_elements=["path"], set_=values))

    def rescan_requested(self) -> bool:
        """Whether somebody asked for a full look since the last call."""
        if not self.rescan_wanted():
            return False
        with self._context.db.writing() as tx:
            tx.execute(delete(note).where(note.c.name == RESCAN))
        return True

    # -- below: for the rest of the ledger, and for the other stages

    def rescan_wanted(self) -> bool:
        """Whether a full look was asked for and has not begun."""
        with self._context.db.reading() as tx:
            return tx.execute(select(note.c.name).where(note.c.name == RESCAN)).first() is not None

    def want_rescan(self, tx: Connection) -> None:
        """Ask for a full look."""
        statement = self._context.db.insert(note).values(name=RESCAN, value=str(self._context.clock()))
        tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))

    def keep_roots(self, roots: Sequence[bytes]) -> None:
        """Forget files under roots that are no longer configured. Nothing is removed at the platform for it."""
        with self._context.db.writing() as tx:
            tx.execute(delete(root).where(root.c.path.not_in(roots)))
        self._forget(folder.c.root.not_in(roots), deleted=False)

    def recheck_quarantined(self) -> int:
        """Forget the verdict on quarantined files, so that the next look checks them again. Returns how many."""
        forgotten = self._forget(
            place.c.state == FileState.QUARANTINED, place.c.state != word(FileState.SOUND), deleted=False
        )
        with self._context.db.writing() as tx:
            self.want_rescan(tx)
        return forgotten

    def look_again(self, path: bytes, sha256: str) -> None:
        """The file did not hold this content, which was recorded of it: forget it, so that it is looked at anew.

        A newer look at it, which found something else, stands.
        """
        head, _, name = path.rpartition(b"/")
        with self._context.db.writing() as tx:
            self._drop(tx, place.c.name == name, folder.c.path == head, place.c.sha256 == sha256, deleted=False)
            self.want_rescan(tx)  # no event will name the file again
        self._context.changed()

    def attach_all(self, tx: Connection) -> None:
        """After the target changed: give every sound file its picture there."""
        tx.execute(update(place).values(role="", picture_id=None))
        rows = tx.execute(
            select(place.c.folder_id, place.c.name, folder.c.category)
            .join(folder, folder.c.id == place.c.folder_id)
            .where(place.c.state == FileState.SOUND)
            .order_by(place.c.seen_at, place.c.folder_id, place.c.name)
        ).all()
        for row in rows:
            self._owners.attach(tx, row.folder_id, row.name, row.category)
        files = select(place.c.picture_id).where(place.c.picture_id == picture.c.id).exists()
        mine = picture.c.target_id == self._context.target.id
        tx.execute(delete(picture).where(mine, unsent(), ~files))  # its file went while another target was in use

    def forget_annotations(self, tx: Connection) -> None:
        """Annotations are used in another way than before: what was not sent, or waits for one, is looked at anew."""
        mine = picture.c.target_id == self._context.target.id
        waits = picture.c.state.in_([str(PictureState.READY), str(PictureState.HELD)])
        ready = select(picture.c.id).where(mine, waits)
        faulty = and_(place.c.state == FileState.QUARANTINED, place.c.annotation != "")
        tx.execute(delete(place).where(or_(place.c.state == FileState.WAITING, faulty, place.c.picture_id.in_(ready))))
        tx.execute(delete(picture).where(picture.c.id.in_(ready)))
        tx.execute(update(place).where(place.c.annotation != "").values(annotation="", marks=""))

    def _folder(self, tx: Connection, root_path: bytes, seen: Sighting) -> int:
        values = {"path": seen.folder, "root": root_path, "category": seen.category, "ground": seen.ground}
        statement = self._context.db.insert(folder).values(**values)
        found = tx.execute(
            statement.on_conflict_do_update(
                index_elements=["path"], set_={"root": root_path, "category": seen.category}
            ).returning(folder.c.id)
        ).scalar_one()
        return int(found)

    def _place(self, tx: Connection, folder_id: int, seen: Sighting) -> None:
        was = tx.execute(files_where(and_(place.c.folder_id == folder_id, place.c.name == seen.name))).first()
        state = _state(seen)
        values: dict[str, Any] = {
            **dict(zip(LOOK, columns_of(seen, self._context.clock()), strict=True)),
            "state": state,
        }
        if self._context.annotated:
            values |= marks_of(seen)
        same = (
            was is not None and (was.sha256, was.state) == (seen.sha256, str(state)) and was.category == seen.category
        )
        stays = was if same or self._stays(tx, was, seen, state) else None
        if stays is None:
            values |= {"role": "", "picture_id": None}
        statement = self._context.db.insert(place).values(folder_id=folder_id, name=seen.name, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["folder_id", "name"], set_=values))
        if stays is not None:
            if self._context.annotated and state == FileState.SOUND and stays.role == FileRole.OWNER:
                self._owners.mark(tx, stays.picture_id, values["marks"])
            return
        if was is not None and was.role:
            # What lies there on another disk says nothing of what became of the file that lay there before.
            ground = tx.execute(select(folder.c.ground).where(folder.c.id == folder_id)).scalar_one()
            self._owners.inherit(tx, was, deleted=ground == seen.ground)
        if state == FileState.SOUND:
            self._owners.attach(tx, folder_id, seen.name, seen.category)

    def _stays(self, tx: Connection, was: Any, seen: Sighting, state: FileState) -> bool:
        """Whether the file goes on to stand for its picture although it no longer is what it was.

        A mistake in an annotation, or its absence, must not take a picture from the platform.
        """
        if not self._context.annotated or was is None or was.role != FileRole.OWNER or was.sha256 != seen.sha256:
            return False
        if state == FileState.SOUND:
            return True
        mine = select(picture.c.state).where(picture.c.id == was.picture_id)
        return seen.category is not None and tx.execute(mine).scalar() in markings.SENT

    def _forget(self, *which: Any, deleted: bool) -> int:
        """A page in each transaction: others want to write, too. Returns how many files were forgotten."""
        dropped = forgotten = self._context.db.write(lambda tx: self._drop(tx, *which, deleted=deleted))
        while dropped == _PAGE:
            dropped = self._context.db.write(lambda tx: self._drop(tx, *which, deleted=deleted))
            forgotten += dropped
        if forgotten:
            self._context.changed()
        return forgotten

    def _drop(self, tx: Connection, *which: Any, deleted: bool) -> int:
        rows = tx.execute(files_where(and_(*which)).limit(_PAGE)).all()
        _DROP(tx, [(row.folder_id, row.name) for row in rows])
        self._owners.bereave(tx, rows, deleted=deleted)
        return len(rows)

    def _uncategorise(self, tx: Connection, rows: Sequence[Any]) -> None:
        sound = [row for row in rows if row.role or row.state in {FileState.SOUND, FileState.WAITING}]
        values = {"state": FileState.UNCATEGORISED, "role": "", "picture_id": None, "sha256": ""}
        for row in sound:  # all of them first: none of them may inherit from another
            tx.execute(update(place).where(at(row)).values(**values))
        for row in sound:
            self._owners.inherit(tx, row, deleted=False)


def _state(seen: Sighting) -> FileState:
    if seen.fault:
        return FileState.QUARANTINED
    if seen.category is None:
        return FileState.UNCATEGORISED
    return FileState.WAITING if seen.waits else FileState.SOUND
