"""The open ledger: its parts, and where its pictures go."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import delete, insert, select, update

from image_sync.domain import Census, DatasetRef, RootReport, RootState, Tally, WatchMode
from image_sync.errors import ImageSyncError
from image_sync.ledger.annotations import Annotations
from image_sync.ledger.batches import Batches
from image_sync.ledger.changes import PendingChanges
from image_sync.ledger.context import LedgerContext, Target
from image_sync.ledger.counters import Counter
from image_sync.ledger.database import FILE, Database
from image_sync.ledger.files import Files
from image_sync.ledger.folder import full, unusable
from image_sync.ledger.history import History
from image_sync.ledger.lifecycle import ModelLifecycle
from image_sync.ledger.lock import Lock
from image_sync.ledger.notes import Notes
from image_sync.ledger.remote_index import RemoteIndex
from image_sync.ledger.schema import folder, note, picture, root, target, trouble
from image_sync.ledger.trainings import Trainings

RETRYING = "platform"
"""The stage of a trouble that calls are being repeated for at this moment."""

_SETTINGS = "settings"


@dataclass(frozen=True, slots=True)
class Trouble:
    """What keeps a stage from its work."""

    stage: str
    what: str
    hint: str
    since: float
    """Unix time."""


class Ledger:
    """The only memory of image-sync. Safe to use from several threads, and to read from other processes.

    Attributes:
        files: the watcher's side. batches: the uploader's. changes: what else the platform is to be told.
        trainings: the trainer's side; lifecycle: what becomes of their models. annotations: what is to be marked in
        pictures. history: single files. remote_index: what lies at the platform already. notes: the platform's own.
    """

    def __init__(self, context: LedgerContext) -> None:
        self._context = context
        self.files = Files(context)
        self.batches = Batches(context)
        self.changes = PendingChanges(context)
        self.annotations = Annotations(context)
        self.trainings = Trainings(context)
        self.lifecycle = ModelLifecycle(context, self.trainings)
        self.history = History(context)
        self.remote_index = RemoteIndex(context)
        self.notes = Notes(context)
        self._counter = Counter(context, self.trainings)

    @property
    def target(self) -> Target:
        """Where the pictures go; a RuntimeError before :meth:`use_target`."""
        return self._context.target

    @property
    def has_target(self) -> bool:
        """Whether it was said where the pictures go."""
        return self._context.current_target is not None

    @property
    def where(self) -> str:
        """The ledger's file or URL, as a person may read it."""
        return self._context.db.where

    def use_target(self, platform: str, endpoint: str, setting: str, action: str, dataset_name: str) -> Target:
        """Say where pictures go. A target used before is taken up again with all it holds; a new one starts empty.

        Args:
            platform, endpoint: which server.
            setting: the dataset's name as configured; action: ``append`` or ``create``.
            dataset_name: its name at the platform, used only the first time: it is remembered.
        """
        named = {"platform": platform, "endpoint": endpoint, "setting": setting, "action": action}
        this = [getattr(target.c, name) == value for name, value in named.items()]
        with self._context.db.writing() as tx:
            row = tx.execute(select(target).where(*this)).first()
            if row is None:
                values = {**named, "dataset_name": dataset_name, "created_at": self._context.clock()}
                tx.execute(insert(target).values(**values))
                row = tx.execute(select(target).where(*this)).one()
            self._context.current_target = _target(row)
            current = tx.execute(select(note.c.value).where(note.c.name == "target")).scalar()
            if current != str(row.id):
                self.files.attach_all(tx)
                self._note(tx, "target", str(row.id))
            mode = tx.execute(select(note.c.value).where(note.c.name == "annotations")).scalar() or "none"
            if mode != self._context.annotations:
                self.files.forget_annotations(tx)
                self._note(tx, "annotations", self._context.annotations)
        return self._context.current_target

    def take(self, platform: str, endpoint: str, setting: str, action: str) -> bool:
        """For looking at what a daemon wrote: like :meth:`use_target`, but changes nothing.

        Returns:
            Whether this target was ever aimed at; if not, it is empty.
        """
        named = {"platform": platform, "endpoint": endpoint, "setting": setting, "action": action}
        with self._context.db.reading() as tx:
            row = tx.execute(
                select(target).where(*(getattr(target.c, name) == value for name, value in named.items()))
            ).first()
        self._context.current_target = (
            Target(0, platform, endpoint, setting, setting, "") if row is None else _target(row)
        )
        return row is not None

    def current(self) -> bool:
        """Whether the daemon last worked for this target: only then do the files' records belong to it."""
        aim = self._context.target
        with self._context.db.reading() as tx:
            last = tx.execute(select(note.c.value).where(note.c.name == "target")).scalar()
        return last == str(aim.id)

    def dataset(self, ref: DatasetRef) -> None:
        """Remember the dataset that the platform gave us."""
        aim = self._context.target
        with self._context.db.writing() as tx:
            values = {"dataset_id": ref.id, "dataset_name": ref.name}
            tx.execute(update(target).where(target.c.id == aim.id).values(**values))
        self._context.current_target = replace(aim, dataset_id=ref.id, dataset_name=ref.name)
        self._context.changed()

    def tally(self) -> Tally:
        """What the tracker decides by."""
        return self._counter.tally()

    def census(self) -> Census:
        """What ``status`` counts."""
        return self._counter.census()

    def roots(self) -> list[RootReport]:
        """How the roots are watched, as last reported."""
        with self._context.db.reading() as tx:
            rows = tx.execute(select(root).order_by(root.c.path)).all()
        return [
            RootReport(row.path, WatchMode(row.mode), RootState(row.state), row.reason, row.settling) for row in rows
        ]

    def work_by(self, settings: str) -> None:
        """Remember by which settings the daemon works, for who looks while its configuration cannot be read."""
        if settings != self.works_by():  # on a full disk it goes on by the same settings as before
            with self._context.db.writing() as tx:
                self._note(tx, _SETTINGS, settings)

    def works_by(self) -> str:
        """What :meth:`work_by` was told last; empty if nothing was."""
        with self._context.db.reading() as tx:
            return str(tx.execute(select(note.c.value).where(note.c.name == _SETTINGS)).scalar() or "")

    def trouble(self, stage: str, error: ImageSyncError | None) -> None:
        """Remember what keeps a stage from its work; None: nothing does any more."""
        with self._context.db.writing() as tx:
            if error is None:
                tx.execute(delete(trouble).where(trouble.c.stage == stage))
                return
            values = {"what": error.what, "hint": error.hint}
            statement = self._context.db.insert(trouble).values(stage=stage, since=self._context.clock(), **values)
            tx.execute(statement.on_conflict_do_update(index_elements=["stage"], set_=values))

    def troubles(self) -> list[Trouble]:
        """What keeps stages from their work at present."""
        with self._context.db.reading() as tx:
            rows = tx.execute(select(trouble).order_by(trouble.c.since)).all()
        found = [Trouble(row.stage, row.what, row.hint, row.since) for row in rows]
        return [*self._full(), *found]

    def _full(self) -> list[Trouble]:
        """A disk without room: what a daemon meets then it cannot write down here, so whoever looks finds out."""
        file = Path(self.where)
        if not file.exists() or not full(file.parent):
            return []
        what = f"the disk of the ledger {self.where} is full"
        hint = "Free some space. Nothing is sent meanwhile, and nothing is lost."
        return [Trouble("ledger", what, hint, file.stat().st_mtime)]  # it was not full at the last writing

    def count_deletions(self, setting: str) -> None:
        """From now on deletions are seen under this setting (``deletions``). What was seen under another is forgotten.

        So is what happened while nobody looked: a file that is missing at the first look is not taken for deleted.
        """
        with self._context.db.writing() as tx:
            if tx.execute(select(note.c.value).where(note.c.name == "deletions")).scalar() != setting:
                tx.execute(update(picture).where(picture.c.orphaned_at.is_not(None)).values(orphaned_at=None))
                tx.execute(update(folder).values(ground=""))
                self._note(tx, "deletions", setting)

    def prove(self) -> None:
        """Read the whole database. Raises LedgerError if it is damaged."""
        self._context.db.prove()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change made through this object. It must return at once."""
        self._context.listeners.append(listener)

    def close(self) -> None:
        """Give the database back. Nothing is pending: every change was durable when its call returned."""
        self._context.db.close()

    def _note(self, tx: Any, name: str, value: str) -> None:
        statement = self._context.db.insert(note).values(name=name, value=value)
        tx.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))


def open_ledger(
    state: str | Path,
    *,
    skip_duplicates: bool = True,
    plain_names: bool = False,
    annotations: str = "none",
    clock: Callable[[], float] = time.time,
    lock: Lock | None = None,
    alive: Callable[[], None] = lambda: None,
) -> Ledger:
    """Open the ledger in a state folder (made if needed) or at a PostgreSQL URL.

    Args:
        annotations: the setting of that name.
        lock: the lock on it, if the caller holds it. Only then is an older ledger migrated; and once the lock is lost
            to somebody else, nothing more can be written.
        alive: called again and again while the ledger works.

    Raises:
        LedgerError: it cannot be opened, or a newer image-sync wrote it, or an older one and there is no ``lock``.
    """
    database = Database(state, alone=lock is not None, term=lock.term if lock else "", alive=alive)
    context = LedgerContext(
        database, clock, skip_duplicates=skip_duplicates, plain_names=plain_names, annotations=annotations
    )
    context.folder = None if isinstance(state, str) and "://" in state else Path(state)
    ledger = Ledger(context)
    if lock is not None:
        ledger.remote_index.recognise_backup()
    return ledger


def exists(state: str | Path) -> bool:
    """Whether a ledger was ever opened there; a database server is taken to have one.

    Raises:
        LedgerError: the folder may not be read.
    """
    if isinstance(state, str) and "://" in state:
        return True
    try:
        return (Path(state) / FILE).exists()
    except OSError as error:
        raise unusable(Path(state), error) from error


def _target(row: Any) -> Target:
    return Target(row.id, row.platform, row.endpoint, row.setting, row.dataset_name, row.dataset_id)
