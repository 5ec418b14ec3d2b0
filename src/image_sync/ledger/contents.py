"""What each training contains: counts and fingerprints, and in which trainings a picture is.

A picture is in every training of its dataset from the first that counted it (``picture.run_id``) on, until it is
removed. So nothing is written per picture and training. Only when a picture that was trained on is removed or given
another category, the stretch of trainings that ends is written down.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, delete, func, insert, select

from image_sync.domain import ModelOutcome, PictureState, TrainingContent, TrainingState
from image_sync.ledger.schema import content, picture, run, stretch

_IN = (TrainingState.DOUBTFUL, TrainingState.RUNNING, TrainingState.TRAINED, TrainingState.FAILED)
"""States of a training that contains what it was begun with."""
_PAGE = 10_000


@dataclass(frozen=True, slots=True)
class Membership:
    """A training that contains a picture."""

    model: str
    """The training's name, and that of its model."""
    category: str
    """Under which the picture was trained on; empty when that is not known."""
    state: TrainingState
    accuracy: float | None
    fate: ModelOutcome
    pictures: int = 0
    """How many it contains."""


def write_down(tx: Connection, target_id: int, run_id: int, without: Collection[str] = ()) -> None:
    """Note what a training that begins now contains: everything, without some categories."""
    contained = (
        select(picture.c.sent_category, picture.c.sha256)
        .where(picture.c.target_id == target_id, picture.c.state == PictureState.CONFIRMED)
        .order_by(picture.c.sent_category, picture.c.sha256)
    )
    found = []
    for category, group in groupby(tx.execute(contained, execution_options={"yield_per": _PAGE}), itemgetter(0)):
        if category in without:
            continue
        # ``sha256sum * | cut -c1-64 | sort | sha256sum`` prints the same for the pictures in a folder.
        fingerprint, pictures = hashlib.sha256(), 0
        for _, digest in group:
            fingerprint.update(f"{digest}\n".encode())
            pictures += 1
        found.append((category, pictures, fingerprint.hexdigest()))
    for category, pictures, digest in found:
        values = {"pictures": pictures, "fingerprint": digest}
        tx.execute(insert(content).values(run_id=run_id, category=category, **values))


def of(tx: Connection, run_id: int) -> list[TrainingContent]:
    """What a training contains, by category."""
    rows = tx.execute(select(content).where(content.c.run_id == run_id).order_by(content.c.category))
    return [TrainingContent(row.category, row.pictures, row.fingerprint) for row in rows]


def forget(tx: Connection, run_id: int) -> None:
    """It was not started: it contains nothing."""
    tx.execute(delete(content).where(content.c.run_id == run_id))


def close(tx: Connection, picture_id: int) -> None:
    """A picture is about to be removed or given another category: later trainings do not contain it as it is."""
    row = tx.execute(select(picture).where(picture.c.id == picture_id)).first()
    if row is None or row.run_id is None:
        return
    last = tx.execute(select(func.max(run.c.id)).where(run.c.target_id == row.target_id, run.c.state.in_(_IN))).scalar()
    same = (stretch.c.target_id == row.target_id) & (stretch.c.sha256 == row.sha256)
    ended = tx.execute(select(func.max(stretch.c.last_run)).where(same)).scalar()
    first = row.run_id if ended is None else max(row.run_id, ended + 1)
    if last is not None and first <= last:
        values = {"sha256": row.sha256, "category": row.sent_category, "first_run": first, "last_run": last}
        tx.execute(insert(stretch).values(target_id=row.target_id, **values))


def memberships(tx: Connection, target_id: int, sha256: str) -> list[Membership]:
    """The trainings that contain this content, newest first; those that failed or were not started left out."""
    same = (picture.c.target_id == target_id) & (picture.c.sha256 == sha256)
    there = select(picture.c.run_id, picture.c.sent_category.label("category")).where(
        same, picture.c.state == PictureState.CONFIRMED, picture.c.run_id.is_not(None)
    )
    open_ = tx.execute(there.order_by(picture.c.run_id, picture.c.id)).first()
    closed = tx.execute(
        select(stretch).where(stretch.c.target_id == target_id, stretch.c.sha256 == sha256).order_by(stretch.c.id)
    ).all()
    if open_ is None and not closed:
        return []
    wanted = [str(TrainingState.RUNNING), str(TrainingState.TRAINED)]
    runs = tx.execute(
        select(run).where(run.c.target_id == target_id, run.c.state.in_(wanted)).order_by(run.c.id.desc())
    )
    found = []
    for row in runs:
        category = _category(row.id, open_, closed)
        if category is not None and _contains(tx, row.id, category):
            state, fate = TrainingState(row.state), ModelOutcome(row.fate)
            found.append(Membership(row.name, category, state, row.accuracy, fate, row.pictures))
    return found


def _contains(tx: Connection, run_id: int, category: str) -> bool:
    """Whether the training contains the category; the oldest ones, of which nothing was noted, contain all."""
    noted = set(tx.execute(select(content.c.category).where(content.c.run_id == run_id)).scalars())
    return not noted or category in noted


def _category(run_id: int, open_: Any | None, closed: Any) -> str | None:
    """Under which category a training contains the picture; None when it does not."""
    for one in closed:
        if one.first_run <= run_id <= one.last_run:
            return str(one.category)
    return str(open_.category) if open_ is not None and run_id >= open_.run_id else None
