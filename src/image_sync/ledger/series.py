"""How a training went, as a series of points that never grows beyond what a plot can show."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, delete, func, insert, select

from image_sync.domain import Metric
from image_sync.ledger.database import Database
from image_sync.ledger.schema import point

MOST = 1000
"""Points of one training: at one more, every second one is let go."""


def extend(tx: Connection, run_id: int, points: Sequence[Metric]) -> None:
    """Keep those points that are newer than what is held, evenly thinned where there are many."""
    newest = tx.execute(select(func.max(point.c.iteration)).where(point.c.run_id == run_id)).scalar()
    fresh = [one for one in points if newest is None or one.iteration > newest]
    fresh = fresh[:: 1 + len(fresh) // MOST]
    if fresh:
        tx.execute(insert(point), [{"run_id": run_id, **one._asdict()} for one in fresh])
        _thin(tx, run_id)


def add(db: Database, tx: Connection, run_id: int, new: Metric) -> None:
    """Keep a point; a later look at the same iteration knows better."""
    values = {"loss": new.loss, "accuracy": new.accuracy}
    statement = db.insert(point).values(run_id=run_id, iteration=new.iteration, at=new.at, **values)
    tx.execute(statement.on_conflict_do_update(index_elements=["run_id", "iteration"], set_=values))
    _thin(tx, run_id)


def _thin(tx: Connection, run_id: int) -> None:
    mine = point.c.run_id == run_id
    while tx.execute(select(func.count()).where(mine)).scalar_one() > MOST:
        held = tx.execute(select(point.c.iteration).where(mine).order_by(point.c.iteration)).scalars().all()
        tx.execute(delete(point).where(mine, point.c.iteration.in_(held[1:-1:2])))


def of(tx: Connection, run_id: int) -> list[Metric]:
    """The points in the order of their iterations."""
    rows = tx.execute(select(point).where(point.c.run_id == run_id).order_by(point.c.iteration))
    return [Metric(row.at, row.iteration, row.loss, row.accuracy) for row in rows]


def forget(tx: Connection, run_id: int) -> None:
    """Let go of all."""
    tx.execute(delete(point).where(point.c.run_id == run_id))
