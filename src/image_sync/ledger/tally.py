"""Counting: the tally that the stages decide by, and the census that ``status`` shows."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from sqlalchemy import Connection, func, select

from image_sync.domain import BatchState, Census, Counts, PictureState, PlaceRole, PlaceState, RunState, Tally
from image_sync.ledger.book import Book
from image_sync.ledger.runs import TRAIN, Runs
from image_sync.ledger.schema import batch, folder, note, picture, place, root, run, target

_DAY = 86_400.0
_COLUMN = {
    PictureState.READY: "ready",
    PictureState.CLAIMED: "sending",
    PictureState.CONFIRMED: "confirmed",
    PictureState.REFUSED: "refused",
}


class Counter:
    """Consistent looks at the whole ledger."""

    def __init__(self, book: Book, runs: Runs) -> None:
        self._book = book
        self._runs = runs

    def tally(self) -> Tally:
        """What the tracker decides by, in one transaction."""
        aim = self._book.aimed().id
        mine = picture.c.target_id == aim
        with self._book.db.reading() as tx:
            cleared_to = tx.execute(select(target.c.cleared_to).where(target.c.id == aim)).scalar() or 0
            counted = tx.execute(
                select(picture.c.state, func.count().label("pictures")).where(mine).group_by(picture.c.state)
            )
            states = {row.state: row.pictures for row in counted}
            waiting = (picture.c.state == PictureState.READY) & (picture.c.id > cleared_to)
            uncleared, newest_id, newest_at = tx.execute(
                select(func.count(), func.max(picture.c.id), func.max(picture.c.ready_at)).where(mine, waiting)
            ).one()
            doubtful = tx.execute(
                select(func.coalesce(func.sum(batch.c.files), 0)).where(
                    batch.c.target_id == aim, batch.c.state == BatchState.DOUBTFUL
                )
            ).scalar_one()
            untrained = tx.execute(
                select(func.count()).where(mine, picture.c.state == PictureState.CONFIRMED, picture.c.run_id.is_(None))
            ).scalar_one()
            trainable = tx.execute(
                select(picture.c.sent_category, func.count())
                .where(mine, picture.c.state == PictureState.CONFIRMED)
                .group_by(picture.c.sent_category)
                .order_by(picture.c.sent_category)
            ).all()
            starts = tx.execute(
                select(run.c.started_at)
                .where(run.c.target_id == aim, run.c.started_at > self._book.clock() - _DAY)
                .order_by(run.c.started_at)
            ).all()
            newest = self._runs.newest
            return Tally(
                ready=uncleared,
                cleared=states.get(PictureState.READY, 0) - uncleared,
                sending=states.get(PictureState.CLAIMED, 0),
                doubtful=int(doubtful),
                confirmed=states.get(PictureState.CONFIRMED, 0),
                refused=states.get(PictureState.REFUSED, 0),
                untrained=untrained,
                trainable=MappingProxyType({row[0]: row[1] for row in trainable}),
                newest_ready_id=newest_id or 0,
                newest_ready_at=newest_at,
                active=newest(tx, run.c.state.in_([str(state) for state in RunState if state.active])),
                last=newest(tx, run.c.started_at.is_not(None)),
                refusal=newest(tx, run.c.state == RunState.REFUSED),
                starts=tuple(row.started_at for row in starts),
                train_requested=_noted(tx, TRAIN),
            )

    def census(self) -> Census:
        """Everything that ``status`` counts, in one transaction."""
        categories: dict[str, Counts] = {}

        def add(category: str, column: str, count: int) -> None:
            was = categories.get(category, Counts())
            categories[category] = replace(was, **{column: getattr(was, column) + count})

        uncategorised = 0
        with self._book.db.reading() as tx:
            files = tx.execute(
                select(folder.c.category, place.c.state, place.c.role, func.count().label("files"))
                .join(folder, folder.c.id == place.c.folder_id)
                .group_by(folder.c.category, place.c.state, place.c.role)
            )
            for row in files:
                category = row.category or ""
                add(category, "found", row.files)
                if row.state == PlaceState.QUARANTINED:
                    add(category, "quarantined", row.files)
                elif row.state == PlaceState.UNCATEGORISED:
                    uncategorised += row.files
                elif row.role == PlaceRole.CONFLICT:
                    add(category, "conflicts", row.files)
                elif row.role == PlaceRole.DUPLICATE:
                    add(category, "duplicates", row.files)
            if self._book.target is not None:
                pictures = tx.execute(
                    select(picture.c.category, picture.c.state, func.count().label("pictures"))
                    .where(picture.c.target_id == self._book.target.id)
                    .group_by(picture.c.category, picture.c.state)
                )
                for row in pictures:
                    add(row.category, _COLUMN[PictureState(row.state)], row.pictures)
            settling = tx.execute(select(func.coalesce(func.sum(root.c.settling), 0))).scalar_one()
        total = Counts()
        for counts in categories.values():
            total = Counts(**{name: getattr(total, name) + getattr(counts, name) for name in _NAMES})
        named = {name: categories[name] for name in sorted(categories) if name}
        return Census(total, MappingProxyType(named), uncategorised, int(settling))


_NAMES = tuple(Counts.__dataclass_fields__)


def _noted(tx: Connection, name: str) -> bool:
    return tx.execute(select(note.c.name).where(note.c.name == name)).first() is not None
