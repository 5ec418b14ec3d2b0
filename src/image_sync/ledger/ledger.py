"""The open ledger: its parts, where its pictures go, and how many stand where."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sqlalchemy import delete, func, insert, select, update

from image_sync.domain import (
    Census,
    Counts,
    DatasetRef,
    FileRole,
    FileState,
    NextStep,
    PictureState,
    RootReport,
    RootState,
    Tally,
    TrainingState,
    WatchMode,
)
from image_sync.errors import ImageSyncError
from image_sync.ledger.annotations import Annotations, labels_there, number_due
from image_sync.ledger.batches import READY_RANGE, Batches
from image_sync.ledger.bulk import rows
from image_sync.ledger.changes import PendingChanges, number_to_move
from image_sync.ledger.context import LedgerContext, Target, value_of
from image_sync.ledger.database import FILE, Database, full, unusable
from image_sync.ledger.files import Files
from image_sync.ledger.history import History
from image_sync.ledger.lock import Lock
from image_sync.ledger.notes import Notes
from image_sync.ledger.remote_index import RemoteIndex
from image_sync.ledger.schema import folder, picture, root, stage_error, target
from image_sync.ledger.trainings import TRAIN, ModelLifecycle, Trainings

RETRYING = "platform"
"""The stage of a trouble that calls are being repeated for at this moment."""

_SETTINGS = "settings"
_DAY = 86_400.0
_COLUMN = {
    PictureState.READY: "ready",
    PictureState.HELD: "conflicts",
    PictureState.CLAIMED: "sending",
    PictureState.CONFIRMED: "confirmed",
    PictureState.REFUSED: "refused",
}
_COLUMN_OF_FILES = {
    FileState.QUARANTINED: "quarantined",
    FileState.WAITING: "waiting",
    FileRole.CONFLICT: "conflicts",
    FileRole.DUPLICATE: "duplicates",
}
_NAMES = tuple(Counts.__dataclass_fields__)


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
            if value_of(tx, "target") != str(row.id):
                self.files.attach_all(tx)
                self._context.write_value(tx, "target", str(row.id))
            if (value_of(tx, "annotations") or "none") != self._context.annotations:
                self.files.forget_annotations(tx)
                self._context.write_value(tx, "annotations", self._context.annotations)
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
            return value_of(tx, "target") == str(aim.id)

    def dataset(self, ref: DatasetRef) -> None:
        """Remember the dataset that the platform gave us."""
        aim = self._context.target
        with self._context.db.writing() as tx:
            values = {"dataset_id": ref.id, "dataset_name": ref.name}
            tx.execute(update(target).where(target.c.id == aim.id).values(**values))
        self._context.current_target = replace(aim, dataset_id=ref.id, dataset_name=ref.name)
        self._context.changed()

    def tally(self) -> Tally:
        """What the tracker decides by, in one transaction."""
        aim, annotated = self._context.target.id, self._context.annotated
        with self._context.db.reading() as tx:
            counts = rows(tx, _PICTURES, aim)
            states = _summed((state, number) for state, _, _, _, number in counts)
            stands = rows(tx, _STANDS, aim, aim) or [(0, None, None, None, 0)]  # none: who only looks may be first
            ((cleared_to, oldest, newest_id, newest_at, doubtful),) = stands
            ready = uncleared = states.get(PictureState.READY, 0)
            # Mostly all have passed the threshold, or none: counted is only while new ones come during an upload.
            if newest_id is None or newest_id <= cleared_to:
                uncleared, newest_id, newest_at = 0, 0, None
            elif oldest <= cleared_to:
                ((uncleared,),) = rows(tx, _UNCLEARED, aim)
            stored = [row for row in counts if row[0] == PictureState.CONFIRMED]
            notes = {name for (name,) in rows(tx, _NOTES, TRAIN)}
            moved = notes - {TRAIN} or any(category != sent for _, category, sent, _, _ in stored)
            trained = bool(rows(tx, "SELECT 1 FROM training WHERE target_id = ? LIMIT 1", aim))
            starts = rows(tx, _STARTS, aim, self._context.clock() - _DAY) if trained else []
            trainings = self.trainings.decisive(tx) if trained else []
            return Tally(
                ready=uncleared,
                cleared=ready - uncleared,
                sending=states.get(PictureState.CLAIMED, 0),
                doubtful=int(doubtful),
                confirmed=states.get(PictureState.CONFIRMED, 0),
                refused=states.get(PictureState.REFUSED, 0),
                untrained=sum(number for _, _, _, counted, number in stored if not counted),
                trainable=MappingProxyType(_summed((category, number) for _, _, category, _, number in stored)),
                labelled=MappingProxyType(labels_there(tx, aim) if annotated else {}),
                unmarked=number_due(tx, aim) if annotated else 0,
                moving=number_to_move(tx, aim) if moved else 0,
                newest_ready_id=newest_id,
                newest_ready_at=newest_at,
                active=next((one for one in trainings if one.state.active), None),
                last=next((one for one in trainings if one.started_at is not None), None),
                refusal=next((one for one in trainings if one.state is TrainingState.REFUSED), None),
                retry=next((one for one in trainings if one.owed is NextStep.RETRY), None),
                starts=tuple(at for (at,) in starts),
                train_requested=TRAIN in notes,
            )

    def census(self) -> Census:
        """Everything that ``status`` counts, in one transaction."""
        categories: dict[str, Counts] = {}

        def add(category: str, column: str, number: int) -> None:
            was = categories.get(category, Counts())
            categories[category] = replace(was, **{column: getattr(was, column) + number})

        uncategorised = 0
        with self._context.db.reading() as tx:
            for category, state, role, number in rows(tx, _FILES):
                add(category or "", "found", int(number))
                column = _COLUMN_OF_FILES.get(state) or _COLUMN_OF_FILES.get(role)
                if column:
                    add(category or "", column, int(number))
                elif state == FileState.UNCATEGORISED:
                    uncategorised += int(number)
            if self._context.current_target is not None:
                for state, category, _, _, number in rows(tx, _PICTURES, self._context.current_target.id):
                    add(category, _COLUMN[PictureState(state)], number)
            settling = tx.execute(select(func.coalesce(func.sum(root.c.settling), 0))).scalar_one()
        # Without annotations nothing is taken that lies directly in a root.
        hidden = uncategorised if self._context.annotated else float("inf")
        total = Counts()
        for counts in categories.values():
            total = Counts(**{name: getattr(total, name) + getattr(counts, name) for name in _NAMES})
        named = {name: counts for name, counts in sorted(categories.items()) if name or counts.found > hidden}
        return Census(total, MappingProxyType(named), uncategorised, int(settling))

    def roots(self) -> list[RootReport]:
        """How the roots are watched, as last reported."""
        with self._context.db.reading() as tx:
            found = tx.execute(select(root).order_by(root.c.path)).all()
        return [
            RootReport(row.path, WatchMode(row.mode), RootState(row.state), row.reason, row.settling) for row in found
        ]

    def work_by(self, settings: str) -> None:
        """Remember by which settings the daemon works, for who looks while its configuration cannot be read."""
        if settings != self.works_by():  # on a full disk it goes on by the same settings as before
            with self._context.db.writing() as tx:
                self._context.write_value(tx, _SETTINGS, settings)

    def works_by(self) -> str:
        """What :meth:`work_by` was told last; empty if nothing was."""
        with self._context.db.reading() as tx:
            return value_of(tx, _SETTINGS) or ""

    def trouble(self, stage: str, error: ImageSyncError | None) -> None:
        """Remember what keeps a stage from its work; None: nothing does any more."""
        with self._context.db.writing() as tx:
            if error is None:
                tx.execute(delete(stage_error).where(stage_error.c.stage == stage))
                return
            values = {"what": error.what, "hint": error.hint}
            statement = self._context.db.insert(stage_error).values(stage=stage, since=self._context.clock(), **values)
            tx.execute(statement.on_conflict_do_update(index_elements=["stage"], set_=values))

    def troubles(self) -> list[Trouble]:
        """What keeps stages from their work at present."""
        with self._context.db.reading() as tx:
            columns = (stage_error.c.stage, stage_error.c.what, stage_error.c.hint, stage_error.c.since)
            found = [Trouble(*row) for row in tx.execute(select(*columns).order_by(stage_error.c.since))]
        file = Path(self.where)
        if file.exists() and full(file.parent):  # a daemon cannot write that down here, so whoever looks finds out
            what = f"the disk of the ledger {self.where} is full"
            hint = "Free some space. Nothing is sent meanwhile, and nothing is lost."
            found.insert(0, Trouble("ledger", what, hint, file.stat().st_mtime))  # it was not full at the last writing
        return found

    def count_deletions(self, setting: str) -> None:
        """From now on deletions are seen under this setting (``deletions``). What was seen under another is forgotten.

        So is what happened while nobody looked: a file that is missing at the first look is not taken for deleted.
        """
        with self._context.db.writing() as tx:
            if value_of(tx, "deletions") != setting:
                tx.execute(update(picture).where(picture.c.orphaned_at.is_not(None)).values(orphaned_at=None))
                tx.execute(update(folder).values(ground=""))
                self._context.write_value(tx, "deletions", setting)

    def prove(self) -> None:
        """Read the whole database. Raises LedgerError if it is damaged."""
        self._context.db.prove()

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change made through this object. It must return at once."""
        self._context.listeners.append(listener)

    def close(self) -> None:
        """Give the database back. Nothing is pending: every change was durable when its call returned."""
        self._context.db.close()


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


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, number in sorted(pairs):
        sums[name] = sums.get(name, 0) + number
    return sums


_PICTURES = (
    "SELECT state, category, sent_category, counted, pictures FROM picture_count WHERE target_id = ? AND pictures > 0"
)
_FILES = (
    "SELECT folder.category, file_count.state, file_count.role, sum(file_count.files) FROM file_count"
    " JOIN folder ON folder.id = file_count.folder_id WHERE file_count.files > 0"
    " GROUP BY folder.category, file_count.state, file_count.role"
)
_STANDS = (
    "SELECT target.cleared_to, ready.oldest, ready.newest, picture.ready_at,"
    " (SELECT coalesce(sum(files), 0) FROM batch WHERE target_id = target.id AND state = 'doubtful')"
    f" FROM target CROSS JOIN ({READY_RANGE}) AS ready LEFT JOIN picture ON picture.id = ready.newest"
    " WHERE target.id = ?"
)
_UNCLEARED = (
    "SELECT coalesce(sum(number), 0) FROM (SELECT (SELECT count(*) FROM picture WHERE target_id = c.target_id"
    " AND state = 'ready' AND category = c.category AND id > t.cleared_to) AS number"
    " FROM (SELECT DISTINCT target_id, category FROM picture_count"
    " WHERE target_id = ? AND state = 'ready' AND pictures > 0) AS c JOIN target AS t ON t.id = c.target_id) AS found"
)
_NOTES = "SELECT name FROM keyvalue WHERE name = ? OR substr(name, 1, 8) = 'relabel/'"
_STARTS = "SELECT started_at FROM training WHERE target_id = ? AND started_at > ? ORDER BY started_at"
