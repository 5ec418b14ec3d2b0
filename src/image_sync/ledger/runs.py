"""The trainer's side of the ledger: trainings are written down by name before they are started."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select, update

from image_sync.domain import BatchState, DatasetRef, PictureState, Run, RunState
from image_sync.ledger import moves
from image_sync.ledger.book import Book
from image_sync.ledger.schema import batch, note, picture, run, target

TRAIN = "train"
_PAGE = 1000


class Runs:
    """Trainings of the target in use."""

    def __init__(self, book: Book) -> None:
        self._book = book

    def begin(self, name: str, base: str) -> Run | None:
        """Write down a training that is about to be started, and which pictures it counts.

        Returns:
            The run in state ``starting``; None if meanwhile a picture is being sent or another run is active.
        """
        now = self._book.clock()
        with self._book.db.writing() as tx:
            if self._busy(tx):
                return None
            contained = tx.execute(
                select(func.count())
                .select_from(picture)
                .where(picture.c.target_id == self._target, picture.c.state == PictureState.CONFIRMED)
            ).scalar_one()
            run_id = tx.execute(
                insert(run)
                .values(
                    target_id=self._target,
                    name=name,
                    state=RunState.STARTING,
                    base=base,
                    pictures=contained,
                    created_at=now,
                )
                .returning(run.c.id)
            ).scalar_one()
            counted = (
                (picture.c.target_id == self._target)
                & (picture.c.state == PictureState.CONFIRMED)
                & picture.c.run_id.is_(None)
            )
            tx.execute(update(picture).where(counted).values(run_id=run_id))
            tx.execute(delete(note).where(note.c.name == TRAIN))
            return self._get(tx, run_id)

    def started(self, run_id: int, task_id: str) -> None:
        """The platform has the training under this task id."""
        self._change(run_id, RunState.RUNNING, task_id=task_id, started_at=self._book.clock(), not_before=None)

    def doubt(self, run_id: int, *, not_before: float) -> None:
        """It is not known whether it was started. Absence is not believed before ``not_before`` (Unix time)."""
        self._change(run_id, RunState.DOUBTFUL, not_before=not_before, doubts=run.c.doubts + 1)

    def again(self, run_id: int) -> None:
        """It was not started after all: it is about to be, under the same name."""
        self._change(run_id, RunState.STARTING, not_before=None)

    def doubt_all(self, *, not_before: float) -> int:
        """At start: a training that was being started when the last process ended is doubtful. Returns how many."""
        starting = (run.c.target_id == self._target) & (run.c.state == RunState.STARTING)
        with self._book.db.writing() as tx:
            values = {"state": RunState.DOUBTFUL, "not_before": not_before, "doubts": run.c.doubts + 1}
            result = tx.execute(update(run).where(starting).values(**values))
        return int(result.rowcount)

    def refused(self, run_id: int, reason: str) -> None:
        """It was not started: its pictures count towards the next one again."""
        with self._book.db.writing() as tx:
            self._move(tx, run_id, RunState.REFUSED, reason=reason, ended_at=self._book.clock(), not_before=None)
            tx.execute(update(picture).where(picture.c.run_id == run_id).values(run_id=None))
        self._book.changed()

    def abandon(self, run_id: int) -> None:
        """Nothing was started, and nobody said no: as if it had not been begun."""
        unstarted = run.c.state.in_([str(RunState.STARTING), str(RunState.DOUBTFUL)])
        with self._book.db.writing() as tx:
            tx.execute(update(picture).where(picture.c.run_id == run_id).values(run_id=None))
            if tx.execute(delete(run).where(run.c.id == run_id, unstarted)).rowcount != 1:
                raise moves.IllegalMove(f"training {run_id} was started and cannot be abandoned")
        self._book.changed()

    def progress(self, run_id: int, **figures: float | None) -> None:
        """What the platform says of a running training: ``iteration``, ``iterations``, ``loss``, ``accuracy``,
        ``remaining``. Unknown figures (None) leave the earlier ones."""
        known = {name: value for name, value in figures.items() if value is not None}
        if known:
            with self._book.db.writing() as tx:
                tx.execute(update(run).where(run.c.id == run_id).values(**known))

    def trained(self, run_id: int, accuracy: float | None) -> None:
        """It ended well."""
        values = {} if accuracy is None else {"accuracy": accuracy}
        self._change(run_id, RunState.TRAINED, ended_at=self._book.clock(), remaining=None, **values)

    def failed(self, run_id: int, reason: str) -> None:
        """It ended without a model."""
        self._change(run_id, RunState.FAILED, reason=reason, ended_at=self._book.clock(), remaining=None)

    def active(self) -> Run | None:
        """The training that may be going on, if any."""
        with self._book.db.reading() as tx:
            return self.newest(tx, run.c.state.in_([str(state) for state in RunState if state.active]))

    def history(self, limit: int = 50) -> list[Run]:
        """The newest trainings of the target, newest first."""
        with self._book.db.reading() as tx:
            rows = tx.execute(self._select().order_by(run.c.id.desc()).limit(limit))
            return [_run(row) for row in rows]

    def trainable(self) -> dict[str, int]:
        """Confirmed pictures per category: what a training started now would contain."""
        with self._book.db.reading() as tx:
            rows = tx.execute(
                select(picture.c.sent_category, func.count())
                .where(picture.c.target_id == self._target, picture.c.state == PictureState.CONFIRMED)
                .group_by(picture.c.sent_category)
            )
            return {category: count for category, count in rows}  # noqa: C416 - rows are not pairs to the type checker

    def contents(self) -> Iterator[tuple[str, str, str]]:
        """(remote id, key, category) of every confirmed picture, read page by page."""
        after = 0
        while True:
            with self._book.db.reading() as tx:
                rows = tx.execute(
                    select(picture.c.id, picture.c.remote_id, picture.c.key, picture.c.sent_category)
                    .where(
                        picture.c.target_id == self._target,
                        picture.c.state == PictureState.CONFIRMED,
                        picture.c.id > after,
                    )
                    .order_by(picture.c.id)
                    .limit(_PAGE)
                ).all()
            if not rows:
                return
            for row in rows:
                yield row.remote_id, row.key, row.sent_category
            after = rows[-1].id

    def request(self) -> None:
        """Ask the daemon for a training now (``image-sync train``)."""
        statement = self._book.db.insert(note).values(name=TRAIN, value=str(self._book.clock()))
        with self._book.db.writing() as tx:
            tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
        self._book.changed()

    def withdraw_request(self) -> None:
        """Forget that a training was asked for."""
        with self._book.db.writing() as tx:
            tx.execute(delete(note).where(note.c.name == TRAIN))

    @property
    def _target(self) -> int:
        return self._book.aimed().id

    def _busy(self, tx: Connection) -> bool:
        sending = select(batch.c.id).where(
            batch.c.target_id == self._target,
            batch.c.state.in_([str(BatchState.SENDING), str(BatchState.DOUBTFUL)]),
        )
        active = select(run.c.id).where(
            run.c.target_id == self._target, run.c.state.in_([str(state) for state in RunState if state.active])
        )
        return tx.execute(sending.limit(1)).first() is not None or tx.execute(active.limit(1)).first() is not None

    def _select(self) -> Any:
        return (
            select(run, target.c.dataset_id, target.c.dataset_name)
            .join(target, target.c.id == run.c.target_id)
            .where(run.c.target_id == self._target)
        )

    def newest(self, tx: Connection, *which: Any) -> Run | None:
        """The newest run of the target that meets all conditions."""
        row = tx.execute(self._select().where(*which).order_by(run.c.id.desc()).limit(1)).first()
        return None if row is None else _run(row)

    def _get(self, tx: Connection, run_id: int) -> Run:
        return _run(tx.execute(self._select().where(run.c.id == run_id)).one())

    def _change(self, run_id: int, to: RunState, **values: Any) -> None:
        with self._book.db.writing() as tx:
            self._move(tx, run_id, to, **values)
        self._book.changed()

    def _move(self, tx: Connection, run_id: int, to: RunState, **values: Any) -> None:
        allowed = run.c.state.in_(moves.sources(moves.RUN, to))
        moved = tx.execute(update(run).where(run.c.id == run_id, allowed).values(state=to, **values))
        if moved.rowcount != 1:
            raise moves.IllegalMove(f"training {run_id} cannot become {to}")


def _run(row: Any) -> Run:
    return Run(
        id=row.id,
        name=row.name,
        state=RunState(row.state),
        dataset=DatasetRef(row.dataset_id, row.dataset_name),
        task_id=row.task_id,
        base=row.base,
        pictures=row.pictures,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        not_before=row.not_before,
        iteration=row.iteration,
        iterations=row.iterations,
        loss=row.loss,
        accuracy=row.accuracy,
        remaining=row.remaining,
        reason=row.reason,
        doubts=row.doubts,
    )
