"""Counting: the tally that the stages decide by, and the census that ``status`` shows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from types import MappingProxyType

from sqlalchemy import Connection, bindparam, func, select

from image_sync.domain import (
    BatchState,
    Census,
    Counts,
    FileRole,
    FileState,
    NextStep,
    PictureState,
    Tally,
    TrainingState,
)
from image_sync.ledger.annotations import labels, unpaid
from image_sync.ledger.changes import moving
from image_sync.ledger.context import LedgerContext
from image_sync.ledger.schema import batch, folder, note, picture, picture_count, place_count, root, run, target, word
from image_sync.ledger.trainings import TRAIN, Trainings

_DAY = 86_400.0
_COLUMN = {
    PictureState.READY: "ready",
    PictureState.HELD: "conflicts",
    PictureState.CLAIMED: "sending",
    PictureState.CONFIRMED: "confirmed",
    PictureState.REFUSED: "refused",
}


_PLACES = {
    FileState.QUARANTINED: "quarantined",
    FileState.WAITING: "waiting",
    FileRole.CONFLICT: "conflicts",
    FileRole.DUPLICATE: "duplicates",
}


class Counter:
    """Consistent looks at the whole ledger."""

    def __init__(self, context: LedgerContext, trainings: Trainings) -> None:
        self._context = context
        self._trainings = trainings

    def tally(self) -> Tally:
        """What the tracker decides by, in one transaction."""
        aim = self._context.target.id
        with self._context.db.reading() as tx:
            counts = tx.execute(_COUNTS, {"aim": aim}).all()
            states = _summed((row.state, row.pictures) for row in counts)
            uncleared, newest_id, newest_at = self._uncleared(tx, aim, states.get(PictureState.READY, 0))
            doubtful = tx.execute(
                select(func.coalesce(func.sum(batch.c.files), 0)).where(
                    batch.c.target_id == aim, batch.c.state == BatchState.DOUBTFUL
                )
            ).scalar_one()
            starts = tx.execute(
                select(run.c.started_at)
                .where(run.c.target_id == aim, run.c.started_at > self._context.clock() - _DAY)
                .order_by(run.c.started_at)
            ).all()
            stored = [row for row in counts if row.state == PictureState.CONFIRMED]
            newest, annotated = self._trainings.newest, self._context.annotated
            return Tally(
                ready=uncleared,
                cleared=states.get(PictureState.READY, 0) - uncleared,
                sending=states.get(PictureState.CLAIMED, 0),
                doubtful=int(doubtful),
                confirmed=states.get(PictureState.CONFIRMED, 0),
                refused=states.get(PictureState.REFUSED, 0),
                untrained=sum(row.pictures for row in stored if not row.counted),
                trainable=MappingProxyType(_summed((row.sent_category, row.pictures) for row in stored)),
                labelled=MappingProxyType(labels(tx, aim) if annotated else {}),
                unmarked=unpaid(tx, aim) if annotated else 0,
                moving=moving(tx, aim),
                newest_ready_id=newest_id or 0,
                newest_ready_at=newest_at,
                active=newest(tx, run.c.state.in_([str(state) for state in TrainingState if state.active])),
                last=newest(tx, run.c.started_at.is_not(None)),
                refusal=newest(tx, run.c.state == TrainingState.REFUSED),
                retry=newest(tx, run.c.owed == NextStep.RETRY),
                starts=tuple(row.started_at for row in starts),
                train_requested=_noted(tx, TRAIN),
            )

    def _uncleared(self, tx: Connection, aim: int, ready: int) -> tuple[int, int, float | None]:
        """Pictures that are ready and did not pass the threshold yet; id and time of the newest of them."""
        newest = tx.execute(_NEWEST, {"aim": aim}).first()
        if newest is None:
            return 0, 0, None
        # Mostly all have passed it, or none: counting them is needed only while new ones come during an upload.
        if tx.execute(_ANY_CLEARED, {"aim": aim}).first() is not None:
            ready = tx.execute(_UNCLEARED, {"aim": aim}).scalar_one()
        return ready, newest.id, newest.ready_at

    def census(self) -> Census:
        """Everything that ``status`` counts, in one transaction."""
        categories: dict[str, Counts] = {}

        def add(category: str, column: str, count: int) -> None:
            was = categories.get(category, Counts())
            categories[category] = replace(was, **{column: getattr(was, column) + count})

        uncategorised = 0
        with self._context.db.reading() as tx:
            for row in tx.execute(_FILES):
                add(row.category or "", "found", row.files)
                column = _PLACES.get(row.state) or _PLACES.get(row.role)
                if column:
                    add(row.category or "", column, row.files)
                elif row.state == FileState.UNCATEGORISED:
                    uncategorised += row.files
            if self._context.current_target is not None:
                for row in tx.execute(_COUNTS, {"aim": self._context.current_target.id}):
                    add(row.category, _COLUMN[PictureState(row.state)], row.pictures)
            settling = tx.execute(select(func.coalesce(func.sum(root.c.settling), 0))).scalar_one()
        # Without annotations nothing is taken that lies directly in a root.
        hidden = uncategorised if self._context.annotated else float("inf")
        total = Counts()
        for counts in categories.values():
            total = Counts(**{name: getattr(total, name) + getattr(counts, name) for name in _NAMES})
        named = {name: counts for name, counts in sorted(categories.items()) if name or counts.found > hidden}
        return Census(total, MappingProxyType(named), uncategorised, int(settling))


_PASSED = select(target.c.cleared_to).where(target.c.id == bindparam("aim")).scalar_subquery()
_READY = (picture.c.target_id == bindparam("aim")) & (picture.c.state == word(PictureState.READY))
_NEWEST = (
    select(picture.c.id, picture.c.ready_at)
    .where(_READY, picture.c.id > _PASSED)
    .order_by(picture.c.id.desc())
    .limit(1)
)
_ANY_CLEARED = select(picture.c.id).where(_READY, picture.c.id <= _PASSED).limit(1)
_UNCLEARED = select(func.count()).where(_READY, picture.c.id > _PASSED)
_COUNTS = select(picture_count).where(picture_count.c.target_id == bindparam("aim"), picture_count.c.pictures > 0)
_FILES = (
    select(folder.c.category, place_count.c.state, place_count.c.role, func.sum(place_count.c.files).label("files"))
    .join(folder, folder.c.id == place_count.c.folder_id)
    .where(place_count.c.files > 0)
    .group_by(folder.c.category, place_count.c.state, place_count.c.role)
)
_NAMES = tuple(Counts.__dataclass_fields__)


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, number in sorted(pairs):
        sums[name] = sums.get(name, 0) + number
    return sums


def _noted(tx: Connection, name: str) -> bool:
    return tx.execute(select(note.c.name).where(note.c.name == name)).first() is not None
