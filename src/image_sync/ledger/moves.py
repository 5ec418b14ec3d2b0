"""The moves that a batch and a run may make. Every other move is a mistake and raises.

Pictures move many at a time and have no table: each statement that moves them names the states it expects, or has read
them in the same transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any, TypeVar

from sqlalchemy import Connection, case, select, update

from image_sync.domain import BatchState, FileRole, PictureState, TrainingState
from image_sync.ledger.schema import picture, place

BATCH: Mapping[BatchState, frozenset[BatchState]] = MappingProxyType(
    {
        BatchState.SENDING: frozenset({BatchState.CONFIRMED, BatchState.RELEASED, BatchState.DOUBTFUL}),
        BatchState.DOUBTFUL: frozenset({BatchState.CONFIRMED, BatchState.RELEASED}),
        BatchState.CONFIRMED: frozenset(),
        BatchState.RELEASED: frozenset(),
    }
)

RUN: Mapping[TrainingState, frozenset[TrainingState]] = MappingProxyType(
    {
        TrainingState.STARTING: frozenset({TrainingState.RUNNING, TrainingState.DOUBTFUL, TrainingState.REFUSED}),
        TrainingState.DOUBTFUL: frozenset({TrainingState.RUNNING, TrainingState.REFUSED, TrainingState.STARTING}),
        TrainingState.RUNNING: frozenset({TrainingState.TRAINED, TrainingState.FAILED}),
        TrainingState.TRAINED: frozenset(),
        TrainingState.FAILED: frozenset(),
        TrainingState.REFUSED: frozenset(),
    }
)


S = TypeVar("S", bound=StrEnum)


class IllegalTransition(RuntimeError):  # noqa: N818 - it is what the program attempted
    """A state change that the tables above do not allow."""


def sources(moves: Mapping[S, frozenset[S]], to: S) -> list[str]:
    """The states from which ``to`` may be reached, as the database stores them."""
    return [str(state) for state, allowed in moves.items() if to in allowed]


def hold(tx: Connection, picture_id: int) -> None:
    """Hold a picture back that was not sent while its files contradict each other, and no longer."""
    waits = picture.c.state.in_([str(PictureState.READY), str(PictureState.HELD)])
    tx.execute(update(picture).where(picture.c.id == picture_id, waits).values(state=READY_OR_HELD))


def _ready_or_held() -> Any:
    claims = (place.c.picture_id == picture.c.id) & (place.c.role == FileRole.CONFLICT)
    contradicted = select(place.c.picture_id).where(claims).exists()
    return case((contradicted, str(PictureState.HELD)), else_=str(PictureState.READY))


READY_OR_HELD = _ready_or_held()
"""The state of a picture that is to be sent: held back while its files contradict each other."""
