"""The trainer's side of the ledger: trainings are written down by name before they are started."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, delete, func, insert, literal_column, select, update

from image_sync.domain import (
    BatchState,
    DatasetRef,
    Metric,
    ModelOutcome,
    NextStep,
    PictureState,
    Training,
    TrainingContent,
    TrainingState,
)
from image_sync.ledger import contents, markings, moves, series
from image_sync.ledger.annotations import unpaid
from image_sync.ledger.changes import moving
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.schema import batch, note, picture, picture_count, run, target

TRAIN = "train"
_PAGE = 1000


class Trainings:
    """Trainings of the target in use."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def begin(self, name: str, base: str, base_name: str = "", *, without: Collection[str] = ()) -> Training | None:
        """Write down a training that is about to be started, what it contains, and which pictures it counts.

        A failed training that was to be started once more is thereby done. Pictures of the categories ``without``
        which it is trained are counted, or they would start the next one at once, but it does not contain them.

        Returns:
            The run in state ``starting``; None if meanwhile a picture is being sent, or its annotation or category
            is owed to the platform, or another run is active.
        """
        now = self._context.clock()
        with self._context.db.writing() as tx:
            if self._busy(tx):
                return None
            contained = sum(number for category, number in self._stored(tx).items() if category not in without)
            repeated = self.newest(tx, run.c.owed == NextStep.RETRY)
            run_id = tx.execute(
                insert(run)
                .values(
                    target_id=self._target,
                    name=name,
                    state=TrainingState.STARTING,
                    base=base,
                    base_name=base_name,
                    retry_of=None if repeated is None else repeated.id,
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
            contents.write_down(tx, self._target, run_id, without)
            retried = (run.c.target_id == self._target) & (run.c.owed == NextStep.RETRY)
            tx.execute(update(run).where(retried).values(owed=NextStep.NOTHING))
            tx.execute(delete(note).where(note.c.name == TRAIN))
            return self._get(tx, run_id)

    def started(self, run_id: int, task_id: str) -> None:
        """The platform has the training under this task id."""
        self._change(run_id, TrainingState.RUNNING, task_id=task_id, started_at=self._context.clock(), not_before=None)

    def doubt(self, run_id: int, *, not_before: float) -> None:
        """It is not known whether it was started. Absence is not believed before ``not_before`` (Unix time)."""
        self._change(run_id, TrainingState.DOUBTFUL, not_before=not_before, doubts=run.c.doubts + 1)

    def again(self, run_id: int) -> None:
        """It was not started after all: it is about to be, under the same name."""
        self._change(run_id, TrainingState.STARTING, not_before=None)

    def doubt_all(self, *, not_before: float) -> int:
        """At start: a training that was being started when the last process ended is doubtful. Returns how many."""
        starting = (run.c.target_id == self._target) & (run.c.state == TrainingState.STARTING)
        with self._context.db.writing() as tx:
            values = {"state": TrainingState.DOUBTFUL, "not_before": not_before, "doubts": run.c.doubts + 1}
            result = tx.execute(update(run).where(starting).values(**values))
        return int(result.rowcount)

    def refused(self, run_id: int, reason: str) -> None:
        """It was not started: its pictures count towards the next one again."""
        with self._context.db.writing() as tx:
            self._move(
                tx, run_id, TrainingState.REFUSED, reason=reason, ended_at=self._context.clock(), not_before=None
            )
            self._give_back(tx, run_id)
        self._context.changed()

    def abandon(self, run_id: int) -> None:
        """Nothing was started, and nobody said no: as if it had not been begun."""
        unstarted = run.c.state.in_([str(TrainingState.STARTING), str(TrainingState.DOUBTFUL)])
        with self._context.db.writing() as tx:
            self._give_back(tx, run_id)
            if tx.execute(delete(run).where(run.c.id == run_id, unstarted)).rowcount != 1:
                raise moves.IllegalTransition(f"training {run_id} was started and cannot be abandoned")
        self._context.changed()

    def progress(
        self, run_id: int, *, curve: Sequence[tuple[int, float | None, float | None]] = (), **figures: float | None
    ) -> None:
        """What the platform says of a running training: ``iteration``, ``iterations``, ``loss``, ``accuracy``,
        ``remaining``. Unknown figures (None) leave the earlier ones.

        Args:
            curve: (iteration, loss, accuracy) of what went before, oldest first.
        """
        known = {name: value for name, value in figures.items() if value is not None}
        if not known:
            return
        with self._context.db.writing() as tx:
            this = run.c.id == run_id
            series.extend(tx, run_id, [Metric(self._context.clock(), *figure) for figure in curve])
            before = tx.execute(select(run).where(this)).one()
            tx.execute(update(run).where(this).values(**known))
            now = tx.execute(select(run).where(this)).one()
            if any(getattr(now, name) != getattr(before, name) for name in ("iteration", "loss", "accuracy")):
                new = Metric(self._context.clock(), now.iteration, now.loss, now.accuracy)
                series.add(self._context.db, tx, run_id, new)

    def from_the_beginning(self, run_id: int) -> None:
        """The platform did not continue from the model that this was to continue from."""
        with self._context.db.writing() as tx:
            tx.execute(update(run).where(run.c.id == run_id).values(base="", base_name=""))
        self._context.changed()

    def trained(self, run_id: int, accuracy: float | None) -> None:
        """It ended well: what follows (see ``lifecycle``) is owed from now on."""
        values = {} if accuracy is None else {"accuracy": accuracy}
        self._change(
            run_id, TrainingState.TRAINED, ended_at=self._context.clock(), remaining=None, owed=NextStep.JUDGE, **values
        )

    def failed(self, run_id: int, reason: str, *, retry: bool = False, ended: bool = True) -> None:
        """It ended without a model: its pictures count towards the next one again.

        Args:
            retry: it is to be started once more.
            ended: False: it may still run at the platform, so its pictures stay counted.
        """
        owed = NextStep.RETRY if retry else NextStep.NOTHING
        with self._context.db.writing() as tx:
            values = {"reason": reason, "ended_at": self._context.clock(), "remaining": None, "owed": owed}
            self._move(tx, run_id, TrainingState.FAILED, **values)
            if ended:
                tx.execute(update(picture).where(picture.c.run_id == run_id).values(run_id=None))
        self._context.changed()

    def active(self) -> Training | None:
        """The training that may be going on, if any."""
        with self._context.db.reading() as tx:
            return self.newest(tx, run.c.state.in_([str(state) for state in TrainingState if state.active]))

    def history(self, limit: int = 50) -> list[Training]:
        """The newest trainings of the target, newest first."""
        return self.where(limit=limit)

    def where(self, *which: Any, limit: int | None = None) -> list[Training]:
        """The trainings of the target that meet all conditions, newest first. For the rest of the ledger."""
        with self._context.db.reading() as tx:
            rows = tx.execute(self._select().where(*which).order_by(run.c.id.desc()).limit(limit))
            return [_run(row) for row in rows]

    def named(self, name: str) -> Training | None:
        """The training of this name, or of this task id; of several the newest."""
        found = self.where((run.c.name == name) | ((run.c.task_id == name) & (run.c.task_id != "")), limit=1)
        return found[0] if found else None

    def series(self, run_id: int) -> list[Metric]:
        """How a training went, in the order of its iterations; thinned out where it took long."""
        with self._context.db.reading() as tx:
            return series.of(tx, run_id)

    def contained(self, run_id: int) -> list[TrainingContent]:
        """What a training contains, by category. Empty for one that an older image-sync started."""
        with self._context.db.reading() as tx:
            return contents.of(tx, run_id)

    def trainable(self) -> dict[str, int]:
        """Confirmed pictures per category: what a training started now would contain."""
        with self._context.db.reading() as tx:
            return self._stored(tx)

    def contents(self) -> Iterator[tuple[str, str, str, str]]:
        """(remote id, key, category, what is marked) of every confirmed picture, read page by page.

        What is marked is a text as a sighting said it; empty where nothing is, or annotations are not used.
        """
        after = 0
        text = markings.sent_text() if self._context.annotated else literal_column("''").label("text")
        while True:
            with self._context.db.reading() as tx:
                rows = tx.execute(
                    select(picture.c.id, picture.c.remote_id, picture.c.key, picture.c.sent_category, text)
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
                yield row.remote_id, row.key, row.sent_category, row.text or ""
            after = rows[-1].id

    def request(self) -> None:
        """Ask the daemon for a training now (``image-sync train``)."""
        statement = self._context.db.insert(note).values(name=TRAIN, value=str(self._context.clock()))
        with self._context.db.writing() as tx:
            tx.execute(statement.on_conflict_do_nothing(index_elements=["name"]))
        self._context.changed()

    def withdraw_request(self) -> None:
        """Forget that a training was asked for."""
        with self._context.db.writing() as tx:
            tx.execute(delete(note).where(note.c.name == TRAIN))

    def _give_back(self, tx: Connection, run_id: int) -> None:
        """It was not started: its pictures count again, and what it was to repeat is still to be repeated."""
        tx.execute(update(picture).where(picture.c.run_id == run_id).values(run_id=None))
        repeated = tx.execute(select(run.c.retry_of).where(run.c.id == run_id)).scalar()
        if repeated is not None:
            tx.execute(update(run).where(run.c.id == repeated).values(owed=NextStep.RETRY))
        contents.forget(tx, run_id)
        series.forget(tx, run_id)

    @property
    def _target(self) -> int:
        return self._context.target.id

    def _stored(self, tx: Connection) -> dict[str, int]:
        rows = tx.execute(
            select(picture_count.c.sent_category, func.sum(picture_count.c.pictures).label("pictures"))
            .where(
                picture_count.c.target_id == self._target,
                picture_count.c.state == PictureState.CONFIRMED,
                picture_count.c.pictures > 0,
            )
            .group_by(picture_count.c.sent_category)
        )
        return {row.sent_category: int(row.pictures) for row in rows}

    def _busy(self, tx: Connection) -> bool:
        sending = select(batch.c.id).where(
            batch.c.target_id == self._target,
            batch.c.state.in_([str(BatchState.SENDING), str(BatchState.DOUBTFUL)]),
        )
        active = select(run.c.id).where(
            run.c.target_id == self._target, run.c.state.in_([str(state) for state in TrainingState if state.active])
        )
        if self._context.annotated and unpaid(tx, self._target):
            return True
        if moving(tx, self._target):
            return True
        return tx.execute(sending.limit(1)).first() is not None or tx.execute(active.limit(1)).first() is not None

    def _select(self) -> Any:
        return (
            select(run, target.c.dataset_id, target.c.dataset_name)
            .join(target, target.c.id == run.c.target_id)
            .where(run.c.target_id == self._target)
        )

    def newest(self, tx: Connection, *which: Any) -> Training | None:
        """The newest run of the target that meets all conditions."""
        row = tx.execute(self._select().where(*which).order_by(run.c.id.desc()).limit(1)).first()
        return None if row is None else _run(row)

    def _get(self, tx: Connection, run_id: int) -> Training:
        return _run(tx.execute(self._select().where(run.c.id == run_id)).one())

    def _change(self, run_id: int, to: TrainingState, **values: Any) -> None:
        with self._context.db.writing() as tx:
            self._move(tx, run_id, to, **values)
        self._context.changed()

    def _move(self, tx: Connection, run_id: int, to: TrainingState, **values: Any) -> None:
        allowed = run.c.state.in_(moves.sources(moves.RUN, to))
        moved = tx.execute(update(run).where(run.c.id == run_id, allowed).values(state=to, **values))
        if moved.rowcount != 1:
            raise moves.IllegalTransition(f"training {run_id} cannot become {to}")


def _run(row: Any) -> Training:
    return Training(
        id=row.id,
        name=row.name,
        state=TrainingState(row.state),
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
        base_name=row.base_name,
        retry_of=row.retry_of,
        owed=NextStep(row.owed),
        fate=ModelOutcome(row.fate),
        fate_reason=row.fate_reason,
    )
