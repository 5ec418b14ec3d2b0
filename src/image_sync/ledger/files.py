"""The watcher's side of the ledger: which files lie where, and what each is to the picture of its content.

A picture has one *owner*, the file that is sent. Another file with the same content is a *duplicate* in the same
category and a *conflict* in another one. When the owner goes, the next file in line stands for the picture; if that one
lies in another category, the picture has been moved and is labelled anew. So the order in which two folders are looked
at does not matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, and_, delete, insert, or_, select, update

from image_sync.domain import FileRole, FileState, PictureState, RootReport, Sighting, Stamp
from image_sync.ledger.annotations import SENT, fingerprint, keep_texts, set_wanted
from image_sync.ledger.bulk import execute_rows, rows, rows_of
from image_sync.ledger.context import LedgerContext, value_of
from image_sync.ledger.counters import count
from image_sync.ledger.keys import LONGEST, key_of, plain_key
from image_sync.ledger.remote_index import BEFORE, take_known
from image_sync.ledger.schema import READY_OR_HELD, file, file_count, folder, half_digest, keyvalue, picture, root, word

RESCAN = "rescan"
_PAGE = 1000
_WAITS = [str(PictureState.READY), str(PictureState.HELD)]


class Files:
    """What the watcher knows and reports; see :class:`image_sync.watcher.catalogue.Catalogue`."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def known(self, path: bytes, names: Collection[bytes] | None = None) -> tuple[str | None, Mapping[bytes, Stamp]]:
        """The category the folder was recorded under, and its recorded files (of these names) with their stamps."""
        with self._context.db.reading() as tx:
            found = rows(tx, "SELECT id, category FROM folder WHERE path = ?", path)
            if not found:
                return None, {}
            ((folder_id, category),) = found
            if names is None:
                files = rows(tx, f"{_STAMPS} WHERE folder_id = ?", folder_id)
            else:
                files = rows_of(tx, f"{_STAMPS} WHERE name IN ({{?}}) AND folder_id = ?", [*names], folder_id)
        return category, {
            name: Stamp(size, mtime, ctime, int(inode), text) for name, size, mtime, ctime, inode, text in files
        }

    def recorded(self, path: bytes) -> tuple[str | None, int]:
        """The category the folder was recorded under, and the number of recorded files."""
        with self._context.db.reading() as tx:
            found = rows(tx, _NUMBER, path)
        return (found[0][0], int(found[0][1])) if found else (None, 0)

    def folders(self, root_path: bytes) -> Sequence[bytes]:
        """All folders at or below the root in which files are recorded."""
        recorded = select(file_count.c.folder_id).where(file_count.c.files > 0)
        with self._context.db.reading() as tx:
            which = (folder.c.root == root_path) & folder.c.id.in_(recorded)
            return list(tx.execute(select(folder.c.path).where(which)).scalars())

    def record(self, root_path: bytes, sightings: Sequence[Sighting]) -> None:
        """Write down what was seen: each sighting replaces what was recorded of its path."""

        def write(tx: Connection) -> None:
            last = {seen.folder: seen for seen in sightings}
            folders = {
                path: rows(tx, _FOLDER, path, root_path, seen.category, seen.ground)[0][0]
                for path, seen in last.items()
            }
            if self._context.annotated:
                keep_texts(tx, self._context.db, sightings)
            for seen in self._insert_new_files(tx, folders, sightings):
                self._record(tx, folders[seen.folder], seen)

        self._context.db.write(write)
        self._context.changed()

    def gone(self, path: bytes, names: Sequence[bytes], *, deleted: bool = True) -> None:
        """These files are no longer there; if they were not ``deleted``, their pictures stay at the platform."""
        for start in range(0, len(names), _PAGE):
            self._forget(file.c.name.in_(names[start : start + _PAGE]), folder.c.path == path, deleted=deleted)

    def ground(self, path: bytes) -> str | None:
        """On which file system and in which root all files of the folder were last seen; None: it is not known."""
        with self._context.db.reading() as tx:
            found = rows(tx, "SELECT ground FROM folder WHERE path = ?", path)
        return found[0][0] if found else None

    def stands(self, path: bytes, ground: str) -> None:
        """All files of the folder were seen there."""
        with self._context.db.writing() as tx:
            tx.execute(update(folder).where(folder.c.path == path).values(ground=ground))

    def recategorise(self, path: bytes, category: str | None) -> None:
        """The folder belongs to another category from now on; so do the pictures that its files stand for."""
        with self._context.db.writing() as tx:
            found = tx.execute(_files_where(folder.c.path == path)).all()
            tx.execute(update(folder).where(folder.c.path == path).values(category=category))
            if category is None:
                self._uncategorise(tx, found)
            for row in found if category is not None else ():
                if row.state == FileState.UNCATEGORISED:
                    # Such files are recorded unread: forgotten, they are looked at like new ones.
                    tx.execute(delete(file).where(_at(row)))
                elif row.role == FileRole.OWNER:
                    tx.execute(update(picture).where(picture.c.id == row.picture_id).values(category=category))
            for picture_id in {row.picture_id for row in found if row.role}:
                _set_roles(tx, picture_id)
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
        with self._context.db.reading() as tx:
            if value_of(tx, RESCAN) is None:
                return False
        with self._context.db.writing() as tx:
            tx.execute(delete(keyvalue).where(keyvalue.c.name == RESCAN))
        return True

    # -- below: for the rest of the ledger, and for the other stages

    def rescan_wanted(self) -> bool:
        """Whether a full look was asked for and has not begun."""
        with self._context.db.reading() as tx:
            return value_of(tx, RESCAN) is not None

    def keep_roots(self, roots: Sequence[bytes]) -> None:
        """Forget files under roots that are no longer configured. Nothing is removed at the platform for it."""
        with self._context.db.writing() as tx:
            tx.execute(delete(root).where(root.c.path.not_in(roots)))
        self._forget(folder.c.root.not_in(roots), deleted=False)

    def recheck_quarantined(self) -> int:
        """Forget the verdict on quarantined files, so that the next look checks them again. Returns how many."""
        forgotten = self._forget(
            file.c.state == FileState.QUARANTINED, file.c.state != word(FileState.SOUND), deleted=False
        )
        with self._context.db.writing() as tx:
            self._context.set_flag(tx, RESCAN)
        return forgotten

    def look_again(self, path: bytes, sha256: str) -> None:
        """The file did not hold this content, which was recorded of it: forget it, so that it is looked at anew.

        A newer look at it, which found something else, stands.
        """
        head, _, name = path.rpartition(b"/")
        with self._context.db.writing() as tx:
            self._drop(tx, file.c.name == name, folder.c.path == head, file.c.sha256 == sha256, deleted=False)
            self._context.set_flag(tx, RESCAN)  # no event will name the file again
        self._context.changed()

    def attach_all(self, tx: Connection) -> None:
        """After the target changed: give every sound file its picture there."""
        tx.execute(update(file).values(role="", picture_id=None))
        found = tx.execute(
            select(file.c.folder_id, file.c.name, folder.c.category)
            .join(folder, folder.c.id == file.c.folder_id)
            .where(file.c.state == FileState.SOUND)
            .order_by(file.c.seen_at, file.c.folder_id, file.c.name)
        ).all()
        for row in found:
            self._attach(tx, row.folder_id, row.name, row.category)
        files = select(file.c.picture_id).where(file.c.picture_id == picture.c.id).exists()
        mine = picture.c.target_id == self._context.target.id
        tx.execute(delete(picture).where(mine, _unsent(), ~files))  # its file went while another target was in use

    def forget_annotations(self, tx: Connection) -> None:
        """Annotations are used in another way than before: what was not sent, or waits for one, is looked at anew."""
        mine = picture.c.target_id == self._context.target.id
        ready = select(picture.c.id).where(mine, picture.c.state.in_(_WAITS))
        faulty = and_(file.c.state == FileState.QUARANTINED, file.c.annotation != "")
        tx.execute(delete(file).where(or_(file.c.state == FileState.WAITING, faulty, file.c.picture_id.in_(ready))))
        tx.execute(delete(picture).where(picture.c.id.in_(ready)))
        tx.execute(update(file).where(file.c.annotation != "").values(annotation="", annotation_text=""))

    # -- below: many new files at once

    def _insert_new_files(
        self, tx: Connection, folders: Mapping[bytes, int], sightings: Sequence[Sighting]
    ) -> Sequence[Sighting]:
        """Record the sound files of which the ledger knows nothing: all of a backlog. Returns the other sightings.

        Args:
            folders: the ids of the sightings' folders.
        """
        if self._context.current_target is None or self._context.plain_names:  # these are compared one by one
            return sightings
        aim, now = self._context.current_target.id, self._context.clock()
        sound = [seen for seen in sightings if seen.category is not None and not (seen.fault or seen.waits)]
        looks = Counter((seen.folder, seen.name) for seen in sightings)
        if len(looks) < len(sightings):  # a file was looked at twice: the later look replaces the earlier one
            sound = [seen for seen in sound if looks[seen.folder, seen.name] == 1]
        if rows(tx, "SELECT 1 FROM remote_index WHERE target_id = ? LIMIT 1", aim):
            there = {digest for (digest,) in rows_of(tx, _THERE, [seen.sha256[:16] for seen in sound], aim)}
            sound = [seen for seen in sound if seen.sha256[:16] not in there]
        copies = bool(rows(tx, "SELECT 1 FROM picture WHERE target_id = ? AND copy > 0 LIMIT 1", aim))
        if copies:
            repeated = {sha256 for (sha256,) in rows_of(tx, _COPIES, [seen.sha256[:16] for seen in sound], aim)}
            sound = [seen for seen in sound if seen.sha256 not in repeated]
        if not sound:
            return sightings
        first = {seen.sha256: seen for seen in reversed(sound)}
        new = [seen for seen in sound if first[seen.sha256] is seen] if len(first) < len(sound) else sound
        done = self._insert_owners(tx, folders, aim, now, new)
        if len(done) < len(sound) and self._context.skip_duplicates and not copies:
            there = set(map(id, done))
            done += self._insert_duplicates(tx, folders, aim, now, [seen for seen in sound if id(seen) not in there])
        if len(done) == len(sightings):
            return ()
        recorded = set(map(id, done))
        return [seen for seen in sightings if id(seen) not in recorded]

    def _insert_owners(
        self, tx: Connection, folders: Mapping[bytes, int], aim: int, now: float, new: Sequence[Sighting]
    ) -> list[Sighting]:
        """Record those of the files, each of another content, of which path and content are new. Returns them."""
        ((before,),) = rows(tx, "SELECT coalesce(max(id), 0) FROM picture")
        # What is known makes no row: the content, or its name at the platform, whose digits two may share.
        pictures = [
            (aim, seen.sha256, seen.category, key_of(seen.name, seen.sha256, seen.suffix), seen.stamp.size, now)
            for seen in new
        ]
        made = list(new)
        if execute_rows(tx, _NEW_PICTURE, pictures) == len(new) and tx.dialect.name == "sqlite":
            ((last,),) = rows(tx, "SELECT max(id) FROM picture")
            ids = list(range(last - len(new) + 1, last + 1))  # SQLite counts on, row by row
        else:
            by_content = dict(rows(tx, "SELECT sha256, id FROM picture WHERE id > ?", before))
            made = [seen for seen in new if seen.sha256 in by_content]
            ids = [by_content[seen.sha256] for seen in made]
        categories = Counter(seen.category for seen in made)
        count(tx, pictures=[(aim, "ready", category, "", 0, number) for category, number in categories.items()])
        files = [
            (folders[seen.folder], seen.name, *self._look(seen, now), "sound", "owner", picture_id)
            for seen, picture_id in zip(made, ids, strict=True)
        ]
        if execute_rows(tx, _NEW_FILE, files) < len(files):  # a known path with a new content is not for here
            gone = {sha256 for (sha256,) in rows(tx, _WITHOUT_FILE, before)}
            made = [seen for seen in made if seen.sha256 not in gone]
        owners = Counter(folders[seen.folder] for seen in made)
        count(tx, files=[(folder_id, "sound", "owner", number) for folder_id, number in owners.items()])
        if self._context.annotated:
            ids_of = dict(rows(tx, "SELECT sha256, id FROM picture WHERE id > ?", before))
            marked = [(aim, fingerprint(seen.annotation), ids_of[seen.sha256]) for seen in made if seen.annotation]
            execute_rows(tx, "INSERT INTO annotation (target_id, wanted, picture_id) VALUES {(?, ?, ?)}", marked)
        return made

    def _insert_duplicates(
        self, tx: Connection, folders: Mapping[bytes, int], aim: int, now: float, sightings: Sequence[Sighting]
    ) -> list[Sighting]:
        """Record those of the files whose paths are new and for whose contents other files stand. Returns them."""
        owned = {
            sha256: (picture_id, category)
            for sha256, picture_id, category in rows_of(
                tx, _OWNED, sorted({seen.sha256[:16] for seen in sightings}), aim
            )
        }
        names: dict[int, list[bytes]] = {}
        for seen in sightings:
            names.setdefault(folders[seen.folder], []).append(seen.name)
        known = {
            (folder_id, name)
            for folder_id, some in names.items()
            for (name,) in rows_of(tx, "SELECT name FROM file WHERE name IN ({?}) AND folder_id = ?", some, folder_id)
        }
        files, made, conflicts = [], [], set()
        for seen in sightings:
            if seen.sha256 in owned and (folders[seen.folder], seen.name) not in known:
                picture_id, category = owned[seen.sha256]
                role = FileRole.DUPLICATE if category == seen.category else FileRole.CONFLICT
                if role is FileRole.CONFLICT:
                    conflicts.add(picture_id)
                made.append(seen)
                files.append((folders[seen.folder], seen.name, *self._look(seen, now), "sound", str(role), picture_id))
        execute_rows(tx, _NEW_FILE, files)
        if conflicts:
            which = picture.c.id.in_(conflicts) & picture.c.state.in_(_WAITS)
            tx.execute(update(picture).where(which).values(state=READY_OR_HELD))
        return made

    def _look(self, seen: Sighting, now: float) -> tuple[Any, ...]:
        """What one look says of one file: the values of ``_LOOK``."""
        size, mtime_ns, ctime_ns, inode, annotation = seen.stamp
        text = ""
        if not self._context.annotated:
            annotation = ""
        elif seen.annotation:
            text = fingerprint(seen.annotation)
        return size, mtime_ns, ctime_ns, str(inode), seen.fault, seen.sha256, seen.suffix, now, annotation, text

    # -- below: one file at a time

    def _record(self, tx: Connection, folder_id: int, seen: Sighting) -> None:
        here = and_(file.c.folder_id == folder_id, file.c.name == seen.name)
        was = tx.execute(_files_where(here)).first()
        state = _state(seen)
        values: dict[str, Any] = {
            **dict(zip(_LOOK, self._look(seen, self._context.clock()), strict=True)),
            "state": state,
        }
        same = was is not None and (was.sha256, was.state, was.category) == (seen.sha256, str(state), seen.category)
        stays = was if same or self._stays(tx, was, seen, state) else None
        if stays is None:
            values |= {"role": "", "picture_id": None}
        statement = self._context.db.insert(file).values(folder_id=folder_id, name=seen.name, **values)
        tx.execute(statement.on_conflict_do_update(index_elements=["folder_id", "name"], set_=values))
        if stays is not None:
            if self._context.annotated and state == FileState.SOUND and stays.role == FileRole.OWNER:
                self._mark(tx, stays.picture_id, values["annotation_text"])
            return
        if was is not None and was.role:
            # What lies there on another disk says nothing of what became of the file that lay there before.
            ground = tx.execute(select(folder.c.ground).where(folder.c.id == folder_id)).scalar_one()
            self._promote_duplicate(tx, was, deleted=ground == seen.ground)
        if state == FileState.SOUND:
            self._attach(tx, folder_id, seen.name, seen.category)

    def _stays(self, tx: Connection, was: Any, seen: Sighting, state: FileState) -> bool:
        """Whether the file goes on to stand for its picture although it no longer is what it was.

        A mistake in an annotation, or its absence, must not take a picture from the platform.
        """
        if not self._context.annotated or was is None or was.role != FileRole.OWNER or was.sha256 != seen.sha256:
            return False
        if state == FileState.SOUND:
            return True
        mine = select(picture.c.state).where(picture.c.id == was.picture_id)
        return seen.category is not None and tx.execute(mine).scalar() in SENT

    def _attach(self, tx: Connection, folder_id: int, name: bytes, category: str | None) -> None:
        """Find or make the picture of a sound file and say what the file is to it."""
        if self._context.current_target is None or category is None:
            return
        target = self._context.current_target.id
        here = and_(file.c.folder_id == folder_id, file.c.name == name)
        one = tx.execute(select(file.c.sha256, file.c.suffix, file.c.size, file.c.annotation_text).where(here)).one()
        owned = select(file.c.picture_id).where(file.c.picture_id == picture.c.id, file.c.role == FileRole.OWNER)
        columns = (picture.c.id, picture.c.sha256, picture.c.category, picture.c.copy, owned.exists().label("owned"))
        similar = tx.execute(
            select(*columns)
            .where(picture.c.target_id == target, half_digest == one.sha256[:16])
            .order_by(picture.c.category != category, picture.c.id)
        ).all()
        candidates = [row for row in similar if row.sha256 == one.sha256]
        orphans = [row for row in candidates if not row.owned]
        role = FileRole.OWNER
        if orphans:
            chosen = orphans[0].id
            tx.execute(update(picture).where(picture.c.id == chosen).values(category=category, orphaned_at=None))
        elif candidates and self._context.skip_duplicates:
            chosen = candidates[0].id
            role = FileRole.DUPLICATE if candidates[0].category == category else FileRole.CONFLICT
        else:
            chosen = self._new_picture(tx, target, name, category, one, similar)
        tx.execute(update(file).where(here).values(picture_id=chosen, role=role))
        if candidates:
            _hold(tx, chosen)
        if self._context.annotated and role is FileRole.OWNER:
            self._mark(tx, chosen, one.annotation_text)

    def _mark(self, tx: Connection, picture_id: int, wanted: str) -> None:
        set_wanted(tx, self._context.db, self._context.target.id, picture_id, wanted)

    def _new_picture(
        self, tx: Connection, target: int, name: bytes, category: str, one: Any, similar: Sequence[Any]
    ) -> int:
        now = self._context.clock()
        copy = 1 + max((row.copy for row in similar), default=-1)
        values = {"target_id": target, "sha256": one.sha256, "copy": copy, "category": category, "size": one.size}
        there = take_known(tx, target, one.sha256, one.size)
        if there is not None:  # it lies at the platform already, from before this ledger knew of it
            values |= {"key": there.key[:LONGEST], "remote_id": there.remote_id, "sent_category": there.category}
            values |= {"training_id": BEFORE if there.counted else None, "state": PictureState.CONFIRMED}
            values |= {"ready_at": now, "confirmed_at": now}
        else:
            others = any(row.sha256 != one.sha256 for row in similar)
            number = 1 + max((row.copy for row in similar if row.sha256 == one.sha256), default=-1)
            values |= {"key": key_of(name, one.sha256, one.suffix, number, whole=others), "plain": 0}
            plain = plain_key(name) if self._context.plain_names else None
            if plain is not None and not rows(tx, _PLAIN_TAKEN, target, plain):
                values |= {"key": plain, "plain": 1}
            values |= {"state": PictureState.READY, "ready_at": now}
            count(tx, pictures=[(target, "ready", category, "", 0, 1)])
        return int(tx.execute(insert(picture).values(values).returning(picture.c.id)).scalar_one())

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
        found = tx.execute(_files_where(and_(*which)).limit(_PAGE)).all()
        execute_rows(tx, _DROP, [(row.folder_id, row.name) for row in found])
        owners = {row.picture_id: row for row in found if row.role == FileRole.OWNER}
        left = set(tx.execute(select(file.c.picture_id).where(file.c.picture_id.in_(list(owners)))).scalars())
        for picture_id in left:
            self._promote_duplicate(tx, owners[picture_id], deleted=deleted)
        self._leave(tx, picture.c.id.in_([one for one in owners if one not in left]), deleted=deleted)
        for picture_id in {row.picture_id for row in found if row.role == FileRole.CONFLICT} - owners.keys():
            _hold(tx, picture_id)
        return len(found)

    def _uncategorise(self, tx: Connection, found: Sequence[Any]) -> None:
        sound = [row for row in found if row.role or row.state in {FileState.SOUND, FileState.WAITING}]
        values = {"state": FileState.UNCATEGORISED, "role": "", "picture_id": None, "sha256": ""}
        for row in sound:  # all of them first: none of them may stand for the picture of another
            tx.execute(update(file).where(_at(row)).values(**values))
        for row in sound:
            self._promote_duplicate(tx, row, deleted=False)

    def _promote_duplicate(self, tx: Connection, was: Any, *, deleted: bool) -> None:
        """The file ``was`` no longer stands for its picture: let the next in line do so, if there is one."""
        if was.role != FileRole.OWNER:
            _hold(tx, was.picture_id)
            return
        this = picture.c.id == was.picture_id
        heir = tx.execute(
            select(file.c.folder_id, file.c.name, file.c.annotation_text, folder.c.category)
            .join(folder, folder.c.id == file.c.folder_id)
            .where(file.c.picture_id == was.picture_id, file.c.role != FileRole.OWNER)
            .order_by(file.c.role != FileRole.DUPLICATE, file.c.seen_at, file.c.name)
            .limit(1)
        ).first()
        if heir is None:
            self._leave(tx, this, deleted=deleted)
            return
        tx.execute(update(file).where(_at(heir)).values(role=FileRole.OWNER))
        tx.execute(update(picture).where(this).values(category=heir.category))
        _set_roles(tx, was.picture_id)
        if self._context.annotated and heir.annotation_text:
            self._mark(tx, was.picture_id, heir.annotation_text)

    def _leave(self, tx: Connection, these: Any, *, deleted: bool) -> None:
        """No file stands for these pictures any more."""
        # Not at the platform and not on its way there: without a file there is nothing left of it.
        tx.execute(delete(picture).where(these, _unsent()))
        if deleted:
            tx.execute(update(picture).where(these).values(orphaned_at=self._context.clock()))


def _state(seen: Sighting) -> FileState:
    if seen.fault:
        return FileState.QUARANTINED
    if seen.category is None:
        return FileState.UNCATEGORISED
    return FileState.WAITING if seen.waits else FileState.SOUND


def _hold(tx: Connection, picture_id: int) -> None:
    """Hold a picture back that was not sent while its files contradict each other, and no longer."""
    waits = (picture.c.id == picture_id) & picture.c.state.in_(_WAITS)
    tx.execute(update(picture).where(waits).values(state=READY_OR_HELD))


def _set_roles(tx: Connection, picture_id: int) -> None:
    """Say of every other file of the picture whether it repeats or contradicts the owner's category."""
    category = select(picture.c.category).where(picture.c.id == picture_id).scalar_subquery()
    for role, same in ((FileRole.DUPLICATE, True), (FileRole.CONFLICT, False)):
        inside = select(folder.c.id).where((folder.c.category == category) == same)
        others = (file.c.picture_id == picture_id) & (file.c.role != FileRole.OWNER) & file.c.folder_id.in_(inside)
        tx.execute(update(file).where(others).values(role=role))
    _hold(tx, picture_id)


def _unsent() -> Any:
    """Pictures that are neither at the platform nor on their way there."""
    return picture.c.state.in_([*_WAITS, str(PictureState.REFUSED)])


def _files_where(which: Any) -> Any:
    """The files that meet the condition, with what they are to their pictures."""
    columns = (
        file.c.folder_id,
        file.c.name,
        file.c.sha256,
        file.c.state,
        file.c.reason,
        file.c.role,
        file.c.picture_id,
    )
    return select(*columns, folder.c.category).join(folder, folder.c.id == file.c.folder_id).where(which)


def _at(row: Any) -> Any:
    """The file that this row is about."""
    return and_(file.c.folder_id == row.folder_id, file.c.name == row.name)


_LOOK = (
    *("size", "mtime_ns", "ctime_ns", "inode", "reason", "sha256", "suffix", "seen_at", "annotation"),
    "annotation_text",
)
"""The columns of a file that one look fills."""
_STAMPS = "SELECT name, size, mtime_ns, ctime_ns, inode, annotation FROM file"
_NUMBER = (
    "SELECT folder.category, coalesce(sum(file_count.files), 0) FROM folder"
    " LEFT JOIN file_count ON file_count.folder_id = folder.id WHERE folder.path = ? GROUP BY folder.id"
)
_FOLDER = (
    "INSERT INTO folder (path, root, category, ground) VALUES (?, ?, ?, ?)"
    " ON CONFLICT (path) DO UPDATE SET root = excluded.root, category = excluded.category RETURNING id"
)
_NEW_PICTURE = (
    "INSERT INTO picture (target_id, sha256, category, key, size, ready_at, copy, state, sent_category, batch_id,"
    " remote_id, reason, attempts, refusals)"
    " VALUES {(?, ?, ?, ?, ?, ?, 0, 'ready', '', '', '', '', 0, 0)} ON CONFLICT DO NOTHING"
)
_NEW_FILE = (
    f"INSERT INTO file (folder_id, name, {', '.join(_LOOK)}, state, role, picture_id)"
    " VALUES {(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)} ON CONFLICT DO NOTHING"
)
_WITHOUT_FILE = (
    "DELETE FROM picture WHERE id > ? AND NOT EXISTS (SELECT 1 FROM file WHERE file.picture_id = picture.id)"
    " RETURNING sha256"
)
_COPIES = "SELECT sha256 FROM picture WHERE substr(sha256, 1, 16) IN ({?}) AND target_id = ? AND copy > 0"
_PLAIN_TAKEN = "SELECT 1 FROM picture WHERE target_id = ? AND key = ? AND plain = 1"
_OWNED = (
    "SELECT picture.sha256, picture.id, picture.category FROM picture"
    " JOIN file ON file.picture_id = picture.id AND file.role = 'owner'"
    " WHERE substr(picture.sha256, 1, 16) IN ({?}) AND picture.target_id = ?"
)
_THERE = "SELECT digest FROM remote_index WHERE digest IN ({?}) AND target_id = ?"
_DROP = "DELETE FROM file WHERE (folder_id, name) IN (VALUES {(?, ?)})"
