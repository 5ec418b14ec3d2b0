"""The trainer's side of the ledger: trainings are written down by name before they are started.

With each goes what it contains, how it went, and what is to be done with its model once it has ended.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, bindparam, delete, func, insert, literal_column, select, union_all, update

from image_sync.domain import (
    BY_HAND,
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
from image_sync.ledger.annotations import number_due, sent_text
from image_sync.ledger.changes import number_to_move
from image_sync.ledger.context import IllegalTransition, LedgerContext
from image_sync.ledger.schema import (
    batch,
    keyvalue,
    metric,
    picture,
    picture_count,
    target,
    training,
    training_content,
)

TRAIN = "train"
MOST = 1000
"""Points of one training's curve: at one more, every second one is let go. A plot can show no more."""
_PAGE = 1000
_MANY = 10_000
ACTIVE = [str(state) for state in TrainingState if state.active]
_BEFORE = {
    TrainingState.STARTING: (TrainingState.DOUBTFUL,),
    TrainingState.DOUBTFUL: (TrainingState.STARTING,),
    TrainingState.RUNNING: (TrainingState.STARTING, TrainingState.DOUBTFUL),
    TrainingState.REFUSED: (TrainingState.STARTING, TrainingState.DOUBTFUL),
    TrainingState.TRAINED: (TrainingState.RUNNING,),
    TrainingState.FAILED: (TrainingState.RUNNING,),
}
"""The states from which a training may come to each state."""
_TRAININGS = select(training, target.c.dataset_id, target.c.dataset_name).join(
    target, target.c.id == training.c.target_id
)
_KINDS = (
    training.c.state.in_(ACTIVE),
    training.c.started_at.is_not(None),
    training.c.state == TrainingState.REFUSED,
    training.c.owed == NextStep.RETRY,
)
_OURS = training.c.target_id == bindparam("aim")
_DECISIVE = _TRAININGS.where(
    training.c.id.in_(union_all(*(select(func.max(training.c.id)).where(_OURS, kind) for kind in _KINDS)))
).order_by(training.c.id.desc())
"""The newest of each kind, in one statement that is put together once: it is asked at every step of every stage."""


class Trainings:
    """Trainings of the target in use."""

    def __init__(self, context: LedgerContext) -> None:
        self._context = context

    def begin(self, name: str, base: str, base_name: str = "", *, without: Collection[str] = ()) -> Training | None:
        """Write down a training that is about to be started, what it contains, and which pictures it counts.

        A failed training that was to be started once more is thereby done. Pictures of the categories ``without``
        which it is trained are counted, or they would start the next one at once, but it does not contain them.

        Returns:
            The training in state ``starting``; None if meanwhile a picture is being sent, or its annotation or category
            has still to be told to the platform, or another training is active.
        """
        with self._context.db.writing() as tx:
            if self._busy(tx):
                return None
            contained = sum(number for category, number in self._stored(tx).items() if category not in without)
            repeated = self.newest(tx, training.c.owed == NextStep.RETRY)
            values = {
                "target_id": self._target,
                "name": name,
                "state": TrainingState.STARTING,
                "base": base,
                "base_name": base_name,
                "retry_of": None if repeated is None else repeated.id,
                "pictures": contained,
                "created_at": self._context.clock(),
            }
            training_id = tx.execute(insert(training).values(values).returning(training.c.id)).scalar_one()
            mine = (picture.c.target_id == self._target) & (picture.c.state == PictureState.CONFIRMED)
            tx.execute(update(picture).where(mine, picture.c.training_id.is_(None)).values(training_id=training_id))
            _write_contents(tx, self._target, training_id, without)
            retried = (training.c.target_id == self._target) & (training.c.owed == NextStep.RETRY)
            tx.execute(update(training).where(retried).values(owed=NextStep.NOTHING))
            tx.execute(delete(keyvalue).where(keyvalue.c.name == TRAIN))
            return _training(tx.execute(self._select().where(training.c.id == training_id)).one())

    def started(self, training_id: int, task_id: str) -> None:
        """The platform has the training under this task id."""
        now = self._context.clock()
        self._change(training_id, TrainingState.RUNNING, task_id=task_id, started_at=now, not_before=None)

    def doubt(self, training_id: int, *, not_before: float) -> None:
        """It is not known whether it was started. Absence is not believed before ``not_before`` (Unix time)."""
        self._change(training_id, TrainingState.DOUBTFUL, not_before=not_before, doubts=training.c.doubts + 1)

    def again(self, training_id: int) -> None:
        """It was not started after all: it is about to be, under the same name."""
        self._change(training_id, TrainingState.STARTING, not_before=None)

    def doubt_all(self, *, not_before: float) -> int:
        """At start: a training that was being started when the last process ended is doubtful. Returns how many."""
        starting = (training.c.target_id == self._target) & (training.c.state == TrainingState.STARTING)
        with self._context.db.writing() as tx:
            values = {"state": TrainingState.DOUBTFUL, "not_before": not_before, "doubts": training.c.doubts + 1}
            return int(tx.execute(update(training).where(starting).values(**values)).rowcount)

    def refused(self, training_id: int, reason: str) -> None:
        """It was not started: its pictures count towards the next one again."""
        with self._context.db.writing() as tx:
            now = self._context.clock()
            _move(tx, training_id, TrainingState.REFUSED, reason=reason, ended_at=now, not_before=None)
            self._give_back(tx, training_id)
        self._context.changed()

    def abandon(self, training_id: int) -> None:
        """Nothing was started, and nobody said no: as if it had not been begun."""
        unstarted = training.c.state.in_([str(TrainingState.STARTING), str(TrainingState.DOUBTFUL)])
        with self._context.db.writing() as tx:
            self._give_back(tx, training_id)
            if tx.execute(delete(training).where(training.c.id == training_id, unstarted)).rowcount != 1:
                raise IllegalTransition(f"training {training_id} was started and cannot be abandoned")
        self._context.changed()

    def progress(
        self, training_id: int, *, curve: Sequence[tuple[int, float | None, float | None]] = (), **figures: float | None
    ) -> None:
        """What the platform says of a running training: ``iteration``, ``iterations``, ``loss``, ``accuracy``,
        ``remaining``. Unknown figures (None) leave the earlier ones.

        Args:
            curve: (iteration, loss, accuracy) of what went before, oldest first.
        """
        known = {name: value for name, value in figures.items() if value is not None}
        if not known:
            return
        now, this, mine = self._context.clock(), training.c.id == training_id, metric.c.training_id == training_id
        with self._context.db.writing() as tx:
            newest = tx.execute(select(func.max(metric.c.iteration)).where(mine)).scalar()
            fresh = [point for point in curve if newest is None or point[0] > newest]
            fresh = fresh[:: 1 + len(fresh) // MOST]
            if fresh:
                names = ("iteration", "loss", "accuracy")
                points = [
                    {"training_id": training_id, "at": now, **dict(zip(names, one, strict=True))} for one in fresh
                ]
                tx.execute(insert(metric), points)
            before = tx.execute(select(training).where(this)).one()
            tx.execute(update(training).where(this).values(**known))
            after = tx.execute(select(training).where(this)).one()
            if any(getattr(after, name) != getattr(before, name) for name in ("iteration", "loss", "accuracy")):
                values = {"loss": after.loss, "accuracy": after.accuracy}
                point = self._context.db.insert(metric)
                point = point.values(training_id=training_id, iteration=after.iteration, at=now, **values)
                # A later look at the same iteration knows better.
                tx.execute(point.on_conflict_do_update(index_elements=["training_id", "iteration"], set_=values))
            while tx.execute(select(func.count()).where(mine)).scalar_one() > MOST:
                held = tx.execute(select(metric.c.iteration).where(mine).order_by(metric.c.iteration)).scalars().all()
                tx.execute(delete(metric).where(mine, metric.c.iteration.in_(held[1:-1:2])))

    def from_the_beginning(self, training_id: int) -> None:
        """The platform did not continue from the model that this was to continue from."""
        with self._context.db.writing() as tx:
            tx.execute(update(training).where(training.c.id == training_id).values(base="", base_name=""))
        self._context.changed()

    def trained(self, training_id: int, accuracy: float | None) -> None:
        """It ended well: its model is to be seen to from now on, see :class:`ModelLifecycle`."""
        values = {} if accuracy is None else {"accuracy": accuracy}
        values |= {"ended_at": self._context.clock()}
        self._change(training_id, TrainingState.TRAINED, remaining=None, owed=NextStep.JUDGE, **values)

    def failed(self, training_id: int, reason: str, *, retry: bool = False, ended: bool = True) -> None:
        """It ended without a model: its pictures count towards the next one again.

        Args:
            retry: it is to be started once more.
            ended: False: it may still run at the platform, so its pictures stay counted.
        """
        owed = NextStep.RETRY if retry else NextStep.NOTHING
        with self._context.db.writing() as tx:
            values = {"reason": reason, "ended_at": self._context.clock(), "remaining": None, "owed": owed}
            _move(tx, training_id, TrainingState.FAILED, **values)
            if ended:
                tx.execute(update(picture).where(picture.c.training_id == training_id).values(training_id=None))
        self._context.changed()

    def active(self) -> Training | None:
        """The training that may be going on, if any."""
        with self._context.db.reading() as tx:
            return self.newest(tx, training.c.state.in_(ACTIVE))

    def history(self, limit: int = 50) -> list[Training]:
        """The newest trainings of the target, newest first."""
        return self.where(limit=limit)

    def where(self, *which: Any, limit: int | None = None) -> list[Training]:
        """The trainings of the target that meet all conditions, newest first. For the rest of the ledger."""
        with self._context.db.reading() as tx:
            found = tx.execute(self._select().where(*which).order_by(training.c.id.desc()).limit(limit))
            return [_training(row) for row in found]

    def newest(self, tx: Connection, *which: Any) -> Training | None:
        """The newest training of the target that meets all conditions."""
        row = tx.execute(self._select().where(*which).order_by(training.c.id.desc()).limit(1)).first()
        return None if row is None else _training(row)

    def decisive(self, tx: Connection) -> list[Training]:
        """The newest training that is active, that was started, that was refused, and that is owed a second try."""
        return [_training(row) for row in tx.execute(_DECISIVE, {"aim": self._target})]

    def named(self, name: str) -> Training | None:
        """The training of this name, or of this task id; of several the newest."""
        of_task = (training.c.task_id == name) & (training.c.task_id != "")
        found = self.where((training.c.name == name) | of_task, limit=1)
        return found[0] if found else None

    def series(self, training_id: int) -> list[Metric]:
        """How a training went, in the order of its iterations; thinned out where it took long."""
        points = select(metric).where(metric.c.training_id == training_id).order_by(metric.c.iteration)
        with self._context.db.reading() as tx:
            return [Metric(row.at, row.iteration, row.loss, row.accuracy) for row in tx.execute(points)]

    def contained(self, training_id: int) -> list[TrainingContent]:
        """What a training contains, by category. Empty for one that an older image-sync started."""
        mine = select(training_content).where(training_content.c.training_id == training_id)
        with self._context.db.reading() as tx:
            found = tx.execute(mine.order_by(training_content.c.category))
            return [TrainingContent(row.category, row.pictures, row.fingerprint) for row in found]

    def trainable(self) -> dict[str, int]:
        """Confirmed pictures per category: what a training started now would contain."""
        with self._context.db.reading() as tx:
            return self._stored(tx)

    def contents(self) -> Iterator[tuple[str, str, str, str]]:
        """(remote id, key, category, what is marked) of every confirmed picture, read page by page.

        What is marked is a text as a sighting said it; empty where nothing is, or annotations are not used.
        """
        text = sent_text() if self._context.annotated else literal_column("''").label("text")
        columns = (picture.c.id, picture.c.remote_id, picture.c.key, picture.c.sent_category, text)
        mine = (picture.c.target_id == self._target) & (picture.c.state == PictureState.CONFIRMED)
        page = select(*columns).where(mine).order_by(picture.c.id).limit(_PAGE)
        after = 0
        while True:
            with self._context.db.reading() as tx:
                found = tx.execute(page.where(picture.c.id > after)).all()
            if not found:
                return
            for row in found:
                yield row.remote_id, row.key, row.sent_category, row.text or ""
            after = found[-1].id

    def request(self) -> None:
        """Ask the daemon for a training now (``image-sync train``)."""
        with self._context.db.writing() as tx:
            self._context.set_flag(tx, TRAIN)
        self._context.changed()

    def withdraw_request(self) -> None:
        """Forget that a training was asked for."""
        with self._context.db.writing() as tx:
            tx.execute(delete(keyvalue).where(keyvalue.c.name == TRAIN))

    @property
    def _target(self) -> int:
        return self._context.target.id

    def _give_back(self, tx: Connection, training_id: int) -> None:
        """It was not started: its pictures count again, and what it was to repeat is still to be repeated."""
        tx.execute(update(picture).where(picture.c.training_id == training_id).values(training_id=None))
        repeated = tx.execute(select(training.c.retry_of).where(training.c.id == training_id)).scalar()
        if repeated is not None:
            tx.execute(update(training).where(training.c.id == repeated).values(owed=NextStep.RETRY))
        tx.execute(delete(training_content).where(training_content.c.training_id == training_id))
        tx.execute(delete(metric).where(metric.c.training_id == training_id))

    def _stored(self, tx: Connection) -> dict[str, int]:
        mine = (picture_count.c.target_id == self._target) & (picture_count.c.state == PictureState.CONFIRMED)
        number = func.sum(picture_count.c.pictures).label("pictures")
        stored = select(picture_count.c.sent_category, number).where(mine, picture_count.c.pictures > 0)
        found = tx.execute(stored.group_by(picture_count.c.sent_category))
        return {row.sent_category: int(row.pictures) for row in found}

    def _busy(self, tx: Connection) -> bool:
        if self._context.annotated and number_due(tx, self._target):
            return True
        if number_to_move(tx, self._target):
            return True
        open_ = batch.c.state.in_([str(BatchState.SENDING), str(BatchState.DOUBTFUL)])
        sending = select(batch.c.id).where(batch.c.target_id == self._target, open_)
        active = select(training.c.id).where(training.c.target_id == self._target, training.c.state.in_(ACTIVE))
        return tx.execute(sending.limit(1)).first() is not None or tx.execute(active.limit(1)).first() is not None

    def _select(self) -> Any:
        return _TRAININGS.where(training.c.target_id == self._target)

    def _change(self, training_id: int, to: TrainingState, **values: Any) -> None:
        with self._context.db.writing() as tx:
            _move(tx, training_id, to, **values)
        self._context.changed()


class ModelLifecycle:
    """What follows a training that has ended: its model is judged, deployed, replaces others, and old ones are deleted.

    The next step is written down when the training ends, and the one after it when a step is done: a restart goes on
    where the last process stopped. A step may be done twice; each looks before it acts.
    """

    def __init__(self, context: LedgerContext, trainings: Trainings) -> None:
        self._context = context
        self._trainings = trainings

    def owing(self) -> Training | None:
        """The oldest training about which something is to be done, other than starting it again."""
        due = [str(step) for step in NextStep if step not in {NextStep.NOTHING, NextStep.RETRY}]
        found = self._trainings.where(training.c.owed.in_(due))
        return found[-1] if found else None

    def deployed(self) -> list[Training]:
        """The trainings whose models this ledger had deployed and has not taken down, newest first.

        What a person deployed stays until a person takes it down.
        """
        return self._trainings.where(training.c.fate == ModelOutcome.DEPLOYED, training.c.fate_reason != BY_HAND)

    def decided(self, training_id: int, *, deploy: bool, reason: str) -> None:
        """Whether the model is to be deployed, and why."""
        fate, next_ = (ModelOutcome.CHOSEN, NextStep.DEPLOY) if deploy else (ModelOutcome.DECLINED, NextStep.TIDY)
        self._advance(training_id, NextStep.JUDGE, next_, fate=fate, fate_reason=reason)

    def is_deployed(self, training_id: int) -> None:
        """It answers predictions now."""
        self._advance(training_id, NextStep.DEPLOY, NextStep.RETIRE, fate=ModelOutcome.DEPLOYED)

    def not_deployed(self, training_id: int, fate: ModelOutcome, reason: str) -> None:
        """It was chosen, but cannot be deployed, or is not to be any more."""
        self._advance(training_id, NextStep.DEPLOY, NextStep.TIDY, fate=fate, fate_reason=reason)

    def alone(self, training_id: int) -> None:
        """What it replaces is no longer deployed."""
        self._advance(training_id, NextStep.RETIRE, NextStep.TIDY)

    def tidied(self, training_id: int) -> None:
        """What was not to be kept is deleted: nothing more is to be done."""
        self._advance(training_id, NextStep.TIDY, NextStep.NOTHING)

    def fated(self, training_id: int, fate: ModelOutcome, reason: str) -> None:
        """The model of an earlier training has another fate now."""
        with self._context.db.writing() as tx:
            tx.execute(update(training).where(training.c.id == training_id).values(fate=fate, fate_reason=reason))
        self._context.changed()

    def _advance(self, training_id: int, step: NextStep, next_: NextStep, **values: Any) -> None:
        with self._context.db.writing() as tx:
            this = (training.c.id == training_id) & (training.c.owed == step)
            if tx.execute(update(training).where(this).values(owed=next_, **values)).rowcount != 1:
                raise IllegalTransition(f"training {training_id} does not owe {step!r}")
        self._context.changed()


def _write_contents(tx: Connection, target_id: int, training_id: int, without: Collection[str]) -> None:
    """Note what a training that begins now contains: everything, without some categories."""
    contained = (
        select(picture.c.sent_category, picture.c.sha256)
        .where(picture.c.target_id == target_id, picture.c.state == PictureState.CONFIRMED)
        .order_by(picture.c.sent_category, picture.c.sha256)
    )
    found = []
    for category, group in groupby(tx.execute(contained, execution_options={"yield_per": _MANY}), itemgetter(0)):
        if category in without:
            continue
        # ``sha256sum * | cut -c1-64 | sort | sha256sum`` prints the same for the pictures in a folder.
        fingerprint, pictures = hashlib.sha256(), 0
        for _, digest in group:
            fingerprint.update(f"{digest}\n".encode())
            pictures += 1
        values = {"category": category, "pictures": pictures, "fingerprint": fingerprint.hexdigest()}
        found.append({"training_id": training_id, **values})
    if found:
        tx.execute(insert(training_content), found)


def _move(tx: Connection, training_id: int, to: TrainingState, **values: Any) -> None:
    allowed = training.c.state.in_([str(state) for state in _BEFORE[to]])
    if (
        tx.execute(update(training).where(training.c.id == training_id, allowed).values(state=to, **values)).rowcount
        != 1
    ):
        raise IllegalTransition(f"training {training_id} cannot become {to}")


def _training(row: Any) -> Training:
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
